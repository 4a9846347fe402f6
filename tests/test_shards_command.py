"""`fastclip shards`: every damage is named, and shards of other programs are evaluated where they lie."""

from __future__ import annotations

import io
import json
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from archives import write_shard
from helpers import Program, Sharded, image_bytes, shard, write
from PIL import Image

from fastclip.data.catalogue import DatasetCard, DomainCard
from fastclip.data.shards.check import check_dataset
from fastclip.data.shards.index import plan_index, write_index
from fastclip.data.shards.manifest import _own_digest, read_manifest
from fastclip.data.shards.reader import OpenShard, read_index
from fastclip.errors import IntegrityError, UserError
from fastclip.files import digest
from fastclip.storage.folders import open_folder

RANDOM = random.Random(6)


def differences(folder: Path) -> list[str]:
    try:
        manifest = read_manifest(folder)
    except IntegrityError as error:
        return [str(error)]
    checked = check_dataset(open_folder(folder), manifest, workers=2)
    assert not checked.unread
    return list(checked.differences)


@pytest.fixture(scope="module")
def pets(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    """Twenty images in two shards of two domains, and one that is unreadable."""
    folder = tmp_path_factory.mktemp("pets")
    files = {f"{domain}/{name}/{n}.png": image_bytes(size=(5 + n, 7))
             for domain in ("art", "photo") for name in ("cat", "dog") for n in range(5)}  # fmt: skip
    return shard(
        write(folder / "in", files | {"art/dog/x.png": b"x"}), folder / "shards", "pets", layout="domain/class"
    )


@pytest.fixture
def copy(pets: Sharded, tmp_path: Path) -> Path:
    return Path(shutil.copytree(pets.folder, tmp_path / "shards" / "pets"))


def test_shards_as_they_were_written_have_no_difference(pets: Sharded, shapes: Sharded):
    assert differences(pets.folder) == [] == differences(shapes.folder)


def test_every_cut_of_a_shard_is_found_and_named(copy: Path):
    path = copy / "art" / "0.tar"
    whole = path.read_bytes()
    for cut in [*range(0, len(whole), 512), *(RANDOM.randrange(len(whole)) for _ in range(64))]:
        path.write_bytes(whole[:cut])
        (line,) = differences(copy)
        assert "art/0.tar" in line and "bytes" in line


@pytest.mark.parametrize(
    "name",
    ["art/0.tar", "photo/0.index.jsonl", "manifest.json", "rejected.jsonl", "classnames.txt"],
)
def test_a_flip_anywhere_is_found_and_its_file_named(copy: Path, name: str):
    path = copy / name
    whole = path.read_bytes()
    letters = len(whole.rstrip()) if name.endswith(".txt") else len(whole)  # the end of its last line is no matter
    for _ in range(25):
        damaged = bytearray(whole)
        damaged[RANDOM.randrange(letters)] ^= 1 << RANDOM.randrange(8)
        path.write_bytes(damaged)
        assert any(name in line for line in differences(copy)), damaged


def edit_manifest(change: Callable[[dict], object], honest: bool) -> Callable[[Path], object]:
    """Change the manifest; `honest` gives it the digest that it then needs, as a forger would."""

    def edit(folder: Path) -> None:
        document = json.loads((folder / "manifest.json").read_bytes())
        change(document)
        if honest:
            document["digest"] = _own_digest(document)
        (folder / "manifest.json").write_text(json.dumps(document))

    return edit


def swap_labels(folder: Path) -> None:
    """An index whose digest, and the manifest's, are right, and whose labels are not those in the tar."""
    index = folder / "art" / "0.index.jsonl"
    index.write_bytes(index.read_bytes().replace(b'"label":0', b'"label":9').replace(b'"label":1', b'"label":0'))
    set_index_digest(folder)


def set_index_digest(folder: Path) -> None:
    sha256 = digest((folder / "art" / "0.index.jsonl").read_bytes())
    edit_manifest(lambda document: document["shards"][0].update(index_sha256=sha256), honest=True)(folder)


def shift_offsets(folder: Path) -> None:
    index = folder / "art" / "0.index.jsonl"
    rows = [json.loads(line) for line in index.read_bytes().splitlines()]
    rows[0]["offset"], rows[1]["offset"] = rows[1]["offset"], rows[0]["offset"]
    rows[2]["offset"] += 512
    index.write_text("".join(json.dumps(row) + "\n" for row in rows))
    set_index_digest(folder)


CHANGES: dict[str, tuple[Callable[[Path], object], list[str]]] = {
    "missing tar": (lambda f: (f / "art/0.tar").unlink(), ["art/0.tar is missing"]),
    "missing index": (lambda f: (f / "art/0.index.jsonl").unlink(), ["0.index.jsonl is missing"]),
    "missing rejected": (lambda f: (f / "rejected.jsonl").unlink(), ["rejected.jsonl is missing"]),
    "missing class list": (lambda f: (f / "classnames.txt").unlink(), ["classnames.txt is missing"]),
    "missing count": (lambda f: (f / "art/nshards.txt").unlink(), ["art/nshards.txt is missing"]),
    "other class": (lambda f: (f / "classnames.txt").write_text("cat\nrat\n"), ["class 1 'rat', the manifest 'dog'"]),
    "more classes": (lambda f: (f / "classnames.txt").write_text("cat\ndog\nx"), ["3 classes, the manifest 2"]),
    "other count": (lambda f: (f / "art/nshards.txt").write_text("2\n"), ["says '2', the manifest lists 1"]),
    "stray tar": (lambda f: shutil.copy(f / "art/0.tar", f / "art/1.tar"), ["art/1.tar is no shard of the manifest"]),
    "stray tar above": (lambda f: shutil.copy(f / "art/0.tar", f / "x.tar"), ["x.tar is no shard of the manifest"]),
    "swapped tars": (
        lambda f: shutil.copy(f / "art/0.tar", f / "photo/0.tar"),
        ["photo/0.tar is not the file that was sharded"],
    ),
    "edited manifest": (
        edit_manifest(lambda d: d.update(title="Cats"), honest=False),
        ["manifest.json cannot be used: it was changed after it was written"],
    ),
    "no digest": (edit_manifest(lambda d: d.pop("digest"), honest=False), ["it has no 'digest'"]),
    "forged counts": (
        edit_manifest(lambda d: d["domains"][0].update(class_images=[4, 6]), honest=True),
        ["art: the indexes and the manifest count its classes differently"],
    ),
    "forged fingerprint": (
        edit_manifest(lambda d: d["domains"][1].update(fingerprint="0" * 64), honest=True),
        ["photo: the fingerprint is not the manifest's"],
    ),
    "forged images": (
        edit_manifest(lambda d: d["shards"][0].update(images_sha256="0" * 64), honest=True),
        ["art/0.index.jsonl: the digest of its images is not the manifest's"],
    ),
    "forged unreadable": (
        edit_manifest(lambda d: d["domains"][0].update(unreadable=0), honest=True),
        ["art: 1 unreadable images in rejected.jsonl, 0 in the manifest"],
    ),
    "forged labels": (swap_labels, ["has the label 9 in the index, b'0' in the tar", "there are 2 classes"]),
    "forged offsets": (shift_offsets, ["another SHA-256|should begin at", "is in the tar and not in the index"]),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_each_difference_is_a_line_that_names_it(copy: Path, change: str):
    make, expected = CHANGES[change]
    make(copy)
    lines = differences(copy)
    for text in expected:
        assert any(part in line for line in lines for part in text.split("|")), lines
    assert not [line for line in lines if "\n" in line]


def test_a_manifest_of_before_images_had_a_digest_is_read_and_checked(copy: Path):
    edit_manifest(lambda d: [row.pop("images_sha256") for row in d["shards"]], honest=True)(copy)
    assert [each.images_sha256 for each in read_manifest(copy).shards] == ["", ""]
    assert differences(copy) == []


def test_the_digest_of_images_is_of_their_places_and_bytes_alone(pets: Sharded):
    for each in read_manifest(pets.folder).shards:
        rows = [[row.offset, row.size, row.height, row.width, row.sha256] for row in read_index(pets.folder, each)]
        text = json.dumps(rows, separators=(",", ":"))
        assert each.images_sha256 == digest(text.encode()) != each.index_sha256


def test_check_prints_a_line_a_difference_and_exits_with_5(copy: Path, fastclip: Program):
    outcome = fastclip("shards", "check")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.out.startswith("pets: 2 shards, 20 images, ") and outcome.out.endswith(" as written.\n")
    for name in ("art/0.tar", "photo/0.index.jsonl"):
        (copy / name).write_bytes((copy / name).read_bytes()[:-7])
    outcome = fastclip("shards", "check", "pets")
    assert outcome.code == 5 and "Traceback" not in outcome.err
    first, second, last = outcome.out.splitlines()
    assert "art/0.tar" in first and "photo/0.index.jsonl" in second and last.startswith("2 differences.")


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["check", "nothing"], "nothing"),
        (["check"], "no sharded dataset"),
        (["check", "../x"], "../x"),
        (["index", "nothing"], "nothing is not a folder"),
        (["index"], "NAME"),
    ],
)
def test_a_mistake_is_two_lines_and_exit_code_2(arguments: list[str], named: str, fastclip: Program):
    outcome = fastclip("shards", *arguments)
    assert (outcome.code, outcome.out) == (2, ""), outcome
    what, how = outcome.err.splitlines()
    assert named in what and how.startswith("Fix:   ")


