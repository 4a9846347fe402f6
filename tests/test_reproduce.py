"""`fastclip reproduce`: an evaluation and its verdicts in one command, on drawn images and a table of their own."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from drawn_store import RECIPE, draw_dataset, fill
from helpers import Program, Sharded
from servers import file_route, serving

from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import find_targets
from fastclip.files import digest, digest_file
from fastclip.models import archives, weights
from fastclip.models.backbones import OPENAI_BACKBONES
from fastclip.results.cells import Cell
from fastclip.results.files.result_reader import read_result
from fastclip.results.published import embedded
from fastclip.results.published.printed import Printed
from fastclip.results.published.table import PublishedCell, PublishedDataset, PublishedTable

CARD = """\
classes = ["apple", "bread", "cup"]
domains = [{ name = "night" }, { name = "photo" }, { name = "sketch" }]
variants = [{ name = "drawn", images = { night = 36, photo = 36, sketch = 36 } }]
"""


def of_openai(name: str):
    backbone = OPENAI_BACKBONES[name]
    return replace(
        RECIPE,
        backbone=name,
        architecture=backbone.architecture,
        weights=backbone.archive_sha256 or "",
        machine="cpu x",
    )


@pytest.fixture
def lab(fastclip: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Program:
    """A program in a folder with a sharded dataset and RN50's embeddings of it, and a published table of it."""
    monkeypatch.setenv("HOME", str(tmp_path / "nobody"))
    source = draw_dataset(tmp_path / "source")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards" / "letters.toml").write_text(CARD)
    outcome = fastclip.here("shard", "letters", "--source", source, "--shard-images", "20")
    assert outcome.code == 0, outcome.err
    fill(Sharded("letters", source, tmp_path / "shards"), tmp_path / "embeddings", of=of_openai("RN50"))
    assert fastclip.here("eval", "letters", "-b", "RN50").code == 0
    cells = {cell.domain: cell for cell in result_of(fastclip).cells}
    monkeypatch.setattr(embedded, "published_table", lambda: table_of(cells))
    return fastclip


def result_of(program: Program):
    """The only result that is kept."""
    (run,) = (program.folder / "results").iterdir()
    return read_result(run)


def table_of(cells: dict[str, Cell], **more: int) -> PublishedTable:
    """A table that publishes the counts of `cells`, and so many more."""
    return PublishedTable(
        source="a drawn table",
        cells=tuple(
            PublishedCell(
                dataset="letters",
                domain=domain,
                backbone=name,
                printed=Printed(Fraction(round((cell.top1 + more.get(domain, 0)) * 10_000 / cell.images), 10_000), 4),
            )
            for name in OPENAI_BACKBONES
            for domain, cell in cells.items()
        ),
        datasets={
            "letters": PublishedDataset(
                title="Letters",
                variant="drawn",
                images=dict.fromkeys(cells, 36),
                fingerprints={},
                prompts={name: (f"a picture of a {name}",) for name in ("apple", "bread", "cup")},
                template="a picture of a …",
            )
        },
        notes={},
    )


def test_one_command_prints_the_table_and_the_verdicts(lab: Program):
    outcome = lab.here("reproduce", "-b", "RN50", "--require", "same")
    assert outcome.code == 0, outcome.err
    table, verdicts = outcome.out.index("letters: accuracy, %"), outcome.out.index("3 cells: 3 same (against a drawn")
    assert table < verdicts
    assert ["RN50", "=", "=", "="] in [line.split() for line in outcome.out.splitlines()]
    assert len(list((lab.folder / "results").iterdir())) == 1, "equal work is kept once"
    assert max(map(len, outcome.out.splitlines())) <= 80


@pytest.mark.parametrize(
    ("more", "require", "code"), [(1, None, 0), (1, "same", 5), (1, "near-ties", 5), (0, "near-ties", 0)]
)
def test_what_is_required_decides_the_exit_code(
    lab: Program, monkeypatch: pytest.MonkeyPatch, more: int, require: str | None, code: int
):
    result = result_of(lab)
    assert not any(each.could_gain for each in result.near_ties), "else near ties would explain it"
    cells = {cell.domain: cell for cell in result.cells}
    monkeypatch.setattr(embedded, "published_table", lambda: table_of(cells, photo=more))
    outcome = lab.here("reproduce", "letters", "-b", "RN50", *(["--require", require] if require else []))
    assert outcome.code == code
    assert ("2 same, 1 differs" if more else "3 same") in outcome.out
    if code:
        assert "letters/photo, RN50: differs by -1. --require" in outcome.err and "Fix:" in outcome.err


