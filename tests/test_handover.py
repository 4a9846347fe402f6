"""Images handed over to viewers: each row holds what the store and the run say, and every image is accounted for."""

from __future__ import annotations

import io
import json
import runpy
import shlex
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_store import RECIPE, draw_dataset, drawn, fill
from helpers import Program, Sharded, shard
from PIL import Image

from fastclip.data.shards.manifest import read_manifest
from fastclip.errors import IntegrityError
from fastclip.handover import write
from fastclip.handover.answers import Dealt, identifiers
from fastclip.handover.plane import find_plane
from fastclip.results.cells import Column
from fastclip.results.files.prediction_reader import read_predictions

READ = ("-b", "tiny", "--recipe", RECIPE.id[:12])


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """108 images in three domains, embedded but for two that could not be read, and a run about them."""
    folder = tmp_path_factory.mktemp("template")
    fill(drawn(folder), folder / "embeddings", unreadable=("photo/00000003", "night/00000007"))
    assert Program(folder).here("eval", "letters", *READ, "--unreadable", "exclude").code == 0
    return folder


@pytest.fixture
def letters(fastclip: Program, template: Path) -> Sharded:
    """A copy of them, in the program's folder."""
    shutil.copytree(template, fastclip.folder, dirs_exist_ok=True)
    return Sharded("letters", fastclip.folder / "source" / "letters", fastclip.folder / "shards")


@pytest.fixture
def run(letters: Sharded) -> Path:
    """The run about them."""
    (folder,) = (letters.shards.parent / "results").iterdir()
    return folder


def items(folder: Path) -> list[dict[str, Any]]:
    return pq.read_table(folder / "items.parquet").to_pylist()


def facts(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "items.json").read_bytes())


def exported(fastclip: Program, *words: object) -> Path:
    outcome = fastclip.here("export", *words, "--output", "out", "--overwrite")
    assert outcome.code == 0, outcome.err
    return fastclip.folder / "out"


def vectors_of(folder: Path, store: Path) -> dict[str, np.ndarray]:
    """Key → stored vector, by `fastclip features`."""
    assert Program(folder).here("features", "letters", *READ, "--store", store, "--output", "f").code == 0
    rows = pq.read_table(folder / "f" / "letters" / "tiny" / "parquet" / "features.parquet").to_pylist()
    return {row["key"]: np.array(row["embedding"]) for row in rows}


def test_each_row_holds_what_the_store_and_the_run_say_of_its_image(fastclip: Program, letters: Sharded, run: Path):
    rows = items(exported(fastclip, run))
    answers = {row["key"]: row for row in pq.read_table(run / "predictions.parquet").to_pylist()}
    vectors = vectors_of(fastclip.folder, fastclip.folder / "embeddings")
    classes = ["apple", "bread", "cup"]
    assert [row["key"] for row in rows] == list(vectors) and len(rows) == 106
    wrong = 0
    for row in rows:
        answer = answers[row["key"]]
        for name in ("domain", "path", "sha256", "label"):
            assert row[name] == answer[name]
        assert row["class"] == classes[answer["label"]]
        assert row["tiny_transferlearning_predicted"] == classes[answer["predicted"]]
        assert row["tiny_transferlearning_right"] == (answer["rank"] == 0)
        assert row["tiny_transferlearning_rank"] == answer["rank"]
        assert row["tiny_transferlearning_margin"] == answer["margin"]
        assert np.array_equal(row["embedding"], vectors[row["key"]])
        wrong += answer["rank"] != 0
    assert 5 < wrong < 100


def test_every_image_has_a_row_or_is_named_with_its_reason(fastclip: Program, letters: Sharded):
    outcome = fastclip.here("export", "letters", *READ)
    assert outcome.code == 0
    folder = fastclip.folder / "export" / "letters" / "tiny" / "atlas"
    found = facts(folder)
    assert (found["images"], found["rows"], len(items(folder))) == (108, 106, 106)
    assert [(each["key"], each["reason"]) for each in found["unreadable"]] == [
        ("night/00000007", "it was cut"),
        ("photo/00000003", "it was cut"),
    ]
    assert "2 images are unreadable and without a row: letters/night: apple/007.png (it was cut) …" in " ".join(
        outcome.out.split()
    )


