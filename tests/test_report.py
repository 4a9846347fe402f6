"""`fastclip report`: kept results shown again, together or alone, and refused where they do not fit."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_store import drawn, fill
from drawn_tables import drawn_result
from helpers import Program, write

from fastclip.errors import UserError
from fastclip.results.cells import NEAR_TIE, Evaluation
from fastclip.results.files.result import result_digest, to_json
from fastclip.results.files.result_reader import parse_result

COUNTS = {
    ("photo", "RN50", "photo"): (80, 100),
    ("sketch", "RN50", "photo"): (300, 401),
    ("photo", "ViT-B/32", "photo"): (91, 100),
    ("sketch", "ViT-B/32", "photo"): (299, 401),
}


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the results of two runs of eval, by two prompt sets."""
    folder = tmp_path_factory.mktemp("kept")
    fill(drawn(folder), folder / "embeddings")
    outcome = Program(folder).here("eval", "letters", "-b", "tiny", "--shards", "shards")
    assert outcome.code == 0, outcome.err
    return folder


@pytest.fixture
def program(kept: Path, tmp_path: Path) -> Program:
    shutil.copytree(kept / "results", tmp_path / "results")
    return Program(tmp_path)


def run_of(folder: Path) -> Path:
    (found,) = (folder / "results").iterdir()
    return found


def put(folder: Path, **results: Evaluation) -> list[str]:
    """Write results as files; their names."""
    write(folder, {f"{name}.json": to_json(each) for name, each in results.items()})
    return [f"{name}.json" for name in results]


def two_lines(outcome, code: int) -> str:
    """The error of a refused command, which is two lines."""
    assert outcome.code == code and not outcome.out, outcome
    lines = outcome.err.splitlines()
    assert len(lines) == 2 and lines[0].startswith("Error: ") and lines[1].startswith("Fix:   "), outcome.err
    return lines[0]


def test_a_run_is_shown_as_eval_showed_it(program: Program, kept: Path):
    run = run_of(program.folder)
    shown = program.here("report", run.relative_to(program.folder))
    table = Program(kept).here("eval", "letters", "-b", "tiny", "--shards", "shards").out
    assert shown.code == 0 and not shown.err
    lines = shown.out.splitlines()
    assert [line for line in table.splitlines() if line not in lines] == []
    assert lines[-1] == f"As a page: fastclip report results/{run.name} --html report.html"
    for name in (f"results/{run.name}/result.json", "results"):
        assert program.here("report", name).out.splitlines()[:-1] == lines[:-1], "by its file, or by the folder of runs"


def test_without_a_result_the_runs_are_listed_newest_first(program: Program):
    older = run_of(program.folder)
    newer = older.with_name("newer")
    shutil.copytree(older, newer)
    record = json.loads((older / "run.json").read_text())
    (older / "run.json").write_text(json.dumps({**record, "started": "2020-01-02T03:04:05+00:00"}))
    damaged, untimed = older.with_name("damaged"), older.with_name("untimed")
    write(damaged, {"result.json": b"{", "run.json": b'{"started": "2021-01-01T00:00:00+00:00"}'})
    write(untimed, {"result.json": (older / "result.json").read_bytes(), "run.json": b"[]"})
    outcome = program.here("report")
    assert outcome.code == 0
    rows = [line.split() for line in outcome.out.splitlines()]
    names = [row[0] for row in rows if row and row[0] in {each.name for each in (older, newer, damaged, untimed)}]
    assert names == ["newer", "damaged", older.name, "untimed"]
    assert next(row for row in rows if row[:1] == ["damaged"])[-1] == "damaged"
    assert next(row for row in rows if row[:1] == ["newer"])[-2:] == ["3", "108"]
    assert outcome.out.splitlines()[-1] == "Show one: fastclip report results/newer"


