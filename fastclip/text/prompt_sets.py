"""Prompt sets: named lists of templates, or texts of each class's own.

`{}` in a template stands for a class's readable name, `{folder}` for its folder's name, or for the readable one where
the folder's is an id. Texts are taken as they are.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from fastclip.data.ids import nameless, words
from fastclip.errors import UserError, printable
from fastclip.files import canonical_json, digest

READABLE, FOLDER = "{}", "{folder}"

_SHOWN = 20
"""Classes that an error names."""


@dataclass(frozen=True)
class PromptSet:
    """Templates under a name, or texts of each class's own. A class's prototype is the mean direction of its prompts.

    Of `templates` and `texts` one is empty.
    """

    name: str
    templates: tuple[str, ...] = ()
    texts: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    """A class's folder or readable name → its prompts. As many as there are: classes need not have equally many."""
    selection: Mapping[str, Any] | None = field(default=None, hash=False)
    """How the set was chosen, if it was: at least `labels_used`, a truth value, and `selected_on`, a list of
    DATASET/DOMAIN."""

    @property
    def kind(self) -> str:
        """`templates` or `texts`."""
        return "texts" if self.texts else "templates"

    @cached_property
    def texts_sha256(self) -> str:
        """SHA-256 of the texts with the names of their classes; empty for templates."""
        return digest(canonical_json(self.texts)) if self.texts else ""

    @property
    def identity(self) -> tuple[str, ...]:
        """The templates, or a word with the digest of the texts: equal for equal prompts of equal classes."""
        return (f"texts, SHA-256 {self.texts_sha256}",) if self.texts else self.templates

    def prompts(self, folder: str, readable: str) -> list[str]:
        """The prompts of one class, in their order. Plain replacement: a template never runs as code."""
        if self.texts:
            key = self._key(folder, readable)
            assert key is not None, f"{self.name} has no texts for {folder}; `classes` says so"
            return list(self.texts[key])
        return [
            template.replace(FOLDER, folder) if FOLDER in template else template.replace(READABLE, readable)
            for template in self.templates
        ]

    def classes(self, folders: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """The (folder, readable) pairs that `prompts` is asked with. No folder that is an id gets into a prompt.

        Raises `UserError` if a class has no texts, or texts have no class.
        """
        if self.texts:
            self._check_classes(folders, names)
        uses_folders = any(FOLDER in template for template in self.templates)
        return tuple(zip(words(folders, names) if uses_folders else folders, names, strict=True))

    @cached_property
    def _by_plain_name(self) -> Mapping[str, str]:
        return {plain_name(key): key for key in self.texts}

    def _key(self, folder: str, readable: str) -> str | None:
        """The key of a class's texts: its folder's name before its readable one, never its place."""
        for name in (folder, readable):
            if (key := name if name in self.texts else self._by_plain_name.get(plain_name(name))) is not None:
                return key
        return None

    def _check_classes(self, folders: Sequence[str], names: Sequence[str]) -> None:
        of: dict[str, list[str]] = {}
        missing = []
        for folder, name in zip(folders, names, strict=True):
            key = self._key(folder, name)
            if key is None:
                missing.append(folder)
            else:
                of.setdefault(key, []).append(folder)
        if shared := next(((key, of_it) for key, of_it in of.items() if len(of_it) > 1), None):
            raise UserError(
                f"The prompt set {self.name} has one list of texts, {printable(shared[0])!r}, for "
                f"{len(shared[1])} classes: {_listed(shared[1])}.",
                fix="Give each of them a list under its folder's name.",
            )
        surplus = [key for key in self.texts if key not in of]
        if missing or surplus:
            parts = [f"no texts for {_counted(len(missing), 'class')} ({_listed(missing)})"] if missing else []
            if surplus:
                verb = "is" if len(surplus) == 1 else "are"
                parts.append(f"texts for {_counted(len(surplus), 'name')} that {verb} no class ({_listed(surplus)})")
            raise UserError(
                f"The prompt set {self.name} has {' and '.join(parts)}.",
                fix="Name each class in it by its folder or its readable name, and no others; case, _ and - do not "
                "matter.",
            )


def plain_name(name: str) -> str:
    """A class's name in the spelling by which texts find it: without case, underscores, hyphens and double blanks."""
    return " ".join(unicodedata.normalize("NFC", name).casefold().replace("_", " ").replace("-", " ").split())


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def _listed(names: Sequence[str]) -> str:
    return printable(", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""))


def check_names(dataset: str, folders: Sequence[str], names: Sequence[str], card: str) -> None:
    """Raise `UserError` for a class that has no name but an id. `card` is the file that can give it one."""
    if without := nameless(folders, names):
        shown = printable(", ".join(without[:3]) + (" …" if len(without) > 3 else ""))
        raise UserError(
            f"{dataset}: {len(without):,} of {len(folders):,} classes have ids for names ({shown}), and a prompt that "
            "is made of an id measures nothing.",
            fix=f"Name them in a card, {card} (shards/README.md shows one), and run the same command again: "
            f'[readable_names] "{printable(without[0])}" = "a word for it" …',
        )
