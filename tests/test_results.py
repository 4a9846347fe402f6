"""The files of a run: results that are read again, predictions that prove themselves, and several results as one."""

from __future__ import annotations

import json
import shutil
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn_store import RECIPE, drawn, fill
from helpers import Program

from fastclip.errors import FastclipError, IntegrityError, UserError
from fastclip.results.answers import ColumnAnswers
from fastclip.results.averages import averages
from fastclip.results.cells import Column, Evaluation, PredictionFile
from fastclip.results.files.merging import merge
from fastclip.results.files.prediction_reader import read_predictions
from fastclip.results.files.predictions import RowDigest
from fastclip.results.files.result import result_digest, to_json
from fastclip.results.files.result_reader import parse_result, read_result
from fastclip.results.patterns import MOST_PATTERNS, count_patterns

ARGUMENTS = ("letters", "-b", "tiny", "--shards", "shards")


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """A folder with a drawn dataset, a store of two recipes whose answers differ, and a kept run of zero-shot."""
    program = Program(tmp_path_factory.mktemp("letters"))
    sharded = drawn(program.folder)
    fill(sharded, program.folder / "embeddings", unreadable=("photo/00000003",))
    outcome = program("eval", *ARGUMENTS, "--unreadable", "wrong", "--json", "result.json")
    assert outcome.code == 0, outcome.err
    return program


@pytest.fixture(scope="module")
def run(letters: Program) -> Path:
    (found,) = (letters.folder / "results").iterdir()
    return found


@pytest.fixture(scope="module")
def rows(run: Path) -> list[dict[str, Any]]:
    return pq.read_table(run / "predictions.parquet").to_pylist()


def test_a_run_is_kept_where_it_says_and_json_is_the_same_file(letters: Program, run: Path):
    assert {path.name for path in run.iterdir()} == {"result.json", "predictions.parquet", "run.json"}
    assert (letters.folder / "result.json").read_bytes() == (run / "result.json").read_bytes()
    facts = json.loads((run / "run.json").read_bytes())
    assert facts["schema"] == "fastclip.run/1" and facts["host"] == socket.gethostname() and facts["seconds"] > 0
    assert facts["command"][1:3] == ["eval", "letters"] and facts["started"].endswith("+00:00")


def test_a_result_holds_no_time_no_host_and_no_path_and_equal_work_gives_equal_bytes(letters: Program, run: Path):
    text = (run / "result.json").read_text()
    words = (str(letters.folder), socket.gethostname(), json.loads((run / "run.json").read_bytes())["started"][:13])
    assert not [word for word in words if f'"{word}' in text]
    other = Program(letters.folder.parent / "elsewhere")
    shutil.copytree(letters.folder / "shards", other.folder / "shards")
    shutil.copytree(letters.folder / "embeddings", other.folder / "embeddings")
    outcome = other("eval", *ARGUMENTS, "--unreadable", "wrong")
    assert outcome.code == 0 and f"results/{run.name}" in outcome.err
    assert (other.folder / "results" / run.name / "result.json").read_text() == text


def test_a_result_that_is_read_and_written_again_has_the_same_bytes(run: Path):
    evaluation = read_result(run)
    assert to_json(evaluation) == (run / "result.json").read_bytes()
    assert read_result(run / "result.json") == evaluation


def test_a_result_of_before_is_read(run: Path):
    document = json.loads((run / "result.json").read_bytes())
    before = {name: document[name] for name in ("unreadable_policy", "recipes", "cells", "unreadable", "heads")}
    before["prompts"] = {name: each["templates"] for name, each in document["prompts"].items()}
    before["datasets"] = [
        {**each, "names": dict(zip(each["classes"], each["names"], strict=True))} for each in document["datasets"]
    ]
    for each in before["datasets"]:
        del each["classes"], each["licence"], each["hub_id"], each["duplicates"]
    for each in before["cells"]:
        del each["interval"], each["head"], each["sample"]
    found, now = parse_result(json.dumps(before).encode(), "old.json"), read_result(run)
    assert (found.cells, found.prompts, found.recipes) == (now.cells, now.prompts, now.recipes)
    assert found.datasets[0].names == now.datasets[0].names and found.patterns == ()