def test_without_a_result_and_without_runs_it_says_how_to_make_one(fastclip: Program):
    assert "no results" in two_lines(fastclip.here("report"), 2)
    (fastclip.folder / "empty").mkdir()
    assert "empty holds no result" in two_lines(fastclip.here("report", "empty"), 2)
    assert "There is no result nowhere" in two_lines(fastclip.here("report", "nowhere"), 2)


def test_results_of_the_same_images_become_one_table(fastclip: Program):
    whole = drawn_result(COUNTS)
    halves = {
        name: drawn_result({key: value for key, value in COUNTS.items() if key[1] == backbone})
        for name, backbone in (("a", "RN50"), ("b", "ViT-B/32"))
    }
    names = put(fastclip.folder, whole=whole, **halves)
    outcome = fastclip.here("report", *names[1:], "--json", "both.json", "--csv", "both.csv")
    assert outcome.code == 0, outcome.err
    assert (fastclip.folder / "both.json").read_bytes() == to_json(whole)
    assert fastclip.here("report", names[0], "--csv", "-").out.splitlines() == (
        (fastclip.folder / "both.csv").read_text().splitlines()
    )


OTHER = {
    "has other counts": (5, drawn_result({**COUNTS, ("photo", "RN50", "photo"): (81, 100)})),
    "the images or classes of letters are others": (
        2,
        replace(drawn_result(COUNTS), datasets=(replace(drawn_result(COUNTS).datasets[0], manifest_sha256="f" * 64),)),
    ),
    "was made with --unreadable stop": (2, drawn_result(COUNTS, policy="wrong")),
    "embedded by another recipe": (2, drawn_result({("photo", "RN50", "p"): (1, 100)}, random=["RN50"])),
}


@pytest.mark.parametrize("problem", OTHER)
def test_results_that_contradict_each_other_are_refused(problem: str, fastclip: Program):
    code, other = OTHER[problem]
    names = put(fastclip.folder, one=drawn_result(COUNTS), other=other)
    assert problem in two_lines(fastclip.here("report", *names), code)


def test_a_result_of_an_unknown_major_version_and_a_torn_one_are_refused(fastclip: Program):
    whole = to_json(drawn_result(COUNTS))
    new = whole.replace(b"fastclip.result/1", b"fastclip.result/2")
    write(fastclip.folder, {"new.json": new, "torn.json": whole[:-100], "other.json": b'{"cells": 1, "schema": "x"}'})
    assert "fastclip.result/2" in two_lines(fastclip.here("report", "new.json"), 2)
    assert "torn" in two_lines(fastclip.here("report", "torn.json"), 5)
    assert "no result of fastclip" in two_lines(fastclip.here("report", "other.json"), 2)


def test_predictions_of_another_run_are_refused(kept: Path, program: Program):
    run = run_of(program.folder)
    document = json.loads((run / "result.json").read_text())
    document["predictions"]["sha256"] = "0" * 64
    document["digest"] = result_digest(document)
    (run / "result.json").write_text(json.dumps(document))
    outcome = program.here("report", run, "--html", "page.html")
    assert "predictions of another run" in two_lines(outcome, 5)
    assert not (program.folder / "page.html").exists()
    given = program.here("report", run, "--html", "page.html", "--predictions", run_of(kept) / "predictions.parquet")
    assert "predictions of another run" in two_lines(given, 5)


def test_files_say_where_they_are_and_standard_output_is_the_format_alone(fastclip: Program):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS))
    words = ["--markdown", "t.md", "--latex", "t.tex", "--macros", "m.tex", "--csv", "-"]
    outcome = fastclip.here("report", name, *words)
    assert outcome.code == 0
    assert outcome.err.splitlines() == ["Written: t.md", "Written: t.tex", "Written: m.tex"]
    rows = list(csv.DictReader(io.StringIO(outcome.out, newline="")))
    assert [int(row["right"]) for row in rows] == [80, 300, 91, 299]
    command = "fastclip report it.json --markdown t.md --latex t.tex --macros m.tex --csv -"
    for file in ("t.md", "t.tex", "m.tex"):
        first = (fastclip.folder / file).read_text().splitlines()[0]
        assert command in first and re.search("result [0-9a-f]{12}", first)
    whole = fastclip.here("report", name, "--json", "-").out
    assert parse_result(whole.encode(), "it") == drawn_result(COUNTS)


