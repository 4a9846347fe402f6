"""The file that jindongwang/transferlearning's `code/clip` writes and its `load_csv` reads: numbers and blanks."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from fastclip.data.shards.manifest import path_name
from fastclip.errors import printable
from fastclip.features.export.rows import Rows, file_name
from fastclip.features.read import Features
from fastclip.files import short_name


def write_transferlearning(folder: Path, features: Features, rows: Iterable[Rows], digits: int | None = None) -> None:
    """Write `fe_BACKBONE_DATASET_DOMAIN.csv` for each domain, and `….keys.txt` with the key of each of its lines.

    A line is the vector, then the label, counted from 0 in the order of the dataset's classes. A number has `digits`
    after the point; by default nine significant ones, which are read back as the same fp32.
    """
    number = "%.9g" if digits is None else f"%.{digits}f"
    backbone = file_name(features.recipe.backbone)
    with ExitStack() as stack:
        files = {}
        for domain in features.target.domains:
            stem = short_name(f"fe_{backbone}_{features.target.name}_{path_name(domain)}", most=240)
            numbers = stack.enter_context((folder / f"{stem}.csv").open("xb"))
            files[domain] = numbers, stack.enter_context((folder / f"{stem}.keys.txt").open("x", encoding="utf-8"))
        for each in rows:
            numbers, keys = files[each.shard.domain]
            labels = [record.label for record in each.records]
            np.savetxt(numbers, np.column_stack([each.vectors.astype(np.float64), labels]), number)
            keys.writelines(f"{printable(record.key)}\n" for record in each.records)
