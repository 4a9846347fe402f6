"""`fastclip prompts select`: the planted templates are found, and luck is not taken for skill."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_prompts import candidates, drawn_vectors, letters, template
from helpers import Program, Sharded

from fastclip.errors import UserError
from fastclip.prompts.greedy import Chooser, Ensemble, grow
from fastclip.prompts.hold_out import HOLD_OUTS, Part, find_hold_out
from fastclip.prompts.scoring import ShardImages, Source, score_sets
from fastclip.prompts.select import ALL, HELD_OUT, SAME, Selection, SelectOptions, Work, select
from fastclip.text.directions import unit_rows
from fastclip.text.prompts import find_prompt_set, prompt_file

TEMPLATES = [template(number) for number in range(12)]
OF = candidates(*TEMPLATES)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return letters(tmp_path_factory.mktemp("letters"), per_class=25)


def work_of(source: Source, noises: Mapping[str, float], **changes: int) -> Work:
    vectors = drawn_vectors(OF, source, noises)
    reference = candidates(TEMPLATES[0])
    return Work(source, OF, reference.each, vectors, **{"cores": 2, **changes})


def changed(source: Source, domains: tuple[str, ...], seed: int) -> Source:
    """The same images, with labels in some domains that have nothing to do with them."""

    class Shuffled(Source):
        def read(self, shard: object) -> ShardImages:
            images = super().read(shard)
            if shard.domain not in domains:
                return images
            random = np.random.default_rng([seed, *shard.name.encode()])
            return replace(images, labels=random.integers(0, len(self.target.manifest.classes), len(images.labels)))

    return Shuffled(source.target, source.recipe, source.store)


@pytest.mark.parametrize("hold_out", HOLD_OUTS)
def test_the_planted_template_is_chosen_first_everywhere(source: Source, hold_out: str):
    found = select(work_of(source, {TEMPLATES[7]: 0.1}), SelectOptions(hold_out=hold_out))
    assert found.chosen[0] == 7 and all(each[0] == 7 for each in found.chosen_by_fold)
    held_out, everything = found.average(HELD_OUT), found.average(ALL)
    assert held_out is not None and everything is not None and held_out > everything


def test_an_ensemble_is_what_a_loop_over_all_pairs_chooses(source: Source):
    """Two steps of forward selection, by exact scores and without similarities."""
    work = work_of(source, dict.fromkeys(TEMPLATES, 1.0))

    def average(ensemble: tuple[int, ...]) -> float:
        prototypes = unit_rows(np.sum([work.sums[row] for row in ensemble], axis=0))[None]
        shards = score_sets(source, prototypes, cores=1)
        by_domain = {each.domain: [] for each in shards}
        for each in shards:
            by_domain[each.domain] += each.right()[:, 0].tolist()
        return float(np.mean([np.mean(right) for right in by_domain.values()]))

    best = max(range(12), key=lambda row: (average((row,)), -row))
    second = max((row for row in range(12) if row != best), key=lambda row: (average((best, row)), -row))
    found = select(work, SelectOptions(most=2))
    expected = (best, second) if average((best, second)) > average((best,)) else (best,)
    assert found.chosen == expected
    assert abs(float(found.average(SAME) or 0) - average(expected)) < 1e-12


def test_kept_and_recomputed_similarities_choose_the_same_with_any_number_of_threads(source: Source):
    noises = dict.fromkeys(TEMPLATES, 1.5)
    kept = select(work_of(source, noises), SelectOptions(hold_out="folds"))
    again = select(work_of(source, noises, kept_bytes=0, cores=1), SelectOptions(hold_out="folds"))
    assert (kept.chosen, kept.chosen_by_fold, kept.columns) == (again.chosen, again.chosen_by_fold, again.columns)
    assert len(kept.chosen) > 1, "ensembles were extended"


def test_labels_of_a_domain_that_is_held_out_cannot_reach_the_choice(source: Source):
    noises = dict.fromkeys(TEMPLATES, 1.5)
    left = source.target.domains[1]
    vectors = drawn_vectors(OF, source, noises)
    honest, other = (
        select(Work(each, OF, (), vectors, cores=1), SelectOptions())
        for each in (source, changed(source, (left,), seed=1))
    )
    fold = list(source.target.domains).index(left)
    assert honest.chosen_by_fold[fold] == other.chosen_by_fold[fold]
    assert honest.columns[HELD_OUT][left] != other.columns[HELD_OUT][left], "the labels are others"
    assert honest.chosen_by_fold != other.chosen_by_fold, "those that see them choose otherwise"


def test_a_chooser_is_given_the_counts_of_its_own_parts_only():
    asked: list[Mapping[Ensemble, frozenset[Part]]] = []
    parts = find_hold_out("domains", ("a", "b"), seed=0).folds[0].chooses

    def count(wanted: Mapping[Ensemble, frozenset[Part]]) -> dict:
        asked.append(wanted)
        return {each: {part: np.array([1, 2, 0]) for part in which} for each, which in wanted.items()}

    chooser = Chooser(dict.fromkeys(parts, 5), most=3)
    grow([chooser], count)
    assert chooser.chosen == [1], "nothing is better than the first step"
    assert all(which == {Part("b", 0)} for wanted in asked for which in wanted.values())


def gains(found: Selection) -> tuple[float, float]:
    """The gains over all candidates together: on images that chose, and on others."""
    base, same, held_out = (float(found.average(each) or 0) for each in (ALL, SAME, HELD_OUT))
    return same - base, held_out - base


def test_with_shuffled_labels_the_gain_is_luck_which_the_gap_shows(tmp_path: Path):
    """Labels that mean nothing: one template is as good as another, but on the images that choose."""
    source = letters(tmp_path, per_class=40, domains="photo sketch")
    vectors = drawn_vectors(OF, source, dict.fromkeys(TEMPLATES, 1.0))
    drawn = []
    for seed in range(6):
        shuffled = changed(source, source.target.domains, seed)
        drawn.append(gains(select(Work(shuffled, OF, (), vectors, cores=1), SelectOptions(hold_out="folds"))))
    same, held_out = np.mean(drawn, axis=0)
    error = np.std([each for _, each in drawn], ddof=1) / np.sqrt(len(drawn))
    assert same > 0.02 and abs(held_out) < max(3 * error, 0.02) and same > held_out + 0.02, drawn


def test_without_labels_no_label_plays_a_part(source: Source):
    noises = dict.fromkeys(TEMPLATES, 4.0) | {TEMPLATES[5]: 0.1}
    vectors = drawn_vectors(OF, source, noises)
    options = SelectOptions(labels=False, most=3)
    honest = select(Work(source, OF, (), vectors, cores=1), options)
    other = select(Work(changed(source, source.target.domains, 2), OF, (), vectors, cores=2), options)
    assert honest.chosen == other.chosen and len(honest.chosen) == 3
    assert honest.facts()["labels_used"] is False and HELD_OUT not in honest.columns


def test_every_image_is_reported_once_and_never_by_a_fold_that_it_chose():
    digests = np.array([f"{number:064x}".encode() for number in range(1000)])
    for name in HOLD_OUTS:
        way = find_hold_out(name, ("a", "b"), seed=0)
        numbers = way.numbers(digests)
        for fold in way.folds:
            assert not set(fold.chooses) & set(fold.reported)
        reported = [part for fold in way.folds for part in fold.reported]
        assert len(reported) == len(set(reported))
        if name == "folds":
            assert {part.number for part in reported} == set(range(5)) == set(numbers.tolist())
            assert all(150 < (numbers == number).sum() < 250 for number in range(5))
    assert (way.numbers(digests) != find_hold_out("half", ("a", "b"), seed=1).numbers(digests)).any()
    with pytest.raises(UserError, match="only one"):
        find_hold_out("domains", ("a",), seed=0)


def test_texts_and_templates_together_become_texts(source: Source, tmp_path: Path):
    classes = source.target.manifest.classes
    (tmp_path / "own.json").write_text(json.dumps({each: [f"my {each}", f"a {each}"] for each in classes}))
    texts = find_prompt_set(str(tmp_path / "own.json"))
    of = replace(OF, each=(*OF.each[:2], replace(OF.each[0], prompts=texts)))
    vectors = drawn_vectors(of, source, {})
    found = select(Work(source, of, (), vectors, cores=1), SelectOptions())
    mixed = replace(found, chosen=(1, 2)).prompts("mixed")
    assert mixed.texts == {each: (f"style 1 of {each}", f"my {each}", f"a {each}") for each in classes}
    (tmp_path / "mixed.json").write_bytes(prompt_file(mixed))
    assert find_prompt_set(str(tmp_path / "mixed.json")) == mixed
    assert replace(found, chosen=(1, 0)).prompts("plain").templates == (TEMPLATES[1], TEMPLATES[0])


@pytest.fixture(scope="module")
def embedded(shapes: Sharded, tmp_path_factory: pytest.TempPathFactory) -> Program:
    program = Program(tmp_path_factory.mktemp("selected"))
    assert program.here("eval", "shapes", "-b", "tiny", "--shards", shapes.shards).code == 0
    words = ["a", "the", "one", "my", "no", "every", "a drawing of a", "an image of a", "an outline of a", "it is a"]
    (program.folder / "mine.txt").write_text("\n".join(f"{each} {{}}" for each in words))
    return program


@pytest.mark.parametrize("way", [("--hold-out", "domains"), ("--hold-out", "half"), ("--without-labels",)])
def test_the_number_that_is_printed_is_the_one_that_eval_gives_for_the_file(
    embedded: Program, shapes: Sharded, way: tuple[str, ...]
):
    shards = ("--shards", shapes.shards)
    command = ("prompts", "select", "shapes", "-b", "tiny", "--templates", "mine.txt", *shards)
    outcome = embedded.here(*command, *way, "--output", "chosen.json")
    assert outcome.code == 0, outcome.err
    said = " ".join(outcome.out.split())
    assert "fastclip eval shapes -b tiny --prompts chosen.json" in outcome.out
    shown = embedded.here("eval", "shapes", "-b", "tiny", "--prompts", "chosen.json", "--json", "r.json", *shards)
    assert shown.code == 0
    document = json.loads((embedded.folder / "r.json").read_bytes())
    right = sum(cell["top1"] for cell in document["cells"])
    assert f"{right:,} of 240 images." in said
    without = way == ("--without-labels",)
    assert document["prompts"]["chosen"]["selection"]["labels_used"] is not without
    notes = " ".join(shown.out.split())
    assert ("not zero-shot" in notes) is not without and ("chosen without labels" in notes) is without
    if way[-1] == "domains":
        counts = document["prompts"]["chosen"]["selection"]["counts"][SAME]
        assert {cell["domain"]: cell["top1"] for cell in document["cells"]} == {
            domain: each["right"] for domain, each in counts.items()
        }


def test_a_file_is_asked_about_before_the_work_and_mistakes_are_two_lines(embedded: Program, shapes: Sharded):
    command = ("prompts", "select", "shapes", "-b", "tiny", "--templates", "mine.txt", "--shards", shapes.shards)
    for words, said in (
        (("--output", "chosen.txt"), ".json"),
        (("--output", "photo.json"), "built-in"),
        (("--output", "mine.txt/x.json"), "no folder"),
        (("--most", "0"), "--most"),
        (("--hold-out", "thirds"), "domains | folds | half"),
        (("--reference", "nothing"), "no prompt set 'nothing'"),
    ):
        outcome = embedded.here(*command, *words)
        assert (outcome.code, outcome.out) == (2, "") and said in outcome.err, outcome.err
    one = ("prompts", "select", "shapes/flat", "-b", "tiny", "--templates", "mine.txt", "--shards", shapes.shards)
    assert "--hold-out folds" in embedded.here(*one).err
    assert embedded.here(*one, "--hold-out", "folds").code == 0