def export(sharded: Sharded, folder: Path, per_shard: int = 25, images_first: bool = False) -> Path:
    """The images of a dataset as CLIP_benchmark exports them: keys without folders, counted through the split."""
    manifest = read_manifest(sharded.folder)
    for domain in manifest.domains:
        rows = []
        for each in manifest.shards_of(domain.name):
            opened = OpenShard(sharded.folder, each)
            for row, record in enumerate(opened.records):
                rows.append((Path(record.path).suffix.lower(), bytes(opened.image_bytes(row)), record.label))
        shards = [rows[first : first + per_shard] for first in range(0, len(rows), per_shard)]
        for number, shard_rows in enumerate(shards):
            keys = [f"s{number * per_shard + row:07d}" for row in range(len(shard_rows))]
            images = [(f"{key}{suffix}", data) for key, (suffix, data, _) in zip(keys, shard_rows, strict=True)]
            labels = [
                (f"{key}.cls", f"{label}\n".encode()) for key, (_, _, label) in zip(keys, shard_rows, strict=True)
            ]
            members = [member for pair in zip(images, labels, strict=True) for member in pair]
            write_shard(folder / domain.name / f"{number}.tar", images + labels if images_first else members)
        (folder / domain.name / "nshards.txt").write_text(str(len(shards)))
    (folder / "classnames.txt").write_text("\n".join(manifest.names))
    return folder


