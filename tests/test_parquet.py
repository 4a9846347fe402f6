"""Parquet by any writer: whatever Arrow type carries them, labels and images are what pyarrow was given, or refused."""

from __future__ import annotations

import itertools
import json
import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers import image_bytes
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fastclip.data.catalogue import DatasetCard, DomainCard
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.layouts import list_source
from fastclip.data.sources.parquet import list_parquet
from fastclip.errors import FastclipError, UserError

PNG = image_bytes()
NAMES = ("cat", "dog", "owl")


def save(path: Path, columns: Mapping[str, Any], names: Sequence[str] = (), column: str = "label") -> Path:
    """A file as `datasets` writes it: the names of a ClassLabel lie in the schema's metadata."""
    table = pa.table(dict(columns))
    if names:
        info = {"info": {"features": {column: {"names": list(names), "_type": "ClassLabel"}}}}
        table = table.replace_schema_metadata({"huggingface": json.dumps(info)})
    return save_table(path, table)


def save_table(path: Path, table: pa.Table, **options: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = any(pa.types.is_struct(each.type) and "view" in str(each.type) for each in table.schema)
    pq.write_table(table, path, row_group_size=None if whole else 2, **options)  # pyarrow cannot cut structs of views
    return path


def images(number: int, first: int = 0) -> list[bytes]:
    return [PNG + bytes([first + row]) for row in range(number)]


def found(source: Path, card: DatasetCard | None = None) -> list[tuple[str, str, bytes]]:
    """(domain, class, bytes) of every image that is listed."""
    listing = list_parquet(source, card)
    assert listing is not None
    reader = BlobReader()
    return [(image.domain, listing.classes[image.label], reader.read(image.blob)) for image in listing.images]


TEXTS: dict[str, pa.DataType] = {
    **{str(type_): type_ for type_ in (pa.string(), pa.large_string(), pa.string_view(), pa.binary_view())},
    **{str(type_): type_ for type_ in (pa.binary(), pa.large_binary(), pa.binary(3))},
    **{f"dictionary of {index}": pa.dictionary(index, pa.string()) for index in (pa.int8(), pa.uint32(), pa.int64())},
    "dictionary of large": pa.dictionary(pa.int16(), pa.large_string()),
    "dictionary of bytes": pa.dictionary(pa.int16(), pa.binary()),
}  # fmt: skip


def texts(labels: Sequence[str | None], type_: pa.DataType) -> pa.Array:
    plain = type_.value_type if pa.types.is_dictionary(type_) else type_
    as_bytes = "binary" in str(plain)
    values = [label.encode() if label is not None and as_bytes else label for label in labels]
    return pa.array(values, type_)


@pytest.mark.parametrize("names", [(), NAMES, ("x", "y", "z")], ids=["bare", "ClassLabel", "stale ClassLabel"])
@pytest.mark.parametrize("kind", TEXTS)
def test_texts_are_names_in_any_type(tmp_path: Path, kind: str, names: tuple[str, ...]):
    labels = ["owl", "cat", None, "dog", "cat"]
    save(tmp_path / "test.parquet", {"image": images(5), "label": texts(labels, TEXTS[kind])}, names)
    expected = [("test", label, data) for label, data in zip(labels, images(5), strict=True) if label]
    assert found(tmp_path) == expected
    listing = list_parquet(tmp_path, None)
    assert listing and [(row.path, row.reason) for row in listing.rejected] == [
        ("test.parquet#2", "a row without a label")
    ]


NUMBERS = (pa.int8(), pa.int64(), pa.uint16(), pa.float32(), pa.float64(), pa.dictionary(pa.int8(), pa.int64()))


@pytest.mark.parametrize("type_", NUMBERS, ids=str)
def test_whole_numbers_are_the_classes_of_a_classlabel(tmp_path: Path, type_: pa.DataType):
    save(tmp_path / "test.parquet", {"image": images(4), "label": pa.array([2, 0, None, 1], type_)}, NAMES)
    assert [label for _, label, _ in found(tmp_path)] == ["owl", "cat", "dog"]


def test_true_and_false_are_the_two_classes_of_a_classlabel(tmp_path: Path):
    save(tmp_path / "test.parquet", {"image": images(2), "label": [True, False]}, NAMES[:2])
    assert [label for _, label, _ in found(tmp_path)] == ["dog", "cat"]


def image_column(kind: str, data: Sequence[bytes | None]) -> pa.Array:
    rows = [{"bytes": each, "path": f"{row}.png"} for row, each in enumerate(data)]
    if kind.startswith("struct of "):
        inner = {"binary": pa.binary(), "large": pa.large_binary(), "view": pa.binary_view()}[kind.split()[-1]]
        return pa.array(rows, pa.struct({"path": pa.string(), "bytes": inner}))
    types = {"binary": pa.binary(), "large": pa.large_binary(), "view": pa.binary_view()}
    width = max((len(each) for each in data if each), default=1)
    types |= {"fixed": pa.binary(width), "dictionary": pa.dictionary(pa.int32(), pa.binary())}
    return pa.array(data, types[kind])


IMAGES = ("binary", "large", "view", "fixed", "dictionary", "struct of binary", "struct of large", "struct of view")


@pytest.mark.parametrize("kind", IMAGES)
def test_images_are_read_in_any_type_of_bytes(tmp_path: Path, kind: str):
    save(tmp_path / "test.parquet", {"picture": image_column(kind, images(5)), "label": ["a", "b", "a", "b", "a"]})
    assert [data for _, _, data in found(tmp_path)] == images(5)


def test_a_row_without_an_image_counts_as_unreadable(tmp_path: Path):
    rows = [{"bytes": PNG, "path": "1.png"}, None, {"bytes": None, "path": "3.png"}, {"bytes": PNG, "path": "4.png"}]
    save(tmp_path / "test.parquet", {"image": rows, "label": ["a", "b", "a", "b"]})
    listing = list_parquet(tmp_path, None)
    assert listing and [(row.path[-2:], row.label) for row in listing.rejected] == [("#1", 1), ("#2", 0)]


REFUSED: dict[str, tuple[dict[str, Any], Sequence[str], str]] = {
    "numbers without names": ({"label": [0, 1]}, (), "holds numbers without names"),
    "true without names": ({"label": [True, False]}, (), "holds numbers without names"),
    "a broken number": ({"label": [0.5, 1]}, NAMES, r"holds 0\.5, which is no whole number"),
    "from 1": ({"label": [1, 3]}, NAMES, "labels seem to begin at 1"),
    "from 1 without the last": ({"label": [1, 2]}, NAMES, "labels seem to begin at 1"),
    "outside": ({"label": [0, 9]}, NAMES, "has the number 9, and names for 0 to 2"),
    "below": ({"label": [0, -2]}, NAMES, "has the number -2"),
    "no text": ({"label": [b"\xff\xfe", b"a"]}, (), "no UTF-8 text"),
    "numerals under ClassLabel": ({"label": ["0", "1"]}, NAMES, "holds the text '0'"),
    "lists": ({"label": [[1], [0, 1]]}, NAMES, "neither texts nor numbers"),
    "dates": ({"label": pa.array([1, 2], pa.date32())}, (), "neither texts nor numbers"),
    "no label": ({"weight": [1, 2]}, (), "no column of labels"),
    "fine and coarse": ({"fine_label": ["a", "b"], "coarse_label": ["x", "x"]}, (), "fine_label and coarse_label"),
    "names that are crossed": ({"label": ["a", "b"], "class_name": ["b", "a"]}, (), "label and class_name"),
    "domains that are lists": ({"label": ["a", "b"], "domain": [["x"], ["y"]]}, (), "'domain' holds list"),
    "one class": ({"label": ["a", "a"]}, (), "one class in all"),
    "one class without a label beside": ({"label": ["a", "-1"]}, (), "one class in all"),
    "no labelled row": ({"label": [-1, -1]}, NAMES, "a row without a label"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_labels_that_cannot_be_trusted_are_refused(tmp_path: Path, case: str):
    columns, names, message = REFUSED[case]
    save(tmp_path / "test.parquet", {"image": images(2), **columns}, names)
    with pytest.raises(UserError, match=message) as caught:
        list_parquet(tmp_path, None)
    assert caught.value.fix


NAMES_OF_FILES = {
    "the first": (("val-1.parquet", "val-2.parquet"), r"lacks val-0\.parquet"),
    "a hole": (("val-0.parquet", "val-2.parquet"), r"lacks val-1\.parquet"),
    "a browser's copy": (("val.parquet", "val (1).parquet"), r"looks like a second copy of val\.parquet"),
    "an unfinished download": (
        ("val-0.parquet", "val-1.parquet.part"),
        r"holds val-1\.parquet\.part, which is not read",
    ),
}


@pytest.mark.parametrize("case", NAMES_OF_FILES)
def test_a_file_that_is_missing_or_there_twice_is_named(tmp_path: Path, case: str):
    names, message = NAMES_OF_FILES[case]
    for name in names:
        save(tmp_path / name, {"image": images(2), "label": ["a", "b"]})
    with pytest.raises(UserError, match=message):
        list_parquet(tmp_path, None)


def test_columns_that_contradict_each_other_are_refused(tmp_path: Path):
    columns = {"image": images(2), "label": ["a", "b"]}
    save(tmp_path / "test-0.parquet", columns | {"domain": ["x", "y"]})
    save(tmp_path / "test-1.parquet", columns)
    with pytest.raises(
        UserError, match=r"test-0\.parquet has a column of domains, 'domain', and .*test-1\.parquet has"
    ):
        list_parquet(tmp_path, None)
    twice = pa.table(columns | {"x": ["b", "a"]}).rename_columns(["image", "label", "label"])
    save_table(tmp_path / "test-1.parquet", twice)
    with pytest.raises(UserError, match="two columns 'label'"):
        list_parquet(tmp_path, None)


def test_of_several_columns_of_images_the_one_called_image_counts_or_none(tmp_path: Path):
    columns = {"image": images(2), "mask": images(2, 9), "label": ["a", "b"]}
    save(tmp_path / "test.parquet", columns)
    assert [data for _, _, data in found(tmp_path)] == images(2)
    save(tmp_path / "test.parquet", {"left" if name == "image" else name: each for name, each in columns.items()})
    with pytest.raises(UserError, match="several columns of images: left, mask"):
        list_parquet(tmp_path, None)


def test_ids_and_names_that_say_the_same_are_names_or_with_a_card_ids(tmp_path: Path):
    columns = {"image": images(3), "wnid": ["n2", "n1", "n2"], "class_name": ["owl", "cat", "owl"]}
    save(tmp_path / "test.parquet", columns)
    assert [label for _, label, _ in found(tmp_path)] == ["owl", "cat", "owl"]
    card = DatasetCard(name="x", title="X", classes=("n1", "n2"), domains=(DomainCard(name="test"),))
    assert [label for _, label, _ in found(tmp_path, card)] == ["n2", "n1", "n2"]


def test_a_split_without_labels_is_listed_and_the_others_are_read(tmp_path: Path):
    save(tmp_path / "data" / "validation-00000-of-00001.parquet", {"image": images(3), "label": [0, 1, 2]}, NAMES)
    save(tmp_path / "data" / "test-00000-of-00001.parquet", {"image": images(2), "label": [-1, -1]}, NAMES)
    listing = list_parquet(tmp_path, None)
    assert listing and listing.domains == ("validation",) and len(listing.images) == 3
    assert [row.reason for row in listing.rejected] == ["a row without a label"] * 2


NAMINGS = {
    "CONFIG/train/0000.parquet": "train/000{}.parquet",
    "CONFIG/train-00000-of-00003.parquet": "train-0000{}-of-00003.parquet",
    "CONFIG/data/train-00000-of-00003-HASH.parquet": "data/train-0000{}-of-00003-0123456789abcde{}.parquet",
    "CONFIG/train/part-00000-UUID.snappy.parquet": "train/part-0000{}-{}0000000-1111-2222-3333-4444444444ab-c000"
    ".snappy.parquet",
    "CONFIG/train_0.parquet": "train_{}.parquet",
}  # fmt: skip


@pytest.mark.parametrize("naming", NAMINGS)
def test_configurations_are_never_merged_and_pieces_always_are(tmp_path: Path, naming: str):
    for first, config in ((0, "160px"), (100, "320px")):
        for piece in range(3):
            name = NAMINGS[naming].format(piece, piece)
            save(tmp_path / config / name, {"image": images(2, first + piece * 10), "label": ["a", "b"]})
    rows = found(tmp_path)
    assert {domain for domain, _, _ in rows} == {"160px-train", "320px-train"}
    for first, config in ((0, "160px"), (100, "320px")):
        expected = [data for piece in range(3) for data in images(2, first + piece * 10)]
        assert [data for domain, _, data in rows if domain == f"{config}-train"] == expected
    assert {domain for domain, _, _ in found(tmp_path / "160px")} == {"train"}
    (gone,) = (tmp_path / "320px").rglob(NAMINGS[naming].format(1, 1).rpartition("/")[2])
    gone.unlink()
    with pytest.raises(UserError, match=r"320px.* lacks [\w-]*1"):
        list_parquet(tmp_path, None)


def test_configurations_that_have_all_domains_are_refused(tmp_path: Path):
    for config in ("small", "large"):
        columns = {"image": images(2), "label": ["a", "b"], "domain": ["photo", "sketch"]}
        save(tmp_path / config / "train-00000-of-00001.parquet", columns)
    with pytest.raises(UserError, match=r"several configurations \(large, small\)"):
        list_parquet(tmp_path, None)


CLASSES = st.lists(st.sampled_from(("cat", "dog", "owl", "a b", "né", "円")), min_size=2, max_size=5, unique=True)
"""Names of three bytes, as columns of fixed width need."""
WRITERS = st.fixed_dictionaries({
    "compression": st.sampled_from(("none", "snappy", "zstd", "gzip")),
    "data_page_version": st.sampled_from(("1.0", "2.0")),
    "use_dictionary": st.booleans(),
    "store_schema": st.booleans(),  # else Arrow's own types are lost, and metadata
})  # fmt: skip
SIGNED = [type_ for type_ in NUMBERS if type_ != pa.uint16()]


@st.composite
def datasets(draw: st.DrawFn) -> tuple[dict[str, pa.Table], dict[str, Any], list[tuple[str | None, ...]], list[str]]:
    """Parquet files, how they are written, their rows (domain, class, image; None where there is none), the classes."""
    random_ = random.Random(draw(st.integers(0, 1 << 32)))
    classes, naming = draw(CLASSES), draw(st.sampled_from(list(NAMINGS.values())))
    configs = draw(st.sampled_from(([""], ["a", "b"])))
    splits = draw(st.lists(st.sampled_from(("train", "test", "validation")), min_size=1, unique=True))
    kind, text, number = (draw(st.sampled_from(each)) for each in (IMAGES, list(TEXTS.values()), SIGNED))
    written = draw(st.sampled_from((["numbers"], ["texts"], ["numbers", "texts"])))
    domains = draw(st.sampled_from(([], ["photo", "Real World", None]))) if configs == [""] else []
    domain_kind = draw(st.sampled_from(("ClassLabel", pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.binary())))
    image, label = draw(st.sampled_from(("image", "img"))), draw(st.sampled_from(("label", "category", "wnid", "odd")))
    files, rows = {}, []
    for config, split, piece in itertools.product(configs, splits, range(3)):
        count = random_.randint(0, 3)
        names = [random_.choice([*classes, None]) for _ in range(count)]
        data = [(random_.choice([PNG] * 9 + [b""]) and PNG + random_.randbytes(4)) or None for _ in range(count)]
        places = [random_.choice(domains) if domains else f"{config}-{split}".lstrip("-") for _ in range(count)]
        columns = {"id": pa.array(range(count)), image: image_column(kind, data), "note": pa.array(["cat"] * count)}
        features = {}
        if label == "odd" or random_.choice(written) == "numbers":
            numbers = [classes.index(name) if name else random_.choice((None, -1)) for name in names]
            columns[label], features[label] = pa.array(numbers, number), classes
        else:
            columns[label] = texts(names, text)
        if domains and domain_kind == "ClassLabel":
            columns["domain"] = pa.array([domains.index(place) if place else -1 for place in places], pa.int64())
            features["domain"] = domains[:-1]
        elif domains:
            columns["domain"] = texts(places, domain_kind)
        if image == "image":
            columns["mask"] = pa.array([b"mask"] * count, pa.binary())
        if domains and len(splits) > 1:
            places = [place and f"{place}-{split}" for place in places]
        files[f"{config}/{naming.format(piece, piece).replace('train', split)}".lstrip("/")] = pa.table(
            {name: columns[name] for name in random_.sample(list(columns), len(columns))},
            metadata={"huggingface": json.dumps({"info": {"features": {
                name: {"names": listed, "_type": "ClassLabel"} for name, listed in features.items()}}})},
        )  # fmt: skip
        rows += zip(places, names, data, strict=True)
    writer = draw(WRITERS)
    writer["store_schema"] |= any(b"ClassLabel" in table.schema.metadata[b"huggingface"] for table in files.values())
    return files, writer, rows, classes


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(datasets())
def test_any_tables_are_read_to_exactly_their_rows_or_refused(dataset):
    files, writer, rows, classes = dataset
    truth = [row for row in rows if None not in row]
    with tempfile.TemporaryDirectory() as folder:
        for name, table in files.items():
            save_table(Path(folder) / name, table, **writer)
        try:
            listing = list_source(Path(folder), None)
        except FastclipError as error:
            used = {name for place, name, _ in rows if place and name}
            assert isinstance(error, UserError) and error.fix, error
            assert len(used) < 2 or classes[0] not in used or not truth, error
            return
        reader = BlobReader()
        read = [(image.domain, listing.classes[image.label], reader.read(image.blob)) for image in listing.images]
    assert sorted(read) == sorted(truth)
    assert len(listing.rejected) == len(rows) - len(truth)


@pytest.mark.slow
@settings(max_examples=5_000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(datasets())
def test_any_of_thousands_of_tables_are_read_to_exactly_their_rows_or_refused(dataset):
    test_any_tables_are_read_to_exactly_their_rows_or_refused.hypothesis.inner_test(dataset)
