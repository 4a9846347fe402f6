"""WiSE-FT: weights between two of one architecture, tensor by tensor, in fp32."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

from fastclip.errors import UserError
from fastclip.store.training import Training

if TYPE_CHECKING:
    from torch import Tensor

MOST_ALPHAS = 101
MOST_DECIMALS = 6


def alphas(text: str) -> tuple[Decimal, ...]:
    """The shares that `FIRST:LAST:STEP` or a list such as `0.3,0.5` means, exactly, in ascending order.

    Raises `UserError` for anything else, and for a share outside of 0 to 1.
    """
    try:
        if ":" in text:
            first, last, step = map(Decimal, text.split(":"))
            found = _steps(first, last, step)
        else:
            found = [Decimal(each) for each in text.split(",")]
    except (ArithmeticError, ValueError):
        raise UserError(f"--alpha {text} is no list of numbers.", fix="--alpha 0:1:0.1, or --alpha 0.3,0.5") from None
    if not all(each.is_finite() and 0 <= each <= 1 for each in found):
        raise UserError(f"--alpha {text} leaves the line between the two, from 0 to 1.", fix="--alpha 0:1:0.1")
    if any(_decimals(each.normalize()) > MOST_DECIMALS for each in found):
        raise UserError(f"--alpha {text} has more than {MOST_DECIMALS} decimals.", fix="--alpha 0:1:0.1")
    return tuple(sorted(set(found)))


def alpha_text(alpha: Decimal) -> str:
    """`0.0`, `0.5`, `0.25`: at least one decimal, as few as possible."""
    return f"{max(alpha.normalize(), alpha.quantize(Decimal('0.1')), key=_decimals):f}"


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """The weights start + α · (end - start), in fp32 whatever the precision of the two.

    At 0 and 1 they are those given, and so they are everywhere in a tensor that is the same in both: a tower that was
    not trained stays as it was. Counters, which are no numbers between two, are those of `start`. Raises `UserError`
    for weights of different names or shapes.
    """
    check_alike(start, end)
    return {name: _between(tensor, end[name], alpha) for name, tensor in start.items()}


def check_alike(start: Mapping[str, Tensor], end: Mapping[str, Tensor]) -> None:
    """Raise `UserError` unless both have tensors of the same names and shapes."""
    for name in sorted({*start, *end}):
        shapes = [tuple(each[name].shape) if name in each else None for each in (start, end)]
        if shapes[0] != shapes[1]:
            first, second = ("none" if shape is None else f"one of {list(shape)}" for shape in shapes)
            raise UserError(
                f"There is nothing between these weights: of the tensor {name} the first have {first}, the second "
                f"{second}.",
                fix="Name two files of one architecture.",
            )


def training_between(start: Training | None, end: Training, alpha: Decimal) -> Training:
    """How weights between two were fine-tuned. Where those at the start were too, all that either saw is named."""
    if start is None:
        return replace(end, alpha=float(alpha))
    return replace(
        end,
        recipe=end.recipe if end.recipe == start.recipe else f"{end.recipe} with {start.recipe}",
        domains=tuple(dict.fromkeys((*end.domains, *start.domains))),
        images=end.images + start.images,
        alpha=float(alpha),
    )


def _steps(first: Decimal, last: Decimal, step: Decimal) -> list[Decimal]:
    if not (first.is_finite() and last.is_finite() and step.is_finite()):
        raise ValueError("a number is not finite")
    if step <= 0 or last < first:
        raise UserError(
            f"--alpha {first}:{last}:{step} never gets from {first} to {last}.", fix="--alpha 0:1:0.1, FIRST:LAST:STEP"
        )
    count = int((last - first) / step) + 1
    if count > MOST_ALPHAS:
        raise UserError(f"--alpha {first}:{last}:{step} means {count:,} shares.", fix=f"At most {MOST_ALPHAS}.")
    return [first + number * step for number in range(count)]


def _decimals(number: Decimal) -> int:
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int), "a share is finite"
    return -exponent


def _between(start: Tensor, end: Tensor, alpha: float) -> Tensor:
    if not start.is_floating_point():
        return start.clone()
    if alpha in (0, 1):
        return (end if alpha else start).float()
    # In this form a tensor that is the same in both comes out as it went in, bit for bit. A sum of two products would
    # not do: 0.9 · w + 0.1 · w is another number than w for a quarter of `tiny`'s weights.
    start = start.float()
    return end.float().sub(start).mul_(alpha).add_(start)
