"""Fine-tuned weights scored beside those that they come from, by the same path and the same kind of machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from fastclip.errors import GO_ON, IncompleteError, IntegrityError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import Setup, resolve
from fastclip.heads.facts import HeadFacts
from fastclip.models.backbones import Backbone, known_backbone
from fastclip.results.answers import ShardAnswers, by_domain, joined
from fastclip.results.cells import Column, Epoch, Evaluation, UsedHead
from fastclip.results.patterns import with_patterns
from fastclip.store.training import Training
from fastclip.transfer.folds import Place

Scored: TypeAlias = tuple[Evaluation, list[ShardAnswers]]


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """Fine-tuned weights, and where they are tested."""

    name: str
    """The head's name in cells: `ce`, or `ce, α 0.3`."""
    weights: Path
    sha256: str
    """The digest of `weights`."""
    training: Training
    places: tuple[Place, ...]
    settings: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, float] = field(default_factory=dict)
    epochs: tuple[Epoch, ...] = ()
    duplicates: int = 0
    """Tested images that are among those of the training too."""
    made_by: str = ""


def beside(
    options: EvalOptions,
    base: Path | None,
    base_sha256: str,
    tuned: Iterable[Tuned],
    tested: Sequence[Place],
    embed_missing: Callable[[Setup], None],
) -> Scored | None:
    """The counts of the `base` weights and of all that are `tuned`, and the answers behind them.

    The base answers zero-shot, under all prompt sets of the options; tuned weights answer under the first one, in a
    column with their name. One after the other is embedded by `embed_missing`, so `tuned` may write each file when it
    is asked for, and remove it afterwards. None in a process that does not report: it only embeds. Raises
    `IncompleteError` if something could not be embedded, and `IntegrityError` if weights are no longer those of their
    digest. Without a file the base is the one that this machine has.
    """
    found = _scored(_options(options, base, tested), base_sha256, embed_missing)
    scored = [found] if found else []
    for each in tuned:
        of_it = _options(replace(options, prompts=options.prompts[:1]), each.weights, each.places)
        if found := _scored(of_it, each.sha256, embed_missing, each):
            scored.append(found)
    return _together(scored) if scored else None


def spelling(backbone: Backbone) -> str:
    """The name by which options call a backbone whose weights are given: where it can, it says the activation too."""
    return backbone.architecture if known_backbone(backbone.architecture) else backbone.name


def _options(options: EvalOptions, weights: Path | None, places: Sequence[Place]) -> EvalOptions:
    (backbone,) = options.backbones
    given = {backbone: weights} if weights else {}
    return replace(options, weights=given, targets=tuple(map(str, places)), here=True)


def _scored(
    options: EvalOptions, sha256: str, embed_missing: Callable[[Setup], None], tuned: Tuned | None = None
) -> Scored | None:
    setup = resolve(options)
    for recipe in setup.recipes.values():
        if recipe.weights != sha256:
            raise IntegrityError(
                f"The weights {sha256[:12]} of {recipe.backbone} were replaced by others, {recipe.weights[:12]}.",
                fix="Put the first ones back, or begin anew with the others.",
            )
    for _ in range(2):  # once more if a part was damaged: it is moved aside, and made again
        embed_missing(setup)
        if not setup.process.reports:
            return None
        evaluation, answers = score(setup)
        if evaluation.complete:
            return _as_heads(setup, tuned, evaluation, answers) if tuned else (evaluation, answers)
    raise IncompleteError("Not every shard could be embedded.", fix=GO_ON)


def _as_heads(setup: Setup, tuned: Tuned, evaluation: Evaluation, answers: Sequence[ShardAnswers]) -> Scored:
    """The same counts as those of a head with the name of `tuned`."""
    (backbone,) = setup.backbones
    column = Column(backbone, tuned.name)
    training = tuned.training
    heads = tuple(
        UsedHead(
            name=tuned.name,
            dataset=target.name,
            domains=target.domains,
            sha256=setup.recipes[target.name, backbone].weights,
            facts=HeadFacts(
                method=training.recipe,
                settings=tuned.settings,
                recipe=setup.recipes[target.name, backbone],
                prompts=training.prompts,
                templates=training.templates,
                classes=target.manifest.classes,
                training=training.domains,
                images=training.images,
                seed=training.seed,
                shots=None,
                split=None,
                duplicates=tuned.duplicates,
                made_by=tuned.made_by,
                figures=tuned.figures,
            ),
            transductive=False,
            epochs=tuned.epochs,
        )
        for target in setup.targets
    )
    cells = tuple(replace(cell, head=column.head, prompts="") for cell in evaluation.cells)
    return replace(evaluation, cells=cells, heads=heads), [replace(each, column=column) for each in answers]


def _together(scored: Sequence[Scored]) -> Scored:
    """One result: cells, heads and answers of all. Recipes and near ties are those of the first, which is zero-shot."""
    first = scored[0][0]
    answers = [each for _, found in scored for each in found]
    whole = replace(
        first,
        cells=tuple(cell for each, _ in scored for cell in each.cells),
        heads=tuple(head for each, _ in scored for head in each.heads),
        unreadable=tuple(dict.fromkeys(image for each, _ in scored for image in each.unreadable)),
        patterns=(),
    )
    cells = {(cell.dataset, cell.domain, cell.column) for cell in whole.cells}
    assert len(cells) == len(whole.cells), "two weights of one name are tested on one domain"
    places = by_domain(answers).items()
    of_columns = ((place, {column: joined(each) for column, each in columns.items()}) for place, columns in places)
    return with_patterns(whole, of_columns), answers
