"""Runs docs/notebook.ipynb in this interpreter and keeps its outputs; with --check, compares them.

    .venv/bin/python docs/notebook.py            # after a change of a cell, or of what a cell shows
    .venv/bin/python docs/notebook.py --check    # what tests/test_notebook.py does

Jupyter would show the same: an object's `repr` and `_repr_html_`, and what a cell prints. Outputs hold no time and no
path. On another kind of processor an image with two classes nearly alike may be counted otherwise.
"""

from __future__ import annotations

import ast
import difflib
import io
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

NOTEBOOK = Path(__file__).with_suffix(".ipynb")


def executed(notebook: dict[str, Any]) -> dict[str, Any]:
    """The notebook with the outputs of its cells, run one after the other in the working directory."""
    space: dict[str, Any] = {"__name__": "__main__"}
    cells, number = [], 0
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            number += 1
            outputs = list(run("".join(cell["source"]), space, number))
            cell = {**cell, "execution_count": number, "outputs": outputs}
        cells.append(cell)
    return {**notebook, "cells": cells}


def run(source: str, space: dict[str, Any], number: int) -> Iterator[dict[str, Any]]:
    """The outputs of one cell: what it prints, and the value of its last line if that is an expression."""
    tree = ast.parse(source)
    last = ast.Expression(tree.body.pop().value) if isinstance(tree.body[-1], ast.Expr) else None
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, "cell", "exec"), space)
        value = eval(compile(last, "cell", "eval"), space) if last else None
    if text := printed.getvalue():
        yield {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
    if value is not None:
        data = {"text/plain": repr(value).splitlines(keepends=True)}
        if hasattr(value, "_repr_html_"):
            data = {"text/html": value._repr_html_().splitlines(keepends=True), **data}
        yield {"data": data, "execution_count": number, "metadata": {}, "output_type": "execute_result"}


def main() -> None:
    """Write the notebook, or exit with 1 and the differences."""
    before = NOTEBOOK.read_text("utf-8")
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        after = json.dumps(executed(json.loads(before)), indent=1, ensure_ascii=False) + "\n"
        os.chdir(NOTEBOOK.parent)
    if "--check" not in sys.argv:
        NOTEBOOK.write_text(after, "utf-8")
    elif after != before:
        lines = difflib.unified_diff(before.splitlines(), after.splitlines(), "kept", "now", lineterm="")
        sys.exit("\n".join(lines))


if __name__ == "__main__":
    main()
