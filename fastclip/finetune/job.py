"""One training: all that decides what it does, what it tells meanwhile, what comes out, and how it may fail."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Int64
from torch import Tensor

from fastclip.errors import EXIT_UNREADABLE, FastclipError, IntegrityError
from fastclip.finetune.model import Precision
from fastclip.finetune.samples import Samples
from fastclip.finetune.training_recipes import TrainingRecipe
from fastclip.models.backbones import Backbone
from fastclip.models.weights import Weights
from fastclip.results.cells import Epoch


class NotFiniteError(IntegrityError):
    """A loss, a weight or an embedding is not a number any more."""


class UnreadableTrainingImageError(FastclipError):
    """A training image gives no pixels, and nobody has said what to do with such."""

    exit_code = EXIT_UNREADABLE


@dataclass(frozen=True, kw_only=True)
class Job:
    """Everything that decides what one training does, and where. The same in all processes but for `cores`."""

    run: str
    """A digest of all that decides what the weights become: checkpoints bear it."""
    folder: Path
    recipe: TrainingRecipe
    backbone: Backbone
    weights: Weights
    samples: Samples
    judges: Samples | None
    """The images that choose the epoch; None if nothing does."""
    prototypes: Float32[np.ndarray, "classes dim"]
    tokens: Int64[Tensor, "templates classes length"] | None
    """Of every prompt; None where the text tower does not learn. A class with fewer prompts repeats them."""
    prompts_of: Int64[np.ndarray, " classes"] | None
    """How many prompts each class has; None where `tokens` is."""
    precision: Precision
    decoder: str
    accumulate: int
    checkpointing: bool
    save_every_s: float
    cores: int
    keep_bytes: int
    """Memory for decoded images."""


@dataclass(frozen=True)
class Progress:
    """A finished step, as far as a reader of a bar or a log wants to know. `images` are those of all processes."""

    step: int
    epoch: int
    images: int
    loss: float
    seconds: float
    wait_s: float
    """Seconds of `seconds` in which the step waited for its images."""


@dataclass(frozen=True)
class Watch:
    """Functions by which training tells the outside, and asks it. All are called in the thread that trains."""

    on_start: Callable[[int], object] = lambda step: None
    """Training begins, or goes on after so many steps."""
    on_step: Callable[[Progress], object] = lambda progress: None
    on_epoch: Callable[[Epoch], object] = lambda epoch: None
    on_damaged: Callable[[FastclipError], object] = lambda error: None
    """A checkpoint cannot be used; the one before it is."""
    stopping: Callable[[], bool] = lambda: False
    """Whether to save and leave."""


@dataclass(frozen=True)
class Trained:
    """The outcome: all epochs, the number of the one that was chosen, and the whole model's tensors after it."""

    epochs: tuple[Epoch, ...]
    chosen: int
    tensors: Mapping[str, Tensor]