def test_images_that_a_run_did_not_ask_about_have_no_answer(fastclip: Program, letters: Sharded):
    words = ("letters", *READ, "--split", "0.5", "--head", "ridge")
    assert fastclip.here("probe", *words).code == 0
    (run,) = (fastclip.folder / "results").glob("probe-*")
    answers = pq.read_table(run / "predictions.parquet").to_pylist()
    asked = {row["key"]: row["rank"] for row in answers if row["head"] == "ridge" and row["rank"] is not None}
    rows = items(exported(fastclip, run))
    assert {row["key"]: row["tiny_ridge_rank"] for row in rows if row["tiny_ridge_rank"] is not None} == asked
    assert 20 < len(asked) < 90
    for row in rows:
        assert len({row[f"tiny_ridge_{name}"] is None for name in ("predicted", "right", "rank", "margin")}) == 1


def test_answers_about_other_images_are_refused(letters: Sharded, run: Path):
    rows = read_predictions(run / "predictions.parquet")
    answers = rows.domains["letters", "photo"]
    shard = read_manifest(letters.folder).shards_of("photo")[0]
    dealt = Dealt(rows)
    with pytest.raises(IntegrityError, match="other images"):
        dealt.of("letters", shard, answers.keys[:5], ["0" * 64] * 5)
    dealt.of("letters", shard, answers.keys[:5], answers.digests[:5])
    with pytest.raises(IntegrityError, match="other images"):
        dealt.check_all_dealt()


def test_a_run_is_not_exported_with_the_pictures_of_other_shards(fastclip: Program, letters: Sharded, run: Path):
    source = draw_dataset(fastclip.folder / "other", "letters", per_class=11)
    shard(source, fastclip.folder / "elsewhere", "letters", layout="domain/class")
    outcome = fastclip.here("export", run, "--shards", "elsewhere")
    assert outcome.code in (2, 4) and "Fix:" in outcome.err and not (fastclip.folder / "export").exists()


def test_columns_have_names_that_any_program_takes_and_that_differ():
    columns = [
        Column("ViT-B/32", prompts="photo"),
        Column("ViT-B-32", prompts="photo"),
        Column("RN50", "logistic, 4 shots"),
        Column("); DROP TABLE x", prompts="../a"),
        Column("长", prompts="长"),
        Column("8", prompts="b"),
        Column("8_", prompts="b"),
    ]
    names = identifiers(columns)
    assert list(names.values()) == columns
    assert list(names) == [
        "vit_b_32_photo", "vit_b_32_photo_2", "rn50_logistic_4_shots", "drop_table_x_a", "answers", "c_8_b", "c_8_b_2"
    ]  # fmt: skip
    assert all(name.isidentifier() and name.isascii() for name in names)


def test_the_plane_is_that_of_the_principal_components_however_rows_are_cut():
    random = np.random.default_rng(3)
    rows = (random.normal(size=(500, 12)) * np.linspace(3, 0.2, 12) + 5).astype(np.float32)
    centred = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    _, sizes, axes = np.linalg.svd(centred, full_matrices=False)
    for cut in (500, 37, 1):
        plane = find_plane((rows[first : first + cut] for first in range(0, 500, cut)), 12)
        for axis in (0, 1):
            expected = centred @ axes[axis]
            found = plane.places(rows)[:, axis]
            assert min(np.abs(found - expected).max(), np.abs(found + expected).max()) < 1e-9
            assert plane.axes[np.abs(plane.axes[:, axis]).argmax(), axis] > 0
        assert np.allclose(plane.shares, (sizes**2 / (sizes**2).sum())[:2])


@pytest.mark.parametrize(("rows", "dim"), [(0, 5), (1, 5), (3, 1)])
def test_a_plane_of_too_few_rows_or_numbers_is_flat_and_finite(rows: int, dim: int):
    plane = find_plane([np.arange(rows * dim, dtype=np.float32).reshape(rows, dim)], dim)
    places = plane.places(np.ones((2, dim), np.float32))
    assert np.isfinite(places).all() and places.shape == (2, 2) and (dim > 1 or not places[:, 1].any())


