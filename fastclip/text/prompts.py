"""Prompt sets: named lists of templates. `{}` in a template stands for a class's readable name, `{folder}` for its
folder's name, or for the readable one where the folder's is an id.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from fastclip.data.ids import nameless, words
from fastclip.errors import UserError, printable
from fastclip.faults import steadily

READABLE, FOLDER = "{}", "{folder}"


@dataclass(frozen=True)
class PromptSet:
    """Templates under a name. A class has one prompt for each; its prototype is the mean direction of its prompts."""

    name: str
    templates: tuple[str, ...]

    def prompts(self, folder: str, readable: str) -> list[str]:
        """The prompts of one class, in the order of the templates. Plain replacement: a template never runs as code."""
        return [
            template.replace(FOLDER, folder) if FOLDER in template else template.replace(READABLE, readable)
            for template in self.templates
        ]

    def classes(self, folders: Sequence[str], names: Sequence[str]) -> tuple[tuple[str, str], ...]:
        """The (folder, readable) pairs that `prompts` is asked with. No folder that is an id gets into a prompt."""
        uses_folders = any(FOLDER in template for template in self.templates)
        return tuple(zip(words(folders, names) if uses_folders else folders, names, strict=True))


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


BUILT_IN = ("transferlearning", "photo", "openai80")


def find_prompt_set(name: str) -> PromptSet:
    """The built-in set of this name, or the set in the user's file at this path.

    A file holds one template a line, or a JSON list of templates. Raises `UserError` for an unknown name, an empty
    file, or a template without exactly one placeholder.
    """
    if name == "transferlearning":
        # The prompt of the published table: the folder's name with its underscores, always "a", no full stop.
        return PromptSet(name, ("a picture of a {folder}",))
    if name == "photo":
        return PromptSet(name, ("a photo of a {}.",))
    if name == "openai80":
        # A copy of open_clip's OPENAI_IMAGENET_TEMPLATES in their order: importing open_clip loads torch, for seconds.
        return PromptSet(name, tuple(files(__package__).joinpath("openai80.txt").read_text("utf-8").splitlines()))
    return _read_prompt_file(name)


def _read_prompt_file(name: str) -> PromptSet:
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"There is no prompt set {name!r}, and no file of that name.",
            fix=f"Choose from {', '.join(BUILT_IN)}, or write a file with one template a line: a photo of a {{}}.",
        )
    if path.stem in BUILT_IN:
        raise UserError(f"{path} has the name of the built-in set {path.stem}.", fix="Rename the file.")
    try:
        text = steadily(path.read_bytes, path).decode("utf-8-sig")
        lines = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as templates: {error}.", fix="Save it as UTF-8 text with one template a line."
        ) from None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{path} is not a list of templates.", fix='A JSON file must look like ["a photo of a {}."]')
    templates = tuple(line for line in lines if line)
    if not templates:
        raise UserError(f"{path} holds no template.", fix="Write one template a line, for example: a photo of a {}.")
    for template in templates:
        if any(0xD800 <= ord(letter) < 0xE000 for letter in template):
            raise UserError(
                f"{path}: the template {template!r} is no Unicode text.", fix="Save the file anew as UTF-8."
            )
        if template.count(READABLE) + template.count(FOLDER) != 1:
            raise UserError(
                f"{path}: the template {template!r} needs exactly one placeholder.",
                fix="{} stands for the class's readable name, {folder} for its folder's name.",
            )
    return PromptSet(path.stem, templates)
