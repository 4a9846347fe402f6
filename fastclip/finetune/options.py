"""Options of a fine-tuning, beside the training recipe: each is checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, cast

from fastclip.errors import UserError
from fastclip.finetune.training_recipes import TrainingRecipe

PRECISIONS = ("fp32", "bf16")

IDENTITY = {"changes": "identity"}
"""The option decides what the weights become, but for last bits: another value is another run, in another folder."""
RUNTIME = {"changes": "runtime"}
"""The option changes last bits at most: where, how fast, and in how little memory."""

MOST = 10_000_000
"""The largest whole number of any option."""


def find_precision(name: str | None) -> Literal["fp32", "bf16"] | None:
    """The precision of training of this name. Raises `UserError` for an unknown one."""
    if name not in (None, *PRECISIONS):
        raise UserError(f"Training does not know the precision {name!r}.", fix=f"--precision {' | '.join(PRECISIONS)}")
    return cast(Literal["fp32", "bf16"] | None, name)


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions:
    """How weights are trained: the recipe decides what they become, all else where and how fast."""

    recipe: TrainingRecipe = field(metadata=IDENTITY)
    precision: Literal["fp32", "bf16"] | None = field(default=None, metadata=IDENTITY)
    """fp32, or bf16 autocast with weights in fp32. Default: bf16 on a GPU, fp32 on a CPU."""
    accumulate: int = field(default=1, metadata=RUNTIME)
    """Passes a step, each over a part of the batch."""
    checkpointing: bool = field(default=False, metadata=RUNTIME)
    """Compute activations again in the backward pass instead of keeping them."""
    save_every_s: float = field(default=600.0, metadata=RUNTIME)
    """Seconds between checkpoints within an epoch. There is one after each epoch anyway."""
    out: Path = field(default=Path("finetuned"), metadata=RUNTIME)

    def __post_init__(self) -> None:
        recipe = self.recipe
        if self.accumulate < 1:
            raise UserError(f"--accumulate must be at least 1, not {self.accumulate}.", fix="Leave it out.")
        if self.accumulate > 1 and recipe.loss != "classes":
            raise UserError(
                f"The loss of {recipe.name} compares all images of a batch with each other, so several small passes "
                "are not one large batch.",
                fix="--checkpointing saves memory too; or a smaller --batch-size, or --recipe ce",
            )
        for name, value, least in (
            ("batch-size", recipe.batch_size, 1),
            ("epochs", recipe.epochs, 1),
            ("warmup-steps", recipe.warmup_steps, 0),
            ("seed", recipe.seed, 0),
        ):
            if value < least:
                raise UserError(f"--{name} must be at least {least}, not {value}.", fix="Leave it out.")
            if value > MOST:
                raise UserError(f"--{name} is at most {MOST:,}, not {value}.", fix="Leave it out.")
        if not self.save_every_s >= 0:
            raise UserError(f"--save-every is in seconds from 0 up, not {self.save_every_s:g}.", fix="Leave it out.")
        if not 0 < recipe.learning_rate < 1:
            raise UserError(f"--lr must be between 0 and 1, not {recipe.learning_rate:g}.", fix="--lr 1e-5")
        if not 0 <= recipe.weight_decay < 1:
            raise UserError(f"--weight-decay must be from 0 to 1, not {recipe.weight_decay:g}.", fix="Leave it out.")
        if recipe.name != "transferlearning" and (recipe.select == "test" or recipe.fp16_round_trip):
            option = "--select test" if recipe.select == "test" else "--fp16-round-trip"
            raise UserError(
                f"{option} belongs to the recipe transferlearning: it is there to repeat the demo's numbers.",
                fix=f"Leave out {option}, or --recipe transferlearning",
            )
        if recipe.loss != "classes" and recipe.batch_size < 2:
            raise UserError(f"{recipe.name} compares images with each other.", fix="--batch-size 2 or more")
