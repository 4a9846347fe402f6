"""Dataset cards: the classes, domains and counts that a known dataset must have (`cards/*.toml`)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


@dataclass(frozen=True, kw_only=True)
class DomainCard:
    """One domain as published: its name, the folders it goes by in the copies around, its number of images."""

    name: str
    folders: tuple[str, ...]
    images: int


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """One dataset as published. `classes` are folder names in label order."""

    title: str
    classes: tuple[str, ...]
    domains: tuple[DomainCard, ...]
    readable_names: Mapping[str, str] = field(default_factory=dict)
    """Class folder → readable name, where replacing underscores by blanks is not enough."""


def find_card(name: str) -> DatasetCard | None:
    """The card of the dataset called `name`, or None: a dataset needs no card."""
    file = resources.files("fastclip.data") / "cards" / f"{name}.toml"
    return _parse(tomllib.loads(file.read_text("utf-8"))) if file.is_file() else None


def readable_name(folder: str) -> str:
    """A class folder's name as words: `Alarm_Clock` → `Alarm Clock`."""
    return " ".join(folder.replace("_", " ").split())


def _parse(card: Mapping[str, Any]) -> DatasetCard:
    domains = tuple(
        DomainCard(name=row["name"], folders=tuple(row["folders"]), images=row["images"]) for row in card["domains"]
    )
    return DatasetCard(
        title=card["title"],
        classes=tuple(card["classes"]),
        domains=domains,
        readable_names=card.get("readable_names", {}),
    )
