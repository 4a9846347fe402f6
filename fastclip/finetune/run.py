"""One fold from its images to its weights: trained, gone on with, or there already."""

from __future__ import annotations

import numpy as np

from fastclip.errors import IntegrityError
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.finetune.checkpoint import DamagedCheckpointError, remove_checkpoints
from fastclip.finetune.job import Job, Trained, Watch
from fastclip.finetune.loop import train
from fastclip.finetune.material import Material
from fastclip.finetune.plan import Plan
from fastclip.finetune.published import as_tuned, find_finished, publish
from fastclip.finetune.scoring import Tuned
from fastclip.finetune.team import Team
from fastclip.models.backbones import embedding_dim
from fastclip.models.tower import find_tokenizer, tokenize

MEMORY_FOR_IMAGES = 0.25
"""Of the free memory, for decoded images."""


def train_fold(plan: Plan, material: Material, team: Team, watch: Watch) -> Tuned | None:
    """The weights of a fold: trained, gone on with, or there already. None if training was asked to stop."""
    folder, run = material.folder, material.run
    there = find_finished(folder, run) if team.leads else None
    if not team.agreed(int(there is not None)):
        trained = _train(plan, material, team, watch)
        if trained is None:
            return None
        if team.leads and find_finished(folder, run) is None:
            publish(plan, material, team, trained)
    if team.leads:
        remove_checkpoints(folder)
    team.wait()
    found = there or find_finished(folder, run)
    if found is None:
        raise IntegrityError(f"{folder} does not hold what was just published.", fix="Look at that disk.")
    return as_tuned(plan, material, found)


def _train(plan: Plan, material: Material, team: Team, watch: Watch) -> Trained | None:
    if team.leads:  # a store that cannot take the embeddings of the tested domains says so before the training
        tested = [
            shard for place in material.fold.test for shard in plan.target(place).manifest.shards_of(place.domain)
        ]
        row = 4 * (embedding_dim(plan.candidate.backbone) + 1)
        plan.setup.store.prepare(2 * len(tested), 2 * row * sum(shard.images for shard in tested), tidy=False)
    try:
        return train(make_job(plan, material), team, watch)
    except DamagedCheckpointError:
        # The same command, started twice, may have finished meanwhile and removed its checkpoints.
        if team.size > 1 or find_finished(material.folder, material.run) is None:
            raise
        return Trained((), 0, {})


def make_job(plan: Plan, material: Material) -> Job:
    """Everything that training one fold needs."""
    import torch

    candidate, target = plan.candidate, plan.target(material.fold.train[0])
    prototypes = find_all_prototypes(plan.setup, target)[candidate.name][plan.prompts.name]
    tokens, counts = None, None
    if plan.options.recipe.both_towers:
        tokenizer = find_tokenizer(candidate.backbone.architecture)
        classes = plan.prompts.classes(target.manifest.classes, target.manifest.names)
        prompts = [plan.prompts.prompts(*names) for names in classes]
        counts = np.array([len(texts) for texts in prompts])
        # Texts of its own: a class with fewer repeats them; the repetitions are neither drawn nor averaged.
        rows = [[texts[number % len(texts)] for texts in prompts] for number in range(counts.max())]
        tokens = torch.stack([tokenize(tokenizer, row) for row in rows])
    return Job(
        run=material.run,
        folder=material.folder,
        recipe=plan.options.recipe,
        backbone=candidate.backbone,
        weights=candidate.weights,
        samples=material.samples,
        judges=material.judges,
        prototypes=prototypes,
        tokens=tokens,
        prompts_of=counts,
        precision=plan.precision,
        decoder=plan.engine.decoder,
        accumulate=plan.options.accumulate,
        checkpointing=plan.options.checkpointing,
        save_every_s=plan.options.save_every_s,
        cores=plan.engine.cores,
        keep_bytes=int(MEMORY_FOR_IMAGES * max(0, plan.engine.free_memory - plan.needed_memory)),
    )