def thumbnails(folder: Path, viewer: str) -> Iterator[bytes]:
    for row in items(folder):
        found = row["thumb"]
        if viewer == "fiftyone":
            yield (folder / found).read_bytes()
        else:
            yield found["bytes"] if viewer == "atlas" else found


@pytest.mark.parametrize("viewer", ["atlas", "spotlight", "fiftyone"])
def test_thumbnails_are_the_centre_of_their_images(viewer: str, fastclip: Program, shapes: Sharded):
    fill(shapes, fastclip.folder / "embeddings")
    folder = exported(fastclip, "shapes/flat", *READ, "--shards", shapes.shards, "--for", viewer, "--thumbnails", "64")
    rows = items(folder)
    assert len(rows) == 60
    for row, data in list(zip(rows, thumbnails(folder, viewer), strict=True))[::7]:
        thumb = Image.open(io.BytesIO(data))
        assert (thumb.format, thumb.size, thumb.mode) == ("JPEG", (64, 64), "RGB") and not thumb.getexif()
        image = Image.open(shapes.source / row["domain"] / row["path"]).convert("RGB")
        short = min(image.size)
        left, top = (image.width - short) / 2, (image.height - short) / 2
        box = (left, top, left + short, top + short)
        expected = image.resize((64, 64), Image.Resampling.BICUBIC, box=box)
        assert np.abs(np.asarray(thumb, np.float32) - np.asarray(expected, np.float32)).mean() < 12
    kind = pq.read_schema(folder / "items.parquet").field("thumb").type
    assert kind == {"atlas": pa.struct([("bytes", pa.binary()), ("path", pa.string())]), "spotlight": pa.binary(),
                    "fiftyone": pa.string()}[viewer]  # fmt: skip


def test_without_thumbnails_no_tar_is_read(fastclip: Program, letters: Sharded):
    for path in letters.shards.rglob("*.tar"):
        path.unlink()
    folder = exported(fastclip, "letters", *READ, "--thumbnails", "off")
    assert len(items(folder)) == 106 and "thumb" not in items(folder)[0]


def test_a_damaged_tar_leaves_no_export(fastclip: Program, letters: Sharded):
    tar = letters.folder / "sketch" / "0.tar"
    tar.write_bytes(bytes(len(tar.read_bytes())))
    outcome = fastclip.here("export", "letters", *READ, "--output", "out")
    assert outcome.code == 5 and "sketch/0.tar" in outcome.err
    assert not (fastclip.folder / "out").exists() and not list(fastclip.folder.glob(".out*"))


def test_an_image_that_gives_no_thumbnail_keeps_its_row_and_is_named(
    fastclip: Program, letters: Sharded, monkeypatch: pytest.MonkeyPatch
):
    from fastclip.handover import thumbnails

    real, seen = thumbnails.crop_jpeg, []

    def crop_jpeg(data: memoryview, *rest: Any) -> bytes:
        seen.append(bytes(data))
        if len(set(seen)) == 5:
            raise ValueError("it is too odd")
        return real(data, *rest)

    monkeypatch.setattr(thumbnails, "crop_jpeg", crop_jpeg)
    monkeypatch.setattr("fastclip.machine.available_cores", lambda: 1)
    outcome = fastclip.here("export", "letters/sketch", *READ, "--output", "out")
    folder = fastclip.folder / "out"
    left = facts(folder)["without_thumbnail"]
    assert [(each["key"], each["reason"]) for each in left] == [(items(folder)[4]["key"], "it is too odd")]
    assert [row["key"] for row in items(folder) if row["thumb"] is None] == [left[0]["key"]] and len(
        items(folder)
    ) == 36
    assert "1 image is without thumbnail" in " ".join(outcome.out.split())


