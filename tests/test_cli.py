"""The program in a terminal: what it prints, how wide, and how it ends."""

from __future__ import annotations

import ast
import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from helpers import REPOSITORY, Program, Sharded, image_bytes, recipe, write

from fastclip.cli.console import out
from fastclip.report.style import plain_table


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["bogus"], "bogus"),
        (["eval", "--no-such-option"], "--no-such-option"),
        (["eval", "shapes"], "No backbone"),
        (["eval", "shapes", "-b", "tiny", "--shards", "nowhere"], "nowhere/shapes/manifest.json"),
        (["eval", "-b", "tiny", "--shards", "nowhere"], "nowhere"),
        (["eval", "shapes/moon", "-b", "tiny", "--shards", "SHARDS"], "moon"),
        (["eval", "shapes", "-b", "ViT-B/31", "--shards", "SHARDS"], "ViT-B/31"),
        (["eval", "shapes", "-b", "tiny", "--prompts", "foto", "--shards", "SHARDS"], "foto"),
        (["eval", "shapes", "-b", "tiny", "--precision", "fp64", "--shards", "SHARDS"], "fp64"),
        (["eval", "shapes", "-b", "tiny", "--decoder", "pillow", "--shards", "SHARDS"], "pillow"),
        (["eval", "shapes", "-b", "tiny", "--unreadable", "skip", "--shards", "SHARDS"], "skip"),
        (["eval", "shapes", "-b", "tiny", "--batch-size", "0", "--shards", "SHARDS"], "batch-size"),
        (["eval", "shapes", "-b", "tiny", "--batch-size", "many", "--shards", "SHARDS"], "batch-size"),
        (["eval", "shapes", "-b", "tiny", "--device", "tpu", "--shards", "SHARDS"], "tpu"),
        (["eval", "shapes", "-b", "tiny", "--weights", "none.safetensors", "--shards", "SHARDS"], "none.safetensors"),
        (["shard", "pacs", "--source", "nowhere"], "nowhere"),
        (["shard", "../pacs", "--source", "."], "../pacs"),
        (["shard", "pets"], "source"),
    ],
)
def test_a_mistake_is_two_lines_that_name_it_and_exit_code_2(
    arguments: list[str], named: str, shapes: Sharded, fastclip: Program
):
    outcome = fastclip.here(*[str(shapes.shards) if word == "SHARDS" else word for word in arguments])
    assert (outcome.code, outcome.out) == (2, ""), outcome
    what, how = outcome.err.splitlines()
    assert what.startswith("Error: ") and named in what
    assert how.startswith("Fix:   ") and len(how) > 10


def test_help_lists_the_commands_and_fits(fastclip: Program):
    outcome = fastclip("--help")
    assert outcome.code == 0 and outcome.err == ""
    for command in ("demo", "download", "shard", "eval", "datasets", "shards"):
        assert f" {command} " in outcome.out
        lines = fastclip(command, "--help").out.splitlines()
        assert max(map(len, lines)) <= 80
    assert fastclip("--version").out.startswith("fastclip ")


@pytest.mark.parametrize("command", [(), ("shard",), ("shards", "index")])
def test_help_shows_no_value_beside_an_option_that_takes_none(command: tuple[str, ...], fastclip: Program):
    outcome = fastclip(*command, "--help")
    assert "--help" in outcome.out and "bool" not in outcome.out


def test_demo_prints_a_table_of_honest_numbers_and_what_to_type_next(fastclip: Program):
    outcome = fastclip("demo")
    assert outcome.code == 0, outcome.err
    assert "Warning" not in outcome.err and "warn" not in outcome.err
    lines = outcome.out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [line.split()[1:] for line in lines if line.split()[:1] == ["tiny"]]
    assert len(rows) == 3, "one row for each prompt set"
    for row in rows:
        *domains, average = map(float, row)
        assert len(domains) == 4 and average == pytest.approx(sum(domains) / 4, abs=0.011)
        assert all(3 * 100 / 12 < accuracy < 100 for accuracy in domains), "well above chance, below perfect"
    assert "fastclip shard NAME --source DIR" in outcome.out
    again = fastclip("demo", "--probe")
    assert again.code == 0 and "Embedded" not in again.err
    more = again.out.splitlines()
    assert max(len(line) for line in more if not line.startswith("$")) <= 80
    of_tiny = [[line for line in each if line.split()[:1] == ["tiny"]] for each in (lines, more)]
    assert of_tiny[0] == of_tiny[1][:3]
    # Of 204 images the head gains some and loses some: that is what stands between it and zero-shot.
    zero_shot = round(float(of_tiny[1][3].split()[-1]) * 2.04)
    head = next(round(float(line.split()[1]) * 2.04) for line in more if re.match(r"\s+logistic\s+\d", line))
    fit = next(line.split() for line in more if re.match(r"\s*logistic\s+outline", line))
    assert head - zero_shot == int(fit[-3]) - int(fit[-2]) and 0 < float(fit[-1]) <= 1
    assert any(re.match(r"\s*flat → outline( +\d+\.\d\d){4}", line) for line in more)


