"""The logistic probe is at the optimum, whatever the way there, and says so where it is not."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from fastclip.errors import IntegrityError, UserError
from fastclip.heads import softmax
from fastclip.heads.labelled import Labelled
from fastclip.heads.linear import LinearHead
from fastclip.heads.logistic import BOUND, Logistic
from fastclip.heads.method import Fit, Method
from fastclip.heads.scores import classify, exact
from fastclip.heads.search import STRENGTHS, search_strength
from fastclip.heads.softmax import Softmax


def drawn(
    images: int, dim: int, classes: int, *, seed: int = 0, noise: float = 1.0, kind: type = np.float16
) -> Labelled:
    """Unit vectors with a great common mean and a decaying spectrum, in clusters, as CLIP's are."""
    rng = np.random.default_rng(seed)
    decay = (1.0 + np.arange(dim)) ** -0.5
    decay /= np.linalg.norm(decay)
    centres = np.random.default_rng(1).normal(size=(classes, dim)) * decay
    labels = rng.integers(0, classes, images)
    rows = 1 / np.sqrt(dim) + 0.5 * centres[labels] + noise * rng.normal(size=(images, dim)) * decay
    return Labelled((rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(kind), labels, classes)


def objective(head: LinearHead, data: Labelled, strength: float, origin: np.ndarray | float = 0.0) -> float:
    """The mean objective of a head, written down plainly."""
    weights, vectors = head.weights.astype(np.float64), data.vectors.astype(np.float64)
    scores = vectors @ weights.T + head.bias
    scores -= scores.max(axis=1, keepdims=True)
    lost = np.log(np.exp(scores).sum(axis=1)) - scores[np.arange(len(data)), data.labels]
    return float((lost.sum() + strength / 2 * ((weights - origin) ** 2).sum()) / len(data))


def linear(fit: Fit) -> LinearHead:
    assert isinstance(fit.head, LinearHead)
    return fit.head


def predicted(head: LinearHead, data: Labelled) -> np.ndarray:
    return classify(data.vectors, {"": head}, data.labels)[""].predicted


def agree(one: LinearHead, other: LinearHead, data: Labelled) -> bool:
    """Whether both predict the same, but for the few images at a thousandth of the usual margin.

    A gradient of 1e-7 leaves weights under a weak penalty some freedom.
    """
    margin = classify(data.vectors, {"": one}, data.labels)[""].margin
    clear = margin > 1e-3 * margin.mean()
    return clear.mean() > 0.995 and bool((predicted(one, data) == predicted(other, data))[clear].all())


def test_it_is_a_method():
    assert isinstance(Logistic(), Method)
    assert (Logistic().name, Logistic(to_text=True).name) == ("logistic", "text-logistic")
    assert Logistic(3.0).settings == {"strength": 3.0}


@pytest.fixture(scope="module")
def both_ways(reference_python: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Labelled], dict]:
    """The optima that scikit-learn and SciPy find."""

    def fit(data: Labelled, strengths: tuple[float, ...], origin: np.ndarray) -> dict[str, np.ndarray]:
        folder = tmp_path_factory.mktemp("logistic")
        np.savez(folder / "in.npz", vectors=data.vectors, labels=data.labels, strengths=strengths, origin=origin)
        script = Path(__file__).parent / "reference" / "logistic.py"
        command = [str(reference_python), str(script), str(folder / "in.npz"), str(folder / "out.npz")]
        subprocess.run(command, check=True)
        return dict(np.load(folder / "out.npz"))

    return fit


@pytest.mark.parametrize("shape", [(600, 24, 7), (40, 64, 5)], ids=["many images", "more dimensions than images"])
def test_the_optimum_is_the_one_of_scikit_learn(shape: tuple[int, int, int], both_ways):
    data, unseen = drawn(*shape), drawn(2000, *shape[1:], seed=7)
    strengths = (100.0, 1.0, 0.01)
    prototypes = drawn(shape[2], *shape[1:], seed=3, kind=np.float32).vectors
    theirs = both_ways(data, strengths, 100.0 * prototypes.astype(np.float64))
    for place, strength in enumerate(strengths):
        for prefix, method, origin in (
            ("", Logistic(strength), 0.0),
            ("to_origin_", Logistic(strength, to_text=True), 100.0 * prototypes.astype(np.float64)),
        ):
            fit = method.fit(data, prototypes=prototypes)
            peer = LinearHead(theirs[f"{prefix}weights"][place], theirs[f"{prefix}bias"][place])
            reached = objective(linear(fit), data, strength, origin)
            assert abs(reached - objective(peer, data, strength, origin)) < 1e-8
            assert fit.facts["objective"] == pytest.approx(reached * len(data), rel=1e-12)
            assert fit.facts["gradient"] <= BOUND
            assert abs(linear(fit).bias.sum()) < 1e-9
            for images in (data, unseen):
                assert agree(linear(fit), peer, images)


