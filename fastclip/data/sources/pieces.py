"""Groups the files of a source that are pieces of one whole, says what each group is called, and that none is missing.

train-00000-of-00002.parquet, test-00000.tar     pieces of the splits `train` and `test`
train/0000.parquet, photo/0.tar                  pieces of what their folder is called
320px/train/0.tar, full_size/train/0.tar         two groups, `320px-train` and `full_size-train`
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from fastclip.data.sources.splits import WORDS
from fastclip.data.sources.walk import folders, is_file
from fastclip.errors import UserError

NO_NAMES = frozenset(("", "part", "shard", "data", "chunk", "file", "batch"))
"""Words before numbers that say nothing about what is in a file."""

_TAIL = re.compile(r"(-[0-9a-f]{16}|-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(-c[0-9]+)?)$")
"""Hashes that `datasets` and Spark append."""
_OF = re.compile(r"(?P<before>.*?)(?P<number>[0-9]+)[-_]of[-_](?P<count>[0-9]+)$")
_NUMBER = re.compile(r"[0-9]+(?![0-9A-Za-z])")
_COPY = re.compile(r"( ?\([0-9]+\)| - copy( \([0-9]+\))?| copy( [0-9]+)?)$", re.IGNORECASE)
"""Endings that browsers, Windows and macOS give the name of a second copy."""
_EXTENSIONS = re.compile(r"(\.(tar|gz|tgz|parquet|snappy|zstd|zst|gzip|lz4|brotli))+$", re.IGNORECASE)

Group = tuple[tuple[str, ...], str, str]
"""Folders, prefix and suffix: the same for all pieces of one whole."""

MAX_NAMED = 5
"""Missing files that are named."""


@dataclass(frozen=True)
class Piece:
    """A file by its name: PREFIX, NUMBER and SUFFIX in a folder of the source."""

    path: Path
    folders: tuple[str, ...]
    """Below the source."""
    prefix: str
    number: str
    """As it is written; empty if there is none."""
    suffix: str
    count: int | None = None
    """How many there are, as the name says."""

    @property
    def group(self) -> Group:
        """The same for all pieces of one whole."""
        return self.folders, self.prefix, self.suffix

    @property
    def word(self) -> str:
        """The name without its number; empty if that says nothing."""
        word = f"{self.prefix} {self.suffix}".strip(" -_.")
        return "" if word.casefold() in NO_NAMES else word


def find_files(source: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files below `source` with such names, in the order of their folders and numbers; through links to folders.

    Hidden files and folders are left out, and links to a folder above. Raises `UserError` for a link to nowhere.
    """
    if not source.is_dir():
        return [source] if is_file(source) and source.name.lower().endswith(suffixes) else []
    found = []
    for folder, subfolders, names in folders(source):
        here = Path(folder)
        subfolders[:] = [name for name in subfolders if not name.startswith(".") and not _leads_up(here / name)]
        found += [here / name for name in names if name.lower().endswith(suffixes) and not name.startswith(".")]
    if lost := [path for path in found if not is_file(path)]:
        raise UserError(f"{lost[0]} is a link to nowhere.", fix="Get the file that it links to, or remove the link.")
    return sorted(found, key=lambda path: (path.parent, [int(n) for n in re.findall("[0-9]+", path.name)], path))


def _leads_up(folder: Path) -> bool:
    return folder.is_symlink() and folder.resolve() in {each.resolve() for each in folder.parents}


def pieces(source: Path, paths: Sequence[Path]) -> list[Piece]:
    """The pieces at `paths`. A number right behind a letter counts only if another file has the same letters.

    Raises `UserError` for a second copy of a file: its images would count twice.
    """
    names = {path.with_name(_EXTENSIONS.sub("", path.name)): path for path in paths}
    for name, path in names.items():
        original = names.get(name.with_name(_COPY.sub("", name.name) or name.name), path)
        if original != path:
            raise UserError(f"{path} looks like a second copy of {original.name}.", fix="Move one of them away.")
    root = source if source.is_dir() else source.parent
    found = [_piece(path, path.relative_to(root).parts[:-1]) for path in paths]
    sizes = Counter(piece.group for piece in found)
    return [
        replace(piece, prefix=f"{piece.prefix}{piece.number}{piece.suffix}", number="", suffix="")
        if piece.prefix[-1:].isalpha() and sizes[piece.group] == 1 and not piece.number.startswith("0")
        else piece
        for piece in found
    ]


def _piece(path: Path, folders: tuple[str, ...]) -> Piece:
    name = _TAIL.sub("", _EXTENSIONS.sub("", path.name))
    if match := _OF.match(name):
        return Piece(path, folders, match["before"], match["number"], "", int(match["count"]))
    numbers = list(_NUMBER.finditer(name))
    if not numbers:
        return Piece(path, folders, name, "", "")
    padded = [each for each in numbers if re.match("0[0-9]{2}", each[0])]
    number = (padded or numbers)[-1]
    return Piece(path, folders, name[: number.start()], number[0], name[number.end() :])


