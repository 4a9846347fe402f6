"""Everything that heads are fitted on: the features of some domains, and prototypes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from fastclip.data.shards.targets import Target
from fastclip.errors import UserError
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.evaluate.setup import Setup
from fastclip.store.recipes import Recipe
from fastclip.store.training import TrainingSet
from fastclip.text.prompt_sets import PromptSet
from fastclip.transfer.folds import Fold, Place
from fastclip.transfer.jobs import Job
from fastclip.transfer.samples import Images, Sample, joined, read_domain
from fastclip.transfer.splits import trains


@dataclass(frozen=True, kw_only=True)
class Material:
    """Everything that the heads of one backbone are fitted on."""

    recipe: Recipe
    targets: Mapping[str, Target]
    samples: Mapping[Place, Sample]
    prompts: PromptSet
    prototypes: Mapping[str, Float[np.ndarray, "classes dim"]]
    """By dataset: two may call the same class folder differently."""
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

    def text(self, job: Job) -> Float[np.ndarray, "classes dim"] | None:
        """The prototypes that a job takes: of the dataset that trains, or for adaptation of the target's."""
        places = job.fold.test if job.inputs.target else job.fold.train
        return self.prototypes[places[0].dataset] if job.inputs.text else None

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
    prototypes = {name: find_all_prototypes(setup, target)[backbone][prompts.name] for name, target in targets.items()}
    return Material(
        recipe=recipe, targets=targets, samples=samples, prompts=prompts, prototypes=prototypes, split=split
    )
