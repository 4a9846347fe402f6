"""Reads exported features with the programs that people use: for each, the vectors and what it says of their rows.

    .venv-reference/bin/python tests/reference/read_features.py FOLDER SOURCE TARGET OUT.npz

FOLDER holds an export in each format. SOURCE and TARGET are names of files of transferlearning's, without `.csv`.
"""

import sys
from pathlib import Path

import numpy as np
import pandas
import polars
import pyarrow.parquet
from autofaiss import build_index
from embedding_reader import EmbeddingReader

COLUMNS = ["key", "label", "sha256"]


def load_csv(folder: Path, src_domain: str, tar_domain: str) -> tuple[np.ndarray, ...]:
    """As jindongwang/transferlearning's code/clip/utils.py has it."""
    data_s = np.loadtxt(f"{folder}/{src_domain}.csv", delimiter=" ")
    data_t = np.loadtxt(f"{folder}/{tar_domain}.csv", delimiter=" ")
    return data_s[:, :-1], data_s[:, -1], data_t[:, :-1], data_t[:, -1]


def streamed(folder: Path, **options: object) -> tuple[np.ndarray, pandas.DataFrame | None]:
    """All batches of an `EmbeddingReader`."""
    batches = list(EmbeddingReader(str(folder), **options)(batch_size=70, show_progress=False))
    tables = [table for _, table in batches]
    return np.concatenate([vectors for vectors, _ in batches]), (
        pandas.concat(tables) if "meta_columns" in options else None
    )


def main(folder: Path, source: str, target: str, out: str) -> None:
    parquet, pairs = folder / "parquet", folder / "clip-retrieval"
    file = parquet / "features.parquet"
    found: dict[str, tuple[np.ndarray, object]] = {}

    table = pyarrow.parquet.read_table(file)
    found["pyarrow"] = np.stack(table["embedding"].to_numpy(zero_copy_only=False)), table.to_pandas()
    frame = pandas.read_parquet(file)
    found["pandas"] = np.stack(frame["embedding"].to_numpy()), frame
    lazy = polars.scan_parquet(file).collect()
    found["polars"] = lazy["embedding"].to_numpy(), lazy.select(COLUMNS).to_pandas()
    options = {"embedding_column": "embedding", "meta_columns": COLUMNS}
    found["embedding-reader, parquet"] = streamed(parquet, file_format="parquet", **options)
    found["embedding-reader, npy"] = streamed(folder / "npy", file_format="npy")
    found["pandas, npy"] = np.load(folder / "npy" / "features.npy"), pandas.read_csv(folder / "npy" / "rows.csv")
    options = {"metadata_folder": str(pairs / "metadata"), "meta_columns": COLUMNS}
    found["embedding-reader, pairs"] = streamed(pairs / "img_emb", file_format="parquet_npy", **options)

    # With NumPy 2, autofaiss fails where it writes its measurements to a file.
    index, _ = build_index(
        str(pairs / "img_emb"), save_on_disk=False, index_key="Flat", metric_type="ip", nb_cores=1, verbose=50
    )
    vectors, _ = found["embedding-reader, pairs"]
    _, nearest = index.search(vectors.astype(np.float32), 1)
    found["autofaiss"] = index.reconstruct_n(0, index.ntotal), None

    xs, ys, xt, yt = load_csv(folder / "transferlearning", source, target)
    arrays = {"source": xs, "source labels": ys, "target": xt, "target labels": yt, "nearest": nearest}
    for name, (vectors, rows) in found.items():
        arrays[name] = vectors
        for column in COLUMNS if rows is not None else ():
            arrays[f"{name}: {column}"] = rows[column].to_numpy().astype(str)
    np.savez(out, **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