def test_equal_work_gives_equal_bytes_in_groups_that_a_browser_reads(
    fastclip: Program, run: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(write, "ROWS_PER_GROUP", 4)
    folder = exported(fastclip, run)
    groups = pq.ParquetFile(folder / "items.parquet").metadata
    assert max(groups.row_group(number).num_rows for number in range(groups.num_row_groups)) == 4
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert before == {path.name: path.read_bytes() for path in exported(fastclip, run).iterdir()}


def test_nothing_but_an_export_is_replaced_and_that_only_on_request(fastclip: Program, letters: Sharded):
    words = ("export", "letters", *READ, "--output", "out")
    assert fastclip.here(*words).code == 0
    assert "--overwrite" in fastclip.here(*words).err
    (fastclip.folder / "out" / "thesis.tex").write_text("mine")
    for more in ((), ("--overwrite",)):
        outcome = fastclip.here(*words, *more)
        assert outcome.code == 2 and "thesis.tex" in outcome.err
    assert (fastclip.folder / "out" / "thesis.tex").read_text() == "mine"
    (fastclip.folder / "out" / "items.json").write_text("[" * 100_000)
    assert fastclip.here(*words, "--overwrite").code == 2


def test_a_disk_that_is_too_small_is_told_before_anything_is_written(
    fastclip: Program, letters: Sharded, monkeypatch: pytest.MonkeyPatch
):
    words = ("export", "letters", *READ, "--output", "out")
    usage = shutil.disk_usage(fastclip.folder)._replace(free=20_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    outcome = fastclip.here(*words)
    assert outcome.code == 4 and "20 kB left" in outcome.err and not (fastclip.folder / "out").exists()


def test_the_forecast_is_near_to_what_is_written(fastclip: Program, shapes: Sharded):
    fill(shapes, fastclip.folder / "embeddings")
    outcome = fastclip.here("export", "shapes", *READ, "--shards", shapes.shards, "--output", "out")
    said = float(outcome.err.split(" kB")[0].split()[-1]) * 1000
    assert 0.7 < (fastclip.folder / "out" / "items.parquet").stat().st_size / said < 1.4


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("letters",), "No backbone"),
        (("letters", "-b", "tiny", "-b", "RN50"), "2 backbones"),
        (("letters", *READ, "--for", "excel"), "excel"),
        (("letters", *READ, "--thumbnails", "big"), "big"),
        (("letters", *READ, "--thumbnails", "4"), "4 pixels"),
        (("letters", *READ, "--for", "fiftyone", "--thumbnails", "off"), "FiftyOne"),
        (("letters", "-b", "RN50"), "Not everything is embedded"),
        (("RUN", "letters"), "One run"),
        (("RUN", "-b", "RN50"), "no backbone RN50"),
        (("predictions.parquet", *READ), "no result"),
    ],
)
def test_an_export_that_cannot_be_is_refused_with_its_cure(
    words: tuple[str, ...], named: str, fastclip: Program, run: Path
):
    shutil.copy(run / "predictions.parquet", fastclip.folder)
    outcome = fastclip.here("export", *(str(run) if word == "RUN" else word for word in words))
    assert outcome.code in (2, 4) and outcome.out == ""
    what, cure = outcome.err.splitlines()
    assert named in what and cure.startswith("Fix:   ")


def test_names_of_strangers_are_data_and_lead_nowhere(fastclip: Program):
    source = draw_dataset(fastclip.folder / "source", domains="$(touch${IFS}x) a..b")
    (source / "$(touch${IFS}x)" / "apple").rename(source / "$(touch${IFS}x)" / "<script>")
    (source / "a..b" / "apple").rename(source / "a..b" / "<script>")
    sharded = shard(source, fastclip.folder / "shards", "letters", layout="domain/class")
    fill(sharded, fastclip.folder / "embeddings")
    outcome = fastclip.here("export", "letters", *READ, "--for", "fiftyone", "--output", "my 'out'")
    folder = fastclip.folder / "my 'out'"
    assert {row["class"] for row in items(folder)} == {"<script>", "bread", "cup"}
    names = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    pictures = {f"thumbs/0000/{number:08d}.jpg" for number in range(72)}
    assert names == {"items.parquet", "items.json", "open_in_fiftyone.py"} | pictures
    script = (folder / "open_in_fiftyone.py").read_text()
    assert "script>" not in script and "touch" not in script
    (line,) = (each for each in outcome.out.splitlines() if each.startswith("uvx "))
    assert shlex.split(line)[-1] == str(folder / "open_in_fiftyone.py")