def test_the_gradient_is_that_of_finite_differences():
    data = drawn(50, 6, 4)
    rng = np.random.default_rng(5)
    problem = Softmax(data.vectors, data.labels, rng.normal(size=(4, 6)))
    parameters, step = rng.normal(size=(4, 7)), 1e-5
    gradient = problem.at(parameters, 3.0, exact=True).gradient
    for place in np.ndindex(4, 7):
        move = np.zeros((4, 7))
        move[place] = step
        higher, lower = (problem.at(parameters + sign * move, 3.0, exact=True).value for sign in (1, -1))
        assert gradient[place] == pytest.approx((higher - lower) / (2 * step), abs=1e-8)


def test_the_gradient_has_the_size_that_it_has_without_any_change_of_variables():
    """The bound on it is said of plain weights."""
    data = drawn(300, 16, 5)
    head = linear(Logistic(1.0).fit(data))
    vectors, weights = data.vectors.astype(np.float64), head.weights.astype(np.float64)
    scores = np.exp(vectors @ weights.T + head.bias)
    residual = scores / scores.sum(axis=1, keepdims=True) - np.eye(5)[data.labels]
    assert np.abs(residual.T @ vectors + weights).max() / len(data) <= BOUND
    assert np.abs(residual.sum(axis=0)).max() / len(data) <= BOUND


def test_any_start_leads_to_the_same_optimum():
    data, method = drawn(400, 16, 5), Logistic(0.1)
    problem = Softmax(data.vectors, data.labels, np.zeros((5, 16)))
    rng = np.random.default_rng(0)
    first, second = (method._solve(problem, 10 * rng.normal(size=(5, 17)))[0] for _ in range(2))
    assert first.value == pytest.approx(second.value, abs=1e-11)
    assert np.abs(first.parameters[:, :-1] - second.parameters[:, :-1]).max() < 1e-2


def test_longer_vectors_need_a_strength_that_is_greater_by_the_square():
    """λ on vectors of length 1 is 100 λ on those of length 10: scikit-learn's C depends on the norm."""
    data, unseen = drawn(400, 16, 5, kind=np.float32), drawn(2000, 16, 5, seed=7)
    long = Labelled(data.vectors * 8, data.labels, 5)
    short, of_long = linear(Logistic(0.5).fit(data)), linear(Logistic(32.0).fit(long))
    assert np.abs(short.weights - 8 * of_long.weights).max() < 1e-3
    assert agree(short, LinearHead(8 * of_long.weights, of_long.bias), unseen)


@pytest.mark.parametrize("to_text", [False, True])
def test_a_class_without_images_is_left_out_and_never_predicted(to_text: bool):
    data, method = drawn(400, 16, 5), Logistic(1.0, to_text)
    prototypes = drawn(5, 16, 5, seed=3, kind=np.float32).vectors
    gap = data.take(data.labels != 2)
    fit = method.fit(gap, prototypes=prototypes)
    closed = method.fit(
        Labelled(gap.vectors, gap.labels - (gap.labels > 2), 4), prototypes=np.delete(prototypes, 2, axis=0)
    )
    scores = fit.head(exact(data.vectors))
    assert np.isneginf(scores[:, 2]).all()
    assert (np.delete(scores, 2, axis=1) == closed.head(exact(data.vectors))).all()
    assert fit.facts == closed.facts


def test_one_class_is_refused():
    data = drawn(400, 16, 5)
    with pytest.raises(UserError, match="two classes; there are 1"):
        Logistic().fit(data.take(data.labels == 3))


def test_text_logistic_without_prototypes_is_refused():
    with pytest.raises(UserError, match="needs prototypes"):
        Logistic(to_text=True).fit(drawn(40, 8, 3))


@pytest.mark.parametrize("row", range(7))
def test_a_vector_that_is_not_finite_is_refused(row: int):
    data = drawn(400, 8, 3)
    data.vectors[row, 2] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        Logistic().fit(data)


