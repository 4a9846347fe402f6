"""Lists TerraIncognita as it is published: camera-trap images in one folder, and a COCO-style annotations file."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Iterable, Mapping
from typing import Any

from fastclip.data.catalogue import DatasetCard, same_name
from fastclip.data.classes import ClassFinder
from fastclip.data.shards.manifest import Rejected
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.containers import BlobReader
from fastclip.data.sources.leftovers import reason_of
from fastclip.data.sources.listing import Listing, SourceImage, in_order
from fastclip.errors import UserError

KEYS = ("images", "annotations", "categories")
"""The keys of a COCO-style file."""


def list_camera_traps(files: Mapping[str, Blob], images: Iterable[str], card: DatasetCard) -> Listing | None:
    """Those of `images` that an annotations file among `files` places in the card's domains; None without such a file.

    A domain is a location, called `location_N` on the card. Each pair of image and category counts once, as in
    DomainBed's copy: an image with two animals is in two classes, an image with two boxes of one animal in one.
    """
    candidates = [path for path in files if path.lower().endswith(".json")]
    annotations = {path: document for path in candidates if (document := _read_annotations(path, files[path]))}
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
    domain_of = card.domain_of
    finder = ClassFinder(card)
    category = {row["id"]: row["name"] for row in document["categories"]}
    location = {row["id"]: (row["file_name"], f"location_{row['location']}") for row in document["images"]}
    paths_of: dict[str, list[str]] = {}
    for path in images:
        paths_of.setdefault(posixpath.basename(path), []).append(path)
    found: dict[tuple[str, int, str], SourceImage] = {}
    absent: dict[tuple[str, int, str], Rejected] = {}
    for row in document["annotations"]:
        file_name, folder = location.get(row["image_id"], ("", ""))
        domain = domain_of.get(same_name(folder))
        label = finder.of_folder(category.get(row["category_id"], ""))
        if domain is None or label is None:
            continue
        base = posixpath.basename(file_name)
        key = (domain, label, base)
        if len(paths_of.get(base, ())) > 1:
            raise UserError(
                f"The image {base} is there twice: {' and '.join(paths_of[base][:2])}.",
                fix="Keep one size of the images in --source, and move the other away.",
            )
        if base in paths_of:
            (path,) = paths_of[base]
            found[key] = SourceImage(domain, label, f"{card.classes[label]}/{base}", path, files[path])
        else:
            reason = f"annotated in {name} but absent"
            absent[key] = Rejected(path=file_name, reason=reason, domain=domain, label=label)
    domains = [domain.name for domain in card.domains if any(domain.name == key[0] for key in found)]
    if not domains:
        return None
    used = {image.found_at for image in found.values()}
    elsewhere = dict.fromkeys(images, f"its location or category is not in {card.title}")
    others = [Rejected(path=path, reason=elsewhere.get(path) or reason_of(path)) for path in files if path not in used]
    return Listing(
        layout=f"camera-trap annotations ({name})",
        classes=card.classes,
        names=card.names,
        domains=tuple(domains),
        images=in_order(found.values(), domains),
        rejected=tuple(sorted([*absent.values(), *others], key=lambda row: row.path)),
    )


def _read_annotations(path: str, blob: Blob) -> dict[str, Any] | None:
    """The camera-trap annotations in a JSON file; None if it holds something else. `UserError` if it is damaged."""
    try:
        document = json.loads(BlobReader().read(blob))
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{path} is not JSON: {error}. It may say which images belong to the set.",
            fix="Get it again, or move it out of --source.",
        ) from error
    if not isinstance(document, dict) or not all(isinstance(document.get(key), list) for key in KEYS):
        return None
    rows = {key: set().union(*(row for row in document[key] if isinstance(row, dict))) for key in KEYS}
    wanted = {"images": {"id", "file_name", "location"}, "annotations": {"image_id", "category_id"}}
    fits = all(fields <= rows[key] for key, fields in (wanted | {"categories": {"id", "name"}}).items())
    whole = all(
        isinstance(row, dict) and fields <= row.keys() for key, fields in wanted.items() for row in document[key]
    )
    return document if fits and whole else None
