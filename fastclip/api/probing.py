"""`fastclip.probe`: what `fastclip probe` does, in this process and without its prints."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from fastclip.api.border import Names, border, names_of
from fastclip.api.result import Result


def probe(
    train: Names,
    test: Names = (),
    backbones: Names = (),
    head: Names = "logistic",
    *,
    leave_one_out: bool = False,
    split: float | None = None,
    shots: int | Iterable[int] = (),
    seeds: int | None = None,
    strength: float | None = None,
    prompts: Names = "transferlearning",
    precision: str | None = None,
    decoder: str | None = None,
    recipes: Names = (),
    shards: str | Path = "shards",
    store: str | Path = "embeddings",
    unreadable: str = "stop",
    on_step: Callable[[], None] | None = None,
) -> Result:
    """Train heads on stored embeddings and test them beside zero-shot: the numbers of `fastclip probe`.

    Embeds no image, and fits on the CPU by NumPy. Settings are chosen on a part of the training images.

        result = fastclip.probe(["pacs/photo", "pacs/cartoon"], "pacs/sketch", "RN50", ["logistic", "knn"])
        result.table(), result.compare(to="zero-shot"), result.fits()

    train, test     DATASET or DATASET/DOMAIN, one or several
    backbones       as for `evaluate`
    head            logistic, text-logistic, ridge, knn, prototype, tip or wise, one or several
    leave_one_out   test each domain after training on all the others; split: train on this share of the images, by hash
    shots, seeds    train on so many images a class, one number or several, in draws 1 to `seeds` (3)
    strength        of the penalty, λ = 1/C on unit vectors; by default it is chosen
    on_step         called after each step of the fits, in threads of fastclip

    Raises `UserError` for what does not go together, and `IncompleteError` for embeddings that are missing.
    """
    with border():
        from fastclip.api.scored import scored
        from fastclip.evaluate.options import EvalOptions
        from fastclip.transfer.probe import plan_probe
        from fastclip.transfer.run import run

        options = EvalOptions(
            targets=names_of(train), backbones=names_of(backbones), prompts=names_of(prompts), precision=precision,
            decoder=decoder, recipes=names_of(recipes), shards=str(shards), store=Path(store), unreadable=unreadable,
        )  # fmt: skip
        plan = plan_probe(
            options,
            names_of(test),
            names_of(head),
            leave_one_out=leave_one_out,
            split=split,
            shots=(shots,) if isinstance(shots, int) else tuple(shots),
            seeds=seeds,
            strength=strength,
        )
        outcome = run(plan, on_step or (lambda: None))
        return Result([scored("probe", outcome.evaluation, outcome.answers)])
