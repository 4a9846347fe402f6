"""Fitting: from stored features of some domains to heads for others, with all that has to be said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float

from fastclip.adapt.base import WithClassifier
from fastclip.data.shards.targets import Target
from fastclip.errors import UserError
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.evaluate.setup import Setup
from fastclip.heads.facts import HeadFacts, TrainingSet
from fastclip.heads.head_files import describe_numpy
from fastclip.heads.method import Method
from fastclip.heads.scores import Head
from fastclip.store.recipes import Recipe
from fastclip.text.prompts import PromptSet
from fastclip.threads import threads
from fastclip.transfer.folds import Fold, Place
from fastclip.transfer.samples import Images, Sample, joined, read_domain
from fastclip.transfer.splits import draw_shots, in_share, trains

SHARE = 0.8
"""Of the source's images in the fit that chooses settings. The others choose them, as in DomainBed."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that a method is given."""

    source: bool = True
    """Images with labels. Relatives of zero-shot look at none."""
    text: bool = False
    """Prototypes of the class prompts."""
    target: bool = False
    """The tested images, without their labels: the method is transductive."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One head to be fitted."""

    name: str
    """The name that cells have, such as `logistic, 4 shots, seed 1`."""
    fold: Fold
    method: Method
    inputs: Inputs
    fixed: bool
    """Whether the method's settings are given, so that nothing is held out to choose them."""
    shots: int | None = None
    seed: int | None = None

    @property
    def tuned(self) -> Method:
        """The method whose settings are chosen: of one that moves images, the classifier."""
        return self.method.classifier if isinstance(self.method, WithClassifier) else self.method

    @property
    def choice(self) -> tuple[Fold, Method, bool, int | None, int | None]:
        """Jobs of equal choices get the same settings."""
        return self.fold, self.tuned, self.inputs.text, self.shots, self.seed

    def with_settings(self, chosen: Method) -> Method:
        """The method that is fitted once `tuned` has become `chosen`."""
        return replace(self.method, classifier=chosen) if isinstance(self.method, WithClassifier) else chosen


@dataclass(frozen=True, kw_only=True)
class FittedHead:
    """A head with the job that asked for it."""

    job: Job
    head: Head
    facts: HeadFacts
    others: Mapping[str, Head]
    """Heads beside it, by a word each: a curve."""

    @property
    def name(self) -> str:
        """The name that cells have."""
        return self.job.name


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that the heads of one backbone are fitted on."""

    recipe: Recipe
    targets: Mapping[str, Target]
    samples: Mapping[Place, Sample]
    prompts: PromptSet
    prototypes: Float[np.ndarray, "classes dim"]
    split: float | None
    """The share of the images that train; the others are tested. None where whole domains are."""

    @property
    def classes(self) -> tuple[str, ...]:
        """The class folders, the same in every dataset."""
        return next(iter(self.targets.values())).manifest.classes

    def source(self, fold: Fold) -> Sample:
        """The images of a fold that train."""
        found = joined(self.samples[place] for place in fold.train)
        return found if self.split is None else found.take(trains(found.digests, self.split))

    def target(self, fold: Fold) -> Images:
        """The images of a fold that are tested, without their labels."""
        found = joined(self.samples[place] for place in fold.test)
        if self.split is not None:
            found = found.take(~trains(found.digests, self.split))
            if not len(found):
                raise UserError(f"--split {self.split:g} leaves no readable image to be tested.", fix="--split 0.8")
        return found.without_labels()

    def training_sets(self, fold: Fold) -> tuple[TrainingSet, ...]:
        """The domains of a fold that train, as a head's file names them."""
        return tuple(
            TrainingSet(
                dataset=place.dataset,
                domain=place.domain,
                fingerprint=next(
                    domain.fingerprint
                    for domain in self.targets[place.dataset].manifest.domains
                    if domain.name == place.domain
                ),
                images=len(self.samples[place]),
            )
            for place in fold.train
        )


def read_material(setup: Setup, backbone: str, folds: Sequence[Fold], split: float | None) -> Material:
    """The features of every domain of the folds, once each, and the prototypes of the first prompt set."""
    targets = {target.name: target for target in setup.targets}
    recipe = setup.recipes[setup.targets[0].name, backbone]
    wanted = dict.fromkeys(place for fold in folds for place in (*fold.train, *fold.test))
    with ThreadPoolExecutor(setup.process.cores, "features") as pool:
        samples = {
            place: read_domain(setup.store, recipe, targets[place.dataset], place.domain, pool) for place in wanted
        }
    prompts = setup.prompts[0]
    prototypes = find_all_prototypes(setup, setup.targets[0])[backbone][prompts.name]
    return Material(
        recipe=recipe, targets=targets, samples=samples, prompts=prompts, prototypes=prototypes, split=split
    )


