"""Any copy of a dataset becomes the same shards: eight datasets, each in every layout that its copies have."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from copies import (
    Item,
    Make,
    as_folder,
    camera_traps,
    clip_benchmark,
    draw,
    kfold,
    layouts,
    numbered_splits,
    split_lists,
    to_parquet,
    to_tar,
    to_zip,
    tree,
)
from helpers import Program, image_bytes, shard, write

from fastclip.data.catalogue import DatasetCard, find_card, list_cards, parse_card, same_name
from fastclip.data.classes import ClassFinder
from fastclip.data.shards.manifest import Manifest, read_manifest, read_rejected
from fastclip.data.shards.writer import write_shards
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.protocols import apply_protocol
from fastclip.errors import FastclipError, IntegrityError, UserError
from fastclip.files import digest
from fastclip.storage.folders import open_folder

EIGHT = ("officehome", "office31", "pacs", "vlcs", "domainnet", "terraincognita", "visda17", "imagenet-r")


def sharded(source: Path, shards: Path, name: str) -> Manifest:
    """The manifest, without the digest of the list of other files, which every layout has its own of."""
    return replace(read_manifest(shard(source, shards, name, shard_images=9).folder), rejected_sha256="")


@pytest.mark.parametrize(("name", "layout", "make"), [pytest.param(*row, id=f"{row[0]}-{row[1]}") for row in layouts()])
def test_every_layout_gives_the_same_manifest(name: str, layout: str, make: Make, tmp_path: Path):
    card = find_card(name)
    assert card is not None
    items = draw(card)
    plain = sharded(write(tmp_path / "plain", tree(items)), tmp_path / "one", name)
    assert sum(domain.images for domain in plain.domains) == len(items)
    assert sharded(make(card, items, tmp_path / "copy"), tmp_path / "two", name) == plain


@pytest.mark.parametrize("name", EIGHT)
def test_parquet_and_foreign_shards_give_the_same_images_under_the_same_labels(name: str, tmp_path: Path):
    card = find_card(name)
    assert card is not None
    items = draw(card)
    plain = sharded(write(tmp_path / "plain", tree(items)), tmp_path / "one", name)
    expected = [(domain.name, domain.class_images, domain.fingerprint) for domain in plain.domains]
    to_parquet(card, items, tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", str.casefold)
    write(tmp_path / "peer", clip_benchmark(card, items))
    for source in ("hub", "peer"):
        found = sharded(tmp_path / source, tmp_path / "two" / source, name)
        assert [(domain.name, domain.class_images, domain.fingerprint) for domain in found.domains] == expected
        assert found.names == plain.names


def test_our_own_shards_are_a_source_and_give_the_same_manifest(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    source = write(tmp_path / "plain", tree(draw(card)))
    once = sharded(source, tmp_path / "one", "pacs")
    assert sharded(tmp_path / "one" / "pacs", tmp_path / "two", "pacs") == once


def test_what_a_layout_leaves_out_is_listed_with_its_reason(tmp_path: Path):
    card = find_card("domainnet")
    assert card is not None
    items = draw(card, classes=2)
    files = split_lists(card, items)
    lost = next(name for name in files if name.startswith("clipart/") and "unlisted" not in name)
    del files[lost]
    folder = shard(write(tmp_path / "copy", files), tmp_path / "shards", "domainnet").folder
    rejected = {row.path: row for row in read_rejected(folder, read_manifest(folder))}
    unlisted = [row for row in rejected.values() if "unlisted" in row.path]
    assert len(unlisted) == len(items) and all(row.reason.startswith("not in ") for row in unlisted)
    assert rejected[lost].domain == "clipart" and "absent" in rejected[lost].reason, "it counts as unreadable"
    (clipart,) = (domain for domain in read_manifest(folder).domains if domain.name == "clipart")
    assert (clipart.images, clipart.unreadable) == (3, 1)


def test_full_and_what_it_lacks_make_vlcs(tmp_path: Path):
    card = find_card("vlcs")
    assert card is not None
    items = draw(card)
    files = numbered_splits(card, items)
    assert len(files) > len(items), "the copy holds images twice"
    folder = shard(write(tmp_path / "copy", files), tmp_path / "shards", "vlcs").folder
    rejected = read_rejected(folder, read_manifest(folder))
    assert len(rejected) == len(files) - len(items)
    assert all(row.reason.startswith("the same bytes as") and row.label is None for row in rejected)


def test_each_pair_of_image_and_category_counts_once(tmp_path: Path):
    card = find_card("terraincognita")
    assert card is not None
    items = draw(card)
    files = camera_traps(card, items)
    document = json.loads(files["annotations/0.json"])
    other = next(row for row in items if row.domain == items[0].domain and row.folder != items[0].folder)
    document["annotations"].append({"image_id": items[0].file, "category_id": card.classes.index(other.folder) + 3})
    files["annotations/0.json"] = json.dumps(document).encode()
    listing = list_source(write(tmp_path, files), card)
    assert len(listing.images) == len(items) + 1
    twice = [image.label for image in listing.images if image.path.endswith(items[0].file)]
    assert sorted(twice) == sorted(card.classes.index(item.folder) for item in (items[0], other))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"a/photo/dog/1.png": b"", "b/photo/dog/1.png": b""}, "photo lies in two places: a/photo and b/photo"),
        ({"photo/zebra/1.png": b""}, "no class folder named zebra"),
        ({"foto/dog/1.png": b""}, "holds no domain of PACS"),
        ({"notes.txt": b""}, "holds no images"),
    ],
)
def test_a_copy_that_cannot_be_understood_is_refused(files: dict[str, bytes], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        list_source(write(tmp_path, files), find_card("pacs"))


def test_archives_that_overlap_or_are_damaged_are_refused(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    files = tree(draw(card))
    whole = to_zip(files, tmp_path / "two" / "a.zip")
    to_zip(files, tmp_path / "two" / "b.zip")
    with pytest.raises(UserError, match=r"lies in both a\.zip and b\.zip"):
        list_source(tmp_path / "two", card)
    for name, data in (
        ("cut.zip", whole.read_bytes()[:-30]),
        ("cut.tar.gz", to_tar(files, tmp_path / "w.tgz").read_bytes()[:-30]),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(IntegrityError, match=name):
            list_source(tmp_path / name, card)
    with pytest.raises(UserError, match="leads out"):
        list_source(to_zip({"../../photo/dog/1.png": b""}, tmp_path / "evil.zip"), card)


def test_an_unpacked_folder_hides_its_archive(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    items = draw(card)
    write(tmp_path, tree(items))
    to_zip(tree(items), tmp_path / "PACS.zip")
    listing = list_source(tmp_path, card)
    assert len(listing.images) == len(items) and {image.blob.kind for image in listing.images} == {"file"}


def test_nothing_is_extracted(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    for suffix in (".zip", ".tar", ".tar.gz"):
        files = kfold(card, draw(card))
        source = (to_zip if suffix == ".zip" else to_tar)(files, tmp_path / "in" / f"pacs{suffix}")
        folder = shard(source, tmp_path / "out" / suffix[1:], "pacs").folder
        assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {
            ".tar",
            ".jsonl",
            ".json",
            ".txt",
        }
    assert len(list((tmp_path / "in").iterdir())) == 3


def test_the_cards_are_the_facts(shared_facts: Path):
    facts = json.loads((shared_facts / "datasets.json").read_text())
    assert {card.name for card in list_cards()} == set(facts) == set(EIGHT)
    for card in list_cards():
        known = facts[card.name]
        classes = [row if isinstance(row, str) else row["folder"] for row in known["classes"]]
        assert list(card.classes) == classes == sorted(classes), "ImageFolder's order"
        assert [domain.name for domain in card.domains] == [name for name, _, _ in known["domains"]]
        for domain, (_, folders, images) in zip(card.domains, known["domains"], strict=True):
            ours = {same_name(each) for each in (domain.name, *domain.folders)}
            for folder in folders:
                assert any(same_name(part) in ours for part in folder.split("/")), folder
            assert images is None or card.variants[0].images[domain.name] == images
        for total in known.get("total_images", {}).values():
            assert sum(card.variants[0].images.values()) == total
    named = {row["folder"]: row["openai"] for row in facts["imagenet-r"]["classes"]}
    imagenet_r = find_card("imagenet-r")
    assert imagenet_r is not None and dict(zip(imagenet_r.classes, imagenet_r.names, strict=True)) == named


def test_imagenet_r_is_called_as_open_clip_calls_it(shared_facts: Path):
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    card = find_card("imagenet-r")
    assert card is not None
    rows = json.loads((shared_facts / "datasets.json").read_text())["imagenet-r"]["classes"]
    assert card.names == tuple(IMAGENET_CLASSNAMES[row["imagenet_index"]] for row in rows)


CARD = """
title = "Mine"
classes = ["cat", "dog"]
[aliases]
dog = ["hund"]
[readable_names]
cat = "a house cat"
[[domains]]
name = "photo"
folders = ["fotos"]
[[variants]]
name = "all"
images = { photo = 2 }
[variants.class_images]
photo = [1, 1]
"""


def test_a_users_own_card_is_a_full_citizen(tmp_path: Path, fastclip: Program):
    write(tmp_path, {"shards/mine.toml": CARD.encode()})
    write(tmp_path, {"in/FOTOS/cat/1.png": image_bytes(), "in/FOTOS/hund/2.png": image_bytes(size=(9, 9))})
    outcome = fastclip.here("shard", "mine", "--source", tmp_path / "in")
    assert outcome.code == 0 and "This is Mine, 2, all, by its counts." in outcome.out, outcome
    assert read_manifest(tmp_path / "shards" / "mine").names == ("a house cat", "dog")
    listed = fastclip("datasets")
    (line,) = (line for line in listed.out.splitlines() if line.strip().startswith("mine"))
    assert line.split() == ["mine", "Mine", "1", "2", "2", "2,", "all"]
    assert max(map(len, listed.out.splitlines())) <= 80
    shown = fastclip("datasets", "show", "mine")
    assert "fotos" in shown.out and "Variant all: 2 images\n  photo 2" in shown.out


def test_a_class_goes_by_folder_alias_and_readable_name_and_what_two_go_by_is_neither():
    finder = ClassFinder(parse_card("mine", CARD.encode(), "mine.toml"))
    for name, label in {"cat": 0, "CAT": 0, "A_house cat": 0, "Dog": 1, "hund": 1, "cow": None, "": None}.items():
        assert finder.of_name(name) == label == finder.of_folder(name), name
    digits = CARD.replace('["cat", "dog"]', '["1", "2"]').replace("dog = ", "2 = ").replace("cat = ", "1 = ")
    counted_from_0 = ClassFinder(parse_card("mine", digits.replace('"a house cat"', '"2"').encode(), "mine.toml"))
    assert counted_from_0.of_folder("2") == 1, "a folder spelt as on the card"
    assert counted_from_0.of_name("2") is None, "the folder of one, the readable name of another"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("title", "titel"), "'titel'"),
        (('classes = ["cat", "dog"]', ""), "it has no 'classes'"),
        (('"dog"]', '"cat"]'), "'cat' stands twice"),
        (("photo = 2", "sketch = 2"), "'sketch', which is no domain"),
        (("[1, 1]", "[1, 2]"), "do not add up"),
        (('"hund"', '"cat"'), "two classes go by 'cat'"),
        (("photo = 2", 'photo = "2"'), "must be a number from 0 up"),
        (('"Mine"', "5"), "title must be a text"),
        (('name = "photo"', 'name = ""'), "a domain has no name"),
        (('cat = "a', 'cow = "a'), "'cow', which is no class"),
        (("title", "[title"), "Expected"),
    ],
)
def test_a_wrong_card_is_refused_with_its_field(change: tuple[str, str], message: str):
    with pytest.raises(UserError, match=message):
        parse_card("mine", CARD.replace(*change).encode(), "mine.toml")


def test_shard_says_which_variant_it_found_and_how_a_copy_differs(tmp_path: Path, fastclip: Program):
    card = find_card("officehome")
    assert card is not None
    items = draw(card)
    domains = {domain.name: sum(item.domain == domain.name for item in items) for domain in card.domains}
    own = {
        domain: [sum(i.domain == domain and i.folder == folder for i in items) for folder in card.classes]
        for domain in domains
    }
    rows = [f'title = "Tiny"\nclasses = {json.dumps(card.classes)}']
    rows += [f'[[domains]]\nname = "{name}"' for name in domains]
    rows += ['[[variants]]\nname = "mini"', f"images = {{ {', '.join(f'{k} = {v}' for k, v in domains.items())} }}"]
    rows += ["[variants.class_images]", *(f"{name} = {counts}" for name, counts in own.items())]
    write(tmp_path, {"shards/tiny.toml": "\n".join(rows).encode()})
    write(tmp_path / "in", tree(items))
    whole = fastclip.here("shard", "tiny", "--source", tmp_path / "in")
    assert f"This is Tiny, {len(items)}, mini, by its counts." in whole.out, whole
    for item in items[:2]:
        (tmp_path / "in" / item.domain / item.folder / item.file).unlink()
    less = fastclip.here("shard", "tiny", "--source", tmp_path / "in", "--overwrite")
    images = domains[items[0].domain]
    assert f"Art: {images} expected, {images - 2} found; {items[0].folder} 2 fewer" in less.out, less.out


def test_the_protocol_domainbed_takes_domainbeds_own_in_split(tmp_path: Path):
    """The digests are of what DomainBed's own seed_hash and split_dataset gave for 112 images a domain."""
    card = find_card("pacs")
    assert card is not None
    names = [
        f"{domain.name}/{folder}/{n:02d}.png" for domain in card.domains for folder in card.classes for n in range(16)
    ]
    listing = list_source(write(tmp_path, dict.fromkeys(names, b"")), card)
    golden = {
        (0, 0): "baca0883b34aab45817669a50d33ff36",
        (0, 1): "61da2bba9903917d5ad8d8398ac9349a",
        (0, 2): "d4537205a6660ca3683504e3e2be0100",
        (0, 3): "e997f2d0e934e48f89f3c2bd61f2b4cb",
        (2, 0): "2123c1984a4a6489c9f91086cc844d93",
        (2, 3): "54bdccca82082258408569358ef50cef",
    }
    for (seed, environment), expected in golden.items():
        taken, name = apply_protocol(listing, f"domainbed:{seed}", card)
        domain = card.domains[environment].name  # PACS's folders are in sorted order
        all_of_it = [image.path for image in listing.images if image.domain == domain]
        rows = [all_of_it.index(image.path) for image in taken.images if image.domain == domain]
        assert rows == sorted(rows) and len(rows) == 90
        assert hashlib.md5(",".join(map(str, rows)).encode()).hexdigest() == expected
        assert name == f"domainbed:{seed}"


