"""The lines under a table of fine-tuned weights: which labels they saw, and what is unlike their training. No torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from fastclip.errors import printable
from fastclip.results.cells import ZERO_SHOT, DatasetFacts, Evaluation, UsedRecipe
from fastclip.store.training import Training, classes_digest


def training_notes(evaluation: Evaluation) -> list[str]:
    """A line for all fine-tuned weights, and one for each reason to read their numbers otherwise."""
    tuned: dict[tuple[str, str], list[UsedRecipe]] = {}
    for used in evaluation.recipes:
        if used.recipe.training:
            tuned.setdefault((used.backbone, used.recipe.weights), []).append(used)
    lines = []
    for (backbone, weights), recipes in tuned.items():
        training = recipes[0].recipe.training
        assert training, "only fine-tuned weights are among them"
        lines += [
            *_labels(backbone, weights, training),
            *_tested_too(evaluation, backbone, training, recipes),
            *_prompts_of(evaluation, backbone, training),
            *_classes_of(evaluation, backbone, training, recipes),
        ]
    for head in evaluation.heads:
        if head.epochs and head.facts.recipe.training:
            lines += _labels(head.name, head.facts.recipe.weights, head.facts.recipe.training)
    return [printable(line) for line in dict.fromkeys(lines)]


def other_prompts(backbone: str, training: Training, prompts: Mapping[str, Sequence[str]]) -> list[str]:
    """A line for each prompt set, by name, whose templates are not those that weights were trained with."""
    return [
        f"prompts {name}: not those that the weights of {backbone} were trained with ({training.prompts})."
        for name, templates in prompts.items()
        if tuple(templates) != training.templates
    ]


def _labels(subject: str, weights: str, training: Training) -> Iterator[str]:
    """The labels that weights saw: those of their training, and of a test domain that chose the epoch."""
    yield (
        f"{subject}: weights {weights[:12]} fine-tuned with labels of {training.images:,} images ({training.places}), "
        f"recipe {training.recipe_text}, {training.epoch_text}: its rows are not zero-shot."
    )
    place = training.selected
    if place.startswith("the test domain"):
        yield f"{subject}: its epoch was chosen by {place}, so that its number there is no measure of new images."


def _tested_too(
    evaluation: Evaluation, backbone: str, training: Training, recipes: Sequence[UsedRecipe]
) -> Iterator[str]:
    """A line for the tested domains that trained, by their place or by their images."""
    places = {(each.dataset, each.domain) for each in training.domains}
    fingerprints = {each.fingerprint for each in training.domains}
    found = {}
    for facts in _datasets(evaluation, recipes):
        for cell in evaluation.cells:
            if (cell.dataset, cell.backbone) == (facts.name, backbone) and (
                (facts.name, cell.domain) in places or facts.fingerprints.get(cell.domain) in fingerprints
            ):
                found[f"{facts.name}/{cell.domain}"] = True
    if found:
        yield f"{backbone}: its weights were trained on images of {', '.join(found)} that are tested here."


def _prompts_of(evaluation: Evaluation, backbone: str, training: Training) -> list[str]:
    names = {cell.prompts for cell in evaluation.cells if (cell.backbone, cell.head) == (backbone, ZERO_SHOT)}
    used = {name: each.identity for name, each in evaluation.prompts.items() if name in names}
    return other_prompts(backbone, training, used)


def _classes_of(
    evaluation: Evaluation, backbone: str, training: Training, recipes: Sequence[UsedRecipe]
) -> Iterator[str]:
    for facts in _datasets(evaluation, recipes):
        if classes_digest(facts.names) != training.classes:
            yield f"{facts.name}: other classes than the weights of {backbone} were trained on."


def _datasets(evaluation: Evaluation, recipes: Sequence[UsedRecipe]) -> list[DatasetFacts]:
    return [evaluation.dataset(each.dataset) for each in recipes]
