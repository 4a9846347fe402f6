"""One part of what heads.py measures, run by it in a folder with train.npy and test.npy.

    PYTHON heads_one.py WAY STRENGTH

WAY: a way of heads.py, evaluation, "products alone" or search.

Prints the seconds. A fit writes WAY.npz: its answers on test.npy, its mean objective and the gradient's greatest entry.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

CORES = len(os.sched_getaffinity(0))
os.environ["OPENBLAS_NUM_THREADS"] = str(CORES) if sys.argv[1] == "scikit-learn" else "1"

import numpy as np  # noqa: E402

Found = tuple[np.ndarray, np.ndarray, int]
"""Weights, bias, iterations."""


def fastclip(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Found:
    from fastclip.heads.labelled import Labelled
    from fastclip.heads.linear import LinearHead
    from fastclip.heads.logistic import Logistic

    fit = Logistic(strength).fit(Labelled(vectors, labels, int(labels.max()) + 1), cores=CORES)
    assert isinstance(fit.head, LinearHead)
    assert fit.head.bias is not None
    return fit.head.weights, fit.head.bias, int(fit.facts["iterations"])


def scikit_learn(vectors: np.ndarray, labels: np.ndarray, strength: float) -> Found:
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=1 / strength, tol=1e-7, max_iter=100_000).fit(vectors.astype(np.float64), labels)
    return model.coef_, model.intercept_, int(model.n_iter_[0])


def search(vectors: np.ndarray, labels: np.ndarray) -> None:
    from fastclip.heads.labelled import Labelled
    from fastclip.heads.logistic import Logistic

    everything = Labelled(vectors, labels, int(labels.max()) + 1)
    held_out = np.arange(len(labels)) % 5 == 0
    Logistic().choose(everything.take(~held_out), everything.take(held_out), cores=CORES)


def evaluation(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    from fastclip.heads.softmax import Softmax

    classes, dim = int(labels.max()) + 1, vectors.shape[1]
    problem = Softmax(vectors, labels, np.zeros((classes, dim)), CORES)
    parameters = np.random.default_rng(0).normal(size=(classes, dim + 1))
    return lambda: problem.at(parameters, 1.0, exact=False)


def products(vectors: np.ndarray, labels: np.ndarray) -> Callable[[], object]:
    from fastclip.heads.blocks import blocks_of, over_blocks
    from fastclip.heads.softmax import ROWS

    single = vectors.astype(np.float32)
    factors = np.random.default_rng(0).normal(size=(int(labels.max()) + 1, vectors.shape[1])).astype(np.float32)

    def work(rows: slice) -> None:
        ((single[rows] @ factors.T).T @ single[rows]).sum()

    return lambda: list(over_blocks(work, blocks_of(len(single), ROWS), CORES))


def told(found: Found, vectors: np.ndarray, labels: np.ndarray, strength: float, test: np.ndarray) -> dict[str, object]:
    """Answers, mean objective and gradient in fp64, by plain NumPy."""
    weights, bias, iterations = found
    loss, gradient = strength / 2 * (weights**2).sum(), strength * weights
    for first in range(0, len(vectors), 8192):
        rows, right = vectors[first : first + 8192].astype(np.float64), labels[first : first + 8192]
        scores = rows @ weights.T + bias
        scores -= scores.max(axis=1, keepdims=True)
        sums = np.exp(scores).sum(axis=1, keepdims=True)
        loss += (np.log(sums[:, 0]) - scores[np.arange(len(rows)), right]).sum()
        residual = np.exp(scores) / sums
        residual[np.arange(len(rows)), right] -= 1
        gradient = gradient + residual.T @ rows
    answers = (test.astype(np.float64) @ weights.T + bias).argmax(axis=1)
    greatest = np.abs(gradient).max() / len(vectors)
    return {"answers": answers, "objective": loss / len(vectors), "gradient": greatest, "iterations": iterations}


def main() -> None:
    way, strength = sys.argv[1], float(sys.argv[2])
    vectors, labels, test = np.load("train.npy"), np.load("train.labels.npy"), np.load("test.npy")
    if way in ("evaluation", "products alone"):
        run = (evaluation if way == "evaluation" else products)(vectors, labels)
        run()
        repeats = 5
        started = time.perf_counter()
        for _ in range(repeats):
            run()
        print((time.perf_counter() - started) / repeats)
        return
    few = np.concatenate([np.flatnonzero(labels == each)[:2] for each in range(2)])
    solve = scikit_learn if way.startswith("scikit-learn") else fastclip
    solve(vectors[few], labels[few], 1.0)  # loads libraries
    started = time.perf_counter()
    if way == "search":
        search(vectors, labels)
        print(time.perf_counter() - started)
        return
    found = solve(vectors, labels, strength)
    seconds = time.perf_counter() - started
    np.savez(f"{way}.npz", **told(found, vectors, labels, strength, test))
    print(seconds)


if __name__ == "__main__":
    main()
