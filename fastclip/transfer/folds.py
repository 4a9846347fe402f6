"""Folds: which domains train and which are tested, and a check that the two may meet."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from fastclip.data.shards.targets import Target
from fastclip.errors import UserError


@dataclass(frozen=True)
class Place:
    """A domain of a dataset."""

    dataset: str
    domain: str

    def __str__(self) -> str:
        return f"{self.dataset}/{self.domain}"


@dataclass(frozen=True)
class Fold:
    """Domains that train and domains that are tested."""

    train: tuple[Place, ...]
    test: tuple[Place, ...]

    @property
    def name(self) -> str:
        """The training domains in a few words, with their datasets where these are several."""
        several = len({each.dataset for each in (*self.train, *self.test)}) > 1
        return " + ".join(str(each) if several else each.domain for each in self.train)


def places(targets: Iterable[Target], names: Sequence[str]) -> tuple[Place, ...]:
    """The domains that DATASET or DATASET/DOMAIN name, in the order of the names and of the manifests."""
    found: dict[Place, None] = {}
    by_name = {target.name: target for target in targets}
    for name in names:
        dataset, _, domain = name.partition("/")
        known = [each.name for each in by_name[dataset].manifest.domains]
        found |= dict.fromkeys(Place(dataset, each) for each in known if domain in ("", each))
    return tuple(found)


def probe_folds(
    train: Sequence[Place], test: Sequence[Place], *, leave_one_out: bool, split: float | None
) -> tuple[Fold, ...]:
    """The folds of a probe. Raises `UserError` for a domain that is both trained and tested without a split."""
    if leave_one_out:
        if test or split is not None:
            option = "--test" if test else "--split"
            raise UserError(
                f"--leave-one-out tests every domain by itself, so {option} has no place.", fix=f"Leave out {option}."
            )
        if len(train) < 2:
            raise UserError("--leave-one-out needs two domains.", fix="fastclip probe DATASET --leave-one-out …")
        return tuple(Fold(tuple(each for each in train if each != left), (left,)) for left in train)
    both = [str(each) for each in test if each in train]
    if split is None and not test:
        raise UserError(
            "No domain is tested.", fix="--test DATASET/DOMAIN, --leave-one-out, or --split 0.8 to test the rest"
        )
    if split is None and both:
        raise UserError(
            f"{both[0]} is trained and tested.", fix="Leave out one of them, or --split 0.8 to train on a part of it"
        )
    if split is not None and not 0 < split < 1:
        raise UserError(f"--split is a share between 0 and 1, not {split:g}.", fix="--split 0.8")
    return (Fold(tuple(train), tuple(test) or tuple(train)),)


def adapt_folds(sources: Sequence[Place], targets: Sequence[Place], *, all_pairs: bool) -> tuple[Fold, ...]:
    """The folds of an adaptation: the sources together to each target, or every ordered pair of domains."""
    if all_pairs:
        if targets:
            raise UserError("--all-pairs names every target itself, so --to has no place.", fix="Leave out --to.")
        if len(sources) < 2:
            raise UserError("--all-pairs needs two domains.", fix="fastclip adapt DATASET --all-pairs …")
        return tuple(Fold((source,), (target,)) for source in sources for target in sources if source != target)
    if not targets:
        raise UserError("No target is named.", fix="--to DATASET/DOMAIN, or --all-pairs")
    if both := [str(each) for each in targets if each in sources]:
        raise UserError(f"{both[0]} is source and target.", fix="Leave out one of them.")
    return tuple(Fold(tuple(sources), (target,)) for target in targets)


def check_classes(targets: Sequence[Target]) -> None:
    """Raise `UserError` unless all datasets have the same classes in the same order."""
    first = targets[0]
    for other in targets[1:]:
        ours, theirs = first.manifest.classes, other.manifest.classes
        if ours != theirs:
            only = sorted(set(ours) ^ set(theirs))
            difference = (
                f"only {first.name if only[0] in ours else other.name} has {only[0]!r}"
                if only
                else "the order is another one"
            )
            raise UserError(
                f"{first.name} has {len(ours)} classes and {other.name} {len(theirs)}, and they differ: {difference}.",
                fix="Train and test on datasets whose class folders are the same.",
            )
