"""Which class is meant: by a folder's name, by a name in a list, and in the order of a card or of the source."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from fastclip.data.catalogue import DatasetCard, readable_name, same_name
from fastclip.errors import UserError

HEADERS = frozenset(
    (
        *("class", "classes", "classname", "classnames", "name", "names", "label", "labels"),
        *("category", "categories", "index", "id", "idx"),
    )
)
"""The words of a first line in a class list that is no class."""

NO_LABEL = "-1"
"""The label that stands for none, in test sets whose labels are kept back."""


def one_form(name: str) -> str:
    """`name` with one code for each letter (NFC): macOS writes `é` as two, and it is the same name."""
    return unicodedata.normalize("NFC", name)


class ClassFinder:
    """Finds the label of a card's class by any of its spellings: folder, aliases, readable name."""

    def __init__(self, card: DatasetCard) -> None:
        self._folders: dict[str, int] = {}
        found: dict[str, set[int]] = {}
        for label, (folder, name) in enumerate(zip(card.classes, card.names, strict=True)):
            spellings = (folder, *card.aliases.get(folder, ()))
            self._folders |= dict.fromkeys(map(one_form, spellings), label)
            for spelling in (name, *spellings):
                found.setdefault(same_name(spelling), set()).add(label)
        self._names = {spelling: labels.pop() for spelling, labels in found.items() if len(labels) == 1}

    def of_name(self, name: str) -> int | None:
        """The label of the one class that goes by `name`, whatever its case, blanks and underscores; else None."""
        return self._names.get(same_name(name))

    def of_folder(self, folder: str) -> int | None:
        """As `of_name`, but a folder that is spelt as on the card is that class, whatever else goes by this name."""
        label = self._folders.get(one_form(folder))
        return label if label is not None else self.of_name(folder)


@dataclass(frozen=True)
class Classes:
    """Classes of a listing, and which of them the source's classes are."""

    classes: tuple[str, ...]
    names: tuple[str, ...]
    labels: tuple[int, ...]
    """Position in the source's list → label."""

    @classmethod
    def make(cls, listed: Sequence[str], card: DatasetCard | None, where: str) -> Classes:
        """The card's classes by name; without a card the listed ones. Raises `UserError` for a name without a class."""
        if card is None:
            return cls(_folders(listed), tuple(map(readable_name, listed)), tuple(range(len(listed))))
        if tuple(map(readable_name, listed)) == card.names:  # then two classes may share a name
            return cls(card.classes, card.names, tuple(range(len(listed))))
        finder = ClassFinder(card)
        labels: list[int] = []
        taken: dict[int, str] = {}
        for name in listed:
            label = finder.of_name(name)
            if label is None:
                raise UserError(
                    f"{where} has the class {name!r}, which is none of {card.title}.",
                    fix="Shard under another NAME to take the classes as they are.",
                )
            if label in taken:
                raise UserError(f"{where} has two names of one class: {taken[label]!r}, {name!r}.", fix="Remove one.")
            taken[label] = name
            labels.append(label)
        return cls(card.classes, card.names, tuple(labels))


def _folders(listed: Sequence[str]) -> tuple[str, ...]:
    """A folder's name for each listed class: its own, or with a number where another class has it."""
    folders: dict[str, None] = {}
    known = set(listed)
    for name in listed:
        plain = name.replace("/", "_")
        number = 2
        folder = plain
        while folder in folders or (folder != plain and folder in known):
            folder, number = f"{plain} ({number})", number + 1
        folders[folder] = None
    return tuple(folders)


def class_path(folder: str, member: str) -> str:
    """CLASS/FILE of an archive's member: the folders in its name keep files of one name apart."""
    return member if member.startswith(f"{folder}/") else f"{folder}/{member}"


def check_numbers(names: Sequence[str], used: Collection[int], card: DatasetCard | None, where: str) -> None:
    """Raise `UserError` if the labels that are `used` look shifted against the listed `names`.

    They begin at 1, or the list begins with a header. With a card, the classes are what it says.
    """
    unused = [label for label in range(len(names)) if label not in used]
    if card or not unused:
        return
    if unused == [0]:
        raise UserError(
            f"No label is 0, all from 1 to {len(names) - 1} are used: labels seem to begin at 1, where {where} begins "
            f"at 0 ({names[0]}).",
            fix=f"Correct the labels; or, if {names[0]} has no image, list the classes in a card (shards/README.md).",
        )
    if set(re.findall(r"[^\W\d_]+", names[0].casefold())) <= HEADERS:
        raise UserError(
            f"{where} begins with {names[0]!r}, which reads as a header, and {names[unused[0]]!r} has no image: labels "
            "seem to be shifted by a line.",
            fix=f"Remove the line {names[0]!r}; or, if it is a class, list the classes in a card (shards/README.md).",
        )
