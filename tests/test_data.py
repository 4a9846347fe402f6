"""From a folder to shards and back: nothing lost, nothing changed, every damage noticed."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset
from helpers import Program, Sharded, image_bytes, shard, write
from PIL import Image

from fastclip.data.shapes import CLASSES, DOMAINS, draw_shapes
from fastclip.data.shards.manifest import path_name, read_manifest, read_rejected
from fastclip.data.shards.reader import OpenShard, read_index
from fastclip.data.sources.layouts import list_source
from fastclip.errors import IntegrityError, UserError
from fastclip.files import digest


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_drawn_shapes_are_the_same_every_time_and_other_with_another_seed(tmp_path: Path):
    for name, seed in (("one", 5), ("two", 5), ("three", 6)):
        assert draw_shapes(tmp_path / name, seed=seed, images_per_class=1) == len(DOMAINS) * len(CLASSES) >= 40
    assert all_bytes(tmp_path / "one") == all_bytes(tmp_path / "two") != all_bytes(tmp_path / "three")


def test_the_same_folder_gives_the_same_bytes(shapes: Sharded, tmp_path: Path):
    again = shard(shapes.source, tmp_path, "shapes", shard_images=20)
    assert all_bytes(again.folder) == all_bytes(shapes.folder)


def test_webdataset_reads_the_source_files_and_their_labels(shapes: Sharded):
    manifest = read_manifest(shapes.folder)
    seen = {}
    for each in manifest.shards:
        paths = {record.key: record.path for record in read_index(shapes.folder, each)}
        dataset = webdataset.WebDataset(str(shapes.folder / each.name), shardshuffle=False)
        for sample in dataset:
            (image,) = (sample[extension] for extension in ("jpg", "png") if extension in sample)
            seen[each.domain, paths[sample["__key__"]]] = (image, manifest.classes[int(sample["cls"])])
    source = {(path.parts[-3], f"{path.parts[-2]}/{path.name}"): path for path in shapes.source.glob("*/*/*")}
    assert seen == {place: (path.read_bytes(), path.parent.name) for place, path in source.items()}


def test_the_reader_gives_the_source_bytes_and_the_size_that_pillow_sees(shapes: Sharded):
    for each in read_manifest(shapes.folder).shards:
        opened = OpenShard(shapes.folder, each)
        for row, record in enumerate(opened.records):
            data = bytes(opened.image_bytes(row))
            assert data == (shapes.source / each.domain / record.path).read_bytes()
            assert digest(data) == record.sha256
            assert Image.open(io.BytesIO(data)).size == (record.width, record.height)


def test_the_manifest_counts_what_the_tars_hold(shapes: Sharded):
    manifest = read_manifest(shapes.folder)
    assert [domain.name for domain in manifest.domains] == sorted(DOMAINS)
    assert [domain.images for domain in manifest.domains] == [60] * 4
    assert manifest.classes == tuple(sorted(CLASSES))
    for each in manifest.shards:
        with tarfile.open(shapes.folder / each.name) as tar:
            assert len(tar.getnames()) == 2 * each.images
        assert (shapes.folder / each.name).stat().st_size == each.bytes


def test_every_cut_and_a_flip_in_every_block_of_a_shard_is_noticed(tmp_path: Path):
    source = write(
        tmp_path / "source", {f"{'dog' if number else 'cat'}/{number}.png": image_bytes() for number in range(10)}
    )
    sharded = shard(source, tmp_path / "shards", "cats")
    (each,) = read_manifest(sharded.folder).shards
    path = sharded.folder / each.name
    whole = path.read_bytes()
    damaged = [whole[:cut] for cut in range(0, len(whole), 512)]
    for position in range(37, len(whole), 512):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        damaged.append(bytes(flipped))
    for data in damaged:
        path.write_bytes(data)
        with pytest.raises(IntegrityError, match=r"0\.tar"):
            OpenShard(sharded.folder, each)
    path.write_bytes(whole)
    OpenShard(sharded.folder, each)


def test_a_changed_index_or_manifest_is_noticed(tmp_path: Path):
    source = write(tmp_path / "source", {"cat/a.png": image_bytes(), "dog/b.png": image_bytes()})
    sharded = shard(source, tmp_path / "shards", "pets")
    (each,) = read_manifest(sharded.folder).shards
    index = sharded.folder / each.index_name
    index.write_bytes(index.read_bytes().replace(b'"label":0', b'"label":1'))
    with pytest.raises(IntegrityError, match="index"):
        read_index(sharded.folder, each)
    manifest = sharded.folder / "manifest.json"
    document = json.loads(manifest.read_text())
    document["shards"][0]["images"] = 3
    manifest.write_text(json.dumps(document))
    with pytest.raises(IntegrityError, match="2 images, its shards have 3"):
        read_manifest(sharded.folder)


def test_no_manifest_can_name_a_file_outside_its_folder(tmp_path: Path):
    sharded = shard(
        write(tmp_path / "source", {"cat/a.png": image_bytes(), "dog/b.png": b""}), tmp_path / "shards", "cats"
    )
    (tmp_path / "victim.tar").write_bytes(b"")
    manifest = sharded.folder / "manifest.json"
    for name in ("../../victim.tar", str(tmp_path / "victim.tar"), "all/../../../victim.tar"):
        text = json.loads(manifest.read_text())
        text["shards"][0]["name"] = name
        (sharded.folder / "manifest.json").write_text(json.dumps(text))
        with pytest.raises(IntegrityError, match="not the name of a shard"):
            read_manifest(sharded.folder)
    shard(tmp_path / "source", tmp_path / "shards", "cats")
    assert (tmp_path / "victim.tar").exists() and read_manifest(sharded.folder), "a damaged manifest can be replaced"


def test_writing_again_leaves_no_shard_of_an_earlier_run(tmp_path: Path):
    source = write(
        tmp_path / "source", {f"{'dog' if number else 'cat'}/{number}.png": image_bytes() for number in range(6)}
    )
    shard(source, tmp_path / "shards", "cats", shard_images=2)
    (tmp_path / "shards" / "cats" / "manifest.json").unlink()  # as an interrupted run leaves it
    write(tmp_path / "shards" / "cats" / "all", {"0.idx": b"", "2.idx": b""})  # of a version that wrote them
    sharded = shard(source, tmp_path / "shards", "cats", shard_images=5)
    assert sorted(path.name for path in sharded.folder.rglob("[0-9]*")) == [
        *("0.index.jsonl", "0.tar", "1.index.jsonl", "1.tar")
    ]


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path):
    write(tmp_path, {"photo/cat/1.png": image_bytes()})
    (tmp_path / "photo" / "cat" / os.fsdecode(b"caf\xe9.png")).write_bytes(b"")
    with pytest.raises(UserError, match="not UTF-8"):
        list_source(tmp_path, None)


BAD = {
    "truncated.jpg": (image_bytes("JPEG", (64, 64))[:-200], "does not decode"),
    "empty.png": (b"", "empty file"),
    "page.jpg": (b"<html>not found</html>", "not an image but a web page"),
    "drawing.jpg": (b"8BPS", "PSD, which is not decoded"),
    "deep.png": (image_bytes(mode="I;16"), "16 bits"),
    "bomb.png": (image_bytes(size=(8200, 8200), mode="1"), "more than the budget"),
    "bare.png": (b"\x89PNG\r\n\x1a\n", "does not decode"),
}


@pytest.mark.parametrize("workers", [1, 3])
def test_what_cannot_be_used_is_listed_with_its_reason_and_the_rest_is_sharded(tmp_path: Path, workers: int):
    files = {f"sketch/cat/{name}": data for name, (data, _) in BAD.items()}
    files |= {"sketch/dog/good.png": image_bytes(), "sketch/cat/what": b"ever", "sketch/dog/.hidden.png": image_bytes()}
    files |= {
        "sketch/cat/good.jpeg": image_bytes("WEBP"),
        "sketch/cat/also good": image_bytes("JPEG"),
        "sketch/notes\u2028.txt": b"",
        "sketch/cat/Thumbs.db": b"",
    }
    sharded = shard(write(tmp_path / "source", files), tmp_path / "shards", "pets")
    (domain,) = read_manifest(sharded.folder).domains
    assert (domain.images, domain.unreadable) == (3, len(BAD) + 1)
    assert domain.class_images == (2, 1)
    rejected = {row.path: row for row in read_rejected(sharded.folder, read_manifest(sharded.folder))}
    for name, (_, reason) in BAD.items():
        row = rejected[f"sketch/cat/{name}"]
        assert reason in row.reason and (row.domain, row.label) == ("sketch", 0)
        assert "0x7" not in row.reason, "a memory address would differ from run to run"
    others = {path for path, row in rejected.items() if row.label is None}
    assert others == {"sketch/notes\u2028.txt", "sketch/cat/Thumbs.db", "sketch/dog/.hidden.png"}
    assert rejected["sketch/cat/Thumbs.db"].reason == "left by Windows"
    (sharded.folder / "rejected.jsonl").write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"rejected\.jsonl"):
        read_rejected(sharded.folder, read_manifest(sharded.folder))


def test_a_tree_of_classes_is_one_domain(tmp_path: Path):
    listing = list_source(write(tmp_path, {"b_dog/1.png": b"", "a_cat/2.JPG": b""}), None)
    assert (listing.domains, listing.classes) == (("all",), ("a_cat", "b_dog"))
    assert [image.path for image in listing.images] == ["a_cat/2.JPG", "b_dog/1.png"]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"readme.txt": b""}, "holds no images"),
        ({"1.png": b""}, "has no class folder"),
        ({"cat/1.png": b"", "photo/cat/2.png": b""}, "mixes layouts: cat/1.png lies beside photo/cat/2.png"),
    ],
)
def test_a_folder_that_is_no_dataset_is_refused_with_an_example(tmp_path: Path, files: dict[str, bytes], message: str):
    with pytest.raises(UserError, match=message):
        list_source(write(tmp_path, files), None)


def test_no_name_of_a_domain_can_leave_the_folder():
    for name in ("..", ".", "a/b", "Real World", "é", "."):
        assert "/" not in path_name(name) and "." not in path_name(name)
    assert path_name("art_painting") == "art_painting"


def test_pacs_takes_its_card_and_says_how_the_copy_differs(pacs_mini: Path, fastclip: Program):
    outcome = fastclip.here("shard", "pacs", "--source", pacs_mini)
    assert outcome.code == 0, outcome.err
    assert max(map(len, outcome.out.splitlines())) <= 80
    unwrapped = re.sub(r"\s*\n {6}", " ", outcome.out)
    lines = [" ".join(line.split()) for line in unwrapped.splitlines()]
    assert "No variant of PACS that is known: 448 images, the nearest (kfold) has 9,991." in lines
    for domain, published in (("art_painting", 2048), ("cartoon", 2344), ("photo", 1670), ("sketch", 3929)):
        assert any(line.startswith(f"{domain} 1 112 0 ") for line in lines)
        (line,) = (line for line in lines if line.startswith(f"{domain}: "))
        assert line.startswith(f"{domain}: {published:,} expected, 112 found dog ")
        fewer = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) fewer", line)]
        assert len(fewer) == 7 and sum(fewer) == published - 112
    again = fastclip.here("shard", "pacs", "--source", pacs_mini)
    assert (again.code, again.err.count("\n")) == (2, 2) and "--overwrite" in again.err


def test_a_folder_unknown_to_the_card_is_named(tmp_path: Path, fastclip: Program):
    write(tmp_path, {"copy/sketch/dog/1.png": image_bytes(), "copy/sketch/zebra/1.png": image_bytes()})
    outcome = fastclip.here("shard", "pacs", "--source", tmp_path / "copy")
    assert (outcome.code, outcome.err.count("\n")) == (2, 2) and "zebra" in outcome.err


def test_an_unreadable_image_is_named_and_counted(tmp_path: Path, fastclip: Program):
    write(
        tmp_path, {"copy/dog/1.png": image_bytes(), "copy/dog/2.png": b"\x1b[31mred", "copy/cat/3.png": image_bytes()}
    )
    outcome = fastclip.here("shard", "dogs", "--source", tmp_path / "copy")
    assert outcome.code == 0 and "2 images in shards, 1 unreadable, 0 left over." in outcome.out
    assert "dog/2.png: not an image of a known" in outcome.out
    assert "\x1b" not in outcome.out, "the terminal must not see bytes of a file"


def test_labels_fit_any_number_of_classes(tmp_path: Path):
    source = write(tmp_path / "source", {f"c{number:03d}/1.png": image_bytes() for number in range(120)})
    sharded = shard(source, tmp_path / "shards", "many", shard_images=200)
    (each,) = read_manifest(sharded.folder).shards
    assert np.array_equal([record.label for record in read_index(sharded.folder, each)], np.arange(120))


def test_dalis_own_reader_finds_the_same_images_and_labels(shapes: Sharded):
    dali = pytest.importorskip("nvidia.dali")
    manifest = read_manifest(shapes.folder)
    expected, found = [], []

    @dali.pipeline_def(batch_size=1, num_threads=1, device_id=None)
    def pipeline(paths: list[str]):
        image, label = dali.fn.readers.webdataset(
            paths=paths, ext=["jpg;png;webp", "cls"], missing_component_behavior="error"
        )
        return image, label

    for each in manifest.shards:
        expected += [(record.sha256, record.label) for record in read_index(shapes.folder, each)]
        pipe = pipeline([str(shapes.folder / each.name)])
        pipe.build()
        for _ in range(each.images):
            image, label = (np.array(tensor[0]) for tensor in pipe.run())
            found.append((digest(image.tobytes()), int(label.tobytes())))
    assert found == expected


def test_a_shard_that_is_written_to_while_it_is_read_is_noticed(shapes: Sharded, tmp_path: Path):
    each = read_manifest(shapes.folder).shards[0]
    copy = tmp_path / "shapes"
    shutil.copytree(shapes.folder, copy)
    path = copy / each.name
    opened = OpenShard(copy, each)
    whole = path.read_bytes()
    path.write_bytes(whole)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        opened.check_unchanged()  # the same bytes now, but perhaps not in between
    opened = OpenShard(copy, each)
    with path.open("r+b") as file:
        file.seek(opened.records[0].offset)
        file.write(b"X")
    with pytest.raises(IntegrityError, match="changed while it was read"):
        opened.check_unchanged()
    with path.open("r+b") as file:
        file.truncate(512)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        opened.check_unchanged()
