"""Fitting: from material to heads, with all that has to be said of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fastclip.errors import UserError
from fastclip.heads.facts import HeadFacts
from fastclip.heads.head_files import describe_numpy
from fastclip.heads.method import Method
from fastclip.heads.scores import Head
from fastclip.threads import threads
from fastclip.transfer.jobs import Job, device_of
from fastclip.transfer.material import Material
from fastclip.transfer.samples import Images, Sample
from fastclip.transfer.splits import draw_shots, in_share

SHARE = 0.8
"""Of the source's images in the fit that chooses settings. The others choose them, as in DomainBed."""


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
    source, target = lru_cache(at_once)(material.source), lru_cache(at_once)(material.target)

    def choose(job: Job) -> tuple[Method, int]:
        chosen = _choose(material, job, source(job.fold), cores_each)
        on_step()
        return chosen

    def fit(job: Job) -> FittedHead:
        chosen, held_out = (job.tuned, 0) if job.fixed else choices[job.choice]
        method = job.with_settings(chosen)
        fitted = _fit(material, job, method, held_out, source(job.fold), target(job.fold), cores_each)
        on_step()
        return fitted

    with threads(at_once, "fit") as pool:
        wanted = {job.choice: job for job in jobs if not job.fixed}
        choices = dict(zip(wanted, pool.map(choose, wanted.values()), strict=True))
        return list(pool.map(fit, jobs))


def _choose(material: Material, job: Job, source: Sample, cores: int) -> tuple[Method, int]:
    """The tuned method with the settings that held-out images of the source choose, and how many these are."""
    classes = len(material.classes)
    part, held_out = _choosing_images(source, job)
    if not len(held_out) or not len(part):
        by_hand = ", or give --strength" if set(job.tuned.settings) == {"strength"} else ""
        raise UserError(
            f"{job.fold.name} has {len(source)} readable images to train on: too few to hold some out, by which the "
            f"settings of {job.tuned.name} are chosen.",
            fix=f"Train on more images, or ask for fewer --shots{by_hand}.",
        )
    method = job.tuned.choose(
        part.labelled(classes), held_out.labelled(classes), prototypes=material.text(job), cores=cores
    )
    return method, len(held_out)


def _fit(
    material: Material, job: Job, method: Method, held_out: int, source: Sample, target: Images, cores: int
) -> FittedHead:
    """The head of one job. The target comes without labels: nothing here can see them."""
    sample = _training_images(source, job)
    if not len(sample):
        raise UserError(f"{job.fold.name} has no readable image to train on.", fix="Train on another domain.")
    fit = method.fit(
        sample.labelled(len(material.classes)),
        prototypes=material.text(job),
        unlabelled=target.unlabelled() if job.inputs.target else None,
        cores=cores,
    )
    facts = HeadFacts(
        method=method.name,
        settings=dict(method.settings),
        recipe=material.recipe,
        prompts=material.prompts.name if job.inputs.text else None,
        templates=material.prompts.identity if job.inputs.text else (),
        classes=material.classes,
        training=material.training_sets(job.fold) if job.inputs.source else (),
        images=len(sample) if job.inputs.source else 0,
        seed=job.seed,
        shots=job.shots,
        split=material.split,
        duplicates=int(np.isin(target.digests, sample.digests).sum()) if job.inputs.source else 0,
        made_by=_made_by(method),
        figures={**({"held_out": float(held_out)} if held_out else {}), **fit.facts},
    )
    return FittedHead(job=job, head=fit.head, facts=facts, others=fit.others)


def _made_by(method: Method) -> str:
    """The library, and the device where it is a GPU, on which last bits of the fit depend."""
    if (device := device_of(method)) is None:
        return describe_numpy()
    from fastclip.heads.on_device import describe_device

    return f"{describe_numpy()}; {describe_device(device)}"


def _training_images(source: Sample, job: Job) -> Sample:
    """The images that the head is fitted on."""
    if job.shots is None:
        return source
    chosen, _ = draw_shots(source.digests, source.labels, job.shots, job.seed or 0)
    return source.take(chosen)


def _choosing_images(source: Sample, job: Job) -> tuple[Sample, Sample]:
    """The images of the fit that chooses settings, and those held out for it."""
    if job.shots is None:
        inside = in_share(source.digests, SHARE, "select")
        return source.take(inside), source.take(~inside)
    chosen, held_out = draw_shots(source.digests, source.labels, job.shots, job.seed or 0)
    return source.take(chosen), source.take(held_out)
