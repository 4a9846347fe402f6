"""The images that are handed over: their stored embeddings by one backbone, and the answers of a run about them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastclip.data.shards.targets import Target
from fastclip.errors import UserError, printable
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import dataset_facts
from fastclip.evaluate.setup import Setup, resolve
from fastclip.features.read import Features
from fastclip.results.answers import PredictionRows
from fastclip.results.cells import Evaluation, UsedRecipe
from fastclip.results.files.kept import KeptResult, find_results
from fastclip.results.files.result import RESULT


@dataclass(frozen=True)
class Material:
    """The embeddings of some datasets by one backbone, and what a run answered about their images."""

    name: str
    """The run's folder, or the datasets."""
    setup: Setup
    licences: Mapping[str, str]
    """Dataset → the licence of its images, as its card says it; empty where it says none."""
    answers: PredictionRows | None = None

    @property
    def backbone(self) -> str:
        """The backbone whose embeddings these are."""
        return self.setup.backbones[0]

    @property
    def features(self) -> Iterator[Features]:
        """The embeddings of each dataset."""
        for target in self.setup.targets:
            yield Features(target, self.setup.recipes[target.name, self.backbone], self.setup.store)

    @property
    def images(self) -> int:
        """Images of all shards."""
        return sum(shard.images for target in self.setup.targets for shard in target.shards)


def is_result(word: str) -> bool:
    """Whether a word of the command line names a result, or a folder of runs, and no dataset."""
    path = Path(word)
    return path.is_file() or (path.is_dir() and ((path / RESULT).exists() or any(path.glob(f"*/{RESULT}"))))


def of_datasets(options: EvalOptions) -> Material:
    """The embeddings of the targets in `options`, under one recipe. Raises `UserError` unless one backbone is named."""
    if not options.backbones:
        raise UserError("No backbone is chosen.", fix="-b NAME; fastclip store lists those that are embedded")
    check_one_backbone(options.backbones)
    setup = resolve(options, only_stored=True, one_recipe=True)
    return Material("+".join(target.name for target in setup.targets)[:100], setup, _licences(setup))


def check_one_backbone(backbones: Sequence[str]) -> None:
    """Raise `UserError` for several backbones."""
    if len(set(backbones)) > 1:
        raise UserError(
            f"Embeddings of {len(set(backbones))} backbones do not lie in one space: no cosine of one can be compared "
            "with one of another.",
            fix=f"Give one: -b {backbones[0]}",
        )


def of_result(path: Path, options: EvalOptions) -> Material:
    """The answers of a run, and the embeddings that they were made of, unless `options` name another recipe.

    Raises `UserError` if the shards at hand are not those of the result.
    """
    kept = _one_result(path)
    evaluation = kept.result
    assert evaluation, "checked"
    used = _used_recipes(evaluation, options, path)
    backbone, recipe = used[0].backbone, used[0].recipe
    places = dict.fromkeys(f"{cell.dataset}/{cell.domain}" for cell in evaluation.cells)
    setup = resolve(
        replace(
            options,
            targets=tuple(places),
            backbones=(backbone,),
            recipes=options.recipes or tuple(dict.fromkeys(each.id for each in used)),
            random_weights=recipe.random_weights,
        ),
        only_stored=True,
    )
    for target in setup.targets:
        _check_manifest(target, evaluation, path)
    place = Path(kept.name).resolve()
    return Material(place.name if place.is_dir() else place.parent.name, setup, _licences(setup), kept.rows)


def _licences(setup: Setup) -> dict[str, str]:
    return {target.name: dataset_facts(target, setup.shards).licence for target in setup.targets}


def _one_result(path: Path) -> KeptResult:
    found = find_results([path])
    if len(found) > 1:
        names = ", ".join(printable(each.name) for each in found[:3])
        raise UserError(f"{path} holds {len(found)} runs, and one is exported.", fix=f"Name one of them: {names} …")
    if found[0].result is None:
        raise UserError(f"{found[0].name} holds predictions, and no result.", fix="Name the folder of the run.")
    return found[0]


def _used_recipes(evaluation: Evaluation, options: EvalOptions, path: Path) -> list[UsedRecipe]:
    """The recipe of each dataset that the result was made of, by the backbone that is asked for."""
    known = list(dict.fromkeys(each.backbone for each in evaluation.recipes))
    wanted = options.backbones or tuple(known)
    if not options.backbones and len(known) > 1:
        raise UserError(
            f"{path} has {len(known)} backbones, and images are laid out by the embeddings of one.",
            fix=f"Name it: -b {known[0]} (or {', '.join(known[1:])})",
        )
    check_one_backbone(wanted)
    found = [each for each in evaluation.recipes if each.backbone in wanted]
    if not found:
        raise UserError(f"{path} has no backbone {wanted[0]}.", fix=f"-b {' or '.join(known)}")
    return found


def _check_manifest(target: Target, evaluation: Evaluation, path: Path) -> None:
    if target.manifest_sha256 != evaluation.dataset(target.name).manifest_sha256:
        raise UserError(
            f"The shards of {target.name} in {target.folder} are not those of {path}: their manifest has another "
            "digest.",
            fix="--shards DIR with the shards of the result, or run it again on these",
        )