def test_options_that_do_not_go_together_are_refused(fastclip: Program):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS))
    for words in (
        ("--csv", "-", "--markdown", "-"),
        ("--float",),
        ("--epsilon", "1e-3"),
        ("--decimals", "9"),
        ("--mark", "worst"),
        ("--average", "median"),
        ("--csv", "it.json/x.csv"),
    ):
        two_lines(fastclip.here("report", name, *words), 2)


@pytest.mark.parametrize(
    ("option", "formats"),
    [
        ("--predictions nothere.parquet", ()),
        ("--thumbnails 0", ("--latex",)),
        ("--shards shards", ()),
        ("--mark tied", ("--csv", "--macros")),
        ("--mark best", ("--json",)),
        ("--against published", ("--csv", "--macros")),
        ("--decimals 2", ("--csv",)),
        ("--average macro", ("--json",)),
        ("--intervals", ("--macros",)),
        ("--float", ("--markdown",)),
    ],
)
def test_an_option_that_would_change_nothing_is_refused(option: str, formats: tuple[str, ...], fastclip: Program):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS))
    words = [word for each in formats for word in (each, each.strip("-"))]
    refused = two_lines(fastclip.here("report", name, *option.split(), *words), 2)
    assert f"{option.split()[0]} would change nothing here" in refused


def test_marks_that_are_asked_for_are_shown_or_said_to_be_missing(fastclip: Program):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS))
    missing = "Nothing is marked here."
    assert missing in fastclip.here("report", name, "--mark", "best").out, "no terminal"
    for words in ((), ("--mark", "none")):
        assert missing not in fastclip.here("report", name, *words).out
    assert "**91.00**" in fastclip.here("report", name, "--mark", "best", "--markdown", "-").out


def test_options_of_the_look_reach_the_formats(fastclip: Program):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS))
    words = ("--decimals", "1", "--average", "both", "--mark", "none", "--intervals", "--markdown", "-")
    out = fastclip.here("report", name, *words).out
    row = next(line for line in out.splitlines() if line.startswith("| RN50"))
    assert row.split(" | ")[1].startswith("80.0 [71.") and row.count("[") == 4 and "*" not in row
    latex = fastclip.here("report", name, "--latex", "-", "--float").out
    assert r"\begin{table}" in latex and r"\caption{" in latex


def test_tables_on_a_terminal_fit_80_columns(fastclip: Program):
    backbones = ("RN50x64", "ViT-B/32", "ViT-L/14@336px")
    domains = ("art_painting", "cartoon", "photo", "sketch")
    counts = {(d, b, way): (1234, 2345) for way in ("photo", "fitted logistic") for b in backbones for d in domains}
    (name,) = put(fastclip.folder, it=drawn_result(counts, dataset="pacs"))
    for words in ((), ("--intervals", "--average", "both")):
        out = fastclip.here("report", name, *words).out
        assert "ViT-L/14@336px" in out and max(map(len, out.splitlines())) <= 80


