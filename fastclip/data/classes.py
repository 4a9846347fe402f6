"""Which class is meant: by a folder's name, by a name in a list, and in the order of a card or of the source."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastclip.data.catalogue import DatasetCard, readable_name, same_name
from fastclip.errors import UserError


class ClassFinder:
    """Finds the label of a card's class by any of its spellings: folder, aliases, readable name."""

    def __init__(self, card: DatasetCard) -> None:
        self._folders: dict[str, int] = {}
        found: dict[str, set[int]] = {}
        for label, (folder, name) in enumerate(zip(card.classes, card.names, strict=True)):
            spellings = (folder, *card.aliases.get(folder, ()))
            self._folders |= dict.fromkeys(spellings, label)
            for spelling in (name, *spellings):
                found.setdefault(same_name(spelling), set()).add(label)
        self._names = {spelling: labels.pop() for spelling, labels in found.items() if len(labels) == 1}

    def of_name(self, name: str) -> int | None:
        """The label of the one class that goes by `name`, whatever its case, blanks and underscores; else None."""
        return self._names.get(same_name(name))

    def of_folder(self, folder: str) -> int | None:
        """As `of_name`, but a folder that is spelt as on the card is that class, whatever else goes by this name."""
        label = self._folders.get(folder)
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
            folders = tuple(name.replace("/", "_") for name in listed)
            if len(set(folders)) != len(folders):
                name = next(name for name, folder in zip(listed, folders, strict=True) if folders.count(folder) > 1)
                raise UserError(f"{where} has two classes that differ in a slash: {name!r}.", fix="Rename one.")
            return cls(folders, tuple(map(readable_name, listed)), tuple(range(len(listed))))
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
            if taken.setdefault(label, name) != name:
                raise UserError(f"{where} has two names of one class: {taken[label]!r}, {name!r}.", fix="Remove one.")
            labels.append(label)
        return cls(card.classes, card.names, tuple(labels))


def class_path(folder: str, member: str) -> str:
    """CLASS/FILE of an archive's member: the folders in its name keep files of one name apart."""
    return member if member.startswith(f"{folder}/") else f"{folder}/{member}"