def steps(jobs: Sequence[Job]) -> int:
    """How many calls of `on_step` fitting them takes, a backbone: one a choice of settings and one a fit."""
    return len({job.choice for job in jobs if not job.fixed}) + len(jobs)


def fit_all(
    material: Material, jobs: Sequence[Job], cores: int, on_step: Callable[[], None] = lambda: None
) -> list[FittedHead]:
    """The heads of all jobs, in their order. Settings that several jobs share are chosen once.

    Several heads are fitted at once where there are enough of them.
    """
    at_once, cores_each = (cores, 1) if len(jobs) >= cores else (1, cores)
    source = lru_cache(at_once)(material.source)

    def choose(job: Job) -> tuple[Method, int]:
        chosen = _choose(material, job, source(job.fold), cores_each)
        on_step()
        return chosen

    def fit(job: Job) -> FittedHead:
        chosen, held_out = (job.tuned, 0) if job.fixed else choices[job.choice]
        method = job.with_settings(chosen)
        fitted = _fit(material, job, method, held_out, source(job.fold), material.target(job.fold), cores_each)
        on_step()
        return fitted

    with threads(at_once, "fit") as pool:
        wanted = {job.choice: job for job in jobs if not job.fixed}
        choices = dict(zip(wanted, pool.map(choose, wanted.values()), strict=True))
        return list(pool.map(fit, jobs))


def _choose(material: Material, job: Job, source: Sample, cores: int) -> tuple[Method, int]:
    """The tuned method with the settings that held-out images of the source choose, and how many these are."""
    classes = len(material.classes)
    _, part, held_out = _parts(source, job)
    if not len(held_out) or not len(part):
        by_hand = ", or give --strength" if set(job.tuned.settings) == {"strength"} else ""
        raise UserError(
            f"{job.fold.name} has {len(source)} readable images to train on: too few to hold some out, by which the "
            f"settings of {job.tuned.name} are chosen.",
            fix=f"Train on more images, or ask for fewer --shots{by_hand}.",
        )
    text = material.prototypes if job.inputs.text else None
    method = job.tuned.choose(part.labelled(classes), held_out.labelled(classes), prototypes=text, cores=cores)
    return method, len(held_out)


def _fit(
    material: Material, job: Job, method: Method, held_out: int, source: Sample, target: Images, cores: int
) -> FittedHead:
    """The head of one job. The target comes without labels: nothing here can see them."""
    sample, _, _ = _parts(source, job)
    if not len(sample):
        raise UserError(f"{job.fold.name} has no readable image to train on.", fix="Train on another domain.")
    fit = method.fit(
        sample.labelled(len(material.classes)),
        prototypes=material.prototypes if job.inputs.text else None,
        unlabelled=target.unlabelled() if job.inputs.target else None,
        cores=cores,
    )
    facts = HeadFacts(
        method=method.name,
        settings=dict(method.settings),
        recipe=material.recipe,
        prompts=material.prompts.name if job.inputs.text else None,
        templates=material.prompts.templates if job.inputs.text else (),
        classes=material.classes,
        training=material.training_sets(job.fold) if job.inputs.source else (),
        images=len(sample) if job.inputs.source else 0,
        seed=job.seed,
        shots=job.shots,
        split=material.split,
        duplicates=int(np.isin(target.digests, sample.digests).sum()) if job.inputs.source else 0,
        made_by=describe_numpy(),
        figures={**({"held_out": float(held_out)} if held_out else {}), **fit.facts},
    )
    return FittedHead(job=job, head=fit.head, facts=facts, others=fit.others)


def _parts(source: Sample, job: Job) -> tuple[Sample, Sample, Sample]:
    """The images that the head is fitted on, those of the fit that chooses settings, and those held out for it."""
    if job.shots is None:
        inside = in_share(source.digests, SHARE, "select")
        return source, source.take(inside), source.take(~inside)
    chosen, held_out = draw_shots(source.digests, source.labels, job.shots, job.seed or 0)
    sample = source.take(chosen)
    return sample, sample, source.take(held_out)
