"""Training recipes: loss, optimiser, schedule and augmentation, by the names that the field has for them.

Sources: `ce` and its schedule are WiSE-FT's, with frozen prototypes for a head; `flyp` is FLYP's, `clipood` CLIPood's,
`transferlearning` that of the demo in jindongwang/transferlearning, code/clip. No recipe moves the statistics of batch
norms, as FLYP's does, or rounds weights to fp16 unless it is asked to, as CLIPood's and the demo's do.
docs/finetuning.md says what else differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from fastclip.errors import UserError

Loss = Literal["classes", "pairs", "same class"]
"""`classes`: cross-entropy of an image against the prototypes. `pairs`: CLIP's loss, image i belongs to text i alone.
`same class`: CLIP's loss, an image belongs to the texts of all images of its class."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """Everything but data and machine that decides what weights become."""

    name: str
    loss: Loss
    both_towers: bool
    """Whether the text tower learns too; else the prototypes stay as they are."""
    decoupled: bool
    """AdamW; else Adam with L2 in the gradient."""
    learning_rate: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    decay_all: bool
    """Whether gains, biases and the logit scale decay too."""
    batch_size: int
    """Images a step, over all processes."""
    epochs: int
    warmup_steps: int
    """Steps in which the learning rate grows; at most a tenth of all. Then a cosine takes it to zero."""
    constant: bool
    """Whether the learning rate stays as it is, without warm-up."""
    clip: float | None
    """The largest norm of all gradients together."""
    logit_scale: Literal["fixed", "capped", "free"]
    """`capped`: it learns, and is kept at 100 or below, as OpenAI did."""
    crop: float | None
    """The least share of an image's area that a random crop keeps; None for CLIP's own centre crop."""
    flip: bool
    """Whether every second image, by chance, is mirrored."""
    random_template: bool
    """Whether each image draws a template of the prompt set; else all are used together, or the only one."""
    margin: float = 0.0
    """CLIPood's λ: the margin to a class, a share of one minus the similarity of its text."""
    averaged: bool = False
    """Whether the weights are CLIPood's mean over all steps, by Beta(0.5, 0.5): it is whole after the last step."""
    fp16_round_trip: bool = False
    """Whether weights are rounded to fp16 after each step, as the demo's are."""
    select: Literal["held-out", "last", "test"] = "held-out"
    """The way to choose the epoch. `test` is the demo's: the number is then no measure of new images."""
    seed: int = 0

    def changed(self, **changes: Any) -> TrainingRecipe:
        """The recipe with other values. Raises `UserError` for a way to choose the epoch that there is not."""
        if (select := changes.get("select")) not in (None, "held-out", "last", "test"):
            raise UserError(f"--select does not know {select!r}.", fix="--select held-out | last | test")
        return replace(self, **changes)

    @property
    def label(self) -> str:
        """The name, with the vice that changes what the weights can become."""
        return self.name + (", fp16 round trip" if self.fp16_round_trip else "")

    @property
    def changes(self) -> str:
        """The values that are others than the recipe of this name has: `learning_rate 0.0001, epochs 4`."""
        usual = asdict(TRAINING_RECIPES[self.name])
        said = {"name", "select", "seed", "fp16_round_trip"}  # which are told elsewhere
        found = {name: each for name, each in asdict(self).items() if name not in said and usual[name] != each}
        return ", ".join(f"{name.replace('_', ' ')} {_shown(each)}" for name, each in found.items())

    def to_document(self) -> dict[str, Any]:
        """The recipe as JSON has it."""
        return {**asdict(self), "betas": list(self.betas)}


_CE = TrainingRecipe(
    name="ce",
    loss="classes",
    both_towers=False,
    decoupled=True,
    learning_rate=1e-5,
    betas=(0.9, 0.999),
    eps=1e-8,
    weight_decay=0.1,
    decay_all=False,
    batch_size=64,
    epochs=10,
    warmup_steps=500,
    constant=False,
    clip=1.0,
    logit_scale="fixed",
    crop=0.9,
    flip=False,
    random_template=False,
)


def _like_ce(name: str, **changes: Any) -> TrainingRecipe:
    return TrainingRecipe(**{**asdict(_CE), "name": name, **changes})


TRAINING_RECIPES: Mapping[str, TrainingRecipe] = {
    each.name: each
    for each in (
        _CE,
        _like_ce("contrastive", loss="same class", both_towers=True, logit_scale="capped", random_template=True),
        _like_ce("flyp", loss="pairs", both_towers=True, logit_scale="free", random_template=True, batch_size=256,
                 decay_all=True, clip=None),
        _like_ce("clipood", learning_rate=5e-6, decay_all=True, batch_size=36, warmup_steps=0, clip=None, crop=0.7,
                 flip=True, margin=0.3, averaged=True),
        _like_ce("transferlearning", loss="pairs", both_towers=True, decoupled=False, learning_rate=5e-5,
                 betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2, decay_all=True, batch_size=32, constant=True,
                 clip=None, logit_scale="free", crop=None, seed=42),
    )
}  # fmt: skip


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def find_training_recipe(name: str) -> TrainingRecipe:
    """The recipe of this name. Raises `UserError` for an unknown one."""
    if name not in TRAINING_RECIPES:
        raise UserError(f"--recipe does not know {name!r}.", fix=f"--recipe {' | '.join(TRAINING_RECIPES)}")
    return TRAINING_RECIPES[name]
