"""The program in a terminal: what it prints, how wide, and how it ends."""

from __future__ import annotations

import io

import pytest
from helpers import REPOSITORY, Program, Sharded


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
    outcome = fastclip(*[str(shapes.shards) if word == "SHARDS" else word for word in arguments])
    assert (outcome.code, outcome.out) == (2, ""), outcome
    what, how = outcome.err.splitlines()
    assert what.startswith("Error: ") and named in what
    assert how.startswith("Fix:   ") and len(how) > 10


def test_help_lists_the_commands_and_fits(fastclip: Program):
    outcome = fastclip("--help")
    assert outcome.code == 0 and outcome.err == ""
    for command in ("demo", "shard", "eval"):
        assert f" {command} " in outcome.out
        lines = fastclip(command, "--help").out.splitlines()
        assert max(map(len, lines)) <= 80
    assert fastclip("--version").out.startswith("fastclip ")


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
    again = fastclip("demo")
    assert again.code == 0 and "Embedded" not in again.err
    assert [line for line in lines if line.split()[:1] == ["tiny"]] == [
        line for line in again.out.splitlines() if line.split()[:1] == ["tiny"]
    ]


def test_random_weights_mark_their_table(shapes: Sharded, fastclip: Program):
    outcome = fastclip("eval", "shapes/flat", "-b", "tiny", "--random-weights", "--shards", shapes.shards)
    assert outcome.code == 0 and "RANDOM WEIGHTS, NOT A RESULT" in outcome.out


def test_the_tables_of_the_widest_dataset_fit_80_columns():
    from rich.console import Console

    from fastclip.report.terminal import footnotes, tables
    from fastclip.results.cells import BackboneFacts, Cell, Evaluation

    domains = ("clipart", "infograph", "painting", "quickdraw", "real", "sketch")
    counts = {"images": 20_000, "classified": 20_000, "top1": 19_999, "top5": 20_000, "unreadable": 0}
    cells = [
        Cell(dataset="domainnet", domain=d, backbone=b, prompts=p, shards=20, missing_shards=0, **counts)
        for b in ("RN50", "ViT-L/14@336px", "ViT-B-32/laion2b_s34b_b79k")
        for p in ("transferlearning", "openai80")
        for d in domains
    ]
    facts = BackboneFacts(
        name="RN50", weights="w", random_weights=False, precision="bf16", decoder="dali 2.4.0 mixed", batch_size=256,
        numerics="n",
    )  # fmt: skip
    evaluation = Evaluation(
        unreadable_policy="stop", datasets=(), backbones=(facts,), prompts={}, cells=tuple(cells), unreadable=()
    )
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(evaluation):
        console.print(table)
    text = console.export_text()
    assert max(map(len, text.splitlines())) <= 80
    for domain in domains:
        assert domain in text, "a name of a domain is cut"
    assert text.count("100.00") == 42 and "…" not in text
    assert all(len(line) <= 80 for line in footnotes(evaluation))


def test_the_readme_names_only_what_exists():
    text = (REPOSITORY / "README.md").read_text("utf-8")
    for name in ("make demo", "make test", "launch/two_cpu_processes.yaml", "shards/README.md", "CONTRIBUTING.md"):
        assert name in text
    for path in ("launch/two_cpu_processes.yaml", "shards/README.md", "CONTRIBUTING.md", "LICENSE"):
        assert (REPOSITORY / path).is_file()
