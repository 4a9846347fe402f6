"""Tables of `import fastclip`: plain values, text of 80 columns, and HTML that needs neither style nor script."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import drawn_results
import pyarrow as pa
import pytest
from drawn_store import drawn, fill

import fastclip
from fastclip.api.result import Result
from fastclip.api.shown import MOST_BYTES, MOST_ROWS
from fastclip.api.table import plain
from fastclip.results.cells import Column, Evaluation
from fastclip.results.files.kept import KeptResult

HOSTILE = [
    "<script>alert(1)</script>", '"onload="x', "=HYPERLINK(1)", "a|b", "$x$", "\u202eright to left", "new\nline",
    "x" * 300,
]  # fmt: skip


def of(evaluation: Evaluation) -> Result:
    """The result of drawn counts."""
    return Result([KeptResult("drawn", evaluation, None)])


class Page(HTMLParser):
    """The tags of a page, their attributes, and its cells."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.rows = 0
        self.feed(html)
        assert not self.open, "every tag is closed"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attributes}
        self.open.append(tag)
        self.rows += tag == "tr"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_accuracies_are_the_divided_counts_and_are_shown_in_percent():
    counts = {"art_painting": 2000, "cartoon": 2344, "photo": 835, "sketch": 1}
    result = of(drawn_results.evaluation(backbones=["RN50"], right=lambda _, domain, __: counts[domain]))
    images = {row["domain"]: row["images"] for row in result.cells()}
    (row,) = result.table()
    expected = {domain: right / images[domain] for domain, right in counts.items()}
    assert {name: row[name] for name in expected} == expected
    assert row["average"] == pytest.approx(sum(expected.values()) / 4)
    assert f"{100 * expected['photo']:.2f}" in repr(result.table()) and "50.00" in result.table()._repr_html_()
    assert [(row["domain"], row["top1"], row["accuracy"]) for row in result.cells()] == [
        (domain, right, expected[domain]) for domain, right in counts.items()
    ]


def test_tables_become_those_of_pyarrow_and_pandas(monkeypatch: pytest.MonkeyPatch):
    table = of(drawn_results.evaluation()).table()
    arrow = table.to_arrow()
    assert isinstance(arrow, pa.Table) and arrow.to_pylist() == list(table) and len(table) == 9
    assert table.columns[:3] == ("backbone", "head", "prompts") and table["backbone"][0] == "RN50"
    with pytest.raises(KeyError, match="choose from backbone, head"):
        _ = table["accuracies"]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fastclip.UserError, match=r"not installed\.\nFix:   pip install pandas"):
        table.to_pandas()
    monkeypatch.undo()
    pandas = pytest.importorskip("pandas")
    assert isinstance(table.to_pandas(), pandas.DataFrame) and list(table.to_pandas()["backbone"]) == table["backbone"]


def test_several_datasets_have_a_table_each_after_one_of_all():
    result = of(drawn_results.evaluation(datasets=["pacs", "office31"], backbones=["RN50", "ViT-B/32"]))
    all_of_them, pacs, office = result.tables()
    assert all_of_them.columns[3:] == ("PACS", "Office-31", "average") and "sketch" in pacs.columns
    assert all_of_them["PACS"] == pacs["average"] and all_of_them["Office-31"] == office["average"]
    assert repr(result.table()) == repr(all_of_them)


def test_a_notebook_shows_what_the_terminal_prints():
    result = of(drawn_results.evaluation(backbones=["RN50", "ViT-B/32"]))
    shown = [result, result.table(), result.table(intervals=True), result.cells(), result.compare(),
             result.compare().ranks(), result.against_published()]  # fmt: skip
    for each in shown:
        page = Page(each._repr_html_())
        # All words of the terminal stand in the page, but for the ends of lines and the rules. Only the page has marks.
        words = [word for word in repr(each).replace("─", " ").split() if word]
        theirs = " ".join(text for text in page.texts if not text.startswith("Bold: ")).split()
        assert "".join(sorted("".join(words))) == "".join(sorted("".join(theirs)))
        assert page.tags <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "u"}
        assert page.attributes <= {"class", "align", "colspan"}, "no style, no script, no colour"
        assert max(map(len, repr(each).splitlines())) <= 80