def test_a_users_list_takes_its_images_and_is_named_in_the_manifest(tmp_path: Path, fastclip: Program):
    files = {f"in/photo/{name}.png": image_bytes(size=(5, n + 4)) for n, name in enumerate(("cat/1", "cat/2", "dog/1"))}
    files["in/sketch/cat/9.png"] = image_bytes(size=(9, 9))
    files["in/photo/cow/8.png"] = image_bytes(size=(8, 8))
    write(tmp_path, files | {"list.txt": b"photo/cat/2.png\nphoto/dog/1.png\n"})
    outcome = fastclip.here("shard", "pets", "--source", tmp_path / "in", "--protocol", tmp_path / "list.txt")
    assert outcome.code == 0, outcome
    manifest = read_manifest(tmp_path / "shards" / "pets")
    text = digest((tmp_path / "list.txt").read_bytes())[:16]
    assert len(manifest.domains) == 1, "a domain without a listed image is none"
    assert (manifest.protocol, manifest.domains[0].images) == (f"list list.txt sha256 {text}", 2)
    for lines, message in ((b"photo/cat/2.png\n" * 2, "twice"), (b"photo/cow/1.png", "does not hold")):
        (tmp_path / "list.txt").write_bytes(lines)
        arguments = ("shard", "pets", "--source", tmp_path / "in", "--overwrite")
        refused = fastclip(*arguments, "--protocol", tmp_path / "list.txt")
        assert (refused.code, refused.err.count("\n")) == (2, 2) and message in refused.err
    assert fastclip.here("shard", "pets", "--source", tmp_path / "in", "--overwrite", "--protocol", "x").code == 2
    assert read_manifest(tmp_path / "shards" / "pets") == manifest, "what was refused changed nothing"


