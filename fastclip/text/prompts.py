"""Prompt sets: named lists of templates, filled with a class's readable name (`{}`) or its folder's (`{folder}`)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from fastclip.errors import UserError

READABLE, FOLDER = "{}", "{folder}"


@dataclass(frozen=True)
class PromptSet:
    """The prototype of a class is the mean direction of its prompts, one a template."""

    name: str
    templates: tuple[str, ...]

    def prompts(self, folder: str, readable: str) -> list[str]:
        """The prompts of one class. Plain replacement: a template is text and runs nothing."""
        return [
            template.replace(FOLDER, folder) if FOLDER in template else template.replace(READABLE, readable)
            for template in self.templates
        ]


BUILT_IN = ("transferlearning", "photo", "openai80")


def find_prompt_set(name: str) -> PromptSet:
    """A built-in set by name, or a user's file: one template a line, or a JSON list of templates.

    Raises `UserError` for an unknown name, an empty file, or a template without exactly one placeholder.
    """
    if name == "transferlearning":
        # The published table's: raw folder name with its underscores, always "a", no full stop.
        return PromptSet(name, ("a picture of a {folder}",))
    if name == "photo":
        return PromptSet(name, ("a photo of a {}.",))
    if name == "openai80":
        from open_clip import OPENAI_IMAGENET_TEMPLATES

        return PromptSet(name, tuple(template(READABLE) for template in OPENAI_IMAGENET_TEMPLATES))
    return _read_prompt_file(name)


def _read_prompt_file(name: str) -> PromptSet:
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"There is no prompt set {name!r}, nor a file of that name.",
            fix=f"Choose from {', '.join(BUILT_IN)}, or write a file with one template a line: a photo of a {{}}.",
        )
    if path.stem in BUILT_IN:
        raise UserError(f"{path} would pass for the built-in set {path.stem}.", fix="Rename the file.")
    try:
        text = path.read_text("utf-8-sig")
        lines = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(
            f"{path} cannot be read as templates: {error}.", fix="UTF-8 text, one template a line."
        ) from None
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise UserError(f"{path} is not a list of templates.", fix='A JSON file must look like ["a photo of a {}."]')
    templates = tuple(line for line in lines if line)
    if not templates:
        raise UserError(f"{path} holds no template.", fix="Write one a line, for example: a photo of a {}.")
    for template in templates:
        if template.count(READABLE) + template.count(FOLDER) != 1:
            raise UserError(
                f"{path}: the template {template!r} needs exactly one placeholder.",
                fix="{} stands for the class's readable name, {folder} for its folder's name.",
            )
    return PromptSet(path.stem, templates)