def test_a_report_loads_no_library_that_computes(program: Program):
    code = (
        "import sys; from fastclip.cli import main; sys.argv = 'fastclip report results --markdown x.md'.split(); "
        "assert main._command() == 0; "
        "print([name for name in ('torch', 'numpy', 'pyarrow', 'PIL', 'jinja2') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=program.folder, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_result_against_another_is_told_cell_by_cell_in_every_text(fastclip: Program):
    one, other = drawn_result(COUNTS), drawn_result({**COUNTS, ("sketch", "ViT-B/32", "photo"): (302, 401)})
    names = put(fastclip.folder, one=one, other=other)
    for words in ((), ("--markdown", "-"), ("--latex", "-")):
        out = fastclip.here("report", names[0], "--against", names[1], *words).out
        assert "4 cells: 3 same, 1 differs" in out, words
        row = [line for line in out.splitlines() if re.search(r"ViT-B/32 .*= ", line)][-1]
        assert re.findall("[=3]", row.replace("ViT-B/32", "")) == ["=", "3"], row
    published = json.loads(fastclip.here("report", names[0], "--against", names[1], "--json", "-").out)["published"]
    found = {(each["domain"], each["backbone"]): each["verdict"] for each in published["cells"]}
    assert found == {key[:2]: "differs" if key[:2] == ("sketch", "ViT-B/32") else "same" for key in COUNTS}


def test_random_weights_are_loud_in_json(fastclip: Program):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS, random=["RN50"]))
    assert json.loads(fastclip.here("report", name, "--json", "-").out)["warning"] == "RANDOM WEIGHTS, NOT A RESULT"


def test_standard_output_is_utf_8_whatever_the_terminal_is(tmp_path: Path):
    counts = {("שלום", "RN50", "photo"): (1, 2)}
    (name,) = put(tmp_path, it=drawn_result(counts))
    command = [sys.executable, "-m", "fastclip", "report", name, "--csv", "-"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True)
    assert "שלום" in done.stdout.decode("utf-8") and b"\r\n" in done.stdout


def test_the_answers_of_several_runs_are_joined(program: Program):
    """A run and its copy are one result, so the table is that of the run alone, with the same marks."""
    run = run_of(program.folder)
    alone = program.here("report", run, "--mark", "tied", "--markdown", "-").out
    shutil.copytree(run, run.with_name("copy"))
    both = program.here("report", "results", "--mark", "tied", "--markdown", "-")
    assert both.code == 0 and both.out.splitlines()[1:] == alone.splitlines()[1:]
    document = json.loads((run.with_name("copy") / "result.json").read_text())
    document["predictions"]["rows"] += 1
    document["digest"] = result_digest(document)
    (run.with_name("copy") / "result.json").write_text(json.dumps(document))
    refused = program.here("report", "results", "--mark", "tied", "--markdown", "-")
    assert "predictions of another run" in two_lines(refused, 5)


def test_a_page_is_written(program: Program, kept: Path):
    pytest.importorskip("fastclip.report.html.page")
    run = run_of(program.folder)
    outcome = program.here("report", run, "--html", "page.html", "--shards", kept / "shards")
    assert outcome.code == 0 and outcome.err == "Written: page.html\n"
    assert (program.folder / "page.html").read_text("utf-8").startswith("<!DOCTYPE html>")


def test_epsilon_is_a_number_or_the_largest_lead_that_a_certificate_saw_flip(tmp_path: Path):
    from fastclip.cli.report_inputs import find_epsilon

    def certificate(*leads: float | None) -> str:
        path = tmp_path / "certificate.json"
        path.write_text(json.dumps({"checks": [{"name": "x", "flipped_lead": lead} for lead in leads] + [{}]}))
        return str(path)

    assert find_epsilon("0.002") == 0.002
    assert find_epsilon(certificate(None, 0.0004, 0.0007)) == 0.0007
    assert find_epsilon(certificate(None)) == NEAR_TIE
    for lead in (float("nan"), -0.1, 1e9):
        with pytest.raises(UserError, match="certificate"):
            find_epsilon(certificate(lead))
    for wrong in ("nan", "-1", "2", "nowhere.json", str(tmp_path)):
        with pytest.raises(UserError, match="--epsilon"):
            find_epsilon(wrong)


