"""Puts foreign WebDataset shards together: all there, each key once, and each label the number of a class."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from fastclip.data.shards.manifest import CLASS_NAMES, SHARD_COUNT
from fastclip.data.sources.samples import Sample, SourceShard, read_samples
from fastclip.errors import UserError


@dataclass(frozen=True)
class LabelledShards:
    """Shards that fit together."""

    shards: Sequence[SourceShard]
    samples: Sequence[Sequence[Sample]]
    """Of each shard."""
    labels: Sequence[Sequence[int]]
    """Of each sample of each shard: positions in `names`."""
    names: tuple[str, ...]
    """Classes in the order of their numbers."""


def read_labelled(source: Path, shards: Sequence[SourceShard]) -> LabelledShards:
    """The samples of `shards` and their labels as numbers. Raises `UserError` where they do not fit together."""
    _check_numbers(source, shards)
    samples = [read_samples(shard) for shard in shards]
    _check_keys(shards, samples)
    names = _class_names(source, shards, samples)
    number_of = {name: number for number, name in enumerate(names)}
    labels = [
        [_class_number(sample, number_of, shard) for sample in found]
        for shard, found in zip(shards, samples, strict=True)
    ]
    return LabelledShards(shards, samples, labels, names)


def _check_numbers(source: Path, shards: Sequence[SourceShard]) -> None:
    """Raise `UserError` if the numbers of a folder's shards leave a hole, or are not as many as nshards.txt says."""
    for split in sorted({shard.split for shard in shards}):
        stems = [shard.path.name.partition(".")[0] for shard in shards if shard.split == split]
        file = source / split / SHARD_COUNT
        if file.is_file():
            text = file.read_text("utf-8-sig", "replace").strip()
            if not re.fullmatch(r"[0-9]{1,9}", text):
                raise UserError(f"{file} says {text[:40]!r}, not a number.", fix=f"echo {len(stems)} > {file}")
            expected = range(int(text))
        elif all(stem.isdecimal() for stem in stems):
            expected = range(min(map(int, stems)), max(map(int, stems)) + 1)
        else:
            continue
        numbers = Counter(int(stem) if stem.isdecimal() else -1 for stem in stems)
        if missing := list(islice((number for number in expected if number not in numbers), 5)):
            names = ", ".join(f"{number}.tar" for number in missing)
            raise UserError(
                f"{source / split} lacks {names}: shards are numbered without holes.",
                fix="Get what is missing; a part of a dataset gives other numbers than the whole.",
            )
        if sum(numbers.values()) != len(numbers) or (extra := {number for number in numbers if number not in expected}):
            name = next(
                stem for stem in stems if numbers[int(stem) if stem.isdecimal() else -1] > 1 or int(stem) in extra
            )
            raise UserError(
                f"{source / split} holds {name}.tar, which is not one of its {len(expected)} shards.",
                fix="Move it away.",
            )


def _check_keys(shards: Sequence[SourceShard], samples: Sequence[Sequence[Sample]]) -> None:
    """Raise `UserError` if two shards of a folder have an image with the same key."""
    first: dict[tuple[str, str], str] = {}
    for shard, found in zip(shards, samples, strict=True):
        for sample in found:
            earlier = first.setdefault((shard.split, sample.key), shard.name)
            if earlier != shard.name:
                raise UserError(
                    f"The key {sample.key!r} stands in {earlier} and in {shard.name}.",
                    fix="Is one shard there twice? Otherwise write them again with a key of its own for every image.",
                )


def _read_classnames(path: Path) -> tuple[str, ...]:
    """The class names in a file, one a line, in label order.

    A byte-order mark, Windows' line ends and blank lines at the end are no part of the names. Raises `UserError` for a
    blank line between them and a name that stands twice.
    """
    try:
        lines = [line.strip() for line in path.read_bytes().decode("utf-8-sig").rstrip().split("\n")]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8: {error}.", fix="Save it as UTF-8, a class's name a line.") from None
    if lines == [""]:
        raise UserError(f"{path} is empty.", fix="Write a class's name a line, in the order of their numbers.")
    if "" in lines:
        raise UserError(
            f"{path} has a blank line {lines.index('') + 1}: every class after it would be numbered wrongly.",
            fix="Remove the line, or write the class's name there.",
        )
    if repeated := [name for name, count in Counter(lines).items() if count > 1]:
        rows = [number + 1 for number, line in enumerate(lines) if line == repeated[0]]
        raise UserError(
            f"{path} has {repeated[0]!r} in lines {rows[0]} and {rows[1]}.",
            fix="Give the two classes different names: images of one could not be told from the other's.",
        )
    return tuple(lines)


def _class_names(source: Path, shards: Sequence[SourceShard], samples: Sequence[Sequence[Sample]]) -> tuple[str, ...]:
    """The classes in the order of their numbers: those of classnames.txt, or else the names in the shards, sorted."""
    file = (source if source.is_dir() else source.parent) / CLASS_NAMES
    if file.is_file():
        return _read_classnames(file)
    labels = [(shard, sample) for shard, found in zip(shards, samples, strict=True) for sample in found]
    for shard, sample in labels:
        if isinstance(sample.label, int):
            raise UserError(
                f"The labels are numbers ({shard.name}, {sample.key!r}: {sample.label}), and there is no {file} that "
                "says which classes they mean.",
                fix=f"Write {CLASS_NAMES}: a class's name a line, in the order of their numbers.",
            )
    return tuple(sorted({str(sample.label) for _, sample in labels}))


def _class_number(sample: Sample, number_of: Mapping[str, int], shard: SourceShard) -> int:
    """The number of a sample's class. Raises `UserError` if there is no such class."""
    if isinstance(sample.label, str):
        if sample.label in number_of:
            return number_of[sample.label]
        raise UserError(
            f"{shard.name}: {sample.key!r} is of the class {sample.label!r}, which {CLASS_NAMES} does not have.",
            fix="Add the class, or correct the label.",
        )
    if sample.label >= len(number_of):
        raise UserError(
            f"{shard.name}: the label of {sample.key!r} is {sample.label}, {CLASS_NAMES} has {len(number_of)} classes "
            f"(0 to {len(number_of) - 1}).",
            fix="Give the list of classes that belongs to these shards.",
        )
    return sample.label
