"""The published table that comes with fastclip: OpenAI's nine backbones on eight datasets, zero-shot."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from fastclip.data.catalogue import find_card
from fastclip.results.published.printed import parse_printed
from fastclip.results.published.table import PublishedAverage, PublishedCell, PublishedDataset, PublishedTable


@cache
def published_table() -> PublishedTable:
    """The table of jindongwang/transferlearning. Its images and classes are those of the dataset cards."""
    document = json.loads(files(__package__).joinpath("table.json").read_text("utf-8"))
    datasets = document["datasets"]
    return PublishedTable(
        source=document["source"],
        commit=document["commit"],
        cells=tuple(cell for name, rows in datasets.items() for cell in _cells(name, rows)),
        averages={
            (name, backbone): PublishedAverage(
                parse_printed(text, percent=False).value, tuple(rows.get("average_of", rows["domains"]))
            )
            for name, rows in datasets.items()
            for backbone, text in rows.get("averages", {}).items()
        },
        datasets={name: _dataset(name, rows, document["template"]) for name, rows in datasets.items()},
        notes={name: tuple(rows["notes"]) for name, rows in datasets.items()},
    )


def _cells(name: str, rows: Mapping[str, Any]) -> Iterator[PublishedCell]:
    for backbone, texts in rows["accuracies"].items():
        for domain, text in zip(rows["domains"], texts, strict=True):
            printed = parse_printed(text, percent=False)
            yield PublishedCell(dataset=name, domain=domain, backbone=backbone, printed=printed)


def _dataset(name: str, rows: Mapping[str, Any], template: str) -> PublishedDataset:
    card = find_card(name)
    assert card, f"the published dataset {name} has a card"
    variant = next((each for each in card.variants if each.name == rows["variant"]), None)
    assert variant or rows["variant"] is None, f"the card of {name} has the variant {rows['variant']}"
    words = card.names if rows["class_names"] == "readable" else card.classes
    return PublishedDataset(
        title=card.title,
        variant=rows["variant"],
        images=variant.images if variant else {},
        fingerprints=variant.fingerprints if variant else {},
        prompts={folder: (template.replace("{name}", word),) for folder, word in zip(card.classes, words, strict=True)},
        template=template.replace("{name}", "…"),
    )
