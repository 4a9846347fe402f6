"""The epochs of fine-tuning as a table in no format: loss, and the images that choose the epoch. No torch."""

from __future__ import annotations

from fractions import Fraction

from fastclip.report.numbers import NO_NUMBER, percent
from fastclip.report.verdict_grids import Grid
from fastclip.results.cells import Epoch, Evaluation, UsedHead


def tuned_heads(evaluation: Evaluation) -> list[UsedHead]:
    """The heads that are fine-tuned backbones, each once, in however many datasets it was tested."""
    found = {(each.facts.recipe.backbone, each.name, each.sha256): each for each in evaluation.heads if each.epochs}
    return list(found.values())


def epoch_table(evaluation: Evaluation) -> tuple[Grid, ...]:
    """A table for each fine-tuned backbone: a row an epoch, with its loss and its right answers."""
    return tuple(
        Grid(
            title=f"{head.facts.recipe.backbone}, {head.name}: epochs",
            headers=("epoch", "loss", counted_on(head), "%"),
            rows=tuple(
                (
                    epoch_name(head, each),
                    NO_NUMBER if each.loss is None else f"{each.loss:.4f}",
                    f"{each.right:,}/{each.images:,}" if each.images else NO_NUMBER,
                    percent(share(each)),
                )
                for each in head.epochs
            ),
        )
        for head in tuned_heads(evaluation)
    )


def epoch_name(head: UsedHead, epoch: Epoch) -> str:
    """`0, zero-shot`, `3, chosen` or `4`."""
    training = head.facts.recipe.training
    before = "as before" if training and " after " in training.recipe else "zero-shot"  # it was trained already
    words = [str(epoch.number)] + [before] * (epoch.number == 0) + ["chosen"] * is_chosen(head, epoch)
    return ", ".join(words)


def is_chosen(head: UsedHead, epoch: Epoch) -> bool:
    """Whether the weights that were scored are those after this epoch."""
    training = head.facts.recipe.training
    return training is not None and training.epoch == epoch.number


def counted_on(head: UsedHead) -> str:
    """The images that an epoch's right answers are counted on: `held out`, or `test domain`."""
    training = head.facts.recipe.training
    return "test domain" if training and training.selected.startswith("the test domain") else "held out"


def share(epoch: Epoch) -> Fraction | None:
    """The right answers of an epoch as a share; None where no images are counted."""
    return Fraction(epoch.right, epoch.images) if epoch.images else None
