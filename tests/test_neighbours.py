"""Nearest neighbours and their votes, against brute force in exact arithmetic, with ties and crowds planted."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from fastclip.errors import IntegrityError, UserError
from fastclip.heads import nearest as module
from fastclip.heads.labelled import Labelled
from fastclip.heads.nearest import error_bound, nearest
from fastclip.heads.neighbours import NEIGHBOURS, Neighbours
from fastclip.heads.scores import classify, exact
from fastclip.heads.votes import vote


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def near(seed: int, count: int, dim: int, spread: float = 0.2, dtype: type = np.float16) -> np.ndarray:
    """Unit vectors around a few centres, as they are stored."""
    centres = unit(np.random.default_rng(7).normal(size=(6, dim)))
    rng = np.random.default_rng(seed)
    return unit(centres[rng.integers(0, 6, count)] + spread * rng.normal(size=(count, dim))).astype(dtype)


def draw(seed: int, images: int, classes: int = 6, dim: int = 24, missing: tuple[int, ...] = ()) -> Labelled:
    """Images of classes that overlap."""
    centres = unit(np.random.default_rng(8).normal(size=(classes, dim)))
    rng = np.random.default_rng(seed)
    labels = rng.choice(np.setdiff1d(np.arange(classes), missing), images)
    vectors = unit(centres[labels] + 0.25 * rng.normal(size=(images, dim)))
    return Labelled(vectors.astype(np.float16), labels, classes)


def by_integers(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, list[list[Fraction]]]:
    """The nearest rows by products of whole numbers, in units of 2⁻²⁶ each."""
    whole = [np.rint(each.astype(np.float64) * 2**26).astype(np.int64).astype(object) for each in (vectors, queries)]
    products = (whole[1] @ whole[0].T).tolist()
    rows = [sorted(range(len(vectors)), key=lambda row, each=each: (-each[row], row))[:k] for each in products]
    found = [[Fraction(each[row], 2**52) for row in best] for each, best in zip(products, rows, strict=True)]
    return np.array(rows), found


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("k", [1, 7, 150])
def test_neighbours_and_cosines_are_those_of_exact_integers_with_planted_ties(dtype: type, k: int):
    vectors = near(0, 150, 12, dtype=dtype)
    vectors[[90, 20, 140]] = vectors[5]
    vectors[[1, 149]] = vectors[100]
    queries = exact(np.concatenate([near(1, 20, 12, dtype=dtype), vectors[[5, 100]]]))
    rows, cosines = nearest(vectors, queries, k)
    expected, products = by_integers(vectors, queries, k)
    assert np.array_equal(rows, expected)
    assert [[Fraction(value) for value in each] for each in cosines.tolist()] == products
    if k >= 7:
        assert rows[20, :4].tolist() == [5, 20, 90, 140]


def plainly(vectors: np.ndarray, queries: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """All products at once, in fp64, which is exact."""
    products = queries @ exact(vectors).T
    rows = np.argsort(-products, axis=1, kind="stable")[:, :k]
    return rows, np.take_along_axis(products, rows, axis=1)


@pytest.mark.parametrize(("rows", "queries"), [(4096, 1024), (64, 7), (16, 1), (333, 100)])
def test_no_size_of_blocks_moves_a_bit(rows: int, queries: int, monkeypatch: pytest.MonkeyPatch):
    vectors, asked = near(0, 700, 32), exact(near(1, 90, 32))
    vectors[600:] = vectors[:100]
    monkeypatch.setattr(module, "ROWS", rows)
    monkeypatch.setattr(module, "QUERIES", queries)
    for k in (1, 20, 200):
        for found, expected in zip(nearest(vectors, asked, k), plainly(vectors, asked, k), strict=True):
            assert found.tobytes() == expected.tobytes()


def test_a_crowd_of_equal_images_is_found_again_in_full_and_the_first_of_them_win():
    vectors = near(0, 20_000, 8)
    vectors[3000:15_000] = vectors[2999]
    asked = exact(np.concatenate([vectors[[2999]], near(1, 5, 8)]))
    _, crowded = module._search(vectors, asked.astype(np.float32), 5, slack=2 * error_bound(8))
    assert 0 in crowded and len(crowded) < len(asked), "the test has both"
    rows, cosines = nearest(vectors, asked, 5)
    expected, products = plainly(vectors, asked, 5)
    assert rows[0].tolist() == [2999, 3000, 3001, 3002, 3003]
    assert np.array_equal(rows, expected) and np.array_equal(cosines, products)


def test_differences_that_fp32_cannot_see_are_decided():
    """Among 3,000 vectors within 1e-6 of each other fp32 alone is wrong; the exact order is found."""
    vectors = unit(unit(np.ones((1, 64))) + 1e-7 * np.random.default_rng(3).normal(size=(3000, 64))).astype(np.float32)
    asked = exact(unit(np.random.default_rng(4).normal(size=(4, 64))))
    rows, _ = nearest(vectors, asked, 10)
    assert np.array_equal(rows, plainly(vectors, asked, 10)[0])
    in_fp32 = np.argsort(-(asked.astype(np.float32) @ vectors.T), axis=1, kind="stable")[:, :10]
    assert not np.array_equal(rows, in_fp32)


@pytest.mark.parametrize("dim", [1, 8, 512])
def test_no_product_in_fp32_is_further_off_than_the_bound(dim: int):
    rng = np.random.default_rng(5)
    # All of one sign: errors of sums are then greatest.
    vectors, queries = (unit(rng.uniform(0.5, 1, size=(400, dim))).astype(np.float32) for _ in range(2))
    asked = exact(queries)
    in_order = np.zeros((400, 400), np.float32)
    for column in range(dim):
        in_order += asked[:, column, None].astype(np.float32) * vectors[:, column]
    off = np.abs(in_order - asked @ exact(vectors).T).max()
    assert off <= error_bound(dim) and (dim == 1 or off > error_bound(dim) / 1000)


def test_a_damaged_vector_or_query_is_an_error():
    vectors, asked = near(0, 50, 8), exact(near(1, 9, 8))
    for place in (0, 30, 49):
        broken = vectors.copy()
        broken[place, 3] = np.nan if place else np.inf
        with pytest.raises(IntegrityError, match="not finite"):
            nearest(broken, asked, 5)
    asked[4, 2] = np.nan
    with pytest.raises(IntegrityError, match="not finite"):
        nearest(vectors, asked, 5)


def test_a_vote_is_the_rounded_exponential():
    exponents = -np.concatenate([np.linspace(0, 25, 10_001), [1e9, np.inf, 0.0]])
    votes = vote(exponents)
    assert np.abs(votes - np.exp(exponents)).max() < 1e-8
    assert np.array_equal(votes * 2**26, np.rint(votes * 2**26)) and votes[-1] == 1 and not votes[-3:-1].any()


def voted(train: Labelled, query: np.ndarray, k: int, temperature: float) -> dict[int, float]:
    """DINO's weighted vote for one image, image by image."""
    cosines = train.vectors.astype(np.float64) @ query
    best = sorted(range(len(train)), key=lambda row: (-cosines[row], row))[:k]
    votes: dict[int, float] = {}
    for row in best:
        weight = np.exp((cosines[row] - cosines[best[0]]) / temperature)
        votes[int(train.labels[row])] = votes.get(int(train.labels[row]), 0.0) + weight
    return votes


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.07), (20, 0.07), (60, 0.3)])
def test_scores_are_dinos_votes_and_the_others_come_after_by_their_mean(k: int, temperature: float):
    train, test = draw(0, 200, missing=(4,)), draw(1, 60)
    fit = Neighbours(k, temperature).fit(train)
    means = np.stack([train.vectors[train.labels == c].mean(axis=0, dtype=float) for c in (0, 1, 2, 3, 5)])
    by_mean = test.vectors.astype(np.float64) @ unit(means).T
    scores = fit.head(exact(test.vectors))
    for row, query in enumerate(test.vectors.astype(np.float64)):
        votes = voted(train, query, k, temperature)
        assert all(abs(scores[row, label] - value) < 1e-6 for label, value in votes.items())
        order = np.argsort(-scores[row]).tolist()
        others = [label for label in np.array([0, 1, 2, 3, 5])[np.argsort(-by_mean[row])] if label not in votes]
        assert order[len(votes) :] == [*others, 4] and np.isneginf(scores[row, 4])
    assert fit.facts == {"images": 200.0, "classes": 5.0, "k": float(k), "temperature": temperature}


