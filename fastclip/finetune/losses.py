"""Losses of fine-tuning, on unit vectors.

The gradients of all processes *add up* to the gradient of the mean loss over the global batch. DDP averages gradients
over processes: multiply the loss by their number before `backward`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional


def class_loss(
    images: Float[Tensor, "batch dim"],
    prototypes: Float[Tensor, "classes dim"],
    labels: Int64[Tensor, " batch"],
    scale: Float[Tensor, ""],
    real: Bool[Tensor, " batch"],
    total: int,
    margin: float = 0.0,
) -> Float[Tensor, ""]:
    """Cross-entropy of the `real` rows of this process against all classes, divided by the `total` of all processes.

    With CLIPood's `margin` λ, a class t counts as nearer by λ(1 − t·t_y) than it is, for the true class y. Rows that
    are not `real` fill a batch up; their vectors must be finite, their labels valid.
    """
    if margin:
        images = images - margin * prototypes[labels]
    rows = functional.cross_entropy(scale * images @ prototypes.T, labels, reduction="none")
    return torch.where(real, rows, 0).sum() / total


def pair_loss(
    images: Float[Tensor, "total dim"],
    texts: Float[Tensor, "total dim"],
    scale: Float[Tensor, ""],
    labels: Int64[Tensor, " total"],
    same_class: bool,
) -> Float[Tensor, ""]:
    """CLIP's loss over the global batch: the mean of image → text and text → image.

    Text i is that of image i. It alone is right, or, by `same_class`, all texts of the class are, in equal shares. Each
    process computes the whole, from rows and a scale that `gather` and `shared` prepared.
    """
    logits = scale * images @ texts.T
    if same_class:
        equal = (labels[:, None] == labels).to(logits.dtype)
        targets = equal / equal.sum(dim=1, keepdim=True)
    else:
        targets = torch.arange(len(logits), device=logits.device)
    return (functional.cross_entropy(logits, targets) + functional.cross_entropy(logits.T, targets)) / 2


def gather(rows: Float[Tensor, "batch dim"], counts: Sequence[int], rank: int) -> Float[Tensor, "total dim"]:
    """The first `counts[process]` rows of every process, in the order of processes. A gradient flows only into this
    process's own rows: `all_gather` has none, and with the same loss in every process the sum over them is whole.

    Every process must call it, with as many rows as `counts` says, or more.
    """
    own = rows[: counts[rank]]
    if len(counts) == 1:
        return own
    padded = functional.pad(own.detach(), (0, 0, 0, max(counts) - len(own)))
    found = [torch.empty_like(padded) for _ in counts]
    torch.distributed.all_gather(found, padded.contiguous())
    parts = [each[:count] for each, count in zip(found, counts, strict=True)]
    parts[rank] = own
    return torch.cat(parts)


def shared(value: Float[Tensor, ""], processes: int) -> Float[Tensor, ""]:
    """`value`, whose gradient is divided by `processes`: each of them computes the same one, and they are added up."""
    return value.detach() + (value - value.detach()) / processes