OPENING = {
    "atlas": ["embedding-atlas==0.26.*", "ITEMS", "--image", "thumb", "--vector", "embedding", "--x", "x", "--y", "y",
              "--text", "class"],
    "spotlight": ["--from", "renumics-spotlight", "spotlight", "ITEMS", "--dtype", "thumb=Image", "--dtype",
                  "embedding=Embedding"],
    "fiftyone": ["--from", "fiftyone", "--with", "pyarrow", "python", "SCRIPT"],
}  # fmt: skip


@pytest.mark.parametrize("viewer", list(OPENING))
def test_the_printed_command_opens_the_files_by_their_absolute_path(viewer: str, fastclip: Program, letters: Sharded):
    outcome = fastclip.here("export", "letters", *READ, "--for", viewer, "--output", "out")
    places = {"ITEMS": fastclip.folder / "out" / "items.parquet", "SCRIPT": fastclip.folder / "out/open_in_fiftyone.py"}
    words = shlex.split(outcome.out.splitlines()[-1])
    assert words == ["uvx", *(str(places.get(word, word)) for word in OPENING[viewer])]
    assert all(place.is_file() for place in places.values() if str(place) in words)


class Recorded(dict):
    """A sample of FiftyOne: what it was made with, and the fields that it was given."""


def test_the_script_gives_fiftyone_every_row_its_answers_and_the_plane(
    fastclip: Program, run: Path, monkeypatch: pytest.MonkeyPatch
):
    """FiftyOne itself needs MongoDB. The stand-in has the signatures of version 1.22."""
    folder = exported(fastclip, run, "--for", "fiftyone")
    calls: dict[str, Any] = {}

    class Dataset:
        def add_samples(self, samples: list[Recorded]) -> None:
            calls["samples"] = samples

        def exists(self, field: str) -> Dataset:
            assert all(field in sample for sample in calls["samples"])
            return self

        def evaluate_classifications(
            self,
            pred_field: str,
            gt_field: str = "ground_truth",
            eval_key: str | None = None,
            method: str | None = None,
        ) -> None:
            calls["evaluated"] = (pred_field, gt_field, eval_key, method)

    def compute_visualization(
        samples: Dataset, *, embeddings: Any, points: Any, brain_key: str, method: str | None = None
    ) -> None:
        calls["plane"] = (embeddings, points, brain_key, method)

    stand_in, brain = ModuleType("fiftyone"), ModuleType("fiftyone.brain")
    stand_in.Sample = lambda **fields: Recorded(fields)  # type: ignore[attr-defined]
    stand_in.Classification = lambda **fields: fields  # type: ignore[attr-defined]
    stand_in.Dataset, stand_in.brain = Dataset, brain  # type: ignore[attr-defined]
    brain.compute_visualization = compute_visualization  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "fiftyone", stand_in)
    monkeypatch.setitem(sys.modules, "fiftyone.brain", brain)
    runpy.run_path(str(folder / "open_in_fiftyone.py"))["make_dataset"]()
    rows = items(folder)
    assert len(calls["samples"]) == len(rows) == 106
    for sample, row in zip(calls["samples"], rows, strict=True):
        assert Path(sample["filepath"]).read_bytes()[:2] == b"\xff\xd8"
        assert sample["ground_truth"] == {"label": row["class"]} and sample["tags"] == [row["domain"]]
        assert sample["tiny_transferlearning"]["label"] == row["tiny_transferlearning_predicted"]
    assert calls["evaluated"] == ("tiny_transferlearning", "ground_truth", "eval_tiny_transferlearning", "simple")
    embeddings, points, brain_key, method = calls["plane"]
    assert (brain_key, method) == ("plane_tiny", "manual")
    assert np.array_equal(embeddings, [row["embedding"] for row in rows])
    assert np.array_equal(points, [[row["x"], row["y"]] for row in rows])
