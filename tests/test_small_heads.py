"""Class means, ridge, Tip-Adapter and neighbours: all that must hold for each of them."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
from drawn_classes import ONE_CLASS, PROTOTYPES, draw, predicted

from fastclip.errors import IntegrityError, UserError
from fastclip.heads.class_means import ClassMeans
from fastclip.heads.method import Method
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.ridge import Ridge
from fastclip.heads.tip import Tip


@pytest.mark.parametrize("method", [ClassMeans(), Ridge(), Tip(), Neighbours()])
def test_a_method_refuses_one_class_with_a_cure(method: Method):
    with pytest.raises(UserError, match="two classes; there are 1") as raised:
        method.fit(ONE_CLASS, prototypes=np.eye(5, 16))
    assert raised.value.fix


@pytest.mark.parametrize("method", [ClassMeans(), Ridge(), Neighbours()])
def test_a_damaged_vector_is_an_error_of_integrity(method: Method):
    train = draw(0, 40)
    train.vectors[7, 3] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        method.fit(train)


@pytest.mark.parametrize("method", [ClassMeans(), Ridge(), Tip(), Neighbours()])
def test_the_order_of_images_and_classes_without_any_do_not_matter(method: Method):
    """Rows are in the order of digests everywhere; for these methods even another order predicts the same."""
    train, test = draw(0, 120, missing=(3,)), draw(1, 100)
    shuffled = train.take(np.random.default_rng(1).permutation(120))
    one, other = (method.fit(each, prototypes=PROTOTYPES).head for each in (train, shuffled))
    assert one.classes == 5 and np.array_equal(predicted(one, test), predicted(other, test))


SCORES = """
import hashlib, sys
import numpy as np
from fastclip.heads.blocks import blocks_of
from fastclip.heads.class_means import ClassMeans
from fastclip.heads.labelled import Labelled
from fastclip.heads.neighbours import Neighbours
from fastclip.heads.scores import exact
from fastclip.heads.tip import Tip

rng = np.random.Generator(np.random.PCG64(0))
drawn = rng.integers(-1000, 1000, (3000, 96)).astype(np.float64)
vectors = (drawn / np.sqrt((drawn * drawn).sum(axis=1, keepdims=True))).astype(np.float16)
train, images = Labelled(vectors[:2500], np.arange(2500) % 7, 8), exact(vectors[2500:2992])
prototypes = vectors[2992:].astype(np.float32)
for method in (ClassMeans(), Neighbours(k=100), Tip(beta=5.5)):
    print(method.name, hashlib.sha256(method.fit(train, prototypes=prototypes).head(images).tobytes()).hexdigest())
print("torch" in sys.modules)
"""


def test_fits_and_scores_are_the_same_bits_with_the_instructions_and_threads_of_other_machines():
    config = np.show_config(mode="dicts")
    instructions = " ".join(config.get("SIMD Extensions", {}).get("found", []))
    machines = [
        {"OPENBLAS_NUM_THREADS": "1"},
        {"OPENBLAS_NUM_THREADS": "2", "OPENBLAS_CORETYPE": "Haswell"},
        {"OPENBLAS_NUM_THREADS": "1", "OPENBLAS_CORETYPE": "Nehalem", "NPY_DISABLE_CPU_FEATURES": instructions},
    ]
    printed = {
        subprocess.run(
            [sys.executable, "-c", SCORES], env={**os.environ, **machine}, capture_output=True, text=True, check=True
        ).stdout
        for machine in machines
    }
    (lines,) = printed
    assert [line.split()[0] for line in lines.splitlines()] == ["prototype", "knn", "tip", "False"]
