"""`items.json`: what the rows of a hand-over are, where they are from, and which images have none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fastclip.errors import IntegrityError
from fastclip.files import digest_file
from fastclip.handover.folder import FACTS_FORMAT, ITEMS
from fastclip.handover.form import Form
from fastclip.handover.material import Material
from fastclip.handover.plane import Plane
from fastclip.results.cells import Column


@dataclass(frozen=True)
class LeftOut:
    """An image without a row, or without a thumbnail. One that sharding rejected has no `key`."""

    dataset: str
    domain: str
    key: str | None
    path: str
    reason: str


@dataclass
class HandedOver:
    """Where every image is: in a row, or among those that are unreadable. Filled while rows are written."""

    rows: int = 0
    unreadable: list[LeftOut] = field(default_factory=list)
    without_thumbnail: list[LeftOut] = field(default_factory=list)
    """They have a row."""


def make_facts(
    material: Material, form: Form, plane: Plane, columns: Mapping[str, Column], done: HandedOver, folder: Path
) -> bytes:
    """The file's bytes: they name no time and no host. Raises `IntegrityError` unless each image is accounted for."""
    features = list(material.features)
    items = folder / ITEMS
    document = {
        "format": FACTS_FORMAT,
        "written_for": form.viewer,
        "backbone": material.backbone,
        "weights": features[0].recipe.weights,
        "recipes": {each.target.name: each.recipe.id for each in features},
        "rounding": max(2.0**-24 if each.recipe.precision == "fp32" else 2.0**-11 for each in features),
        "plane": {"method": "principal components", "variance": plane.shares},
        "thumbnails": form.side,
        "answers": {name: column._asdict() for name, column in columns.items()},
        "predictions_sha256": material.answers.facts.sha256 if material.answers else None,
        "datasets": [
            {
                "name": each.target.name,
                "domains": each.target.domains,
                "manifest_sha256": each.target.manifest_sha256,
                "classes": dict(zip(each.target.manifest.classes, each.target.manifest.names, strict=True)),
                "licence": material.licences[each.target.name],
            }
            for each in features
        ],
        "images": _images(material, done),
        "rows": done.rows,
        "unreadable": [asdict(each) for each in done.unreadable],
        "without_thumbnail": [asdict(each) for each in done.without_thumbnail],
        "files": [{"name": ITEMS, "bytes": items.stat().st_size, "sha256": digest_file(items)}],
    }
    return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def _images(material: Material, done: HandedOver) -> int:
    """The images of all wanted domains. Raises `IntegrityError` unless each is accounted for once."""
    domains = [
        domain
        for target in material.setup.targets
        for domain in target.manifest.domains
        if domain.name in target.domains
    ]
    images = sum(each.images + each.unreadable for each in domains)
    if images != done.rows + len(done.unreadable):
        raise IntegrityError(
            f"{material.name}: {images} images, but {done.rows} rows and {len(done.unreadable)} unreadable ones.",
            fix="Report this: an image is exported twice or not at all.",
        )
    return images
