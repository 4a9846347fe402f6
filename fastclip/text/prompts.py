"""Prompt sets by name: the built-in ones, and those in users' files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastclip.errors import UserError, printable
from fastclip.faults import steadily
from fastclip.text.prompt_sets import FOLDER, READABLE, PromptSet, plain_name

SCHEMA = "fastclip.prompts/1"
"""Of a file that says how its prompts were chosen."""

BUILT_IN = ("transferlearning", "photo", "openai80")


def find_prompt_set(name: str) -> PromptSet:
    """The built-in set of this name, or the set in the user's file at this path.

    A file holds one template a line, a JSON list of templates, a JSON object of the texts of each class, or what
    `prompt_file` writes. Raises `UserError` for an unknown name and for a file that is none of these.
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


def prompt_file(prompts: PromptSet) -> bytes:
    """The file of a prompt set that `find_prompt_set` reads, with how it was chosen."""
    content: dict[str, Any] = {"templates": prompts.templates} if prompts.templates else {"texts": prompts.texts}
    document = {"schema": SCHEMA, **content, "selection": prompts.selection}
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False).encode() + b"\n"


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
        found = _parse(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read as {'JSON' if path.suffix == '.json' else 'templates'}: {error}.",
            fix='Save it as UTF-8 text with one template a line, or as JSON: ["a photo of a {}."]',
        ) from None
    if isinstance(found, dict) and isinstance(found.get("schema"), str):
        return _chosen(path, found)
    if isinstance(found, dict):
        return PromptSet(path.stem, texts=_texts(path, found))
    return PromptSet(path.stem, _templates(path, found))


def _parse(text: str) -> Any:
    """A JSON file's value. Raises `ValueError` for a name that stands twice in it: one of the two would be lost."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands in it twice")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    return json.loads(text, object_pairs_hook=once, parse_constant=refuse)


def _chosen(path: Path, document: Mapping[str, Any]) -> PromptSet:
    if document["schema"] != SCHEMA:
        raise UserError(
            f"{path} is a {printable(document['schema'])}; this version of fastclip reads {SCHEMA}.",
            fix="Install the version of fastclip that wrote it.",
        )
    selection = document.get("selection")
    if selection is not None and not (
        isinstance(selection, dict)
        and isinstance(selection.get("labels_used"), bool)
        and isinstance(places := selection.get("selected_on"), list)
        and all(isinstance(each, str) for each in places)
    ):
        raise UserError(
            f"{path} does not say rightly how its prompts were chosen.",
            fix="Write it again with fastclip prompts select, or save its templates alone, one a line.",
        )
    if document.get("texts"):
        return PromptSet(path.stem, texts=_texts(path, document["texts"]), selection=selection)
    return PromptSet(path.stem, _templates(path, document.get("templates")), selection=selection)


def _texts(path: Path, found: Any) -> dict[str, tuple[str, ...]]:
    """The texts of each class. Raises `UserError` for anything that is not a list of texts under each name."""
    if not isinstance(found, dict) or not found:
        raise UserError(f"{path} holds no texts.", fix='It must look like {"dog": ["a loyal animal", …], …}')
    spelt: dict[str, str] = {}
    for name, texts in found.items():
        if isinstance(texts, dict):
            raise UserError(
                f"{path} holds the texts of several datasets, such as {printable(name)!r}.",
                fix="Save those of each dataset in a file of their own.",
            )
        if (
            not isinstance(texts, list)
            or not texts
            or not all(isinstance(each, str) and each.strip() for each in texts)
        ):
            raise UserError(
                f"{path}: {printable(name)!r} has no list of texts, or an empty text in it.",
                fix='It must look like {"dog": ["a loyal animal", …], …}',
            )
        for text in (name, *texts):
            _check_unicode(path, text)
        if (other := spelt.setdefault(plain_name(name), name)) != name:
            raise UserError(
                f"{path}: {printable(other)!r} and {printable(name)!r} are one class in two spellings.",
                fix="Put all its texts under one of them.",
            )
    return {name: tuple(texts) for name, texts in found.items()}


def _templates(path: Path, found: Any) -> tuple[str, ...]:
    if not isinstance(found, list) or not all(isinstance(line, str) for line in found):
        raise UserError(
            f"{path} is not a list of templates.",
            fix='A JSON file must look like ["a photo of a {}."], or {"dog": ["a loyal animal", …], …}',
        )
    templates = tuple(line for line in found if line)
    if not templates:
        raise UserError(f"{path} holds no template.", fix="Write one template a line, for example: a photo of a {}.")
    for template in templates:
        _check_unicode(path, template)
        if template.count(READABLE) + template.count(FOLDER) != 1:
            raise UserError(
                f"{path}: the template {template!r} needs exactly one placeholder.",
                fix="{} stands for the class's readable name, {folder} for its folder's name.",
            )
    return templates


def _check_unicode(path: Path, text: str) -> None:
    if any(0xD800 <= ord(letter) < 0xE000 for letter in text):
        raise UserError(f"{path}: the text {text!r} is no Unicode text.", fix="Save the file anew as UTF-8.")
