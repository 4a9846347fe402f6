"""`probe`, `adapt`, `features` and `eval --head` under hostile use: nothing is lost, mixed up or said wrongly."""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn_store import drawn, fill
from helpers import Program
from test_probe import COMMON


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """Two datasets of the same classes and domains, `letters` and `others`, whose images differ; both are embedded."""
    folder = tmp_path_factory.mktemp("letters")
    fill(drawn(folder), folder / "embeddings")
    fill(drawn(folder, "others", per_class=9), folder / "embeddings")
    return Program(folder)


@pytest.mark.parametrize(
    "words",
    [
        ("probe", "letters/photo", "--test", "letters/night", "--json", "r.json", "--save", "heads"),
        ("adapt", "letters/photo", "--to", "letters/night", "--json", "r.json"),
        ("features", "letters", "--output", "exported"),
    ],
)
def test_of_several_processes_the_first_prints_and_writes(
    words: tuple[str, ...], letters: Program, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    outcome = letters.here(*words, *COMMON)
    assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert not any((letters.folder / each).exists() for each in ("r.json", "heads", "exported"))


def matrix_of(program: Program, domain: str) -> tuple[np.ndarray, np.ndarray]:
    program.here("features", f"letters/{domain}", "--output", domain, "--overwrite", *COMMON)
    table = pq.read_table(program.folder / domain / "letters/tiny/parquet/features.parquet").to_pylist()
    return np.array([row["embedding"] for row in table]), np.array([row["label"] for row in table])