def test_a_later_result_of_the_same_version_is_read_and_its_new_fields_are_left(run: Path):
    document = json.loads((run / "result.json").read_bytes())
    document["weather"] = "fine"
    for place in ("datasets", "cells", "averages", "near_ties"):
        document[place] = [{**each, "mood": "good"} for each in document[place]]
    assert parse_result(sealed(document), "later.json") == read_result(run)


def changed(run: Path, change: Callable[[dict[str, Any]], object]) -> bytes:
    """A result that somebody changed, and sealed again."""
    document = json.loads((run / "result.json").read_bytes())
    change(document)
    return sealed(document)


def sealed(document: dict[str, Any]) -> bytes:
    document["digest"] = result_digest(document)
    return json.dumps(document).encode()


def test_every_change_of_a_result_is_noticed(run: Path):
    document = json.loads((run / "result.json").read_bytes())

    def places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        if isinstance(value, dict | list):
            for key in value if isinstance(value, dict) else range(len(value)):
                yield from places(value[key], (*way, key))
        else:
            yield way

    ways = list(places(document))
    assert len(ways) > 100
    for *way, last in ways:
        damaged = json.loads((run / "result.json").read_bytes())
        inner = damaged
        for key in way:
            inner = inner[key]
        value = inner[last]
        inner[last] = value + 1 if type(value) in (int, float) else f"{value}x"
        if [*way, last] != ["schema"]:
            with pytest.raises(IntegrityError, match="digest"):
                parse_result(json.dumps(damaged).encode(), "changed.json")


WRONG = {
    "an unknown major version": (lambda d: d.update(schema="fastclip.result/2"), UserError, "fastclip.result/1"),
    "another file of fastclip's": (lambda d: d.update(schema="fastclip.run/1"), UserError, "fastclip.run/1"),
    "another program's file": (lambda d: d.update(schema="helm/3"), UserError, "no result of fastclip"),
    "any other JSON": (lambda d: (d.clear(), d.update(a=1)), UserError, "no result of fastclip"),
    "more right than classified": (lambda d: d["cells"][0].update(top1=10**6), IntegrityError, "do not add up"),
    "a count that is no number": (lambda d: d["cells"][0].update(images="36"), IntegrityError, "images"),
    "an image that is nowhere": (lambda d: d["cells"][0].update(classified=1, top1=0, top5=1), IntegrityError, "add"),
    "a cell that stands twice": (lambda d: d["cells"].append(d["cells"][0]), IntegrityError, "stands twice"),
    "a domain without a dataset": (lambda d: d["cells"][0].update(dataset="x"), IntegrityError, "not described"),
    "prompts that are not there": (lambda d: d["prompts"].clear(), IntegrityError, "transferlearning"),
    "no cells": (lambda d: d.pop("cells"), IntegrityError, "cells"),
    "patterns of three values": (lambda d: d["patterns"][0]["counts"].update({"2": 1}), IntegrityError, "bits"),
    "a recipe that is none": (lambda d: d["recipes"][0].update(recipe={}), IntegrityError, "recipe"),
    "patterns of more images": (lambda d: d["patterns"][0]["counts"].update({"1": 99}), IntegrityError, "otherwise"),
    "patterns of fewer right": (
        lambda d: d["patterns"][0].update(counts={"0": d["cells"][0]["images"]}),
        IntegrityError,
        "otherwise",
    ),
    "near ties of nobody": (lambda d: d["near_ties"][0].update(could_gain=99), IntegrityError, "near ties"),
    "an unknown policy": (lambda d: d.update(unreadable_policy="ignore"), IntegrityError, "ignore"),
}


@pytest.mark.parametrize("what", list(WRONG))
def test_a_result_that_cannot_be_is_refused_by_name(run: Path, what: str):
    change, kind, word = WRONG[what]
    with pytest.raises(FastclipError, match=word) as raised:
        parse_result(changed(run, change), "strange.json")
    assert type(raised.value) is kind and "strange.json" in str(raised.value) and raised.value.fix


