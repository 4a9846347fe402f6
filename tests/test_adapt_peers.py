"""Adaptation beside skada, and optimal transport, which is skada's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from drawn_domains import Ridge, angle, draw, fit_head
from helpers import REPOSITORY

from fastclip.adapt.coral import Coral
from fastclip.adapt.means import Means
from fastclip.adapt.moments import moments_of, pooled
from fastclip.adapt.subspace import SubspaceAlignment, principal_axes
from fastclip.adapt.transfer import mean_gaps, transfer_components
from fastclip.adapt.transport import check_size
from fastclip.errors import UserError
from fastclip.heads.labelled import Labelled


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, reference_python: Path) -> tuple[Labelled, Labelled, Mapping]:
    """A source, a target, and what skada and the long way make of them."""
    if not list(reference_python.parent.parent.glob("lib/*/site-packages/skada")):
        pytest.skip("no skada in .venv-reference: `make test` sets it up")
    folder = tmp_path_factory.mktemp("adaptation")
    source, target = draw(1, 200, twist=0.3), draw(2, 150, shift=1)
    arrays = {"source": source.vectors, "labels": source.labels, "target": target.vectors, "guesses": target.labels}
    numbers = {"classes": 5, "shrinkage": 0.2, "components": 6, "penalty": 0.7, "entropy": 0.2}
    np.savez(folder / "in.npz", **arrays, **numbers)
    program = REPOSITORY / "tests" / "reference" / "adaptation.py"
    command = [str(reference_python), str(program), str(folder / "in.npz"), str(folder / "out.npz")]
    subprocess.run(command, check=True, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"})
    return source, target, np.load(folder / "out.npz")


def test_coral_moves_as_skadas_does(reference):
    source, target, found = reference
    classifier = Ridge()
    Coral(classifier=classifier, shrinkage=0.2).fit(source, unlabelled=target.unlabelled())
    # skada takes the target's mean away from both domains, fastclip gives it to the source.
    moved = classifier.seen[0].vectors - target.vectors.mean(axis=0)
    assert np.abs(moved - found["coral"][:200]).max() < 1e-10


def test_subspace_alignment_moves_as_skadas_does(reference):
    source, target, found = reference
    classifier = Ridge()
    SubspaceAlignment(classifier=classifier, components=6).fit(source, unlabelled=target.unlabelled())
    moved, expected = classifier.seen[0].vectors, found["sa"]
    signs = np.sign((moved * expected[:200]).sum(axis=0))
    assert np.abs(moved * signs - expected[:200]).max() < 1e-10
    there = (target.vectors - target.vectors.mean(axis=0)) @ principal_axes(moments_of(target.vectors, 1), 6)
    assert np.abs(there * signs - expected[200:]).max() < 1e-10


@pytest.mark.parametrize(("name", "weight"), [("tca", 0.0), ("jda", 0.5)])
def test_transfer_components_are_those_of_the_whole_matrix(name: str, weight: float, reference):
    source, target, found = reference
    here, there = (Means.of(each.vectors, each.labels, 5, 1) for each in (source, target))
    _, scatter = pooled(moments_of(source.vectors, 1), moments_of(target.vectors, 1))
    components = transfer_components(scatter, mean_gaps(here, there, weight), 0.7, 6)
    assert angle(components, found[name]) < 1e-8


def test_optimal_transport_without_skada_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "skada", None)
    with pytest.raises(UserError, match="Optimal transport needs skada") as missing:
        fit_head("ot", draw(1, 60), draw(2, 30).unlabelled())
    assert missing.value.fix == "pip install 'fastclip[adapt]'"


def test_a_plan_that_would_not_fit_into_memory_is_refused():
    check_size("ot", 15_000, 15_000)
    with pytest.raises(UserError, match=r"173,000 images to 120,000 would take 1,392 GiB") as refused:
        check_size("ot", 173_000, 120_000)
    assert "coral" in refused.value.fix


def with_skada(reference_python: Path, code: str) -> str:
    """The output of `code` where this environment has skada besides."""
    packages = next(iter(reference_python.parent.parent.glob("lib/*/site-packages/skada")), None)
    if packages is None:
        pytest.skip("no skada in .venv-reference: `make test` sets it up")
    start = (
        f"import sys; sys.path += [{str(packages.parent)!r}, {str(REPOSITORY / 'tests')!r}]\n"
        "import numpy as np, sklearn\n"
        "from fastclip.heads.labelled import Labelled, Unlabelled\n"
        "from drawn_domains import Ridge, draw\n"
        "from fastclip.adapt.transport import Transport\n"
    )
    command = [sys.executable, "-W", "ignore", "-c", start + code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_optimal_transport_moves_as_skadas_does_and_leaves_scikit_learns_settings(reference, reference_python: Path):
    _, _, found = reference
    code = (
        "before = sklearn.get_config()\n"
        "seen, exactly = Ridge(), Ridge()\n"
        "source, target = draw(1, 200, twist=0.3), draw(2, 150, shift=1)\n"
        "distance = np.mean([((source.vectors - each) ** 2).sum(axis=1).mean() for each in target.vectors])\n"
        "fit = Transport(name='ot-entropic', classifier=seen, entropy=0.2 / distance)\n"
        "facts = fit.fit(source, unlabelled=target.unlabelled()).facts\n"
        "assert abs(facts['distance'] / distance - 1) < 1e-12\n"
        "again = np.random.default_rng(3).permutation(200)\n"
        "Transport(name='ot', classifier=exactly).fit(source, unlabelled=Unlabelled(source.vectors[again]))\n"
        "assert np.abs(exactly.seen[0].vectors - source.vectors).max() < 1e-12\n"
        "assert sklearn.get_config() == before and 'skada' in sys.modules\n"
        "print(seen.seen[0].vectors.tolist())\n"
    )
    moved = np.array(json.loads(with_skada(reference_python, code)))
    assert np.abs(moved - found["entropic"][:200]).max() < 1e-5