def test_shards_of_clip_benchmark_give_the_counts_of_the_same_images_sharded_by_us(
    shapes: Sharded, tmp_path: Path, fastclip: Program
):
    folder = export(shapes, tmp_path / "shards" / "exported", images_first=True)
    tars = {path: path.read_bytes() for path in folder.rglob("*.tar")}
    assert len(tars) == 12
    refused = fastclip.here("eval", "exported", "-b", "tiny")
    assert refused.code == 2 and refused.err.splitlines()[1].endswith("fastclip shards index exported")
    outcome = fastclip("shards", "index", "exported")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        "exported: 12 shards, 240 images in 4 domains, 0 unreadable.",
        "Next: fastclip eval exported -b ViT-B/32",
    ]
    assert tars == {path: path.read_bytes() for path in folder.rglob("*.tar")}, "not a byte of a tar is touched"
    counts = []
    for name, shards in (("exported", tmp_path / "shards"), ("shapes", shapes.shards)):
        # These prompts have the readable names; of folders called otherwise, classnames.txt says nothing.
        prompts = ("--prompts", "photo", "--shards", shards)
        outcome = fastclip.here("eval", name, "-b", "tiny", *prompts, "--json", tmp_path / f"{name}.json")
        assert outcome.code == 0, outcome.err
        cells = json.loads((tmp_path / f"{name}.json").read_bytes())["cells"]
        counts.append([[cell[key] for key in ("domain", "images", "classified", "top1", "top5")] for cell in cells])
    assert counts[0] == counts[1] and sum(images for _, images, *_ in counts[0]) == 240
    assert fastclip("shards", "check", "exported").code == 0
    again = fastclip("shards", "index", "exported")
    assert again.code == 2 and "manifest already" in again.err
    assert fastclip("shards", "index", "exported", "--overwrite").code == 0
    ours, theirs = (read_manifest(each).domains for each in (shapes.folder, folder))
    assert ours == theirs, "the same fingerprints"


def test_every_image_of_foreign_shards_is_embedded_or_named_as_unreadable(tmp_path: Path, fastclip: Program):
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).save(file, "JPEG")
    whole = file.getvalue()
    images = {"a": whole, "cut": whole[:-200], "page": b"<html>", "psd": b"8BPS", "z": b""}
    images |= {"bomb": image_bytes(size=(8200, 8200), mode="1"), "deep": image_bytes(mode="I;16")}
    members = [(f"{key}.{ext}", data) for key, image in images.items() for ext, data in (("jpg", image), ("cls", b"0"))]
    folder = tmp_path / "shards" / "bad"
    write_shard(folder / "test" / "0.tar", members)
    (folder / "classnames.txt").write_text("circle\nsquare\n")
    outcome = fastclip("shards", "index", "bad")
    assert outcome.code == 0 and "2 images in 1 domains, 5 unreadable." in outcome.out
    outcome = fastclip.here("eval", "bad", "-b", "tiny", "--unreadable", "wrong", "--json", tmp_path / "x.json")
    assert outcome.code == 0, outcome.err
    found = json.loads((tmp_path / "x.json").read_bytes())
    (cell,) = found["cells"]
    assert (cell["images"], cell["classified"], cell["unreadable"]) == (7, 1, 6)
    assert sorted(Path(row["path"]).stem for row in found["unreadable"]) == sorted(images.keys() - {"a"})
    assert fastclip("shards", "check", "bad").code == 0