def test_adapted_heads_have_a_column_for_each_source_and_target(tmp_path: Path):
    program = Program(tmp_path)
    fill(drawn(tmp_path), tmp_path / "embeddings")
    words = ("letters", "-b", "tiny", "--shards", "shards", "--strength", "1")
    outcome = program.here("adapt", *words, "--all-pairs", "--method", "coral", "--json", "adapt.json")
    assert outcome.code == 0, outcome.err
    cells = {
        (cell["head"], cell["domain"]): cell for cell in json.loads((tmp_path / "adapt.json").read_bytes())["cells"]
    }
    for mark in ("best", "tied"):
        out = program.here("report", "adapt.json", "--markdown", "-", "--mark", mark).out
        rows = [[re.sub(r"[*]|</?ins>", "", cell).strip() for cell in line.split("|")[1:-1]]
                for line in out.splitlines() if line.startswith("|")]  # fmt: skip
        header, _, *body = rows
        assert len(header) == 1 + 6 + 1 and header[1] == "night → photo" and header[-1] == "Avg."
        found = {row[0]: row[1:] for row in body}
        assert list(found) == ["zero-shot, transferlearning", "source only", "coral"]
        for name, numbers in found.items():
            shares = []
            for transfer, number in zip(header[1:-1], numbers, strict=False):
                source, target = transfer.split(" → ")
                cell = cells["zero-shot" if name.startswith("zero") else f"{name} from {source}", target]
                shares.append(cell["top1"] / cell["images"])
                assert float(number) == pytest.approx(100 * shares[-1], abs=0.00501)
            assert float(numbers[-1]) == pytest.approx(100 * sum(shares) / 6, abs=0.00501)
    best = [line for line in out.splitlines() if line.startswith("|")]
    assert not any("*" in line.split("|")[-2] for line in best), "no test is made of averages over the same images"


def test_a_report_says_that_training_images_were_tested(tmp_path: Path):
    program = Program(tmp_path)
    fill(drawn(tmp_path), tmp_path / "embeddings")
    common = ("-b", "tiny", "--shards", "shards")
    words = ("probe", "letters/photo", "--test", "letters/night", *common, "--strength", "1", "--save", "heads")
    assert program.here(*words, "--results", "probe").code == 0
    (head,) = (tmp_path / "heads").iterdir()
    outcome = program.here("eval", "letters", *common, "--head", head, "--results", "given")
    assert outcome.code == 0 and "trained on images of photo that are tested here" in " ".join(outcome.out.split())
    for place, said in (("given", True), ("probe", False)):
        (run,) = (tmp_path / place).iterdir()
        assert program.here("report", run, "--html", "page.html").code == 0
        texts = [program.here("report", run, *more).out for more in ((), ("--markdown", "-"), ("--latex", "-"))]
        for text in (*texts, (tmp_path / "page.html").read_text()):
            assert ("trained on images of photo that are tested here" in " ".join(text.split())) is said


def test_runs_under_different_policies_are_not_compared(tmp_path: Path):
    program = Program(tmp_path)
    fill(drawn(tmp_path), tmp_path / "embeddings", unreadable=("photo/00000003",))
    for policy in ("wrong", "exclude"):
        words = ("eval", "letters", "-b", "tiny", "--shards", "shards", "--unreadable", policy, "--results", policy)
        assert program.here(*words).code == 0
    outcome = program.here("compare", "wrong", "exclude", "--of", "runs")
    assert "--unreadable wrong" in two_lines(outcome, 2) and "exclude" in outcome.err
    assert program.here("report", "wrong", "--html", "page.html").code == 0
    assert "Not counted here: 1 unreadable image." in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"started": "0001-01-01T00:00:00"}', '{"started": 7}', "[1]", ""])
def test_a_strange_time_of_a_run_hides_no_run(fastclip: Program, text: str):
    (name,) = put(fastclip.folder, it=drawn_result(COUNTS))
    run = fastclip.folder / "results" / "mine"
    run.mkdir(parents=True)
    (fastclip.folder / name).rename(run / "result.json")
    (run / "run.json").write_text(text)
    (fastclip.folder / "results" / "other" / "result.json").mkdir(parents=True)
    outcome = fastclip.here("report")
    assert outcome.code == 0 and "mine" in outcome.out