@pytest.mark.parametrize("keep", [0, 1, 100, -1, -3])
def test_a_torn_result_is_refused(run: Path, keep: int):
    with pytest.raises(IntegrityError, match=r"torn\.json"):
        parse_result((run / "result.json").read_bytes()[:keep].rstrip(b"\n}"), "torn.json")


def test_counts_patterns_and_near_ties_are_those_of_a_plain_loop_over_the_predictions(
    run: Path, rows: list[dict[str, Any]]
):
    evaluation = read_result(run)
    assert len(rows) == 108 and sum(row["rank"] is None for row in rows) == 1
    for cell in evaluation.cells:
        of_cell = [row for row in rows if row["domain"] == cell.domain]
        assert cell.images == len(of_cell) == 36
        assert (
            cell.top1
            == sum(row["rank"] == 0 for row in of_cell)
            == sum(row["predicted"] == row["label"] for row in of_cell)
        )
        assert cell.classified == sum(row["rank"] is not None for row in of_cell)
        assert cell.accuracy("wrong") == Fraction(cell.top1, 36)
        (pattern,) = [each for each in evaluation.patterns if each.domain == cell.domain]
        assert pattern.counts == dict(Counter("1" if row["rank"] == 0 else "0" for row in of_cell))
        (ties,) = [each for each in evaluation.near_ties if each.domain == cell.domain]
        near = [row["rank"] for row in of_cell if row["rank"] is not None and row["margin"] < ties.epsilon]
        assert (ties.could_lose, ties.could_gain) == (near.count(0), near.count(1))


def test_intervals_and_averages_of_a_file_are_those_of_its_counts(run: Path):
    from statsmodels.stats.proportion import proportion_confint

    document = json.loads((run / "result.json").read_bytes())
    for cell in document["cells"]:
        low, high = proportion_confint(cell["top1"], cell["images"], 0.05, "wilson")
        assert (cell["interval"]["low"], cell["interval"]["high"]) == pytest.approx((low, high), abs=1e-10)
        assert (cell["interval"]["method"], cell["interval"]["level"]) == ("Wilson", 0.95)
    (average,) = document["averages"]
    shares = [cell["top1"] / cell["images"] for cell in document["cells"]]
    assert average["macro"] == pytest.approx(sum(shares) / 3, abs=1e-15) and average["worst"] == min(shares)
    assert average["micro"] == pytest.approx(sum(cell["top1"] for cell in document["cells"]) / 108, abs=1e-15)
    assert average["interval"]["low"] < average["macro"] < average["interval"]["high"]


def test_macro_and_micro_differ_where_domains_are_unequal():
    evaluation = small(top1=(9, 10), images=(10, 40))
    (average,) = averages(evaluation)
    assert (average.macro, average.micro, average.worst) == (Fraction(23, 40), Fraction(19, 50), Fraction(1, 4))


def small(*, top1: tuple[int, ...] = (9, 10), images: tuple[int, ...] = (10, 40), **changes: Any) -> Evaluation:
    """A result of two domains, without predictions."""
    from fastclip.results.cells import Cell, DatasetFacts, UsedPrompts, UsedRecipe

    facts = DatasetFacts(
        name="d", title="D", variant=None, protocol="full", manifest_sha256="a" * 64,
        names={"x": "x", "y": "y"}, fingerprints={"p": "1", "q": "2"}, has_variants=False,
    )  # fmt: skip
    cells = [
        Cell(dataset="d", domain=domain, backbone="tiny", prompts="t", images=n, classified=n, top1=k, top5=n,
             unreadable=0, shards=1, missing_shards=0)
        for domain, k, n in zip("pq", top1, images, strict=True)
    ]  # fmt: skip
    evaluation = Evaluation(
        unreadable_policy="stop",
        datasets=(facts,),
        recipes=(UsedRecipe(dataset="d", backbone="tiny", id=RECIPE.id, recipe=RECIPE),),
        prompts={"t": UsedPrompts(templates=("a {}",))},
        cells=tuple(cells),
        unreadable=(),
    )
    return replace(evaluation, **changes)


def test_results_of_other_domains_backbones_and_prompts_become_one():
    whole = small()
    first, second = (replace(whole, cells=(each,)) for each in whole.cells)
    assert merge({"a": first, "b": second}) == whole == merge({"a": whole}) == merge({"a": whole, "b": first})


