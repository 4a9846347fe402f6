"""The notebook of docs/ shows what its cells give."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import REPOSITORY

DOCS = REPOSITORY / "docs"


def check(folder: Path) -> tuple[int, str]:
    """The exit code and the differences of `notebook.py --check` in a folder."""
    command = [sys.executable, str(folder / "notebook.py"), "--check"]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    return done.returncode, done.stderr


def test_the_notebook_holds_the_outputs_of_its_cells():
    """`.venv/bin/python docs/notebook.py` runs it again and keeps them."""
    assert check(DOCS) == (0, "")


@pytest.mark.parametrize(
    ("source", "output", "code"), [("1 + 1", "2", 0), ("1 + 1", "3", 1), ("print(4)", "2", 1), ("1; None", "2", 1)]
)
def test_an_output_that_is_another_is_noticed(source: str, output: str, code: int, tmp_path: Path):
    shutil.copy(DOCS / "notebook.py", tmp_path)
    result = {
        "data": {"text/plain": [output]}, "execution_count": 1, "metadata": {}, "output_type": "execute_result"
    }  # fmt: skip
    cell = {"cell_type": "code", "outputs": [result], "source": [source], "execution_count": 1}
    text = json.dumps({"cells": [cell]}, indent=1, ensure_ascii=False) + "\n"
    (tmp_path / "notebook.ipynb").write_text(text)
    assert check(tmp_path)[0] == code


def test_the_notebook_names_no_place_time_or_machine_and_fits_on_a_screen():
    notebook = json.loads((DOCS / "notebook.ipynb").read_text("utf-8"))
    outputs = json.dumps([cell.get("outputs") for cell in notebook["cells"]])
    assert not re.search(r"/tmp|/home|/work|AVX|AuthenticAMD|GenuineIntel|\d\d:\d\d", outputs)
    assert sum(cell["cell_type"] == "code" for cell in notebook["cells"]) <= 12
    texts = [
        "".join(each.get("text") or each["data"]["text/plain"])
        for c in notebook["cells"]
        for each in c.get("outputs", [])
    ]
    assert len(texts) >= 8 and max(len(line) for text in texts for line in text.splitlines()) <= 100
