"""Logistic regression by scikit-learn, and with a penalty on the distance to given weights by SciPy.

    .venv-reference/bin/python tests/reference/logistic.py IN.npz OUT.npz

IN: `vectors`, `labels` (each class has an image), `strengths` and `origin` (classes × dim).
OUT: `weights` and `bias` of scikit-learn for each strength; `to_origin_weights` and `to_origin_bias` of SciPy.
"""

import sys

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax
from sklearn.linear_model import LogisticRegression

given = np.load(sys.argv[1])
vectors, labels, origin = given["vectors"].astype(np.float64), given["labels"], given["origin"]
(images, dim), classes = vectors.shape, len(origin)


def objective(flat: np.ndarray, strength: float) -> tuple[float, np.ndarray]:
    weights, bias = flat[:-classes].reshape(classes, dim), flat[-classes:]
    scores = vectors @ weights.T + bias
    residual = softmax(scores, axis=1) - np.eye(classes)[labels]
    lost = -log_softmax(scores, axis=1)[np.arange(images), labels].sum()
    away = weights - origin
    slope = np.concatenate([(residual.T @ vectors + strength * away).ravel(), residual.sum(axis=0)])
    return (lost + strength / 2 * (away**2).sum()) / images, slope / images


found: dict[str, list[np.ndarray]] = {"weights": [], "bias": [], "to_origin_weights": [], "to_origin_bias": []}
for strength in given["strengths"]:
    model = LogisticRegression(C=1 / strength, tol=1e-10, max_iter=100_000).fit(vectors, labels)
    found["weights"].append(model.coef_)
    found["bias"].append(model.intercept_)
    start = np.concatenate([origin.ravel(), np.zeros(classes)])
    options = {"maxiter": 100_000, "maxfun": 100_000, "gtol": 1e-10, "ftol": 1e-16}
    flat = minimize(objective, start, (strength,), "L-BFGS-B", jac=True, options=options).x
    found["to_origin_weights"].append(flat[:-classes].reshape(classes, dim))
    found["to_origin_bias"].append(flat[-classes:])
np.savez(sys.argv[2], **{name: np.array(values) for name, values in found.items()})
