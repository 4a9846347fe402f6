"""TerraIncognita as it is published: camera-trap images in one folder, and a COCO-style file that says what is seen."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Mapping
from typing import Any

from fastclip.data.catalogue import DatasetCard, same_name
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob, BlobReader
from fastclip.data.sources.listing import Listing, SourceImage, in_order
from fastclip.data.sources.trees import is_image
from fastclip.errors import UserError

KEYS = ("images", "annotations", "categories")
"""What a COCO-style file holds."""


def list_camera_traps(files: Mapping[str, Blob], card: DatasetCard) -> Listing | None:
    """The images that an annotations file among `files` places in the card's domains; None without such a file.

    A domain is a location, called `location_N` on the card. Each pair of image and category counts once, as in
    DomainBed's copy: an image with two animals is in two classes, an image with two boxes of one animal in one.
    """
    annotations = {path: document for path in files if (document := _read_annotations(path, files[path]))}
    if not annotations:
        return None
    if len({posixpath.dirname(path) for path in annotations}) > 1:
        raise UserError(
            f"Images are annotated in two places: {' and '.join(sorted(annotations)[:2])}.",
            fix="Keep one release's annotations in --source, and move the other away.",
        )
    # The release of 2018 has five files for five splits, which DomainBed's script puts together.
    name = ", ".join(annotations)
    document = {key: [row for each in annotations.values() for row in each[key]] for key in KEYS}
    domain_of = {same_name(folder): domain.name for domain in card.domains for folder in (domain.name, *domain.folders)}
    label_of = {folder: label for label, folder in enumerate(card.classes)}
    category = {row["id"]: row["name"] for row in document["categories"]}
    location = {row["id"]: (row["file_name"], f"location_{row['location']}") for row in document["images"]}
    path_of = {posixpath.basename(path): path for path in files if is_image(path)}
    found: dict[tuple[str, int, str], SourceImage] = {}
    absent: dict[tuple[str, int, str], Rejected] = {}
    for row in document["annotations"]:
        file_name, folder = location.get(row["image_id"], ("", ""))
        domain = domain_of.get(same_name(folder))
        label = label_of.get(category.get(row["category_id"], ""))
        if domain is None or label is None:
            continue
        base = posixpath.basename(file_name)
        key = (domain, label, base)
        if base in path_of:
            path = path_of[base]
            found[key] = SourceImage(domain, label, f"{card.classes[label]}/{base}", path, files[path])
        else:
            reason = f"annotated in {name} but absent"
            absent[key] = Rejected(path=file_name, reason=reason, domain=domain, label=label)
    domains = [domain.name for domain in card.domains if any(domain.name == key[0] for key in found)]
    if not domains:
        return None
    used = {image.found_at for image in found.values()}
    reason = f"its location or category is not in {card.title}, or it is no image"
    others = [Rejected(path=path, reason=reason) for path in files if path not in used]
    return Listing(
        layout=f"camera-trap annotations ({name})",
        classes=card.classes,
        names=card.names,
        domains=tuple(domains),
        images=in_order(found.values(), domains),
        rejected=tuple(sorted([*absent.values(), *others], key=lambda row: row.path)),
    )


def _read_annotations(path: str, blob: Blob) -> dict[str, Any] | None:
    if not path.lower().endswith(".json"):
        return None
    try:
        document = json.loads(BlobReader().read(blob))
    except (ValueError, OSError):
        return None
    return document if isinstance(document, dict) and all(isinstance(document.get(key), list) for key in KEYS) else None
