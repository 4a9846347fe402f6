"""Parts: the embeddings of one shard by one recipe, as a file that proves itself."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from fastclip.data.shards.manifest import Shard, Unreadable
from fastclip.errors import IntegrityError
from fastclip.files import canonical_json, digest
from fastclip.sealed import seal, unseal
from fastclip.store.recipes import Recipe, parse_recipe


@dataclass(frozen=True)
class Part:
    """The embeddings of one shard under one recipe. Rows are in the order of the shard's index.

    Embeddings are unit vectors, `norms` their lengths before. Both are zero in `unreadable` rows.
    """

    embeddings: Float[np.ndarray, "images dim"]
    norms: Float32[np.ndarray, " images"]
    unreadable: tuple[Unreadable, ...]

    def readable_rows(self) -> np.ndarray:
        """The rows that have an embedding, in ascending order."""
        readable = np.ones(len(self.norms), bool)
        readable[[row for row, _ in self.unreadable]] = False
        return np.flatnonzero(readable)


def part_name(shard: Shard) -> str:
    """The name of a shard's part under any recipe: a digest of the tar and of the images in it.

    Labels, keys and paths play no part: correcting them costs nothing, and equal shards share a part.
    """
    assert shard.images_sha256, "find_targets fills it in where a manifest has none"
    return digest(canonical_json([shard.sha256, shard.images_sha256]))


def seal_part(part: Part, recipe: Recipe, name: str) -> bytes:
    """The bytes of a part's file. It carries its whole recipe, so that a lost recipe.json can be made again."""
    facts = {"recipe": recipe.to_document(), "part": name, "unreadable": [list(row) for row in part.unreadable]}
    return seal({"embeddings": part.embeddings, "norms": part.norms}, facts)


def unseal_part(data: bytes, recipe_id: str, name: str, path: str) -> Part:
    """The part in a file's bytes. Raises `IntegrityError` unless it is the one called `name` of that recipe."""
    tensors, facts = unseal(data, path)
    try:
        if (parse_recipe(facts["recipe"]).id, facts["part"]) != (recipe_id, name):
            raise ValueError("it is another part")
        unreadable = tuple(Unreadable(int(row), str(reason)) for row, reason in facts["unreadable"])
        if any(row < 0 for row, _ in unreadable):
            raise ValueError("an unreadable row has no place")
        part = Part(tensors["embeddings"], tensors["norms"], unreadable)
        norms = part.norms[part.readable_rows()]
        if part.norms.shape != part.embeddings.shape[:1] or not (np.isfinite(norms) & (norms > 0)).all():
            raise ValueError("a norm is no positive number")
        return part
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise IntegrityError(f"{path} holds something else: {error}.", fix="Delete it.") from error