@pytest.mark.parametrize("strength", [0.0, -1.0, np.inf, np.nan])
def test_a_strength_that_is_no_positive_number_is_refused(strength: float):
    with pytest.raises(UserError, match="positive"):
        Logistic(strength)


def test_a_great_strength_gives_zero_shot_with_text_and_class_counts_without():
    data = drawn(300, 16, 5)
    prototypes = drawn(5, 16, 5, seed=3, kind=np.float32).vectors
    to_text = linear(Logistic(1e9, to_text=True).fit(data, prototypes=prototypes))
    assert np.abs(to_text.weights - 100.0 * prototypes).max() < 1e-3
    plain = linear(Logistic(1e9).fit(data))
    assert np.exp(plain.bias) / np.exp(plain.bias).sum() == pytest.approx(np.bincount(data.labels) / 300, abs=1e-5)


def test_the_number_of_cores_moves_no_bit(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(softmax, "ROWS", 64)
    data = drawn(700, 24, 7)
    one, three = (linear(Logistic(0.1).fit(data, cores=cores)) for cores in (1, 3))
    assert one.weights.tobytes() == three.weights.tobytes()
    assert one.bias.tobytes() == three.bias.tobytes()
    few, held_out = drawn(130, 8, 3, noise=2.0), drawn(100, 8, 3, seed=4, noise=2.0)
    assert Logistic().choose(few, held_out, cores=1) == Logistic().choose(few, held_out, cores=3)


def test_vectors_that_are_converted_block_by_block_give_the_same_bits(monkeypatch: pytest.MonkeyPatch):
    data = drawn(700, 24, 7)
    copied = linear(Logistic(0.1).fit(data))
    monkeypatch.setattr(softmax, "MOST_COPIED", 0)
    assert copied.weights.tobytes() == linear(Logistic(0.1).fit(data)).weights.tobytes()


def test_the_order_of_images_moves_the_objective_by_less_than_its_rounding_and_no_prediction():
    data, unseen = drawn(700, 24, 7), drawn(2000, 24, 7, seed=7)
    shuffled = data.take(np.random.default_rng(0).permutation(700))
    one, other = (linear(Logistic(10.0).fit(each)) for each in (data, shuffled))
    assert abs(objective(one, data, 10.0) - objective(other, data, 10.0)) < 1e-12
    assert agree(one, other, unseen)


def test_a_fit_that_does_not_reach_the_optimum_is_an_error():
    with pytest.raises(UserError, match="not at its optimum after 4 iterations: the gradient is"):
        Logistic(0.01, iterations=2).fit(drawn(400, 16, 5))


@pytest.mark.parametrize("shape", [(3000, 32, 5), (2000, 64, 10), (400, 512, 7)])
def test_strong_penalties_take_few_iterations(shape: tuple[int, int, int]):
    """Sums in fp32, whose roundings all go one way, keep two of these fits wandering until their patience ends."""
    for strength in (1e6, 1e5, 1e4):
        assert Logistic(strength).fit(drawn(*shape)).facts["iterations"] < 20


def test_the_weakest_penalty_is_fitted():
    assert Logistic(STRENGTHS[0]).fit(drawn(600, 24, 7)).facts["gradient"] <= BOUND


def test_the_search_asks_the_strongest_first_and_takes_the_stronger_of_equals():
    asked: list[float] = []

    def right(strength: float) -> int:
        asked.append(strength)
        return 5

    assert search_strength(right) == (STRENGTHS[-1], 5)
    assert len(asked) == len(set(asked)) <= 15
    assert all(first > second for first, second in pairwise(asked[:7]))


@pytest.mark.parametrize("peak", [0, 1, 40, 57, 95, 96])
def test_the_search_finds_the_peak_of_what_has_one(peak: int):
    strength, count = search_strength(lambda each: 200 - abs(STRENGTHS.index(each) - peak))
    assert (strength, count) == (STRENGTHS[peak], 200)


def test_the_chosen_strength_is_the_one_of_cold_and_exact_fits_in_the_same_order():
    """Fits that start from each other and end at a looser bound classify as many images."""
    train, held_out = drawn(300, 16, 6, noise=1.5), drawn(400, 16, 6, seed=4, noise=1.5)

    def right(strength: float) -> int:
        head = linear(Logistic(strength).fit(train))
        return int((predicted(head, held_out) == held_out.labels).sum())

    chosen = Logistic().choose(train, held_out)
    assert chosen.strength == search_strength(right)[0]
    assert STRENGTHS[0] < chosen.strength < STRENGTHS[-1], "a search that ends at an end proves little"
