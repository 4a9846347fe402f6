"""Puts foreign WebDataset shards together: all there, each key once, and each label the number of a class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fastclip.data.catalogue import DatasetCard
from fastclip.data.classes import check_numbers, one_form
from fastclip.data.shards.manifest import CLASS_NAMES, SHARD_COUNT, Rejected
from fastclip.data.sources.pieces import check_whole, group_names, grouped
from fastclip.data.sources.samples import Sample, SourceShard, other_members, read_samples
from fastclip.data.sources.walk import is_file
from fastclip.errors import UserError
from fastclip.faults import steadily


@dataclass(frozen=True)
class LabelledShards:
    """Shards that fit together."""

    shards: Sequence[SourceShard]
    splits: Sequence[str]
    """Of each shard: what its group is called; empty where nothing says."""
    samples: Sequence[Sequence[Sample]]
    """Of each shard, without those that have no label."""
    labels: Sequence[Sequence[int]]
    """Of each sample of each shard: positions in `names`."""
    names: tuple[str, ...]
    """Classes in the order of their numbers."""
    listed: bool
    """Whether a list gave the names, and not the labels themselves."""
    rejected: Sequence[Rejected]
    """Images without a label, and members that are neither images nor labels."""


def read_labelled(source: Path, shards: Sequence[SourceShard], card: DatasetCard | None) -> LabelledShards:
    """The samples of `shards` and their labels as numbers. Raises `UserError` where they do not fit together."""
    splits = _splits(shards)
    samples = [read_samples(shard) for shard in shards]
    _check_keys(shards, splits, samples)
    rejected = [*_without_label(shards, samples), *other_members(shards, samples)]
    samples = [[sample for sample in found if sample.label is not None] for found in samples]
    if not any(samples):
        raise UserError(f"No image in {source} has a label.", fix="Get the split that has labels.")
    names = _listed_names(source, shards)
    if names:
        labels = _class_numbers(shards, samples, names)
        check_numbers(names, {label for found in labels for label in found}, card, CLASS_NAMES)
        return LabelledShards(shards, splits, samples, labels, names, True, rejected)
    _check_names(source, shards, samples)
    names = tuple(sorted({str(sample.label) for found in samples for sample in found}))
    return LabelledShards(shards, splits, samples, _class_numbers(shards, samples, names), names, False, rejected)


def _splits(shards: Sequence[SourceShard]) -> list[str]:
    """The split of each shard. Raises `UserError` if the shards of one are not all there."""
    groups = grouped(shard.piece for shard in shards)
    in_folder = Counter(group[0].folders for group in groups)
    for group in groups:
        file = group[0].path.parent / SHARD_COUNT
        count = None
        if is_file(file):
            text = steadily(file.read_bytes, file).decode("utf-8-sig", "replace").strip()
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise UserError(f"{file} says {text[:40]!r}, not a number.", fix=f"echo {len(group)} > {file}")
            if in_folder[group[0].folders] > 1:
                other = next(each[0] for each in groups if each[0].folders == group[0].folders and each is not group)
                raise UserError(
                    f"{file} counts the shards of one set, and beside {group[0].path.name} lies {other.path.name}.",
                    fix="Put each set into a folder of its own.",
                )
            count = int(text)
        check_whole(group, count)
    names = group_names(groups, by_file=False)
    return [names[shard.piece.group] for shard in shards]


def _check_keys(shards: Sequence[SourceShard], splits: Sequence[str], samples: Sequence[Sequence[Sample]]) -> None:
    """Raise `UserError` if two shards of a split have an image with the same key."""
    first: dict[tuple[str, str], str] = {}
    for shard, split, found in zip(shards, splits, samples, strict=True):
        for sample in found:
            earlier = first.setdefault((split, sample.key), shard.name)
            if earlier != shard.name:
                raise UserError(
                    f"The key {sample.key!r} stands in {earlier} and in {shard.name}.",
                    fix="Is one shard there twice? Otherwise write them again with a key of its own for every image.",
                )


def _without_label(shards: Sequence[SourceShard], samples: Sequence[Sequence[Sample]]) -> Iterator[Rejected]:
    for shard, found in zip(shards, samples, strict=True):
        for sample in found:
            if sample.label is None:
                yield Rejected(path=f"{shard.name}/{sample.image.name}", reason="a row without a label")


def _read_classnames(path: Path) -> tuple[str, ...]:
    """The class names in a file, one a line, in label order.

    A byte-order mark, Windows' line ends and blank lines at the end are no part of the names. Raises `UserError` for a
    blank line between them, and for numbers before them.
    """
    try:
        text = steadily(path.read_bytes, path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}.", fix="Save it as UTF-8, a class's name a line.") from None
    lines = [one_form(line.strip()) for line in text.rstrip().split("\n")]
    if lines == [""]:
        raise UserError(f"{path} is empty.", fix="Write a class's name a line, in the order of their numbers.")
    if "" in lines:
        raise UserError(
            f"{path} has a blank line {lines.index('') + 1}: every class after it would be numbered wrongly.",
            fix="Remove the line, or write the class's name there.",
        )
    numbers = [int(match[1]) for line in lines if (match := re.match(r"([0-9]{1,9})[\t,:;]", line))]
    if numbers in (list(range(len(lines))), list(range(1, len(lines) + 1))):
        raise UserError(
            f"{path} has a number before each name ({lines[0]!r}).",
            fix="Write the names alone, in the order of the labels, which begin at 0.",
        )
    return tuple(lines)


def _listed_names(source: Path, shards: Sequence[SourceShard]) -> tuple[str, ...]:
    """The classes in the order of their numbers by the classnames.txt beside the shards or above; empty without one.

    Raises `UserError` if two such lists differ, or if one is not for all shards.
    """
    root = source if source.is_dir() else source.parent
    lists: dict[Path, tuple[str, ...]] = {}
    without = []
    for folder in dict.fromkeys(shard.path.parent for shard in shards):
        above = [each for each in (folder, *folder.parents) if each == root or root in each.parents]
        files = [each / CLASS_NAMES for each in above if is_file(each / CLASS_NAMES)]
        lists |= {file: _read_classnames(file) for file in files if file not in lists}
        without += [] if files else [folder]
    if len(set(lists.values())) > 1:
        one, other = next((a, b) for a in lists for b in lists if lists[a] != lists[b])
        raise UserError(f"{one} and {other} differ.", fix="Remove the list that does not belong to these shards.")
    if lists and without:
        raise UserError(
            f"{min(lists)} is not for {without[0]}: a list belongs to the shards beside it and below.",
            fix=f"If it is for all shards, move it to {root / CLASS_NAMES}.",
        )
    return next(iter(lists.values()), ())


def _check_names(source: Path, shards: Sequence[SourceShard], samples: Sequence[Sequence[Sample]]) -> None:
    """Raise `UserError` if a label is a number: without a list nothing says which class it means."""
    for shard, found in zip(shards, samples, strict=True):
        for sample in found:
            if isinstance(sample.label, int):
                raise UserError(
                    f"The labels are numbers ({shard.name}, {sample.key!r}: {sample.label}), and there is no "
                    f"{(source if source.is_dir() else source.parent) / CLASS_NAMES} that says which classes they "
                    "mean.",
                    fix=f"Write {CLASS_NAMES}: a class's name a line, in the order of their numbers.",
                )


def _class_numbers(
    shards: Sequence[SourceShard], samples: Sequence[Sequence[Sample]], names: Sequence[str]
) -> list[list[int]]:
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        numbers.setdefault(name, []).append(number)
    return [
        [_class_number(sample, numbers, len(names), shard) for sample in found]
        for shard, found in zip(shards, samples, strict=True)
    ]


def _class_number(sample: Sample, numbers: Mapping[str, Sequence[int]], classes: int, shard: SourceShard) -> int:
    """The number of a sample's class. Raises `UserError` if there is no such class, or if two have its name."""
    if isinstance(sample.label, int):
        if sample.label >= classes:
            begin = " Labels seem to begin at 1." if sample.label == classes else ""
            raise UserError(
                f"{shard.name}: the label of {sample.key!r} is {sample.label}, {CLASS_NAMES} has {classes} classes "
                f"(0 to {classes - 1}).{begin}",
                fix="Give the list of classes that belongs to these shards.",
            )
        return sample.label
    found = numbers.get(str(sample.label), ())
    if len(found) != 1:
        problem = f"which {CLASS_NAMES} has {len(found)} times" if found else f"which {CLASS_NAMES} does not have"
        raise UserError(
            f"{shard.name}: {sample.key!r} is of the class {sample.label!r}, {problem}.",
            fix="Add the class, or correct the label." if not found else "Label the images by numbers.",
        )
    return found[0]
