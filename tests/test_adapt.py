"""Every method of adaptation: labels of the target cannot come in, and no matrix is as long as the images twice."""

from __future__ import annotations

import subprocess
import sys
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from drawn_domains import LINEAR, WITH_CLASSIFIER, Ridge, draw, fit_head, method, right, texts

from fastclip.adapt.base import predicted
from fastclip.adapt.coral import Coral
from fastclip.adapt.methods import METHODS
from fastclip.adapt.subspace import SubspaceAlignment
from fastclip.adapt.transfer import TransferComponents
from fastclip.adapt.zero_shot import Prototypes
from fastclip.errors import IntegrityError, UserError
from fastclip.heads.labelled import Unlabelled
from fastclip.heads.method import Method
from fastclip.heads.scores import exact


def test_every_method_is_one():
    for name in METHODS:
        assert isinstance(method(name), Method) and method(name).name == name


def test_adaptation_loads_neither_torch_nor_the_extra():
    code = "import sys, fastclip.adapt.methods; print({'torch', 'scipy', 'sklearn', 'skada'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


@pytest.mark.parametrize("name", WITH_CLASSIFIER)
def test_a_source_that_is_the_target_gives_the_answers_of_the_source_alone(name: str):
    """With all components: fewer forget something."""
    source = draw(1, 400)
    head = METHODS[name](Ridge()).fit(source, unlabelled=source.unlabelled()).head
    alone = Ridge().fit(source).head
    assert np.array_equal(predicted(head, source.vectors, 1), predicted(alone, source.vectors, 1))


@pytest.mark.parametrize("name", WITH_CLASSIFIER)
def test_adaptation_makes_up_for_a_shift(name: str):
    source, target = draw(1, 600), draw(2, 600, shift=1.5)
    assert right(fit_head(name, source, target.unlabelled()), target) > right(Ridge().fit(source).head, target) + 0.05


@pytest.mark.parametrize("name", LINEAR)
def test_the_order_of_the_targets_images_permutes_the_answers_and_nothing_else(name: str):
    source, target = draw(1, 300), draw(2, 5000, shift=1)
    order = np.random.default_rng(3).permutation(len(target))
    answers = predicted(fit_head(name, source, target.unlabelled()), target.vectors, 1)
    shuffled = Unlabelled(target.vectors[order])
    assert np.array_equal(predicted(fit_head(name, source, shuffled), shuffled.vectors, 1), answers[order])


@pytest.mark.parametrize("name", LINEAR)
def test_the_number_of_cores_moves_no_bit(name: str):
    source, target = draw(1, 9000), draw(2, 9500, shift=1).unlabelled()
    one, three = fit_head(name, source, target), fit_head(name, source, target, cores=3)
    assert one.weights.tobytes() == three.weights.tobytes()
    assert (one.bias is None) == (three.bias is None)
    assert one.bias is None or one.bias.tobytes() == three.bias.tobytes()


@pytest.mark.parametrize("name", METHODS)
def test_labels_of_the_target_are_refused_by_type(name: str):
    target = draw(2, 50)
    with pytest.raises(AssertionError, match="without its labels"):
        fit_head(name, draw(1, 50), target)
    assert not hasattr(target.unlabelled(), "labels")


@pytest.mark.parametrize("name", LINEAR)
def test_a_class_may_lack_in_either_domain(name: str):
    source, target = draw(1, 300), draw(2, 300, shift=1)
    source = source.take(source.labels != 1)
    few = target.take((target.labels == 0) | (target.labels == 1))
    head = fit_head(name, source, few.unlabelled())
    scores = head(exact(few.vectors))
    if name in WITH_CLASSIFIER:
        assert (scores[:, 1] == -np.inf).all() and np.isfinite(np.delete(scores, 1, axis=1)).all()
    assert 1 not in predicted(head, few.vectors, 1) or name not in WITH_CLASSIFIER


@pytest.mark.parametrize("name", LINEAR)
def test_vectors_may_have_more_numbers_than_there_are_images(name: str):
    source, target = draw(1, 40, dim=96), draw(2, 30, dim=96, shift=0.5)
    assert right(fit_head(name, source, target.unlabelled()), target) > 0.6