def test_embeddings_by_other_weights_are_refused_before_any_work(lab: Program, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "_download", lambda backbone: pytest.fail("it would not be comparable"))
    sharded = Sharded("letters", lab.folder / "source", lab.folder / "shards")
    fill(sharded, lab.folder / "other", of=replace(of_openai("RN50"), weights="1" * 64))
    for words, archive in ((["-b", "RN50", "--store", "other"], "RN50.pt"), (["-b", "ViT-B-32"], "ViT-B-32.pt")):
        outcome = lab.here("reproduce", *words)
        assert outcome.code == 2 and outcome.err.count("\n") == 2 and outcome.out == ""
        assert f", {archive}, and it is not in ~/.cache/clip" in outcome.err and "--weights" in outcome.err


def test_given_weights_that_are_not_openais_are_refused_before_any_work(lab: Program):
    file = lab.folder / "mine.safetensors"
    file.write_bytes(b"0123456789")
    sharded = Sharded("letters", lab.folder / "source", lab.folder / "shards")
    fill(sharded, lab.folder / "other", of=replace(of_openai("RN50"), weights=digest_file(file)))
    outcome = lab.here("reproduce", "-b", "RN50", "--store", "other", "--weights", f"RN50-quickgelu={file}")
    assert outcome.code == 2 and outcome.err.count("\n") == 2 and outcome.out == ""
    assert f"RN50: its weights are {digest_file(file)[:12]}, not those of OpenAI's RN50.pt" in outcome.err


def test_openais_archives_are_taken_from_their_own_cache_unless_all_is_stored(lab: Program, tmp_path: Path):
    folder = tmp_path / "nobody" / ".cache" / "clip"
    folder.mkdir(parents=True)
    for name in ("RN50.pt", "ViT-B-32.pt"):
        (folder / name).write_bytes(b"x")
    outcome = lab.here("reproduce", "letters", "-b", "RN50")
    assert outcome.code == 0, "all is stored, so a damaged archive is not opened"
    outcome = lab.here("reproduce", "letters", "-b", "RN50", "-b", "ViT-B/32")
    assert outcome.code == 2 and f"{folder / 'ViT-B-32.pt'} is run with" in outcome.err, "it is none of OpenAI's"
    mine = tmp_path / "mine.pt"
    mine.write_bytes(b"y")
    outcome = lab.here("reproduce", "letters", "-b", "ViT-B/32", "--weights", f"ViT-B-32={mine}")
    assert outcome.code == 2 and f"{mine} is run with" in outcome.err


def test_an_archive_that_is_not_here_is_fetched_once_and_proved(lab: Program, monkeypatch: pytest.MonkeyPatch):
    data = b"an archive" * 1000
    small = replace(OPENAI_BACKBONES["ViT-B/32"], archive_sha256=digest(data))
    monkeypatch.setitem(OPENAI_BACKBONES, "ViT-B/32", small)
    command = ("reproduce", "letters", "-b", "ViT-B/32", "--store", "empty")
    archive = archives.archive_folder() / "ViT-B-32.pt"
    with serving() as start:
        server = start()
        monkeypatch.setattr(archives, "ADDRESS", server.url())
        server.routes[f"/{digest(data)}/ViT-B-32.pt"] = file_route(data)
        for _ in range(2):
            outcome = lab.here(*command)
            assert outcome.code == 2 and f"{archive} is run with" in outcome.err, (
                "the drawn archive is none of OpenAI's"
            )
            assert archive.read_bytes() == data
        assert len(server.requests_for("ViT-B-32.pt")) == 1
        archive.unlink()
        server.routes[f"/{digest(data)}/ViT-B-32.pt"] = file_route(data[:-1] + b"?")
        assert lab.here(*command).code == 5 and not archive.exists()
        monkeypatch.setenv("WORLD_SIZE", "2")
        monkeypatch.setenv("RANK", "0")
        outcome = lab.here(*command)
        assert outcome.code == 2 and "archive of ViT-B/32" in outcome.err and "without a launcher" in outcome.err


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("RN101=nothere.pt", "there is no weights file nothere.pt"),
        ("RN50=RN50.pt", "names RN50, which is not evaluated"),
    ],
)
def test_given_weights_that_are_wrong_are_refused_before_others_are_fetched(
    lab: Program, monkeypatch: pytest.MonkeyPatch, weights: str, message: str
):
    monkeypatch.setattr(archives, "fetch", lambda *_: pytest.fail("gigabytes for nothing"))
    with serving() as start:
        monkeypatch.setattr(archives, "ADDRESS", start().url())
        outcome = lab.here("reproduce", "letters", "-b", "ViT-B/32", "-b", "RN101", "--weights", weights)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 2