def test_two_classes_with_equal_votes_tie_and_the_lower_index_wins():
    vectors = np.array([[0.6, 0.8], [0.6, -0.8], [-1.0, 0.0]], np.float16)
    query = np.array([[1.0, 0.0]], np.float16)
    for labels in ([1, 0, 2], [0, 1, 2], [2, 1, 0]):
        head = Neighbours(k=2).fit(Labelled(vectors, np.array(labels), 3)).head
        found = classify(query, {"": head}, np.array([labels[1]]))[""]
        assert (
            found.predicted[0] == min(labels[:2]) and found.margin[0] == 0 and found.rank[0] == (labels[1] > labels[0])
        )


def test_k_is_the_best_on_held_out_images_and_of_equal_ones_the_greatest_for_any_number_of_threads():
    train, held_out = draw(0, 120), draw(1, 2300)
    counts = {}
    for k in sorted({min(k, 120) for k in NEIGHBOURS}):
        head = Neighbours(k).fit(train).head
        found = classify(held_out.vectors, {"": head}, held_out.labels)[""]
        counts[k] = int((found.predicted == held_out.labels).sum())
    assert list(counts) == [1, 5, 10, 20, 50, 100, 120] and len(set(counts.values())) > 3
    best = max(k for k in counts if counts[k] == max(counts.values()))
    assert Neighbours().choose(train, held_out).k == Neighbours().choose(train, held_out, cores=3).k == best
    far = Labelled(unit(np.eye(2, 24)[[0, 0, 1, 1]]), np.array([0, 0, 1, 1]), 6)
    assert Neighbours().choose(far, far).k == 4, "all of 1 and 4 are right"


def test_no_images_have_no_scores():
    assert Neighbours(3).fit(draw(0, 9)).head(np.empty((0, 24))).shape == (0, 6)


def test_fewer_images_than_k_all_vote_and_one_class_is_refused():
    train = draw(0, 7)
    assert Neighbours(k=20).fit(train).facts["k"] == 7
    with pytest.raises(UserError, match="two classes"):
        Neighbours().fit(Labelled(train.vectors, np.zeros(7, np.int64), 6))
    for bad in ({"k": 0}, {"temperature": 0.0}, {"temperature": float("nan")}):
        with pytest.raises(UserError, match="at least"):
            Neighbours(**bad)