@pytest.mark.parametrize("name", LINEAR)
def test_stored_half_precision_is_read_as_it_is(name: str):
    source, target = draw(1, 300), draw(2, 300, shift=1)
    halves = [replace(each, vectors=each.vectors.astype(np.float16)) for each in (source, target)]
    wide = [replace(each, vectors=each.vectors.astype(np.float64)) for each in halves]
    narrow, expected = (fit_head(name, here, there.unlabelled()) for here, there in (halves, wide))
    assert np.array_equal(narrow.weights, expected.weights)


@pytest.mark.parametrize("name", LINEAR)
def test_twenty_thousand_images_need_no_matrix_of_images_by_images(name: str):
    """That would be 800 MB for one domain, 3.2 GB for both."""
    source, target = draw(1, 10_000), draw(2, 10_000, shift=1).unlabelled()
    tracemalloc.start()
    try:
        fit_head(name, source, target)
        assert tracemalloc.get_traced_memory()[1] < 40e6
    finally:
        tracemalloc.stop()


def test_settings_are_chosen_by_the_classifier_on_the_source_as_it_is():
    train, held_out = draw(1, 60), draw(2, 30)
    for name in WITH_CLASSIFIER:
        classifier = Ridge()
        before = METHODS[name](classifier)
        chosen = before.choose(train, held_out, prototypes=texts())
        assert [id(each) for each in classifier.seen] == [id(train), id(held_out)]
        assert chosen.settings == {"strength": 0.25} and chosen == replace(before, classifier=chosen.classifier)
    for name in ("prior", "prototype"):
        assert method(name).choose(train, held_out) == method(name) and method(name).settings == {}


@pytest.mark.parametrize("name", [*WITH_CLASSIFIER, "ot"])
def test_a_source_of_one_class_is_refused(name: str):
    source = draw(1, 60)
    with pytest.raises(UserError, match="two classes; there are 1"):
        fit_head(name, source.take(source.labels == 2), draw(2, 30).unlabelled())


@pytest.mark.parametrize("name", METHODS)
def test_vectors_of_two_backbones_are_refused(name: str):
    with pytest.raises(UserError, match="of two backbones"):
        fit_head(name, draw(1, 60), draw(2, 30, dim=32).unlabelled())


@pytest.mark.parametrize("name", METHODS)
def test_a_target_without_images_is_refused(name: str):
    with pytest.raises(UserError, match="there are 1"):
        fit_head(name, draw(1, 60), Unlabelled(draw(2, 30).vectors[:1]))
    with pytest.raises(UserError, match="there are 0"):
        method(name).fit(draw(1, 60), prototypes=texts())


@pytest.mark.parametrize("name", ["prior", "prototype"])
def test_a_method_that_corrects_zero_shot_needs_prototypes(name: str):
    with pytest.raises(UserError, match="there are no prototypes"):
        method(name).fit(draw(1, 60), unlabelled=draw(2, 30).unlabelled())


def test_a_vector_that_is_not_finite_is_an_error():
    damaged = draw(2, 30).unlabelled()
    damaged.vectors[3, 3] = np.nan
    for name in LINEAR:
        with pytest.raises(IntegrityError, match="not finite"):
            fit_head(name, draw(1, 60), damaged)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Coral(classifier=Ridge(), shrinkage=1.1), "from 0 to 1, not 1.1"),
        (lambda: SubspaceAlignment(classifier=Ridge(), components=0), "at least, not 0"),
        (lambda: TransferComponents(name="tca", classifier=Ridge(), penalty=0.0), "positive, not 0"),
        (lambda: TransferComponents(name="jda", classifier=Ridge(), rounds=0), "one round at least, not 0"),
        (lambda: Prototypes(share=-0.5), "from 0 to 1, not -0.5"),
    ],
)
def test_settings_that_mean_nothing_are_refused(make, message: str):
    with pytest.raises(UserError, match=message):
        make()