def named(evaluation: Evaluation, **changes: Any) -> Evaluation:
    return replace(evaluation, datasets=(replace(evaluation.datasets[0], **changes),))


APART: dict[str, tuple[Evaluation, type[FastclipError], str]] = {
    "two counts of one cell": (small(top1=(9, 11)), IntegrityError, "d, q, tiny, zero-shot, t has other counts"),
    "other images": (named(small(), manifest_sha256="b" * 64), UserError, "images or classes of d"),
    "other names": (named(small(), names={"x": "x", "y": "z"}), UserError, "images or classes of d"),
    "another part of the images": (
        small(cells=tuple(replace(each, sample="a half") for each in small().cells)),
        UserError,
        "all images, or another part",
    ),
    "another policy": (small(unreadable_policy="wrong"), UserError, "--unreadable stop"),
    "other templates": (
        small(prompts={"t": replace(small().prompts["t"], templates=("b {}",))}),
        UserError,
        "prompt set t",
    ),
    "another recipe": (
        small(recipes=(replace(small().recipes[0], id="f" * 64, recipe=replace(RECIPE, precision="fp32")),)),
        UserError,
        "another recipe",
    ),
}


@pytest.mark.parametrize("what", list(APART))
def test_results_that_cannot_be_one_table_are_refused(what: str):
    other, kind, words = APART[what]
    with pytest.raises(FastclipError, match=words) as raised:
        merge({"one.json": small(), "two.json": other})
    assert type(raised.value) is kind and "one.json" in str(raised.value) and "two.json" in str(raised.value)


def test_too_many_combinations_are_kept_for_smaller_groups():
    rng = np.random.default_rng(0)
    images = 3 * MOST_PATTERNS
    columns = {
        Column(backbone, "zero-shot", prompts): ColumnAnswers(
            np.zeros(images, np.int32), rng.integers(0, 2, images, np.int32), np.zeros(images, np.float32)
        )
        for backbone in ("a", "b", "c", "d", "e", "f", "g")
        for prompts in ("one", "two")
    }
    found = count_patterns("d", "p", columns, "stop", 0)
    assert all(len(each.counts) <= MOST_PATTERNS and each.images == images for each in found)
    together = [set(each.columns) for each in found]
    assert {c for c in columns if c.prompts == "one"} in together
    assert {c for c in columns if c.backbone == "a"} in together
    for each in found:
        a, b = each.columns[:2]
        right_a, right_b = columns[a].rank == 0, columns[b].rank == 0
        assert each.only(a, b) == (int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum()))


def test_unreadable_images_are_wrong_or_left_out_of_patterns_as_the_policy_says():
    def column(*ranks: int) -> ColumnAnswers:
        return ColumnAnswers(np.zeros(len(ranks), np.int32), np.array(ranks, np.int32), np.ones(len(ranks), np.float32))

    answers = {Column("a", prompts="t"): column(0, 0, -1, 3), Column("b", prompts="t"): column(0, -1, -1, 0)}
    (wrong,) = count_patterns("d", "p", answers, "wrong", 5)
    assert wrong.counts == {"00": 6, "01": 1, "10": 1, "11": 1}
    (left_out,) = count_patterns("d", "p", answers, "exclude", 5)
    assert left_out.counts == {"01": 1, "11": 1}


def test_predictions_are_read_as_they_were_written(run: Path, rows: list[dict[str, Any]]):
    found = read_predictions(run / "predictions.parquet", read_result(run).predictions)
    assert list(found.domains) == [("letters", domain) for domain in ("night", "photo", "sketch")]
    for (_, domain), answers in found.domains.items():
        of_domain = [row for row in rows if row["domain"] == domain]
        (column,) = answers.columns.values()
        for name, values in (("key", answers.keys), ("path", answers.paths), ("sha256", answers.digests)):
            assert list(values) == [row[name] for row in of_domain] == values[:]
        assert answers.labels.tolist() == [row["label"] for row in of_domain]
        assert column.rank.tolist() == [-1 if row["rank"] is None else row["rank"] for row in of_domain]
        assert column.right.sum() == sum(row["rank"] == 0 for row in of_domain)
    assert found.manifests["letters"] == read_result(run).datasets[0].manifest_sha256