def test_parquet_that_cannot_be_used_is_refused(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    path = to_parquet(card, draw(card), tmp_path / "a.parquet")
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(FastclipError, match=r"a\.parquet is not a whole Parquet file"):
        list_source(tmp_path, card)


def test_as_folder_makes_what_it_says(tmp_path: Path):
    """The helper itself: a layout that wrote nothing would make every comparison here pass."""
    card = find_card("pacs")
    assert card is not None
    assert len(list(as_folder(kfold)(card, draw(card), tmp_path).rglob("*.*"))) == len(draw(card)) + 1


def test_domainbeds_split_does_not_depend_on_the_order_of_the_source(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    items = draw(card, per_class=9)
    plain = list_source(write(tmp_path / "plain", tree(items)), card)
    to_parquet(card, items[::-1], tmp_path / "hub" / "train-00000-of-00001.parquet")
    hub = list_source(tmp_path / "hub", card)
    assert [image.path for image in hub.images] != [image.path for image in plain.images]
    splits = [apply_protocol(listing, "domainbed:1", card)[0].images for listing in (plain, hub)]
    taken = [{(image.domain, image.path) for image in images} for images in splits]
    assert taken[0] == taken[1] and 0 < len(taken[0]) < len(items)


def test_our_own_shards_keep_their_protocol(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    source = write(tmp_path / "in", tree(draw(card)))
    listing, protocol = apply_protocol(list_source(source, card), "domainbed:3", card)
    write_shards(listing, open_folder(tmp_path / "out" / "pacs"), dataset="pacs", card=card, protocol=protocol)
    again = list_source(tmp_path / "out" / "pacs", card)
    assert apply_protocol(again, "full", card)[1] == "domainbed:3"
    with pytest.raises(UserError, match="only the images of the protocol domainbed:3"):
        apply_protocol(again, "domainbed:3", card)


def test_the_list_of_other_files_is_the_same_every_time(tmp_path: Path, fastclip: Program):
    write(
        tmp_path,
        {"in/cat/1.png": image_bytes(), "in/dog/2.png": image_bytes()} | {f"in/cat/{n}.txt": b"" for n in range(20)},
    )
    for seed in (1, 2):
        run = replace(fastclip, environment={"PYTHONHASHSEED": str(seed)})
        assert run("shard", "pets", "--source", tmp_path / "in", "--out", f"out{seed}").code == 0
    manifests = [(tmp_path / f"out{seed}" / "pets" / "manifest.json").read_bytes() for seed in (1, 2)]
    assert manifests[0] == manifests[1]


def parquet_of(*splits: str) -> Make:
    def make(card: DatasetCard, items: list[Item], folder: Path) -> Path:
        for number, split in enumerate(splits):
            path = to_parquet(card, items[number :: len(splits)], folder / f"{split}.parquet")
            table = pq.read_table(path).drop_columns("domain")
            pq.write_table(table, path)
        return folder

    return make


@pytest.mark.parametrize(
    ("name", "make", "share"),
    [
        ("visda17", parquet_of("train-00000-of-00001", "validation-00000-of-00001"), 2),
        ("visda17", parquet_of("validation/0000"), 1),
        ("imagenet-r", parquet_of("test-00000-of-00002-0123456789abcdef", "test-00001-of-00002-fedcba9876543210"), 1),
    ],
)
def test_of_parquet_splits_the_one_is_taken_that_is_the_domain(name: str, make: Make, share: int, tmp_path: Path):
    card = find_card(name)
    assert card is not None
    items = draw(card)
    listing = list_source(make(card, items, tmp_path), card)
    assert len(listing.images) == len(items) / share and len(listing.images) + len(listing.rejected) == len(items)


def null_domain(card: DatasetCard, items: list[Item], folder: Path) -> Path:
    path = to_parquet(card, items, folder / "a.parquet")
    table = pq.read_table(path)
    pq.write_table(table.set_column(1, "domain", pa.array([None, *table["domain"].to_pylist()[1:]])), path)
    return folder


def test_a_row_without_a_domain_is_listed_and_never_a_path(tmp_path: Path):
    card = find_card("pacs")
    assert card is not None
    listing = list_source(null_domain(card, draw(card), tmp_path), None)
    assert "" not in listing.domains and len(listing.rejected) == 1


def zip_with_a_path_twice(card: DatasetCard, items: list[Item], folder: Path) -> Path:
    path = to_zip(tree(items), folder / "a.zip")
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("photo/dog/2_dog_0.jpg", b"other")
    return path


def without(*names: str) -> Make:
    def make(card: DatasetCard, items: list[Item], folder: Path) -> Path:
        files = split_lists(card, items)
        return write(folder, {path: data for path, data in files.items() if path not in names})

    return make


def damaged_annotations(card: DatasetCard, items: list[Item], folder: Path) -> Path:
    files = camera_traps(card, items, 5)
    return write(folder, files | {"annotations/3.json": files["annotations/3.json"][:-9]})


def images_twice(card: DatasetCard, items: list[Item], folder: Path) -> Path:
    files = camera_traps(card, items)
    return write(folder, files | {f"large/{Path(path).name}": b"" for path in files if path.endswith(".jpg")})


INCOMPLETE: dict[str, tuple[str, Make, str]] = {
    "a path twice": ("pacs", zip_with_a_path_twice, "twice"),
    "one of two lists": ("domainnet", without("clipart_train.txt"), "there is only clipart_test.txt"),
    "lists of one domain": (
        "domainnet",
        without("sketch_train.txt", "sketch_test.txt"),
        "count, but there are none for sketch",
    ),
    "damaged annotations": ("terraincognita", damaged_annotations, r"3\.json is not JSON"),
    "two sizes": ("terraincognita", images_twice, "is there twice: "),
    "one of two Parquet files": (
        "imagenet-r",
        parquet_of("test-00000-of-00002"),
        "lacks test-00001-of",
    ),
}


@pytest.mark.parametrize("case", INCOMPLETE)
def test_what_is_incomplete_or_ambiguous_is_refused(case: str, tmp_path: Path):
    name, make, message = INCOMPLETE[case]
    card = find_card(name)
    assert card is not None
    with pytest.raises(FastclipError, match=message):
        list_source(make(card, draw(card), tmp_path), card)


def test_coco_annotations_without_locations_are_no_camera_traps(tmp_path: Path):
    coco = {"images": [{"id": 1, "file_name": "1.jpg"}], "annotations": [], "categories": [{"id": 1, "name": "dog"}]}
    with pytest.raises(UserError, match="holds no domain of PACS"):
        list_source(write(tmp_path, {"a.json": json.dumps(coco).encode(), "x/1.jpg": b""}), find_card("pacs"))
