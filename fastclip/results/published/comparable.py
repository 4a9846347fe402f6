"""Reasons why a cell of a result cannot be compared with a published one: other images, prompts or weights."""

from __future__ import annotations

from collections.abc import Iterator

from fastclip.models.backbones import OPENAI_BACKBONES, PUBLISHED_ARCHIVES
from fastclip.results.cells import Cell, DatasetFacts, Evaluation
from fastclip.results.published.table import PublishedCell, PublishedDataset, PublishedTable
from fastclip.store.recipes import Recipe, fine_tuning
from fastclip.text.prompt_sets import PromptSet


def why_not(evaluation: Evaluation, cell: Cell, published: PublishedCell, table: PublishedTable) -> tuple[str, ...]:
    """The reasons, a phrase each; none if the two are comparable."""
    found = [*_of_run(evaluation, cell)]
    recipe = _recipe(evaluation, cell)
    if recipe and recipe.training and not table.result:
        found.append(f"its weights were fine-tuned with labels ({recipe.training.places})")
    if cell.sample and not table.result:
        found.append(f"only the images of {cell.sample}")
    if known := table.datasets.get(cell.dataset):
        found += _of_images(evaluation.dataset(cell.dataset), cell, known)
        if cell.unreadable and evaluation.unreadable_policy != "stop":
            found.append(f"{_images(cell.unreadable)} unreadable")
        found += _of_prompts(evaluation, cell, known)
        found += why_not_weights(recipe, cell.backbone) if not (recipe and recipe.training) else ()
    elif table.result:
        found += _of_result(evaluation, cell, table.result)
    elif published.images is not None and published.images != cell.images:
        found.append(f"{_images(cell.images)}, the table's are {published.images:,}")
    return tuple(found)


def same_prompts(evaluation: Evaluation, cell: Cell, known: PublishedDataset) -> bool:
    """Whether the prompts of a cell are the published ones, text by text."""
    return _prompts(evaluation, cell) == known.prompts


def why_not_weights(recipe: Recipe | None, backbone: str) -> Iterator[str]:
    """The reasons for which weights, or the way they are run, are not those that OpenAI published."""
    if recipe is None:
        yield "its weights are not known"
        return
    archive = OPENAI_BACKBONES[backbone].archive if backbone in OPENAI_BACKBONES else None
    of_archive = PUBLISHED_ARCHIVES.get(recipe.weights)
    if not recipe.random_weights and (of_archive is None or of_archive.name != backbone):
        # open_clip's files on the hub hold the same tensors; only a digest proves it, and theirs are other ones.
        option = f"eval --weights {backbone}=~/.cache/clip/{archive}"
        where = f"OpenAI's {archive} ({option})" if archive else "OpenAI's"
        yield f"weights {recipe.weights[:12]} are not {where}"
    if recipe.activation != "QuickGELU":
        yield f"run with {recipe.activation}, not with QuickGELU"


def _of_run(evaluation: Evaluation, cell: Cell) -> Iterator[str]:
    recipe = _recipe(evaluation, cell)
    if recipe and recipe.random_weights:
        yield "random weights"
    if cell.missing_shards:
        yield f"{cell.missing_shards:,} of {cell.shards:,} shards are missing"
    elif cell.accuracy(evaluation.unreadable_policy) is None:
        yield f"{_images(cell.unreadable)} unreadable" if cell.unreadable else "it has no images"


def _of_images(facts: DatasetFacts, cell: Cell, known: PublishedDataset) -> Iterator[str]:
    if cell.sample:
        return  # has been said
    if facts.protocol != "full":
        yield f"only the images of the protocol {facts.protocol}"
    elif facts.variant is None:
        yield f"its images are no known variant of {known.title}"
    elif known.variant and facts.variant != known.variant:
        yield f"its images are the variant {facts.variant}, the table's are {known.variant}"
    elif known.images and known.images.get(cell.domain) != cell.images:
        yield f"{_images(cell.images)}, the table's are {known.images.get(cell.domain, 0):,}"
    elif facts.fingerprints.get(cell.domain) != known.fingerprints.get(cell.domain, facts.fingerprints[cell.domain]):
        yield "its images are others than the table's (their fingerprints differ)"


def _of_prompts(evaluation: Evaluation, cell: Cell, known: PublishedDataset) -> Iterator[str]:
    folders, names = list(evaluation.dataset(cell.dataset).classes), list(known.prompts)
    used = evaluation.prompts[cell.prompts]
    if folders != names:
        first = next((pair for pair in zip(folders, names, strict=False) if pair[0] != pair[1]), None)
        yield (
            f"the class folder {first[0]} is {first[1]} in the table"
            if first
            else (f"{len(folders):,} classes, the table's are {len(names):,}")
        )
    elif not same_prompts(evaluation, cell, known):
        template = known.template.replace("…", "{folder}")
        same = used.kind == "templates" and used.templates == (template,)
        yield "classes have other names in prompts" if same else f"other prompts than `{known.template}`"


def _of_result(evaluation: Evaluation, cell: Cell, other: Evaluation) -> Iterator[str]:
    there = next(
        each
        for each in other.cells
        if (each.dataset, each.domain, each.column) == (cell.dataset, cell.domain, cell.column)
    )
    yield from _of_run(other, there)
    ways = [fine_tuning(recipe) for each in (evaluation, other) if (recipe := _recipe(each, cell))]
    if len(set(ways)) > 1:
        yield f"fine-tuning: {ways[0]}, in the other {ways[1]}"
    facts, others = evaluation.dataset(cell.dataset), other.dataset(cell.dataset)
    if cell.sample != there.sample:
        yield f"asked about {cell.sample or 'all images'}, the other about {there.sample or 'all images'}"
    elif facts.fingerprints[cell.domain] != others.fingerprints[cell.domain] or cell.images != there.images:
        yield "its images are others (their fingerprints differ)"
    if cell.unreadable != there.unreadable:
        yield f"{cell.unreadable:,} unreadable, in the other {there.unreadable:,}"
    if facts.classes != others.classes:
        yield "its class folders are others"
    elif evaluation.prompts[cell.prompts].kind != "templates":
        if evaluation.prompts[cell.prompts] != other.prompts[there.prompts]:
            yield "other prompts"
    elif _prompts(evaluation, cell) != _prompts(other, there):
        same = evaluation.prompts[cell.prompts].templates == other.prompts[there.prompts].templates
        yield "classes have other names in prompts" if same else "other prompts"


def _prompts(evaluation: Evaluation, cell: Cell) -> dict[str, tuple[str, ...]] | None:
    """Class folder → prompts, in label order; None where the result does not have them."""
    used, names = evaluation.prompts[cell.prompts], evaluation.dataset(cell.dataset).names
    if used.kind != "templates":
        return None
    prompts = PromptSet(cell.prompts, used.templates)
    return {
        folder: tuple(prompts.prompts(*pair))
        for folder, pair in zip(names, prompts.classes(tuple(names), tuple(names.values())), strict=True)
    }


def _images(number: int) -> str:
    return f"{number:,} {'image' if number == 1 else 'images'}"


def _recipe(evaluation: Evaluation, cell: Cell) -> Recipe | None:
    found = (
        each.recipe for each in evaluation.recipes if (each.dataset, each.backbone) == (cell.dataset, cell.backbone)
    )
    return next(found, None)