def test_random_weights_mark_their_table(shapes: Sharded, fastclip: Program):
    outcome = fastclip.here("eval", "shapes/flat", "-b", "tiny", "--random-weights", "--shards", shapes.shards)
    assert outcome.code == 0 and "RANDOM WEIGHTS, NOT A RESULT" in outcome.out


def test_the_tables_of_the_widest_dataset_fit_80_columns():
    from rich.console import Console

    from fastclip.report.terminal import footnotes, tables
    from fastclip.results.cells import Cell, Evaluation, UsedRecipe

    domains = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    counts = {"images": 20_000, "classified": 20_000, "top1": 19_999, "top5": 20_000, "unreadable": 0}
    cells = [
        Cell(dataset="domainnet", domain=d, backbone=b, prompts=p, shards=20, missing_shards=0, **counts)
        for b in ("RN50", "ViT-L/14@336px", "ViT-B-32/laion2b_s34b_b79k")
        for p in ("transferlearning", "openai80")
        for d in domains
    ]
    used = [recipe(backbone="RN50", precision=name, machine="cuda 13.0 cudnn 91002 NVIDIA H200") for name in "ab"]
    evaluation = Evaluation(
        unreadable_policy="stop",
        datasets=(),
        recipes=tuple(UsedRecipe(dataset="domainnet", backbone="RN50", id=each.id, recipe=each) for each in used),
        prompts={},
        cells=tuple(cells),
        unreadable=(),
    )
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(evaluation):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for domain in domains:
        assert domain in text, "a name of a domain is cut"
    assert text.count("100.00") == 42 and "…" not in text
    notes = footnotes(evaluation)
    for line in notes:
        console.print(line)
    printed = console.export_text()
    assert max(map(len, printed.splitlines())) <= 80 and " ".join(notes) in " ".join(printed.split())


def test_a_number_is_never_cut_or_folded_however_many_columns_there_are(capsys: pytest.CaptureFixture[str]):
    columns = [f"domain_{number:02}" for number in range(20)]
    numbers = [f"{number:,}.25" for number in range(10_000, 10_020)]
    table = plain_table("backbone", *columns)
    table.add_row("ViT-B-32/laion2b_s34b_b79k", *numbers)
    out().print(table)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["backbone", *columns] in lines
    (row,) = (line for line in lines if "10,000.25" in line)
    assert row[1:] == numbers
    names = "".join(line[0] for line in lines if line and line[0] in "ViT-B-32/laion2b_s34b_b79k")
    assert names == "ViT-B-32/laion2b_s34b_b79k", "a name folds and loses nothing"


def test_a_table_shows_text_as_it_is_without_markup_or_control_characters(capsys: pytest.CaptureFixture[str]):
    table = plain_table("[b]name\x1b[2J", "images")
    table.add_row("[red]cat[/red]\x1b[31m", "1")
    out().print(table)
    text = capsys.readouterr().out
    assert "[b]name\\x1b[2J" in text and "[red]cat[/red]\\x1b[31m" in text and "\x1b" not in text


