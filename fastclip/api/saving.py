"""Keeps a result in a folder, as a run of the command line does, without when and where it was made."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from fastclip.api.scored import ScoredResult
from fastclip.destinations import check_place
from fastclip.files import read_file, write_whole
from fastclip.results.cells import Evaluation
from fastclip.results.files.kept import KeptResult
from fastclip.results.files.predictions import PREDICTIONS, write_predictions
from fastclip.results.files.result import RESULT, to_json


def save(kept: Sequence[KeptResult], merged: Evaluation, folder: Path) -> Path:
    """Write `result.json`, and `predictions.parquet` of one run; the folder."""
    check_place(folder / RESULT)
    only = kept[0] if len(kept) == 1 else None
    if isinstance(only, ScoredResult):
        write_predictions(folder / PREDICTIONS, only.answers, merged)
    elif only and only.predictions and only.rows:  # reading them proves that they are those of this result
        write_whole(folder / PREDICTIONS, read_file(only.predictions))
    else:
        merged = replace(merged, predictions=None)
    write_whole(folder / RESULT, to_json(merged))
    return folder
