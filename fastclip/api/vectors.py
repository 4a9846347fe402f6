"""`fastclip.embeddings`: stored vectors with an index of their images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from fastclip.api.border import Names, alone, border, names_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from jaxtyping import Float

    from fastclip.features.read import Features


class Embeddings(NamedTuple):
    """Vectors, and the images that they are of, row by row."""

    array: Float[np.ndarray, "images dim"]
    """Unit vectors as they are stored: float16, or float32 of a recipe in fp32. Raw ones are float32."""
    index: pa.Table
    """dataset, domain, key, path, sha256, label, class, and norm, the vector's length before it was made 1."""


def embeddings(
    dataset: str,
    backbone: str,
    *,
    raw: bool = False,
    precision: str | None = None,
    decoder: str | None = None,
    recipes: Names = (),
    shards: str | Path = "shards",
    store: str | Path = "embeddings",
) -> Embeddings:
    """The stored embeddings of DATASET or DATASET/DOMAIN by a backbone: `array, index = fastclip.embeddings(…)`.

    A row a readable image, in the order of the manifest. All of it is in memory: images × dim × 2 bytes (4 in fp32),
    0.6 GB for the 586,575 images of DomainNet by ViT-B/32. `raw` gives the vectors as they left the tower.

    Embeds nothing, and loads no torch. Raises `IncompleteError` for embeddings that are missing.
    """
    with border():
        from fastclip.evaluate.options import EvalOptions
        from fastclip.evaluate.setup import resolve
        from fastclip.features.read import Features

        options = EvalOptions(
            targets=(dataset,), backbones=(backbone,), precision=precision, decoder=decoder, recipes=names_of(recipes),
            shards=str(shards), store=Path(store),
        )  # fmt: skip
        setup = resolve(options, alone(), only_stored=True)
        (target,) = setup.targets
        return _read(Features(target, setup.recipes[target.name, setup.backbones[0]], setup.store), raw)


def _read(features: Features, raw: bool) -> Embeddings:
    import numpy as np
    import pyarrow as pa

    from fastclip.features.export.rows import KNOWN, known_of_images, read_rows

    array = None
    known, there = [KNOWN.empty_table()], 0
    for rows in read_rows(features, raw):
        if array is None:  # one piece from the beginning: joined at the end, the vectors would be there twice
            images = sum(shard.images for shard in features.target.shards)
            array = np.empty((images, rows.vectors.shape[1]), rows.vectors.dtype)
        array[there : there + len(rows.vectors)] = rows.vectors
        there += len(rows.vectors)
        known.append(known_of_images(rows))
    if array is None:
        array = np.empty((0, features.dim), np.float32)  # which raises an error that says why there is no image
    return Embeddings(array[:there], pa.concat_tables(known).combine_chunks())
