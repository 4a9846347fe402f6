"""The vector that is searched for: of a text, or of an image that is named by its key or by its bytes' SHA-256."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from fastclip.data.shards.manifest import Shard
from fastclip.data.shards.reader import read_images, read_records
from fastclip.errors import UserError, needs_torch, printable
from fastclip.evaluate.setup import Setup
from fastclip.features.read import Features
from fastclip.handover.search import Image
from fastclip.store.recipes import Recipe
from fastclip.text.prototypes import text_recipe
from fastclip.text.vectors import TowerName, compute_vectors, find_vectors, keep_vectors

MOST_LISTED = 8
"""Images that are named where a key means several."""


@dataclass(frozen=True, eq=False)
class Like:
    """An image that others are compared with."""

    image: Image
    vector: Float[np.ndarray, " dim"]
    """Its embedding, as it is stored."""
    copies: tuple[Image, ...]
    """Other images with the very same bytes."""


def text_vector(setup: Setup, recipe: Recipe, text: str) -> Float32[np.ndarray, " dim"]:
    """The unit vector of a text: a kept one, or by the text tower of the embeddings' own weights, and then kept.

    Raises `UserError` if those are not on this machine, or if the text does not fit.
    """
    folder, name = setup.store.folder / "texts", TowerName(weights=recipe.weights, architecture=recipe.architecture)
    if (kept := find_vectors(folder, name, [text])).rows:
        return kept.of([text])[0]
    with needs_torch():
        from fastclip.evaluate.engine import find_text_weights
    from fastclip.models.numerics import find_device, fixed_numerics
    from fastclip.models.tower import load_text_tower

    backbone, weights = find_text_weights(recipe, None, setup.weights.get(recipe.backbone))
    device = find_device("cpu", setup.process.local_rank)
    with fixed_numerics(device):
        tower = load_text_tower(backbone, weights, device)
        try:
            ((chunk, vectors),) = compute_vectors(tower, [text], 1)
        except UserError as error:
            raise UserError(str(error), fix="--text with fewer words") from None
        keep_vectors(folder, name, text_recipe(device), chunk, vectors)
    # Another machine may have computed it meanwhile: every reader takes the same one.
    kept = find_vectors(folder, name, [text])
    return kept.of([text])[0] if kept.rows else vectors[0]


def find_like(features: Sequence[Features], name: str) -> Like:
    """The image called `name`: its key, alone or below DATASET or DATASET/DOMAIN, or a beginning of its SHA-256.

    Raises `UserError` for a name that no image or several have, or an image without an embedding.
    """
    found = list(_called(features, name))
    digests = {image.record.sha256 for _, image in found}
    if not found:
        raise UserError(
            f"No image that is searched is called {name}.",
            fix="--like KEY as fastclip export and --predictions write it, such as DOMAIN/00000007; or the first "
            "digits of its SHA-256",
        )
    if len(digests) > 1:
        shown = "; ".join(f"{i.target.name}/{i.record.key} ({i.record.sha256[:12]})" for _, i in found[:MOST_LISTED])
        raise UserError(
            f"{name} means {len(found):,} images: {printable(shown)}{' …' if len(found) > MOST_LISTED else ''}.",
            fix="--like DATASET/KEY, or more digits of the SHA-256",
        )
    own, image = found[0]
    stored = own.of(image.shard)
    (rows,) = np.nonzero(stored.rows == image.row)
    if not len(rows):
        reason = next(each.reason for each in stored.unreadable if each.row == image.row)
        raise UserError(f"{image.record.key} has no embedding: {reason}.", fix="Name another image.")
    copies = (each for _, each in _with_digest(features, image.record.sha256) if _place(each) != _place(image))
    return Like(image, stored.vectors[rows[0]], tuple(copies))


def _place(image: Image) -> tuple[str, str, int]:
    return image.target.name, image.shard.name, image.row


def _called(features: Sequence[Features], name: str) -> Iterator[tuple[Features, Image]]:
    """The images with this key; those with such a SHA-256 where no key is so called."""
    wanted = []
    for each in features:
        for shard in each.target.shards:
            place = f"{each.target.name}/"
            keys = {name, name.removeprefix(place), name.removeprefix(f"{place}{shard.domain}/")}
            images = read_images(each.target.folder, shard)
            rows = [row for row, key in enumerate(images.keys) if key in keys]
            wanted += [(each, image) for image in _images(each, shard, rows)]
    if not wanted and re.fullmatch("[0-9a-f]{6,64}", name):
        wanted = list(_with_digest(features, name))
    yield from wanted


def _with_digest(features: Sequence[Features], beginning: str) -> Iterator[tuple[Features, Image]]:
    for each in features:
        for shard in each.target.shards:
            digests = read_images(each.target.folder, shard).digests
            rows = [row for row, digest in enumerate(digests) if digest.startswith(beginning)]
            yield from ((each, image) for image in _images(each, shard, rows))


def _images(features: Features, shard: Shard, rows: Sequence[int]) -> Iterator[Image]:
    if rows:
        records = read_records(features.target.folder, shard, rows)
        yield from (Image(features.target, shard, row, r) for row, r in zip(rows, records, strict=True))
