"""The prototypes of a target's classes: kept ones, or computed by a text tower with the weights of the embeddings."""

from __future__ import annotations

from functools import partial
from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from fastclip.data.shards.targets import Target
from fastclip.errors import UserError, needs_torch
from fastclip.evaluate.setup import Setup
from fastclip.store.recipes import Recipe
from fastclip.text.directions import class_sums, unit_rows
from fastclip.text.prompt_sets import PromptSet
from fastclip.text.prototypes import (
    Question,
    check_question,
    compute_prototypes,
    find_prototypes,
    keep_prototypes,
    text_recipe,
)
from fastclip.text.vectors import TowerName, find_vectors
from fastclip.threads import threads

if TYPE_CHECKING:
    import torch

    from fastclip.models.backbones import Backbone
    from fastclip.models.weights import Weights


def find_all_prototypes(setup: Setup, target: Target) -> dict[str, dict[str, np.ndarray]]:
    """Backbone → prompt set → prototypes: kept ones, else of kept text vectors.

    Text towers are loaded only for what no machine has computed yet.

    Raises `UserError` if one is needed and its weights are not here.
    """
    found: dict[str, dict[str, np.ndarray]] = {}
    owed: dict[str, list[PromptSet]] = {}
    for backbone in setup.backbones:
        found[backbone] = {}
        for prompts in setup.prompts:
            question = _question(setup.recipes[target.name, backbone], target, prompts)
            kept = find_prototypes(setup.store.folder / "prototypes", question)
            if kept is None:
                kept = _of_vectors(setup, question, prompts)
            if kept is None:
                owed.setdefault(backbone, []).append(prompts)
            else:
                found[backbone][prompts.name] = kept
    if owed:
        _compute(setup, target, owed, found)
    return {
        backbone: {prompts.name: of_backbone[prompts.name] for prompts in setup.prompts}
        for backbone, of_backbone in found.items()
    }


def _of_vectors(setup: Setup, question: Question, prompts: PromptSet) -> np.ndarray | None:
    """The prototypes of kept text vectors; None if one of the texts has none."""
    of_classes = [prompts.prompts(*names) for names in question.classes]
    texts = [text for of_class in of_classes for text in of_class]
    tower = TowerName(weights=question.weights, architecture=question.architecture)
    vectors = find_vectors(setup.store.folder / "texts", tower, texts)
    if not vectors.rows.keys() >= set(texts):
        return None
    return unit_rows(class_sums(vectors.of(texts), list(map(len, of_classes))))


def check_prompts(setup: Setup) -> None:
    """Raise `UserError` for prompts that no text tower can answer, before any image is embedded.

    Those that are answered already are right. A prompt has at most as many tokens as bytes: only long ones are cut.
    """
    done = set()
    for target in setup.targets:
        for backbone, prompts in product(setup.backbones, setup.prompts):
            question = _question(setup.recipes[target.name, backbone], target, prompts)
            key = target.name, prompts.name, question.architecture
            if key in done or find_prototypes(setup.store.folder / "prototypes", question) is not None:
                continue
            done.add(key)
            check_question(question, target.name)
            _check_tokens(question, prompts)


def _check_tokens(question: Question, prompts: PromptSet) -> None:
    from fastclip.models.tower import check_tokens, find_tokenizer

    tokenizer = find_tokenizer(question.architecture)
    every = (prompt for names in question.classes for prompt in prompts.prompts(*names))
    check_tokens(tokenizer, [prompt for prompt in every if len(prompt.encode()) > tokenizer.context_length - 2])


def _compute(
    setup: Setup, target: Target, owed: dict[str, list[PromptSet]], found: dict[str, dict[str, np.ndarray]]
) -> None:
    towers = {}
    for backbone, prompts in owed.items():
        recipe = setup.recipes[target.name, backbone]
        try:
            with needs_torch():
                from fastclip.evaluate.engine import find_text_weights

                towers[backbone] = find_text_weights(recipe, setup.engine, setup.weights.get(backbone))
        except UserError as error:
            raise UserError(
                f"{setup.store.folder} has no prototypes of {target.name} by {backbone} under the prompts "
                f"{prompts[0].name!r}, and its text tower cannot be had here. {error}",
                fix=f"--weights {backbone}=FILE, or run this once where the weights are",
            ) from error
    from fastclip.models.numerics import find_device, fix_numerics, fixed_numerics

    # `--device cuda` asks for embeddings that a GPU made; their prototypes may be computed anywhere.
    wanted = "cpu" if setup.device == "cpu" else None
    device = setup.engine.device if setup.engine else find_device(wanted, setup.process.local_rank)
    answer = partial(_answer, setup, target, device)
    # One tower is loaded while another computes.
    with fixed_numerics(device), threads(2, "prototypes", fix_numerics, (device,)) as two:
        computed = two.map(answer, owed.values(), towers.values())
        for backbone, prototypes in zip(owed, computed, strict=True):
            found[backbone] |= prototypes


def _answer(
    setup: Setup, target: Target, device: torch.device, prompts: list[PromptSet], tower: tuple[Backbone, Weights]
) -> dict[str, np.ndarray]:
    from fastclip.models.tower import load_text_tower

    text = load_text_tower(*tower, device)
    made_by = text_recipe(device)
    folder = setup.store.folder / "prototypes"
    result = {}
    for each in prompts:
        question = _question(setup.recipes[target.name, tower[0].name], target, each)
        computed = compute_prototypes(text, each, question.classes, setup.process.cores)
        keep_prototypes(folder, question, made_by, computed)
        # Another machine may have answered meanwhile: every reader takes the same one.
        kept = find_prototypes(folder, question)
        result[each.name] = computed if kept is None else kept
    return result


def _question(recipe: Recipe, target: Target, prompts: PromptSet) -> Question:
    classes = prompts.classes(target.manifest.classes, target.manifest.names)
    texts = tuple(tuple(prompts.prompts(*names)) for names in classes) if prompts.texts else ()
    return Question(
        weights=recipe.weights,
        architecture=recipe.architecture,
        templates=prompts.templates,
        classes=classes,
        texts=texts,
    )
