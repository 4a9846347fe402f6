"""One fold from its images to its weights: trained, gone on with, or there already."""

from __future__ import annotations

from pathlib import Path

from fastclip.errors import IntegrityError
from fastclip.evaluate.prototypes import find_all_prototypes
from fastclip.files import canonical_json, digest
from fastclip.finetune.job import Job, Watch
from fastclip.finetune.loop import train
from fastclip.finetune.material import Material
from fastclip.finetune.plan import Plan, run_document, run_folder
from fastclip.finetune.published import as_tuned, find_finished, publish
from fastclip.finetune.scoring import Tuned
from fastclip.finetune.team import Team
from fastclip.models.tower import load_text_tower

MEMORY_FOR_IMAGES = 0.25
"""Of the free memory, for decoded images."""


def train_fold(plan: Plan, material: Material, team: Team, watch: Watch) -> Tuned | None:
    """The weights of a fold: trained, gone on with, or there already. None if training was asked to stop."""
    fold, folder = material.fold, run_folder(plan, material.fold)
    run = digest(canonical_json(run_document(plan, fold)))
    there = find_finished(folder, run) if team.leads else None
    if not team.agreed(int(there is not None)):
        trained = train(make_job(plan, material, folder, run), team, watch)
        if trained is None:
            return None
        if team.leads:
            publish(plan, material, team, folder, run, trained)
        team.wait()
    found = there or find_finished(folder, run)
    if found is None:
        raise IntegrityError(f"{folder} does not hold what was just published.", fix="Look at that disk.")
    return as_tuned(plan, material, folder, found)


def make_job(plan: Plan, material: Material, folder: Path, run: str) -> Job:
    """Everything that training one fold needs, in its `folder`. `run` is the digest of its `run_document`."""
    import torch

    candidate, target = plan.candidate, plan.target(material.fold.train[0])
    prototypes = find_all_prototypes(plan.setup, target)[candidate.name][plan.prompts.name]
    tokens = None
    if plan.options.recipe.both_towers:
        tower = load_text_tower(candidate.backbone, candidate.weights, torch.device("cpu"))
        classes = plan.prompts.classes(target.manifest.classes, target.manifest.names)
        prompts = [plan.prompts.prompts(*names) for names in classes]
        tokens = torch.stack([tower.tokenize(list(texts)) for texts in zip(*prompts, strict=True)])
    return Job(
        run=run,
        folder=folder,
        recipe=plan.options.recipe,
        backbone=candidate.backbone,
        weights=candidate.weights,
        samples=material.samples,
        judges=material.judges,
        prototypes=prototypes,
        tokens=tokens,
        precision=plan.precision,
        decoder=plan.options.decoder or plan.engine.decoder,
        accumulate=plan.options.accumulate,
        checkpointing=plan.options.checkpointing,
        save_every_s=plan.options.save_every_s,
        cores=plan.engine.cores,
        keep_bytes=int(MEMORY_FOR_IMAGES * max(0, plan.engine.free_memory - plan.needed_memory)),
    )
