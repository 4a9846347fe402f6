"""The benchmarks' tables say what the records say. How fast anything is, no test asks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent / "benchmarks"


@pytest.fixture
def tables(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(HERE))
    sys.modules.pop("tables", None)
    import tables

    return tables


def test_the_tables_of_the_readme_are_those_of_the_records(tables):
    text = tables.README.read_text()
    assert text.count("<!-- records: ") == len(tables.TABLES) == text.count("<!-- end -->")
    assert tables.render(text, tables.all_records()) == text, "run benchmarks/tables.py"
    empty = "# A\n<!-- records: scale -->\n<!-- end -->\n## B\n<!-- records: scale -->\nold\n<!-- end -->\n"
    filled = tables.render(empty, [])
    assert "## B" in filled and "old" not in filled and tables.render(filled, []) == filled


def test_of_each_thing_the_latest_record_is_shown_and_of_each_machine(tables, tmp_path: Path):
    def record(seconds: float, cpu: str, images: int = 10) -> dict[str, object]:
        settings = {"benchmark": "scale.py", "backbone": "tiny", "device": "cpu"}
        machine = {"cpu": cpu, "cores": "2", "torch": "1", "commit": "c"}
        return {
            "what": "whole process",
            "images": images,
            "seconds": seconds,
            "all_seconds": [seconds],
            "settings": settings,
            "peak_gib": 0.5,
            "machine": machine,
        }

    lines = [record(9.0, "old"), record(1.0, "new"), record(2.0, "new"), record(3.0, "new", images=100)]
    path = tmp_path / "r.jsonl"
    path.write_text("".join(json.dumps(each) + "\n" for each in lines) + '{"cut": ')
    shown = tables.scale(tables.read_records(path))
    body = [line for line in shown.splitlines() if line.startswith("| 1")]
    assert body == ["| 10 | 9.0 s | 0.50 GiB |", "| 10 | 2.0 s | 0.50 GiB |", "| 100 | 3.0 s | 0.50 GiB |"]
    assert "old, 2 cores" in shown and "new, 2 cores" in shown
