"""The methods by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from fastclip.adapt.methods import METHODS
from fastclip.errors import UserError
from fastclip.heads.class_means import ClassMeans
from fastclip.heads.logistic import Logistic
from fastclip.heads.method import Method
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.ridge import Ridge
from fastclip.heads.tip import Tip
from fastclip.heads.wise import Wise
from fastclip.transfer.fitting import Job
from fastclip.transfer.folds import Fold


@dataclass(frozen=True)
class Known:
    """A method: how it is made, and what it needs. `make` takes the strength of a penalty, if it has one."""

    make: Callable[[float], Method]
    text: bool = False
    penalised: bool = False
    free: bool = False
    """Whether it has no setting."""
    blended: bool = False
    """Whether a setting is left to be chosen where the strength of its penalty is given."""


HEADS: Mapping[str, Known] = {
    "logistic": Known(Logistic, penalised=True),
    "text-logistic": Known(lambda strength: Logistic(strength, to_text=True), text=True, penalised=True),
    "ridge": Known(Ridge, penalised=True),
    "knn": Known(lambda _: Neighbours()),
    "prototype": Known(lambda _: ClassMeans(), free=True),
    "tip": Known(lambda _: Tip(), text=True),
    "wise": Known(lambda strength: Wise(Logistic(strength)), text=True, penalised=True, blended=True),
}
OF_ZERO_SHOT = ("prior", "prototype")
"""Methods of adaptation that take prototypes and have no classifier."""


def find_heads(names: Sequence[str]) -> dict[str, Known]:
    """The heads of these names. Raises `UserError` for an unknown one."""
    return {name: _find(HEADS, "--head", name) for name in names}


def probe_jobs(
    known: Mapping[str, Known], folds: Sequence[Fold], shots: Sequence[int], seeds: int, strength: float | None
) -> tuple[Job, ...]:
    """A job for every fold, head, number of shots and seed. `strength` fixes the settings of penalised heads."""
    if strength is not None and not any(each.penalised for each in known.values()):
        raise UserError(f"--strength is a penalty's, and {' and '.join(known)} has none.", fix="Leave out --strength.")
    drawn: list[tuple[int | None, int | None]] = [(each, seed + 1) for each in shots for seed in range(seeds)]
    return tuple(
        Job(
            fold=fold,
            method=_made(each, strength),
            fixed=each.free or (each.penalised and strength is not None and not each.blended),
            text=each.text,
            shots=number,
            seed=seed,
        )
        for fold in folds
        for each in known.values()
        for number, seed in drawn or [(None, None)]
    )


def _made(known: Known, strength: float | None) -> Method:
    method = known.make(1.0 if strength is None else strength)
    return replace(method, given=strength is not None) if isinstance(method, Wise) else method


def adapt_jobs(names: Sequence[str], folds: Sequence[Fold], strength: float | None) -> tuple[Job, ...]:
    """For every fold the classifier of the source alone, then each method, all with the same settings.

    Raises `UserError` for an unknown method.
    """
    methods = {name: _find(METHODS, "--method", name) for name in names}
    classifier = Logistic(1.0 if strength is None else strength)
    jobs = []
    for fold in folds:
        source_only = Job(
            fold=fold, method=classifier, fixed=strength is not None, label="source only", names_source=True
        )
        jobs.append(source_only)
        for name, make in methods.items():
            zero_shots = name in OF_ZERO_SHOT
            jobs.append(
                replace(
                    source_only,
                    make=make,
                    fixed=source_only.fixed or zero_shots,
                    labels=not zero_shots,
                    text=zero_shots,
                    label=name,
                    transductive=True,
                )
            )
    return tuple(jobs)


Entry = TypeVar("Entry")


def _find(known: Mapping[str, Entry], option: str, name: str) -> Entry:
    if name not in known:
        raise UserError(f"{option} does not know {name!r}.", fix=f"{option} {' | '.join(known)}")
    return known[name]