PAIR = [("a.png", image_bytes()), ("a.cls", b"0")]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"test/0.tar": []}, "holds no WebDataset shards"),
        ({}, "holds no WebDataset shards"),
        ({"0.tar": PAIR}, "cannot be read in place: they are called SPLIT/0.tar"),
        ({"test/part-0.tar": PAIR}, "cannot be read in place"),
        ({"test/0.tar.gz": PAIR}, "cannot be read in place"),
        ({"test set/0.tar": PAIR}, "names of domains are percent-encoded"),
        ({"test/0.tar": PAIR, "test/2.tar": PAIR}, "lacks 1.tar"),
        ({"test/0.tar": PAIR, "test/1.tar": PAIR}, "The key 'a' stands in"),
        ({"test/0.tar": [("a.png", b"x"), ("a.cls", b"0")]}, "None of the 1 images"),
        ({"test/0.tar": PAIR, "test/1.tar": []}, "1.tar holds no image"),
    ],
)
def test_what_cannot_be_indexed_in_place_is_refused_and_leaves_no_manifest(
    tmp_path: Path, files: dict[str, list[tuple[str, bytes]]], message: str
):
    folder = tmp_path / "pets"
    write(folder, {"classnames.txt": b"cat\ndog\n"})
    for name, members in files.items():
        write_shard(folder / name, members)
    with pytest.raises(UserError, match=message):
        write_index(plan_index(folder, None), None, workers=1)
    assert not list(folder.rglob("*.json*"))


def test_the_rows_of_an_index_are_those_of_our_own_writer(pets: Sharded, tmp_path: Path):
    folder = tmp_path / "pets"
    shutil.copytree(pets.folder, folder)
    for path in list(folder.rglob("*.json*")):
        path.unlink()
    write_index(plan_index(folder, None), None, workers=2)
    for each in read_manifest(pets.folder).shards:
        (found,) = [shard for shard in read_manifest(folder).shards if shard.name == each.name]
        assert (found.sha256, found.images_sha256) == (each.sha256, each.images_sha256)
        ours, theirs = read_index(pets.folder, each), read_index(folder, found)
        same = ("key", "label", "offset", "size", "height", "width", "sha256")
        assert [[getattr(r, f) for f in same] for r in ours] == [[getattr(r, f) for f in same] for r in theirs]
    assert differences(folder) == []


def test_a_card_with_other_classes_or_another_order_is_refused(tmp_path: Path):
    card = DatasetCard(name="pets", title="Pets", classes=("cat", "dog"), domains=(DomainCard(name="test"),))
    write_shard(tmp_path / "test" / "0.tar", PAIR)
    (tmp_path / "classnames.txt").write_text("Dog\nCat")
    with pytest.raises(UserError, match="numbers its classes otherwise"):
        plan_index(tmp_path, card)
    (tmp_path / "classnames.txt").write_text("CAT\nDog")
    manifest, _ = write_index(plan_index(tmp_path, card), card, workers=1)
    assert (manifest.classes, manifest.names, manifest.title) == (("cat", "dog"), ("CAT", "Dog"), "Pets")


def test_what_clip_benchmark_exported_itself_is_evaluated_unchanged(
    shapes: Sharded, tmp_path: Path, fastclip: Program, reference_python: Path
):
    folder = tmp_path / "shards" / "exported"
    domains = [domain.name for domain in read_manifest(shapes.folder).domains]
    script = Path(__file__).parent / "reference" / "export.py"
    command = [reference_python, "-W", "ignore", script, shapes.source, folder, *domains]
    subprocess.run([str(word) for word in command], check=True, capture_output=True)
    tars = {path: path.read_bytes() for path in folder.rglob("*.tar")}
    assert fastclip("shards", "index", "exported").code == 0
    ours, theirs = (read_manifest(each).domains for each in (shapes.folder, folder))
    assert ours == theirs, "the same images under the same labels"
    outcome = fastclip.here("eval", "exported", "-b", "tiny", "--prompts", "photo")
    assert outcome.code == 0 and "240 images" in outcome.out, outcome
    assert tars == {path: path.read_bytes() for path in folder.rglob("*.tar")}, "not a byte of a tar is touched"
