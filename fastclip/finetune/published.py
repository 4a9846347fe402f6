"""The two files that a run publishes, weights and what is said of them, and their proof when they are read again."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fastclip.errors import IntegrityError
from fastclip.files import canonical_json, digest, digest_file, read_file, write_over
from fastclip.finetune.job import Trained
from fastclip.finetune.material import Material
from fastclip.finetune.plan import Plan, classes_of, training_sets
from fastclip.finetune.scoring import Tuned
from fastclip.finetune.team import Team
from fastclip.models.numerics import describe_libraries, describe_machine
from fastclip.models.trained_weights import write_weights
from fastclip.results.cells import Epoch
from fastclip.store.training import Training, parse_training

SCHEMA = "fastclip.finetune/1"
WEIGHTS = "weights.safetensors"
FACTS = "finetune.json"


def publish(plan: Plan, material: Material, team: Team, trained: Trained) -> None:
    """Publish the weights of a run, then what is said of them."""
    folder = material.folder
    recipe = plan.options.recipe
    training = _training(plan, material, trained)
    sha256 = write_weights(folder / WEIGHTS, dict(trained.tensors), training)
    threads = f"{team.size} × {plan.engine.cores} threads"
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "run": material.run,
        "weights": sha256,
        "training": training.to_document(),
        "recipe": recipe.to_document(),
        "precision": plan.precision,
        "epochs": [asdict(each) for each in trained.epochs],
        "listed": material.listed,
        "rejected": material.rejected,
        "unreadable": [{"image": name, "reason": reason} for name, reason in material.unreadable],
        "made_by": f"{describe_libraries()}; {describe_machine(plan.engine.device)}; {threads}",
    }
    document["digest"] = digest(canonical_json(document))
    write_over(folder / FACTS, json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n")


def _training(plan: Plan, material: Material, trained: Trained) -> Training:
    """The record that the weights carry. Of weights that were fine-tuned before, it names what they saw then too."""
    recipe, fold, before = plan.options.recipe, material.fold, plan.candidate.weights.training
    tested = ", ".join(map(str, fold.test))
    ways = {"held-out": "held-out images", "last": "the last epoch", "test": f"the test domain {tested}"}
    selected = ways[recipe.select]
    if before and before.selected.startswith("the test domain"):  # a stain that later trainings do not remove
        selected = f"{before.selected}, later by {selected}"
    return Training(
        recipe=f"{recipe.label} after {before.recipe}" if before else recipe.label,
        changes=recipe.changes,
        base=plan.candidate.weights.digest,
        backbone=plan.candidate.name,
        architecture=plan.candidate.backbone.architecture,
        domains=tuple(dict.fromkeys((*(before.domains if before else ()), *training_sets(plan, fold.train)))),
        images=len(material.samples) + (before.images if before else 0),
        prompts=plan.prompts.name,
        templates=plan.prompts.identity,
        classes=classes_of(plan.target(fold.train[0])),
        selected=selected,
        epoch=trained.chosen,
        seed=recipe.seed,
    )


@dataclass(frozen=True)
class Finished:
    """The published facts of a finished run, proven."""

    weights: str
    """Their SHA-256."""
    training: Training
    epochs: tuple[Epoch, ...]
    made_by: str


def find_finished(folder: Path, run: str) -> Finished | None:
    """The published files of a run; None if it has not published them. Raises `IntegrityError` for damaged ones."""
    try:
        document = json.loads(read_file(folder / FACTS))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError, IsADirectoryError):
        document = None
    try:
        if not isinstance(document, dict):
            raise ValueError("it is no record of a fine-tuning")
        said = document.pop("digest")
        if document["schema"] != SCHEMA or digest(canonical_json(document)) != said:
            raise ValueError("its digest differs")
        if document["run"] != run:
            raise ValueError("it is of another run")
        if digest_file(folder / WEIGHTS) != document["weights"]:
            raise ValueError(f"{WEIGHTS} is not the file that it names")
        return Finished(
            weights=document["weights"],
            training=parse_training(document["training"]),
            epochs=tuple(Epoch(**each) for each in document["epochs"]),
            made_by=document["made_by"],
        )
    except (KeyError, TypeError, ValueError, AttributeError, FileNotFoundError) as error:
        raise IntegrityError(
            f"{folder / FACTS} cannot be used: {error}.", fix=f"Delete {folder}; the same command trains anew."
        ) from error


def as_tuned(plan: Plan, material: Material, found: Finished) -> Tuned:
    """The weights of a finished run, to be scored on the tested domains of its fold."""
    chosen = next((each for each in found.epochs if each.number == found.training.epoch), None)
    settings = {"learning_rate": plan.options.recipe.learning_rate, "epoch": float(found.training.epoch)}
    held_out = float(chosen.images) if chosen and plan.options.recipe.select == "held-out" else 0.0
    return Tuned(
        name=f"finetuned {plan.options.recipe.label}",
        weights=material.folder / WEIGHTS,
        sha256=found.weights,
        training=found.training,
        places=material.fold.test,
        settings=settings,
        figures={"held_out": held_out} if held_out else {},
        epochs=found.epochs,
        duplicates=material.duplicates,
        made_by=found.made_by,
    )
