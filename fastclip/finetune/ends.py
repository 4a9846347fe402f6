"""The two weights that a line of WiSE-FT has at its ends, found, proven, and written out in between."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.errors import UserError
from fastclip.files import digest_file
from fastclip.finetune.scoring import Tuned
from fastclip.finetune.wise import alpha_text, check_alike, interpolate, training_between
from fastclip.models.backbones import Backbone, find_backbone, plain
from fastclip.models.trained_weights import write_weights
from fastclip.models.weights import Weights, find_weights, read_weights, weights_in
from fastclip.store.training import Training
from fastclip.transfer.folds import Place

if TYPE_CHECKING:
    from torch import Tensor

WEIGHTS = "weights.safetensors"
"""The weights in the folder of a fine-tuning."""
ZERO_SHOT_WEIGHTS = "zero-shot"
"""In place of a file: the weights that a fine-tuning began with."""


@dataclass(frozen=True, kw_only=True)
class End:
    """Weights at one end of the line. Tensors are read when they are asked for."""

    path: Path
    weights: Weights
    tensors: Mapping[str, Tensor]

    @property
    def training(self) -> Training | None:
        """How they were fine-tuned, if they were."""
        return self.weights.training


@dataclass(frozen=True, kw_only=True)
class Line:
    """All weights between `start` and `end`, and those of zero-shot, which are the start unless it was trained too."""

    backbone: Backbone
    zero_shot: Weights
    start: End
    end: End
    training: Training
    """That of the end."""

    @property
    def begins_elsewhere(self) -> bool:
        """Whether the weights at the end were not fine-tuned from those at the start."""
        return self.start.weights.digest != self.training.base

    def head_name(self, alpha: Decimal) -> str:
        """The name of weights on the line in cells: `ce, α 0.3`."""
        return f"{training_between(self.start.training, self.training, alpha).recipe}, α {alpha_text(alpha)}"


def find_line(start: str | None, end: str, backbone: str | None) -> Line:
    """The line between two files, or folders of fine-tunings; without a `start`, from the weights the end began with.

    Raises `UserError` for weights that do not say how they were trained, of another backbone, or of other tensors.
    """
    path = _file(end)
    last = weights_in(path)
    training = last.training
    if training is None:
        raise UserError(
            f"{path} does not say how its weights were fine-tuned.",
            fix="Name zero-shot weights first and then those that fastclip finetune wrote.",
        )
    if training.alpha != 1:
        raise UserError(
            f"{path} is between two weights already, at α {training.alpha:g}.", fix="Name the fine-tuned weights."
        )
    if backbone and plain(backbone) not in (plain(training.backbone), plain(training.architecture)):
        raise UserError(f"{path} is for {training.backbone}, not for {backbone}.", fix=f"-b {training.backbone}")
    found = find_backbone(training.backbone)
    if start in (None, ZERO_SHOT_WEIGHTS):
        first = _zero_shot(found, path, training)
        zero_shot = first.weights
    else:
        place = _file(str(start))
        zero_shot = weights_in(place)
        _check_backbone(zero_shot, training)
        first = _end(found, zero_shot)
        if first.training:
            # Of weights that were trained twice, A may be the first training's: then zero-shot is where A began.
            begun = (place, first.training) if first.weights.digest == training.base else (path, training)
            zero_shot = _zero_shot(found, *begun).weights
    line = Line(backbone=found, zero_shot=zero_shot, start=first, end=_end(found, last), training=training)
    check_alike(line.start.tensors, line.end.tensors)
    return line


def weights_on(
    line: Line, alphas: Sequence[Decimal], places: tuple[Place, ...], folder: Path, save: Path | None
) -> Iterator[Tuned]:
    """The weights at each of the `alphas`, to be tested at `places`, one after the other.

    The ends are the files that are there. Others are written: into `save`, or into `folder`, to be removed when the
    next one is asked for. Zero-shot weights at α 0 are left out: they are not tuned, and are tested anyway.
    """
    for alpha in alphas:
        if not alpha and line.start.training is None:
            continue
        training = training_between(line.start.training, line.training, alpha)
        if alpha in (0, 1):
            end = line.end if alpha else line.start
            path, sha256 = end.path, end.weights.digest
        else:
            path, sha256 = _write(line, alpha, training, folder, save)
        yield Tuned(
            name=line.head_name(alpha),
            weights=path,
            sha256=sha256,
            training=training,
            places=places,
            settings={"alpha": float(alpha)},
        )
        if path.parent == folder:
            path.unlink()


def _write(line: Line, alpha: Decimal, training: Training, folder: Path, save: Path | None) -> tuple[Path, str]:
    """The file of the weights at `alpha`, and its SHA-256.

    Raises `UserError` where `save` has other weights under its name.
    """
    name = f"alpha-{alpha_text(alpha)}.safetensors"
    tensors = interpolate(line.start.tensors, line.end.tensors, float(alpha))
    for end in (line.start, line.end):
        assert end.weights.file, "weights at an end are in a file"
        end.weights.file.check_unchanged()
    if save and not (save / name).exists():
        return save / name, write_weights(save / name, tensors, training)
    sha256 = write_weights(folder / name, tensors, training)
    if save and digest_file(save / name) != sha256:
        raise UserError(f"{save / name} holds other weights.", fix="--save DIR with another folder, or move that away")
    return folder / name, sha256


def _file(name: str) -> Path:
    path = Path(name) / WEIGHTS if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise UserError(
            f"There is no weights file {path}.", fix="Name a safetensors file, or the folder of fastclip finetune"
        )
    return path


def _check_backbone(start: Weights, of_end: Training) -> None:
    """Raise `UserError` for weights that were fine-tuned from another backbone's than those at the end."""
    training = start.training
    if training and (training.backbone, training.architecture) != (of_end.backbone, of_end.architecture):
        raise UserError(
            f"{start.path} is for {training.backbone} ({training.architecture}), the other weights are for "
            f"{of_end.backbone} ({of_end.architecture}).",
            fix="Name two files of one backbone.",
        )


def _zero_shot(backbone: Backbone, path: Path, training: Training) -> End:
    """The weights that `path` was fine-tuned from, where this machine has them by the backbone's name."""
    cure = f"fastclip wise FILE {path}, with the zero-shot weights first"
    try:
        found = find_weights(backbone, None)
    except UserError as error:
        raise UserError(str(error), fix=cure) from error
    assert found.path, "weights that are looked for are in a file"
    if found.digest != training.base:
        raise UserError(
            f"{path} was fine-tuned from weights {training.base[:12]}; those of {backbone.name} here are "
            f"{found.digest[:12]} ({found.path}).",
            fix=cure,
        )
    return _end(backbone, found)


def _end(backbone: Backbone, weights: Weights) -> End:
    assert weights.file, "weights at an end are in a file"
    return End(path=weights.file.path, weights=weights, tensors=read_weights(backbone, weights.file))