def test_hostile_names_are_text_in_every_table(tmp_path: Path):
    plain_result = drawn_results.evaluation(backbones=["RN50"], prompts={name: ["a {name}"] for name in HOSTILE})
    for each in (of(plain_result), of(plain_result).table(), of(plain_result).cells(), of(plain_result).compare()):
        html = each._repr_html_()
        page = Page(html)
        assert page.tags <= {"div", "p", "table", "thead", "tbody", "tr", "th", "td", "strong", "em", "u"}
        assert page.attributes <= {"class", "align", "colspan"}
        assert "<script" not in html and "\u202e" not in html + repr(each) and "x" * 121 not in html
        assert "tex2jax_ignore" in html, "a notebook makes no formula of $x$"
        assert any("<script>alert(1)</script>" in text for text in page.texts)


def test_a_long_table_shows_fifty_rows_and_says_so():
    arrow = pa.table({"key": [f"image {number}" for number in range(1000)], "rank": list(range(1000))})
    table = plain("Predictions", arrow)
    assert Page(table._repr_html_()).rows == 1 + MOST_ROWS and "50 of 1,000 rows" in table._repr_html_()
    assert "image 49" in repr(table) and "image 50 " not in repr(table) and "50 of 1,000 rows" in repr(table)


@pytest.mark.parametrize(("rows", "columns"), [(5000, 3), (60, 400)])
def test_no_table_takes_more_than_fifty_kilobytes(rows: int, columns: int):
    arrow = pa.table(
        {f"{place} {'é' * 150}": [f"{row}" + '<&>"' * 100 for row in range(rows)] for place in range(columns)}
    )
    html = plain("Wide", arrow.append_column("number", pa.array(range(rows))))._repr_html_()
    assert len(html.encode()) <= MOST_BYTES and Page(html).rows >= 1
    assert f"of {rows:,} rows" in html


def test_many_tables_share_the_fifty_rows():
    result = of(drawn_results.evaluation(datasets=["pacs", "office31", "officehome", "vlcs"]))
    page = Page(result._repr_html_())
    assert page.rows <= MOST_ROWS + 6 and len(result._repr_html_().encode()) <= MOST_BYTES
    assert result.tables()[-1].columns[0] == "backbone"


def test_verdicts_are_counts_of_images():
    result = of(drawn_results.with_cell(drawn_results.evaluation(), "pacs/sketch", "RN50", top1=1))
    rows = list(result.against_published())
    assert len(rows) == 36 and [row["verdict"] for row in rows].count("same") == 35
    (other,) = [row for row in rows if row["verdict"] == "differs"]
    assert other["difference"] == 1 - other["least"] and other["backbone"] == "RN50" and other["yours"] == 1


def test_predictions_are_traced_to_the_counts_and_need_their_file(tmp_path: Path):
    sharded = drawn(tmp_path)
    fill(sharded, tmp_path / "store", unreadable=["photo/00000003"])
    places = {"shards": sharded.shards, "store": tmp_path / "store", "unreadable": "exclude"}
    result = fastclip.evaluate("letters", "tiny", **places)
    rows = list(result.predictions())
    assert len(rows) == 108 and [row["key"] for row in rows if row["rank"] is None] == ["photo/00000003"]
    for cell in result.cells():
        assert sum(row["rank"] == 0 for row in rows if row["domain"] == cell["domain"]) == cell["top1"]
    result.save(tmp_path / "kept")
    (tmp_path / "kept" / "predictions.parquet").unlink()
    with pytest.raises(fastclip.UserError, match=r"no predictions beside it\.\nFix:   Load the folder"):
        fastclip.load(tmp_path / "kept").predictions()
    document = json.loads((tmp_path / "kept" / "result.json").read_text())
    document["cells"][0]["top1"] += 1
    (tmp_path / "kept" / "result.json").write_text(json.dumps(document))
    with pytest.raises(fastclip.IntegrityError, match="Fix:"):
        fastclip.load(tmp_path / "kept")


def test_a_domain_may_be_called_as_a_column():
    result = drawn_results.evaluation(backbones=["RN50"])
    facts = result.datasets[0]
    renamed = replace(
        result,
        datasets=(replace(facts, name="mine", fingerprints={"head": "a" * 64, "average": "b" * 64}),),
        cells=tuple(
            replace(cell, dataset="mine", domain=domain)
            for cell, domain in zip(result.cells, ("head", "average"), strict=False)
        ),
        recipes=(), patterns=(), near_ties=(),
    )  # fmt: skip
    assert Column("RN50").head == "zero-shot"
    assert of(renamed).table().columns == ("backbone", "head", "prompts", "domain head", "average", "domain average")