def test_the_digest_of_predictions_is_that_of_their_rows_and_not_of_the_file(run: Path, tmp_path: Path):
    table = pq.read_table(run / "predictions.parquet")
    pq.write_table(table, tmp_path / "p.parquet", compression="none", row_group_size=36)
    expected = read_result(run).predictions
    assert read_predictions(tmp_path / "p.parquet", expected).facts.sha256 == expected.sha256
    for name in ("rank", "predicted", "label", "margin", "path", "sha256", "head"):
        values = table.column(name).to_pylist()
        values[7] = f"{values[7]}x" if isinstance(values[7], str) else values[7] + 1
        place = table.column_names.index(name)
        pq.write_table(table.set_column(place, name, pa.array(values, table.schema.field(name).type)), tmp_path / "q")
        with pytest.raises(IntegrityError, match=r"another run|torn"):
            read_predictions(tmp_path / "q", expected)


def test_texts_are_not_taken_for_others_that_run_together(run: Path):
    """`ab`, `c` and `a`, `bc` have the same letters."""
    table = pq.read_table(run / "predictions.parquet").slice(0, 2)
    facts = []
    for paths in (["ab", "c"], ["a", "bc"]):
        state = RowDigest()
        state.update(table.set_column(table.column_names.index("path"), "path", pa.array(paths)))
        facts.append(state.hexdigest())
    assert facts[0] != facts[1]


def test_torn_and_foreign_files_of_predictions_are_refused(run: Path, tmp_path: Path):
    data = (run / "predictions.parquet").read_bytes()
    for keep in (0, 3, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "torn").write_bytes(data[:keep])
        with pytest.raises(IntegrityError, match="torn"):
            read_predictions(tmp_path / "torn")
    pq.write_table(pq.read_table(run / "predictions.parquet").drop_columns(["sha256"]), tmp_path / "old")
    with pytest.raises(UserError, match="no column sha256"):
        read_predictions(tmp_path / "old")
    with pytest.raises(IntegrityError, match="another run"):
        read_predictions(run / "predictions.parquet", PredictionFile(file="x", sha256="0" * 64, rows=108))
    with pytest.raises(UserError, match="no predictions"):
        read_predictions(tmp_path / "nowhere")


def test_a_place_that_cannot_be_written_costs_no_run_and_a_given_one_is_refused_early(letters: Program):
    other = Program(letters.folder.parent / "locked")
    other.folder.mkdir()
    (other.folder / "results").write_text("a file")
    arguments = ["letters", "-b", "tiny", "--shards", letters.folder / "shards", "--unreadable", "wrong"]
    arguments += ["--store", letters.folder / "embeddings"]
    outcome = other.here("eval", *arguments)
    assert outcome.code == 0 and "--results DIR" in outcome.err and "letters: accuracy" in outcome.out
    outcome = other.here("eval", *arguments, "--results", "results/mine")
    assert outcome.code == 2 and outcome.err.count("\n") == 2 and not outcome.out
    outcome = other.here("eval", *arguments, "--results", "elsewhere")
    assert outcome.code == 0 and len(list((other.folder / "elsewhere").iterdir())) == 1


def test_a_run_that_is_not_complete_is_not_kept(tmp_path: Path):
    program = Program(tmp_path)
    fill(drawn(program.folder), program.folder / "embeddings", shards=slice(0, 5))
    outcome = program.here("probe", "letters", "--leave-one-out", "-b", "tiny", "--shards", "shards")
    assert outcome.code == 4 and not (program.folder / "results").exists()