def test_results_break_between_words_and_never_inside_a_path(capsys: pytest.CaptureFixture[str], monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    path = f"/{'x' * 60}/[red]manifest.json"
    out().print(f"The shards that were written are in {path} and may be used.")
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["The shards that were written are in", path, "and may be used."]
    out().print(f"Next: fastclip shard {path} --overwrite", soft_wrap=True)
    assert capsys.readouterr().out == f"Next: fastclip shard {path} --overwrite\n"


def makes(path: Path) -> Iterator[str]:
    """Names of the classes that a file makes an object or a subclass of."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        used = [node.func] if isinstance(node, ast.Call) else node.bases if isinstance(node, ast.ClassDef) else []
        yield from (ast.unparse(each).rpartition(".")[2] for each in used)


def test_one_file_makes_consoles_and_one_makes_tables():
    package = REPOSITORY / "fastclip"
    made = {
        name: {path.relative_to(package).as_posix() for path in package.rglob("*.py") if name in makes(path)}
        for name in ("Console", "Table", "get_console")
    }
    assert made["Console"] == {"cli/console.py", "api/shown.py"}  # the second one writes into a text
    others = {name for name in made["Table"] if not name.startswith("api/")}
    # The second makes records; those of api/ are values, drawn by the first; the third's are wandb's.
    assert others == {"report/style.py", "report/tables.py", "publish/to_wandb.py"}
    assert not made["get_console"]


BASH = ("bash", "-o", "pipefail", "-c")
STREAMS = (">&-", "2>&-", ">&- 2>&-", "<&- >&- 2>&-", "| true", "2>&1 | true", "2>/dev/full")


@pytest.mark.parametrize("streams", STREAMS)
@pytest.mark.parametrize(
    ("arguments", "code"), [(("--help",), 0), (("datasets",), 0), (("datasets", "show", "none"), 2)]
)
def test_the_exit_code_does_not_depend_on_who_reads(
    arguments: tuple[str, ...], code: int, streams: str, fastclip: Program
):
    outcome = fastclip(*arguments, prefix=(*BASH, f'"$@" {streams}', "bash"))
    assert outcome.code == code and "Traceback" not in outcome.err, outcome


@pytest.mark.parametrize(
    "streams",
    [pytest.param(">&-", marks=pytest.mark.slow), "2>&1 | true", pytest.param("2>/dev/full", marks=pytest.mark.slow)],
)
def test_no_reader_no_stderr_and_still_a_result(streams: str, shapes: Sharded, fastclip: Program):
    evaluate = ("eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--json", "result.json")
    outcome = fastclip(*evaluate, prefix=(*BASH, f'"$@" {streams}', "bash"))
    assert outcome.code == 0 and "Traceback" not in outcome.err, outcome
    assert len(json.loads((fastclip.folder / "result.json").read_bytes())["cells"]) == 1


def test_no_file_takes_the_place_of_a_closed_stream(tmp_path: Path):
    """It would be written into by all that prints."""
    code = (
        "import os; from fastclip.cli.console import keep_streams; keep_streams(); file = open('answer', 'w'); "
        "print('lost'); os.write(1, b'lost'); os.write(2, b'lost'); print(file.fileno() > 2, file=file)"
    )
    command = (*BASH, '"$@" <&- >&- 2>&-', "bash", sys.executable, "-c", code)
    assert subprocess.run(command, cwd=tmp_path).returncode == 0
    assert (tmp_path / "answer").read_text() == "True\n"


def test_a_full_disk_below_standard_output_is_an_error(fastclip: Program):
    outcome = fastclip("datasets", prefix=(*BASH, '"$@" > /dev/full', "bash"))
    assert outcome.code == 4 and outcome.err.count("\n") == 2 and "No space left" in outcome.err, outcome


def test_a_character_that_a_terminal_cannot_show_is_written_as_its_number(fastclip: Program, tmp_path: Path):
    write(tmp_path, {"in/Kunst-é/cat/1.png": image_bytes(), "in/Kunst-é/dog/2.png": image_bytes()})
    fastclip.environment["PYTHONIOENCODING"] = "ascii"
    outcome = fastclip("shard", "pets", "--source", "in")
    assert outcome.code == 0 and "Kunst-\\xe9" in outcome.out, outcome


def test_a_path_in_brackets_is_no_markup(fastclip: Program, tmp_path: Path):
    write(tmp_path, {"in[/b]/cat/1.png": image_bytes(), "in[/b]/dog/2.png": image_bytes()})
    assert fastclip("shard", "pets", "--source", "in[/b]").code == 0


def test_a_dataset_that_cannot_be_used_is_listed_with_the_command_that_says_why(fastclip: Program, tmp_path: Path):
    write(tmp_path, {"shards/bad/manifest.json": b"{}"})
    outcome = fastclip("datasets")
    assert outcome.code == 0 and "bad cannot be used. To see why: fastclip shards check bad" in outcome.out
    assert ["bad", "unusable"] in [line.split() for line in outcome.out.splitlines()]
    assert max(map(len, outcome.out.splitlines())) <= 80
    assert fastclip("shards", "check", "bad").code == 5


def test_a_card_shows_no_control_character(fastclip: Program, tmp_path: Path):
    card = """title = "x\\u001b[31m"
homepage = "h\\u001b[31m"
licence = "l\\u001b[31m"
citation = "c\\u001b[31m"
classes = ["cat"]
[[domains]]
name = "photo"
folders = ["f\\u001b[31m"]
[[variants]]
name = "v\\u001b[31m"
images = { photo = 2 }
"""
    write(tmp_path, {"shards/mine.toml": card.encode(), "shards/\x1b[31m.toml": card.encode()})
    for command in (("datasets",), ("datasets", "show", "mine"), ("download", "mine")):
        outcome = fastclip(*command)
        assert "\\x1b[31m" in outcome.out and "\x1b" not in outcome.out + outcome.err, outcome


def test_the_readme_names_only_what_exists():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    for name in ("make demo", "make test", "launch/two_cpu_processes.yaml", "shards/README.md", "CONTRIBUTING.md"):
        assert name in text
    for path in ("launch/two_cpu_processes.yaml", "shards/README.md", "CONTRIBUTING.md", "LICENSE"):
        assert (REPOSITORY / path).is_file()
