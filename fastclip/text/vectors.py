"""Unit text vectors, one a text, computed once and kept for all machines.

    STORE/texts/TOWER/RECIPE-CHUNK.safetensors

TOWER is a digest of weights and architecture, RECIPE one of the machine and libraries that computed, CHUNK one of the
texts in the file. Texts of the same length are computed together, so that no neighbour can move a vector's bits. Two
machines' vectors differ in last bits at most, and every reader takes the same one.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float32

from fastclip.errors import GO_ON, IncompleteError, IntegrityError
from fastclip.files import canonical_json, digest, read_file
from fastclip.sealed import read_facts, seal, unseal
from fastclip.text.kept import NO_FILE, copy_sealed, keep
from fastclip.text.prototypes import WITHDRAWN, TextRecipe

if TYPE_CHECKING:
    from fastclip.models.tower import TextTower

CHUNK = 1024
"""Texts a file: on two cores seven seconds of ViT-B/32's text tower, which a killed run loses at most."""


@dataclass(frozen=True, kw_only=True)
class TowerName:
    """The text tower that vectors belong to. The architecture is there for the tokenizer."""

    weights: str
    architecture: str

    @cached_property
    def id(self) -> str:
        """SHA-256 of the name: that of its folder."""
        return digest(canonical_json(asdict(self)))


@dataclass(frozen=True)
class TextVectors:
    """Unit vectors by text."""

    rows: Mapping[str, int]
    vectors: Float32[np.ndarray, "texts dim"]

    def of(self, texts: Sequence[str]) -> Float32[np.ndarray, "some dim"]:
        """The vectors of `texts`, in their order. Each of them is there."""
        return self.vectors[[self.rows[text] for text in texts]]


def joined(vectors: Sequence[TextVectors]) -> TextVectors:
    """The vectors of several, of which no two have a text in common."""
    some = [each for each in vectors if each.rows] or vectors[:1]
    offsets = np.cumsum([0, *(len(each.vectors) for each in some)]).tolist()
    rows = {text: offset + row for each, offset in zip(some, offsets, strict=False) for text, row in each.rows.items()}
    return TextVectors(rows, np.concatenate([each.vectors for each in some]))


def find_vectors(folder: Path, tower: TowerName, texts: Sequence[str]) -> TextVectors:
    """The kept vectors of those among `texts` that have one: the same for every reader.

    `folder` is the texts' folder of a store. Damaged and foreign files are left out.
    """
    wanted, found = set(texts), [TextVectors({}, np.zeros((0, 0), np.float32))]
    try:
        for path in _chunks(folder / tower.id):
            with suppress(IntegrityError, *NO_FILE):
                known = read_facts(path).get("texts")
                if not isinstance(known, list) or wanted.isdisjoint(filter(_is_text, known)):
                    continue
                known, vectors = _read(path, tower)
                if found[-1].rows and vectors.shape[1] != found[-1].vectors.shape[1]:
                    continue
                hits = {text: row for row, text in enumerate(known) if text in wanted}
                found.append(TextVectors({text: place for place, text in enumerate(hits)}, vectors[[*hits.values()]]))
                wanted.difference_update(hits)
    except OSError as error:
        if error.errno not in (errno.EISDIR, errno.ELOOP, errno.ENOTDIR):
            raise IncompleteError(f"Cannot read the text vectors in {folder}: {error}.", fix=GO_ON) from error
    return joined(found)


def keep_vectors(
    folder: Path, tower: TowerName, recipe: TextRecipe, texts: Sequence[str], vectors: Float32[np.ndarray, "texts dim"]
) -> None:
    """Keep the vectors of `texts` in a file of their own. It replaces a damaged one."""
    path = folder / tower.id / f"{recipe.id}-{digest(canonical_json(list(texts)))}.safetensors"
    facts = {"tower": asdict(tower), "recipe": asdict(recipe), "texts": list(texts)}
    keep(path, seal({"vectors": vectors}, facts), lambda path: _is_whole(path, tower))


def copy_vectors(source: Path, target: Path, weights: str) -> int:
    """Copy every file of vectors by `weights` from one store's folder of texts to another's, proved on the way.

    Returns how many of them the target has now. A damaged one is left out.
    """
    files = (path for each in source.glob("*") for path in _chunks(each))
    return copy_sealed(files, target, lambda facts: facts.get("tower", {}).get("weights") == weights)


def compute_vectors(
    tower: TextTower, texts: Sequence[str], workers: int, on_texts: Callable[[int], object] = lambda number: None
) -> Iterator[tuple[list[str], Float32[np.ndarray, "some dim"]]]:
    """The unit vectors of `texts`, each once, a chunk at a time: those of the same length together.

    Raises `UserError` for a text that does not fit, before anything is computed.
    """
    by_length: dict[int, list[str]] = {}
    for text, length in zip(texts, tower.lengths(texts), strict=True):
        by_length.setdefault(length, []).append(text)
    for length in sorted(by_length):
        for first in range(0, len(by_length[length]), CHUNK):
            chunk = by_length[length][first : first + CHUNK]
            vectors = tower(chunk, workers).numpy()
            if not np.isfinite(vectors).all():
                bad = chunk[int(np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0])]
                raise IntegrityError(
                    f"The text tower gives no finite vector for {bad!r}.", fix="Check the weights file."
                )
            yield chunk, vectors
            on_texts(len(chunk))


def _chunks(folder: Path) -> list[Path]:
    """The files of vectors in a tower's folder, the most preferred first; files beside them are none."""
    if not re.fullmatch("[0-9a-f]{64}", folder.name):
        return []
    found = []
    for path in folder.glob("*"):
        if re.fullmatch(r"[0-9a-f]{64}-[0-9a-f]{64}\.safetensors", path.name):
            with suppress(IntegrityError, *NO_FILE, KeyError, TypeError):
                numerics = read_facts(path)["recipe"]["numerics"]
                if numerics not in WITHDRAWN:
                    found.append((-numerics, path.name, path))
    return [path for _, _, path in sorted(found)]


def _read(path: Path, tower: TowerName) -> tuple[list[str], Float32[np.ndarray, "texts dim"]]:
    tensors, facts = unseal(read_file(path), str(path))
    vectors, texts = tensors.get("vectors"), facts.get("texts")
    if (
        facts.get("tower") != asdict(tower)
        or not (isinstance(texts, list) and all(map(_is_text, texts)))
        or not (vectors is not None and vectors.dtype == np.float32 and vectors.ndim == 2)
        or len(texts) != len(vectors)
        or not np.isfinite(vectors).all()
    ):
        raise IntegrityError(f"{path} holds vectors of other texts or weights.", fix="Delete it.")
    return texts, vectors


def _is_whole(path: Path, tower: TowerName) -> bool:
    try:
        _read(path, tower)
    except (IntegrityError, OSError):
        return False
    return True


def _is_text(value: object) -> bool:
    return isinstance(value, str)