def check_whole(group: Sequence[Piece], count: int | None = None, *, from_one: bool = False) -> None:
    """Raise `UserError` if a number is missing among the pieces of a group, stands twice or is one too many.

    They begin at 0; at 1 if they may (`from_one`), or if the number of the last one is that of all. `count` is how many
    there are. Without it, and without a count in the names, a loss at the end cannot be seen.
    """
    first = group[0]
    if not first.number and count is None and len(group) == 1:
        return
    place, total = first.path.parent, count if count is not None else first.count
    numbers = [int(piece.number) if piece.number else -1 for piece in group]
    start = int(0 not in numbers and (from_one if total is None else total in numbers))
    expected = range(start, start + total if total is not None else max(numbers) + 1)
    present = set(numbers)
    if missing := list(islice((number for number in expected if number not in present), MAX_NAMED)):
        names = ", ".join(_name(first, number) for number in missing)
        alone = len(group) == 1 and total is None
        cure = "Get what is missing; a part of a dataset gives other numbers than the whole."
        if missing == [0]:
            cure = "Get what is missing; or, if they begin at 1, rename them to begin at 0."
        if alone:
            cure = f"Get what is missing, or rename {first.path.name} if its number counts nothing."
        raise UserError(f"{place} lacks {names}: shards are numbered without holes, from 0 on.", fix=cure)
    times = Counter(numbers)
    odd = [piece for piece, n in zip(group, numbers, strict=True) if times[n] > 1 or n not in expected]
    odd = odd or [piece for piece in group if piece.count != first.count]
    if odd:
        raise UserError(
            f"{place} holds {odd[0].path.name}, which is not one of its {len(expected):,} shards.", fix="Move it away."
        )


def _name(piece: Piece, number: int) -> str:
    """The name of the file in the place of `piece` that has `number`."""
    start, end = len(piece.prefix), len(piece.prefix) + len(piece.number)
    digits = str(number).zfill(len(piece.number) if piece.number.startswith("0") else 0)
    return f"{piece.path.name[:start]}{digits}{piece.path.name[end:]}"


def grouped(found: Iterable[Piece]) -> list[list[Piece]]:
    """The pieces of each whole, in their order."""
    groups: dict[Group, list[Piece]] = {}
    for piece in found:
        groups.setdefault(piece.group, []).append(piece)
    return list(groups.values())


def group_names(groups: Iterable[Sequence[Piece]], *, by_file: bool) -> dict[Group, str]:
    """Group → its name: that of its split, after the folders in which groups differ. No two groups have the same name.

    The split is the last folder, or stands in the names of the files: always if `by_file`, else if a folder has
    several groups or is the source itself. The name is empty where nothing says one. Raises `UserError` for groups that
    would share a name, and for a group in a folder that holds other groups.
    """
    beside: dict[tuple[str, ...], list[Piece]] = {}
    firsts = [group[0] for group in groups]
    for first in firsts:
        beside.setdefault(first.folders, []).append(first)
    places: dict[tuple[str, ...], Piece] = {}
    for first in firsts:
        place = _place(first, beside[first.folders], by_file)
        _take(places, place, first)
    for place, first in places.items():
        for depth in range(len(place)):
            if place[:depth] in places:
                raise _mixed(places[place[:depth]], first)
    shallowest = min(map(len, places))
    same = {i for i in range(shallowest - 1) if len({place[i] for place in places}) == 1}
    named: dict[tuple[str, ...], Piece] = {}
    for place, first in places.items():
        name = "-".join(part for i, part in enumerate(place) if i not in same or i == len(place) - 1)
        _take(named, (name,), first)
    return {first.group: name for (name,), first in named.items()}


def _place(first: Piece, here: Sequence[Piece], by_file: bool) -> tuple[str, ...]:
    """The folders of a group, and what the names of its files say if that must be said."""
    needed = by_file or len(here) > 1 or (not first.folders and bool(_split(first)))
    if not needed or not first.word:
        return first.folders
    splits = [_split(each) for each in here]
    tells = all(splits) and len(set(splits)) == len(splits)
    return (*first.folders, _split(first) if tells else first.word)


def _split(piece: Piece) -> str:
    """The one split that a file's name speaks of; empty if it speaks of none or several."""
    found = [each for each in re.split("[^A-Za-z]+", piece.word) if each.casefold() in WORDS]
    return found[0] if len(found) == 1 else ""


def _take(taken: dict[tuple[str, ...], Piece], name: tuple[str, ...], first: Piece) -> None:
    if name in taken:
        raise _mixed(taken[name], first)
    taken[name] = first


def _mixed(one: Piece, other: Piece) -> UserError:
    return UserError(
        f"{one.path} and {other.path} belong to two sets, and their names do not say to which.",
        fix="Point --source at one of them, or put each set into a folder of its own.",
    )
