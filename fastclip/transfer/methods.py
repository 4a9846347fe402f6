"""The heads and the methods of adaptation by their names on the command line."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

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
from fastclip.transfer.folds import Fold
from fastclip.transfer.jobs import Inputs, Job

LABELS = Inputs()
LABELS_AND_TEXT = Inputs(text=True)
LABELS_AND_TARGET = Inputs(target=True)
TEXT_AND_TARGET = Inputs(source=False, text=True, target=True)


@dataclass(frozen=True)
class Known:
    """A method: how it is made, and the data that it is given."""

    make: Callable[[float | None], Method]
    """Makes it with the strength of its penalty, if it has one and it is given."""
    inputs: Inputs = LABELS

    def job(
        self, name: str, fold: Fold, strength: float | None, shots: int | None = None, seed: int | None = None
    ) -> Job:
        """The fit on a fold, under the `name` that cells have. A `strength` of None is chosen."""
        method = self.make(strength)
        given = set() if strength is None else {"strength"}
        fixed = method.settings.keys() <= given
        return Job(name=name, fold=fold, method=method, inputs=self.inputs, fixed=fixed, shots=shots, seed=seed)


def _logistic(strength: float | None, *, to_text: bool = False) -> Logistic:
    return Logistic(to_text=to_text) if strength is None else Logistic(strength, to_text)


HEADS: Mapping[str, Known] = {
    "logistic": Known(_logistic),
    "text-logistic": Known(partial(_logistic, to_text=True), LABELS_AND_TEXT),
    "ridge": Known(lambda strength: Ridge() if strength is None else Ridge(strength)),
    "knn": Known(lambda _: Neighbours()),
    "prototype": Known(lambda _: ClassMeans()),
    "tip": Known(lambda _: Tip(), LABELS_AND_TEXT),
    "wise": Known(lambda strength: Wise(_logistic(strength), given=strength is not None), LABELS_AND_TEXT),
}


def _adaptation(make: Callable[[Method], Method]) -> Known:
    without_source = isinstance(make(Logistic()), WithoutSource)
    return Known(lambda strength: make(_logistic(strength)), TEXT_AND_TARGET if without_source else LABELS_AND_TARGET)


ADAPTATIONS: Mapping[str, Known] = {name: _adaptation(make) for name, make in METHODS.items()}


def find_heads(names: Sequence[str]) -> dict[str, Known]:
    """The heads of these names. Raises `UserError` for an unknown one."""
    return {name: _find(HEADS, "--head", name) for name in names}


def probe_jobs(
    known: Mapping[str, Known], folds: Sequence[Fold], shots: Sequence[int], seeds: int, strength: float | None
) -> tuple[Job, ...]:
    """A job for every fold, head, number of shots and seed. `strength` is that of every penalty."""
    if strength is not None and not any("strength" in each.make(strength).settings for each in known.values()):
        raise UserError(f"--strength is a penalty's, and {' and '.join(known)} has none.", fix="Leave out --strength.")
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
