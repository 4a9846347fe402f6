"""One way to classify by nearest neighbours, run by neighbours.py in a folder with train.npy and test.npy.

    PYTHON neighbours_one.py fastclip|NumPy|"products alone"|scikit-learn QUERIES

Writes WAY.answers.npy; prints the seconds of fit and answers.
"""

from __future__ import annotations

import os
import sys
import time
from functools import partial

CORES = len(os.sched_getaffinity(0))
os.environ["OPENBLAS_NUM_THREADS"] = "1" if sys.argv[1] == "fastclip" else str(CORES)

import numpy as np  # noqa: E402

K, TEMPERATURE, TOGETHER = 20, 0.07, 256


def fastclip(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from fastclip.heads.blocks import blocks_of, over_blocks
    from fastclip.heads.labelled import Labelled
    from fastclip.heads.neighbours import Neighbours
    from fastclip.heads.scores import IMAGES_PER_BLOCK, classify

    head = Neighbours(K, TEMPERATURE).fit(Labelled(train, labels, int(labels.max()) + 1), cores=CORES).head
    blocks = blocks_of(len(test), IMAGES_PER_BLOCK)
    unused = np.zeros(len(test), np.int64)

    def work(rows: slice) -> np.ndarray:
        return classify(test[rows], {"": head}, unused[rows])[""].predicted

    return np.concatenate(list(over_blocks(work, blocks, CORES)))


def products(train: np.ndarray, labels: np.ndarray, test: np.ndarray, *, choose: bool) -> np.ndarray:
    keys, queries = train.astype(np.float32), test.astype(np.float32)
    answers = np.zeros(len(test), np.int64)
    space = np.empty((TOGETHER, len(keys)), np.float32)
    for first in range(0, len(test), TOGETHER):
        asked = queries[first : first + TOGETHER]
        cosines = np.matmul(asked, keys.T, out=space[: len(asked)])
        if choose:
            rows = np.argpartition(cosines, len(keys) - K, axis=1)[:, -K:]
            weights = np.exp(np.take_along_axis(cosines, rows, axis=1) / TEMPERATURE)
            votes = np.zeros((len(asked), labels.max() + 1))
            np.add.at(votes, (np.arange(len(asked))[:, None], labels[rows]), weights)
            answers[first : first + TOGETHER] = votes.argmax(axis=1)
    return answers


def scikit_learn(train: np.ndarray, labels: np.ndarray, test: np.ndarray) -> np.ndarray:
    from sklearn.neighbors import KNeighborsClassifier

    def weights(distances: np.ndarray) -> np.ndarray:
        """Of unit vectors: the squared distance is 2 - 2 · cosine."""
        return np.exp(-(distances**2) / (2 * TEMPERATURE))

    def unit(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    head = KNeighborsClassifier(K, algorithm="brute", metric="euclidean", weights=weights, n_jobs=CORES)
    return head.fit(unit(train), labels).predict(unit(test))


def main() -> None:
    way, queries = sys.argv[1], int(sys.argv[2])
    train, labels, test = np.load("train.npy"), np.load("train.labels.npy"), np.load("test.npy")[:queries]
    ways = {
        "fastclip": fastclip,
        "NumPy": partial(products, choose=True),
        "products alone": partial(products, choose=False),
        "scikit-learn": scikit_learn,
    }
    ways[way](train[: 4 * K], labels[: 4 * K], test[:1])  # loads libraries
    started = time.perf_counter()
    answers = ways[way](train, labels, test)
    seconds = time.perf_counter() - started
    np.save(f"{way}.answers.npy", answers)
    print(seconds)


if __name__ == "__main__":
    main()