def test_a_probes_pairs_are_those_of_a_plain_loop(letters: Program):
    outcome = letters.here(
        "probe", "letters/sketch", "--test", "letters/night", "-b", "tiny", "--shards", "shards", "--strength", "1",
        "--json", "probe.json", "--predictions", "probe.parquet",
    )  # fmt: skip
    assert outcome.code == 0, outcome.err
    rows = pq.read_table(letters.folder / "probe.parquet").to_pylist()
    right = {head: {row["key"] for row in rows if row["head"] == head and row["rank"] == 0}
             for head in ("zero-shot", "logistic")}  # fmt: skip
    document = json.loads((letters.folder / "probe.json").read_bytes())
    (pair,) = document["pairs"]
    assert (pair["only_a"], pair["only_b"]) == (len(right["logistic"] - right["zero-shot"]),
                                                len(right["zero-shot"] - right["logistic"]))  # fmt: skip
    assert pair["images"] == 36 and pair["family"]["tests"] == 1 and pair["p_adjusted"] == pair["p_exact"]
    assert pair["difference"] == pytest.approx((pair["only_a"] - pair["only_b"]) / 36)
    assert (pair["a"]["head"], pair["b"]["head"], pair["b"]["prompts"]) == ("logistic", "zero-shot", "transferlearning")
    assert any(
        name.startswith("probe-letters-tiny-") for name in (p.name for p in (letters.folder / "results").iterdir())
    )
    expected = Counter(f"{int(key in right['zero-shot'])}{int(key in right['logistic'])}" for key in
                       {row["key"] for row in rows})  # fmt: skip
    (pattern,) = document["patterns"]
    assert pattern["counts"] == dict(sorted(expected.items()))


def test_predictions_prove_themselves_without_their_result(run: Path, tmp_path: Path):
    whole = read_predictions(run / "predictions.parquet").facts
    assert whole.sha256 == read_result(run).predictions.sha256
    table = pq.read_table(run / "predictions.parquet")
    pq.write_table(table, tmp_path / "anew")  # the digest of its rows is not in its metadata any more
    with pytest.raises(IntegrityError, match=r"fastclip\.sha256"):
        read_predictions(tmp_path / "anew")


IMPOSSIBLE = {
    "a class that contradicts the rank": {"predicted": 2, "rank": 0, "label": 1},
    "a rank without a class": {"predicted": None, "rank": 1},
    "a negative rank": {"rank": -7},
    "a negative label": {"label": -1},
    "a margin that is no number": {"margin": float("nan")},
    "a negative margin": {"margin": -0.5},
}


@pytest.mark.parametrize("what", list(IMPOSSIBLE))
def test_predictions_that_no_head_gives_are_refused_even_if_their_digest_is_right(run: Path, tmp_path: Path, what: str):
    table = pq.read_table(run / "predictions.parquet")
    rows = table.to_pylist()
    rows[0] |= IMPOSSIBLE[what]
    damaged = pa.Table.from_pylist(rows, table.schema)
    state = RowDigest()
    state.update(damaged)
    with pq.ParquetWriter(tmp_path / "p", table.schema) as writer:
        writer.write_table(damaged)
        writer.add_key_value_metadata({"fastclip.sha256": state.hexdigest()})
    with pytest.raises(IntegrityError, match="torn, or no file of predictions: a"):
        read_predictions(tmp_path / "p")


def test_heads_of_one_name_that_were_fitted_in_different_ways_do_not_become_one_row(letters: Program):
    for target, strength in (("night", 1), ("sketch", 5)):
        outcome = letters.here(
            "probe", "letters/photo", "--test", f"letters/{target}", "-b", "tiny", "--shards", "shards",
            "--strength", strength, "--json", f"{target}.json", "--unreadable", "wrong",
        )  # fmt: skip
        assert outcome.code == 0, outcome.err
    results = {name: read_result(letters.folder / f"{name}.json") for name in ("night", "sketch")}
    with pytest.raises(UserError, match="tiny, letters, logistic was fitted in both, in different ways"):
        merge(results)


def test_a_dash_is_standard_output_and_a_link_to_nowhere_is_no_folder(letters: Program):
    arguments = [*ARGUMENTS, "--unreadable", "wrong"]
    outcome = letters("eval", *arguments, "--json", "-", "--results", "more")
    assert outcome.code == 0 and '"schema": "fastclip.result/1"' in outcome.out
    assert not (letters.folder / "-").exists()
    (letters.folder / "nowhere").symlink_to("not/there")
    outcome = letters.here("eval", *arguments, "--results", "nowhere")
    assert outcome.code == 2 and outcome.err.count("\n") == 2 and not outcome.out