@pytest.mark.parametrize(
    ("target", "change", "message"),
    [
        ("letters/day", "", "letters has no domain 'day'"),
        ("letters", "no shards", "letters"),
        ("letters", "torn", "manifest.json"),
    ],
)
def test_targets_that_cannot_be_evaluated_are_refused_before_an_archive_is_fetched(
    lab: Program, monkeypatch: pytest.MonkeyPatch, target: str, change: str, message: str
):
    monkeypatch.setattr(archives, "fetch", lambda *_: pytest.fail("gigabytes for nothing"))
    manifest = lab.folder / "shards" / "letters" / "manifest.json"
    if change:
        manifest.unlink() if change == "no shards" else manifest.write_text("{")
    with serving() as start:
        monkeypatch.setattr(archives, "ADDRESS", start().url())
        outcome = lab.here("reproduce", target, "-b", "ViT-B/32")
    assert outcome.code in (2, 5) and message in outcome.err and outcome.err.count("\n") == 2, outcome.err
    assert ".pt" not in outcome.err


def test_without_names_the_published_datasets_that_are_sharded_and_all_nine_are_asked(lab: Program, tmp_path: Path):
    draw_dataset(tmp_path / "more", "zoo")
    outcome = lab.here("shard", "zoo", "--source", tmp_path / "more" / "zoo")
    assert outcome.code == 0, outcome.err
    sharded = Sharded("letters", lab.folder / "source", lab.folder / "shards")
    for name in OPENAI_BACKBONES:
        fill(sharded, lab.folder / "nine", of=of_openai(name))
    outcome = lab.here("reproduce", "--store", "nine", "--json", "found.json")
    assert outcome.code == 0 and "27 cells: " in outcome.out and "zoo" not in outcome.out
    found = read_result(lab.folder / "found.json")
    assert list(dict.fromkeys(each.backbone for each in found.cells)) == list(OPENAI_BACKBONES)
    assert list(found.prompts) == ["transferlearning"]


def test_the_json_file_is_the_kept_result_with_the_verdicts(lab: Program):
    assert lab.here("reproduce", "-b", "RN50", "--json", "found.json").code == 0
    document = json.loads((lab.folder / "found.json").read_text())
    (run,) = (lab.folder / "results").iterdir()
    assert document.pop("published")["verdicts"] == {"same": 3, "near ties": 0, "differs": 0, "not comparable": 0}
    kept = json.loads((run / "result.json").read_text())
    assert document.pop("digest") != kept.pop("digest") and document == kept


def test_unreadable_images_await_a_decision_after_the_verdicts(lab: Program):
    sharded = Sharded("letters", lab.folder / "source", lab.folder / "shards")
    fill(sharded, lab.folder / "other", of=of_openai("RN50"), unreadable={first_key(sharded)})
    outcome = lab.here("reproduce", "-b", "RN50", "--store", "other", "--require", "same")
    assert outcome.code == 3 and "3 cells: 2 same, 1 not comparable" in outcome.out
    assert "1 image unreadable" in outcome.out
    outcome = lab.here("reproduce", "-b", "RN50", "--store", "other", "--require", "same", "--unreadable", "wrong")
    assert outcome.code == 5 and "not comparable. --require same" in outcome.err


def first_key(sharded: Sharded) -> str:
    """The key of the first image of the first shard."""
    (target,) = find_targets(str(sharded.shards), [sharded.name])
    return next(iter(read_index(target.folder, target.manifest.shards[0]))).key


def test_images_that_are_not_the_published_ones_are_told_before_the_work(lab: Program):
    manifest = lab.folder / "shards" / "letters" / "manifest.json"
    assert '"drawn"' in manifest.read_text()
    card = lab.folder / "shards" / "letters.toml"
    card.write_text(CARD.replace("36", "35"))
    outcome = lab.here("shard", "letters", "--source", lab.folder / "source", "--shard-images", "20", "--overwrite")
    assert outcome.code == 0, outcome.err
    outcome = lab.here("reproduce", "-b", "RN50")
    assert outcome.code == 0
    assert "letters: these images are not the variant drawn of Letters" in outcome.err
    assert "3 cells: 3 not comparable" in outcome.out
    assert "all cells: its images are no known variant of Letters" in " ".join(outcome.out.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-b", "tiny"], "The published table has no tiny"),
        (["zoo"], "The published table has no zoo"),
        (["--require", "equal"], "--require does not know 'equal'"),
        (["--shards", "nowhere"], "nowhere holds none of the published datasets"),
        (["--random-weights"], "No such option: --random-weights"),
    ],
)
def test_a_mistake_is_two_lines(lab: Program, words: list[str], message: str):
    outcome = lab.here("reproduce", *words)
    assert outcome.code == 2 and message in outcome.err and outcome.err.count("\n") == 2
