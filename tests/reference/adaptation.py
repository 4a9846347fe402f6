r"""Adapt a source to a target with skada, and with transfer components that are worked out the long way.

    .venv-reference/bin/python tests/reference/adaptation.py IN.npz OUT.npz

IN: `source`, `labels`, `target`, `guesses` (labels of the target), `classes`, `shrinkage`, `components`, `penalty`.

OUT: `coral` and `sa`, source then target as skada moves them, with shrunk covariances and so many components;
`entropic`, the source as skada's entropic transport moves it (`entropy`); `tca` and `jda`, bases of the subspaces, by
the whole matrix M of images by images and scipy's general eigenproblem.
"""

import sys

import numpy as np
import scipy.linalg
import skada


def moved(adapter: skada.BaseAdapter, source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Both domains after the adapter."""
    domains = np.repeat([1, -2], [len(source), len(target)])
    return adapter.fit_transform(np.vstack([source, target]), sample_domain=domains)


def subspace(vectors: np.ndarray, m: np.ndarray, penalty: float, components: int) -> np.ndarray:
    """Columns w with the smallest wᵀ (Xᵀ M X + penalty · I) w / wᵀ Xᵀ H X w."""
    images, dim = vectors.shape
    centring = np.eye(images) - np.full((images, images), 1 / images)
    m = m / np.linalg.norm(m)
    left = vectors.T @ m @ vectors + penalty * np.eye(dim)
    values, found = scipy.linalg.eig(left, vectors.T @ centring @ vectors)
    return np.real(found[:, np.argsort(np.real(values))[:components]])


def outer(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix of a gap between the means of the marked images."""
    column = np.concatenate([source / source.sum(), target / -target.sum()])
    return np.outer(column, column)


def main() -> None:
    """Read, compute, write."""
    given = np.load(sys.argv[1])
    source, target, labels, guesses = (given[name] for name in ("source", "target", "labels", "guesses"))
    classes, components = int(given["classes"]), int(given["components"])
    penalty, shrinkage = float(given["penalty"]), float(given["shrinkage"])
    both = np.vstack([source, target])
    whole = outer(np.ones(len(source)), np.ones(len(target)))
    by_class = [outer(labels == each, guesses == each) for each in range(classes)]
    np.savez(
        sys.argv[2],
        coral=moved(skada.CORALAdapter(reg=shrinkage), source, target),
        sa=moved(skada.SubspaceAlignmentAdapter(n_components=components), source, target),
        entropic=moved(skada.EntropicOTMappingAdapter(reg_e=float(given["entropy"]), tol=1e-12), source, target),
        tca=subspace(both, whole, penalty, components),
        jda=subspace(both, classes * whole + sum(by_class), penalty, components),
    )


if __name__ == "__main__":
    main()
