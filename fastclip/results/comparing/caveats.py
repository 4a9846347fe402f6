"""Reasons not to compare a column, not to test it, or to trust an interval less: a sentence each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from fastclip.results.cells import Column, Evaluation

ALIKE = {
    "terraincognita": "its images are bursts of one animal before one camera",
    "office31": "it has several photos of one object",
}


def left_out(evaluation: Evaluation, dataset: str) -> dict[Column, str]:
    """The columns of a dataset that nothing is compared with, and why."""
    random = evaluation.random_backbones(dataset)
    reasons = {}
    for cell in evaluation.cells:
        if cell.dataset == dataset and cell.backbone in random:
            reasons[cell.column] = "random weights"
        elif cell.dataset == dataset and cell.seen(evaluation.unreadable_policy) is None:
            reasons[cell.column] = "a domain without a number"
    return reasons


def is_chosen_on(evaluation: Evaluation, column: Column, dataset: str, domain: str) -> bool:
    """Whether a column's prompts were chosen by the labels of these very images.

    That is so if labels took part, unless the selection names its domains as a list, and this is none of them, nor one
    with the same images under another name.
    """
    used = evaluation.prompts.get(column.prompts)
    if used is None or not used.selection or not used.uses_labels:
        return False
    places = used.selection.get("selected_on")
    if not isinstance(places, list | tuple) or domain in places or f"{dataset}/{domain}" in places:
        return True
    fingerprints = used.selection.get("fingerprints")
    own = evaluation.dataset(dataset).fingerprints.get(domain)
    return own is not None and isinstance(fingerprints, Mapping) and own in fingerprints.values()


def left_out_lines(evaluation: Evaluation, dataset: str) -> list[str]:
    """A line for each reason to leave columns of a dataset out, and one if nothing says whether to."""
    reasons: dict[str, list[str]] = {}
    for column, reason in left_out(evaluation, dataset).items():
        reasons.setdefault(reason, []).append(column.backbone)
    lines = [f"Not compared: {', '.join(dict.fromkeys(names))} ({reason})." for reason, names in reasons.items()]
    if not evaluation.recipes:
        lines.append("Predictions alone do not say whether weights were random, nor which templates made a prompt set.")
    return lines


def training_lines(evaluation: Evaluation, dataset: str) -> list[str]:
    """A line for each backbone whose weights were fine-tuned with labels."""
    return [
        f"{each.backbone}: fine-tuned with labels ({each.recipe.training.summary})."
        for each in evaluation.recipes
        if each.dataset == dataset and each.recipe.training
    ]


def image_lines(evaluation: Evaluation, dataset: str, domains: Sequence[str]) -> list[str]:
    """A line for each reason why a dataset's intervals are too narrow and its p-values too small."""
    lines = []
    facts = evaluation.dataset(dataset)
    if reason := ALIKE.get(dataset):
        lines.append(f"Intervals are too narrow for {dataset}: {reason}.")
    if count := sum(facts.duplicates.get(domain, 0) for domain in domains):
        have = "image has" if count == 1 else "images have"
        lines.append(
            f"{count:,} {have} the bytes of another one of the domain: each counts, so intervals are narrower."
        )
    return lines
