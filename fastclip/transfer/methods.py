"""The heads and the methods of adaptation by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastclip.adapt.methods import METHODS
from fastclip.adapt.zero_shot import WithoutSource
from fastclip.errors import UserError
from fastclip.heads.class_means import ClassMeans
from fastclip.heads.logistic import Logistic
from fastclip.heads.method import Method
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.ridge import Ridge
from fastclip.heads.tip import Tip
from fastclip.heads.wise import Wise
from fastclip.transfer.fitting import Inputs, Job
from fastclip.transfer.folds import Fold

LABELS = Inputs()
LABELS_AND_TEXT = Inputs(text=True)
LABELS_AND_TARGET = Inputs(target=True)
TEXT_AND_TARGET = Inputs(source=False, text=True, target=True)


@dataclass(frozen=True)
class Known:
    """A method: how it is made, and what it needs. `make` takes the strength of a penalty, if it has one."""

    make: Callable[[float], Method]
    inputs: Inputs = LABELS
    penalised: bool = False
    """Whether a given strength leaves no setting to choose."""
    free: bool = False
    """Whether it has no setting."""

    def job(
        self, name: str, fold: Fold, strength: float | None, shots: int | None = None, seed: int | None = None
    ) -> Job:
        """The fit on a fold, under the `name` that cells have. A `strength` of None is chosen."""
        return Job(
            name=name,
            fold=fold,
            method=self.make(1.0 if strength is None else strength),
            inputs=self.inputs,
            fixed=self.free or (self.penalised and strength is not None),
            shots=shots,
            seed=seed,
        )


HEADS: Mapping[str, Known] = {
    "logistic": Known(Logistic, penalised=True),
    "text-logistic": Known(lambda strength: Logistic(strength, to_text=True), LABELS_AND_TEXT, penalised=True),
    "ridge": Known(Ridge, penalised=True),
    "knn": Known(lambda _: Neighbours()),
    "prototype": Known(lambda _: ClassMeans(), free=True),
    "tip": Known(lambda _: Tip(), LABELS_AND_TEXT),
    "wise": Known(lambda strength: Wise(Logistic(strength)), LABELS_AND_TEXT),
}


def _adaptation(make: Callable[[Method], Method]) -> Known:
    if isinstance(make(Logistic()), WithoutSource):
        return Known(lambda _: make(Logistic()), TEXT_AND_TARGET, free=True)
    return Known(lambda strength: make(Logistic(strength)), LABELS_AND_TARGET, penalised=True)


ADAPTATIONS: Mapping[str, Known] = {name: _adaptation(make) for name, make in METHODS.items()}


def find_heads(names: Sequence[str]) -> dict[str, Known]:
    """The heads of these names. Raises `UserError` for an unknown one."""
    return {name: _find(HEADS, "--head", name) for name in names}


def probe_jobs(
    known: Mapping[str, Known], folds: Sequence[Fold], shots: Sequence[int], seeds: int, strength: float | None
) -> tuple[Job, ...]:
    """A job for every fold, head, number of shots and seed. `strength` fixes the settings of penalised heads."""
    if not shots:
        return tuple(each.job(name, fold, strength) for fold in folds for name, each in known.items())
    return tuple(
        each.job(f"{name}, {number} shot{'s' * (number > 1)}, seed {seed}", fold, strength, number, seed)
        for fold in folds
        for name, each in known.items()
        for number in shots
        for seed in range(1, seeds + 1)
    )


def adapt_jobs(names: Sequence[str], folds: Sequence[Fold], strength: float | None) -> tuple[Job, ...]:
    """For every fold the classifier of the source alone, then each method, all with the same settings.

    Names say which domains trained: several folds test the same one. Raises `UserError` for an unknown method.
    """
    known = {"source only": HEADS["logistic"], **{name: _find(ADAPTATIONS, "--method", name) for name in names}}
    return tuple(each.job(f"{name} from {fold.name}", fold, strength) for fold in folds for name, each in known.items())


def _find(known: Mapping[str, Known], option: str, name: str) -> Known:
    if name not in known:
        raise UserError(f"{option} does not know {name!r}.", fix=f"{option} {' | '.join(known)}")
    return known[name]
