"""One NumPy matrix in fp32, and beside it a table that says which image each row is of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow.csv as pc

from fastclip.features.export.rows import KNOWN, Rows, known_of_images
from fastclip.features.read import Features

VECTORS = "features.npy"
TABLE = "rows.csv"


def write_npy(folder: Path, features: Features, rows: Iterable[Rows]) -> None:
    """Write `features.npy`, and `rows.csv` with a line a row.

    Labels are no second `.npy`: embedding-reader takes every `.npy` of a folder for vectors.
    """
    count = 0
    with (folder / VECTORS).open("xb") as file, pc.CSVWriter(folder / TABLE, KNOWN) as table:
        # The number of rows is known at the end. numpy leaves room for it in the header.
        _write_header(file, 0, features.dim)
        begin = file.tell()
        for each in rows:
            file.write(np.ascontiguousarray(each.single).data)
            table.write_table(known_of_images(each))
            count += len(each.vectors)
        file.seek(0)
        _write_header(file, count, features.dim)
        assert file.tell() == begin, "numpy pads the header for a number of rows of any length"


def _write_header(file: BinaryIO, rows: int, dim: int) -> None:
    header = {"descr": "<f4", "fortran_order": False, "shape": (rows, dim)}
    np.lib.format.write_array_header_1_0(file, header)
