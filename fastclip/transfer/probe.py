"""The plan of a probe: which heads are fitted on which domains, and where each is tested."""

from __future__ import annotations

from dataclasses import replace

from fastclip.errors import UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.transfer.folds import places, probe_folds
from fastclip.transfer.methods import find_heads, probe_jobs
from fastclip.transfer.run import Plan, stored


def plan_probe(
    options: EvalOptions,
    test: tuple[str, ...],
    heads: tuple[str, ...],
    *,
    leave_one_out: bool,
    split: float | None,
    shots: tuple[int, ...],
    seeds: int | None,
    strength: float | None,
) -> Plan:
    """The plan of `heads` that are trained on the targets of `options`, and tested on those of `test`.

    Embeds nothing. Raises `UserError` for what does not go together, `IncompleteError` for missing embeddings.
    """
    if not options.targets:
        raise UserError(
            "No training domain is named.", fix="fastclip probe DATASET/DOMAIN --test DATASET/DOMAIN -b NAME"
        )
    if seeds is not None and not shots:
        raise UserError(
            "--seeds are draws of shots, and there are none.", fix="--shots 1,2,4,8,16, or leave out --seeds"
        )
    seeds = 3 if seeds is None else seeds
    if seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {seeds}.", fix="--seeds 3")
    known = find_heads(heads)
    setup = stored(replace(options, targets=(*options.targets, *test)))
    train = places(setup.targets, options.targets)
    folds = probe_folds(train, places(setup.targets, test), leave_one_out=leave_one_out, split=split)
    return Plan(setup=setup, folds=folds, jobs=probe_jobs(known, folds, shots, seeds, strength), split=split)
