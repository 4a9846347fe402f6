"""Checkpoints: all that training needs to go on, as a folder that is whole or absent, and proves itself.

RUN/checkpoints/step-00000120/state.json               step, epochs, and the SHA-256 of the other files
RUN/checkpoints/step-00000120/learning.safetensors     the tensors that learn
RUN/checkpoints/step-00000120/optimizer.safetensors    their moments
RUN/checkpoints/step-00000120/average.safetensors      their average over the steps, where the recipe has one
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from fastclip.errors import IncompleteError, IntegrityError, in_bytes
from fastclip.faults import named
from fastclip.files import canonical_json, digest, read_file, write_folder
from fastclip.models.tensor_files import TensorFile, write_tensors
from fastclip.proven import ProvenFile
from fastclip.results.cells import Epoch

FORMAT = "fastclip.checkpoint/1"
KEPT = 2
"""Checkpoints that are kept beside the best epoch's: if one cannot be read, the one before it can."""


@dataclass(frozen=True)
class Checkpoint:
    """A state of training, after `step` steps."""

    step: int
    epochs: tuple[Epoch, ...]
    """Those that are counted, epoch 0 first."""
    loss_sum: float
    """Of the images of the epoch that is under way."""
    tensors: Mapping[str, Mapping[str, Tensor]]
    """By file: learning, optimizer and, where the recipe has one, average."""


def check_space(folder: Path, learning: Mapping[str, Tensor]) -> None:
    """Raise `IncompleteError` unless the disk takes the checkpoints of a training, before any step is done for them.

    Beside the tensors that learn, each holds two moments of them. The best one is kept too, and one is being written.
    """
    there = next(each for each in (folder, *folder.absolute().parents) if each.is_dir())
    have = sum(path.stat().st_size for path in (folder / "checkpoints").rglob("*") if path.is_file())
    need = (KEPT + 2) * 3 * sum(each.nbytes for each in learning.values())
    free = shutil.disk_usage(there).free + have
    if free < need:
        raise IncompleteError(
            f"The checkpoints of {folder} need {in_bytes(need)}, and there are {in_bytes(free)} for them.",
            fix="Free space there, or choose another --out.",
        )


def save_checkpoint(folder: Path, run: str, checkpoint: Checkpoint, keep: Sequence[int]) -> None:
    """Publish a checkpoint of the run with the digest `run` in its `folder`. Then remove older ones.

    The steps in `keep` are not removed. Raises `IncompleteError` where the disk does not take it; the checkpoints
    before it are still there then.
    """

    def write(place: Path) -> None:
        files = {}
        for name, tensors in checkpoint.tensors.items():
            path = place / f"{name}.safetensors"
            with path.open("wb") as file:
                files[path.name] = write_tensors(file, tensors)
        document = {
            "format": FORMAT,
            "run": run,
            "step": checkpoint.step,
            "epochs": [asdict(each) for each in checkpoint.epochs],
            "loss_sum": checkpoint.loss_sum,
            "files": files,
        }
        document["digest"] = digest(canonical_json(document))
        (place / "state.json").write_bytes(canonical_json(document) + b"\n")

    write_folder(_place(folder, checkpoint.step), write)
    with suppress(OSError):  # the new one is there; old ones can be removed next time
        for step in _steps(folder)[KEPT:]:
            if step not in keep:
                shutil.rmtree(_place(folder, step), ignore_errors=True)


def find_checkpoint(folder: Path, run: str, on_damaged: Any = lambda error: None) -> Checkpoint | None:
    """The newest whole checkpoint of a run; None if there is none. `on_damaged` is told of those that are not whole.

    Raises `IntegrityError` for a checkpoint of another run.
    """
    for step in _steps(folder):
        try:
            return read_checkpoint(folder, run, step)
        except DamagedCheckpointError as error:
            on_damaged(error)
    return None


class DamagedCheckpointError(IntegrityError):
    """A checkpoint whose bytes are not those that were written."""


def read_checkpoint(folder: Path, run: str, step: int, files: Sequence[str] = ()) -> Checkpoint:
    """The checkpoint of a step, proven; of its files only some, if they are named.

    Raises `IntegrityError` for one that is damaged, or of another run, and `MachineError` for one that cannot be read.
    """
    place = _place(folder, step)
    try:
        with named(place):
            document = json.loads(read_file(place / "state.json"))
        said = document.pop("digest")
        if document["format"] != FORMAT or digest(canonical_json(document)) != said:
            raise ValueError("its digest differs")
        tensors = {}
        for name, sha256 in document["files"].items():
            short = name.removesuffix(".safetensors")
            if not files or short in files:
                file = ProvenFile(place / name, partial(_damaged, place), sha256=sha256)
                tensors[short] = dict(TensorFile(file))
                file.check_unchanged()
        epochs = tuple(Epoch(**each) for each in document["epochs"])
        found = Checkpoint(document["step"], epochs, document["loss_sum"], tensors)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(place, str(error)) from error
    if document["run"] != run:
        raise IntegrityError(
            f"{place} is a checkpoint of another run ({str(document['run'])[:12]}, not {run[:12]}).",
            fix="--out with another folder, or move that one away",
        )
    return found


def _damaged(place: Path, how: str) -> DamagedCheckpointError:
    return DamagedCheckpointError(
        f"The checkpoint {place} is damaged: {how}.", fix=f"Delete {place.parent}; the same command trains anew."
    )


def remove_checkpoints(folder: Path) -> None:
    """Remove all checkpoints of a run that has published its weights."""
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)


def _place(folder: Path, step: int) -> Path:
    return folder / "checkpoints" / f"step-{step:08d}"


def _steps(folder: Path) -> list[int]:
    """The steps that have a checkpoint, the newest first."""
    names = [path.name for path in (folder / "checkpoints").glob("step-*")]
    return sorted((int(name[5:]) for name in names if re.fullmatch("step-[0-9]{8,}", name)), reverse=True)
