"""The setup of an evaluation: options resolved against data, store and, only if something is missing, this machine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

from fastclip.data.shards.targets import Target, find_targets
from fastclip.embed.plan import Unit
from fastclip.embed.processes import Process, find_process
from fastclip.errors import FastclipError, IncompleteError, UserError, needs_torch
from fastclip.evaluate.options import EvalOptions
from fastclip.features.choose import Shelf, Wanted
from fastclip.models.backbones import Backbone, find_backbone, known_backbone, plain
from fastclip.models.weights import (
    Weights,
    check_backbone,
    describe_weights,
    find_all_weights,
    random_weights,
    weights_in,
)
from fastclip.storage.folders import Location
from fastclip.store.parts import part_name
from fastclip.store.recipes import Recipe
from fastclip.store.store import Store
from fastclip.text.prompt_sets import PromptSet, check_names
from fastclip.text.prompts import find_prompt_set
from fastclip.threads import threads

if TYPE_CHECKING:
    from fastclip.evaluate.engine import Engine


@dataclass(frozen=True, kw_only=True)
class Setup:
    """One evaluation by one process. Making it changes nothing outside of it; nothing in it changes afterwards."""

    process: Process
    targets: tuple[Target, ...]
    backbones: tuple[str, ...]
    prompts: tuple[PromptSet, ...]
    shards: Location
    store: Store
    unreadable: str
    recipes: Mapping[tuple[str, str], Recipe]
    """(dataset, backbone) → the recipe whose embeddings are read. Chosen once: it never changes under way."""
    units: tuple[Unit, ...] = ()
    """The shards that this machine embeds, unless they are there: those of datasets without a complete recipe."""
    engine: Engine | None = None
    """How this process embeds; None where nothing has to be embedded."""
    weights: Mapping[str, Weights] = field(default_factory=dict)
    """Backbone → the weights that were given."""
    device: str | None = None
    no_engine: str = ""
    """Why this machine cannot embed what is missing; empty if it can."""


def resolve(
    options: EvalOptions,
    environment: Mapping[str, str] = os.environ,
    *,
    only_look: bool = False,
    only_stored: bool = False,
    one_recipe: bool = False,
) -> Setup:
    """Resolve everything that can be wrong before any work is done. Loads torch only if something must be embedded.

    Raises `UserError`. With `only_look`, missing weights or a missing device are noted in `no_engine` instead. With
    `only_stored`, nothing is embedded: `IncompleteError` is raised for a dataset that no recipe has whole. With
    `one_recipe`, a backbone is read under the same recipe in all datasets.
    """
    if not options.backbones:
        raise UserError("No backbone is chosen.", fix="-b ViT-B/32 (repeat it for more), or --all-backbones")
    process = find_process(environment, options.share)
    targets = find_targets(options.shards, options.targets)
    prompts = _distinct(map(find_prompt_set, options.prompts))
    for target, each in product(targets, prompts):
        each.classes(target.manifest.classes, target.manifest.names)  # raises an error for texts that do not fit
    uses_names = any(each.templates for each in prompts)
    for target in targets if uses_names and not (only_look or options.random_weights) else ():
        card = f"{options.shards}/{target.name}.toml"
        check_names(target.name, target.manifest.classes, target.manifest.names, card)
    store = Store(options.store)
    store.check_layout()
    known = store.recipes()
    backbones = tuple(dict.fromkeys(_name(name, known) for name in options.backbones))
    files = {_name(name, known): path for name, path in options.weights.items()}
    _check_names(options, backbones, files, known)
    given = {name: _given(name, path) for name, path in files.items()}
    precision = options.precision or of_accelerate(environment)
    wanted = {name: _wanted(options, name, given.get(name), precision, known) for name in backbones}
    for name, weights in given.items():
        spellings = [each for each in (*options.weights, *options.backbones) if _name(each, known) == name]
        check_backbone(name, spellings, weights)
    _check_filters(wanted, known)
    shelf = Shelf(store, known, wanted, {t.name: [part_name(shard) for shard in t.shards] for t in targets})
    pairs = [(target.name, name) for target in targets for name in backbones]
    datasets = [target.name for target in targets]
    recipes = {
        (dataset, name): found
        for dataset, name in ([] if options.here else pairs)
        if (found := shelf.complete(datasets if one_recipe else [dataset], name))
    }
    missing = [pair for pair in pairs if pair not in recipes]
    engine, no_engine = None, ""
    if missing and only_stored:
        raise shelf.not_stored(missing)
    if missing:
        names = [name for name in backbones if any(name == each for _, each in missing)]
        try:
            with needs_torch(), threads(1, "weights") as pool:
                # Weights are hashed while torch is loaded, unless open_clip must be asked, which loads torch too.
                find = partial(_find_weights, names, given, wanted, process.cores)
                early = pool.submit(find) if all(map(known_backbone, names)) else None
                from fastclip.evaluate.engine import find_engine

                engine = find_engine(options, process, early.result() if early else find(), precision)
            _check_own(wanted, engine, shelf, given)
            recipes |= {(dataset, name): engine.candidates[name].recipe for dataset, name in missing}
        except FastclipError as error:
            if not only_look:
                raise shelf.cannot_embed(missing, error) from error
            engine, no_engine = None, str(error)
            recipes |= {pair: found for pair in missing if (found := shelf.begun(*pair))}
    return Setup(
        process=process,
        targets=tuple(targets),
        backbones=backbones,
        prompts=tuple(prompts),
        shards=options.shards,
        store=store,
        unreadable=options.unreadable,
        recipes=recipes,
        units=tuple(_units(targets, shelf, missing, recipes)) if engine else (),
        engine=engine,
        weights=given,
        device=options.device,
        no_engine=no_engine,
    )


def _find_weights(
    names: Iterable[str], given: Mapping[str, Weights], wanted: Mapping[str, Wanted], cores: int
) -> dict[str, tuple[Backbone, Weights]]:
    """Each backbone with its weights: drawn ones, those that were given, or a file that is looked for."""
    found = {name: find_backbone(name) for name in names}
    known = {}
    for name, backbone in found.items():
        if wanted[name].random_weights:
            known[backbone] = random_weights(backbone)
        elif name in given:
            known[backbone] = given[name]
    known |= find_all_weights({backbone: None for backbone in found.values() if backbone not in known}, cores)
    return {name: (backbone, known[backbone]) for name, backbone in found.items()}


def _units(
    targets: Iterable[Target],
    shelf: Shelf,
    missing: Iterable[tuple[str, str]],
    recipes: Mapping[tuple[str, str], Recipe],
) -> Iterable[Unit]:
    for target in targets:
        owed = {name: recipes[dataset, name] for dataset, name in missing if dataset == target.name}
        if owed:
            for shard, part in zip(target.shards, shelf.parts[target.name], strict=True):
                yield Unit(target.folder, shard, part, owed)


def _check_names(
    options: EvalOptions, backbones: Sequence[str], given: Mapping[str, Path], known: Iterable[Recipe]
) -> None:
    """Raise `UserError` for weights of a backbone that is not evaluated, or a recipe of none of them."""
    if unused := given.keys() - set(backbones):
        raise UserError(f"--weights names {min(unused)}, which is not evaluated.", fix="Add -b NAME.")
    for beginning in options.recipes:
        if not any(recipe.id.startswith(beginning) and recipe.backbone in backbones for recipe in known):
            raise UserError(
                f"{options.store} has no recipe of {' or '.join(backbones)} that begins with {beginning!r}.",
                fix=f"fastclip store --store {options.store} lists them",
            )


def _given(backbone: str, path: Path) -> Weights:
    """The weights in a file that was given. It is looked at once: another may take its name."""
    if not path.is_file():
        raise UserError(f"{backbone}: there is no weights file {path}.", fix="--weights FILE.safetensors")
    return weights_in(path)


def _wanted(
    options: EvalOptions, backbone: str, weights: Weights | None, precision: str | None, known: Iterable[Recipe]
) -> Wanted:
    """The filter for one backbone. A beginning of a recipe's name filters the backbone of that recipe alone."""
    of_it = [recipe.id for recipe in known if recipe.backbone == backbone]
    return Wanted(
        backbone=backbone,
        weights=weights.digest if weights else None,
        random_weights=options.random_weights,
        precision=precision,
        decoder=options.decoder,
        batch_size=options.batch_size,
        compiled=None if options.compile_towers is None else options.compile_towers == "on",
        device=options.device,
        recipes=tuple(each for each in options.recipes if any(name.startswith(each) for name in of_it)),
    )


def _check_filters(wanted: Mapping[str, Wanted], known: Iterable[Recipe]) -> None:
    """Raise `UserError` if a recipe that is asked for by name is excluded by another option."""
    for name, each in wanted.items():
        named = [recipe for recipe in known if each.recipes and recipe.id.startswith(each.recipes)]
        if named and not any(map(each.admits, named)):
            first = named[0]
            weights = "random weights" if first.random_weights else f"weights {first.weights[:12]}"
            withdrawn = ", and its numerics are withdrawn" if first.withdrawn else ""
            raise UserError(
                f"The recipe {first.id[:12]} of {name} ({weights}, {first.how}, on {first.machine}{withdrawn}) is "
                "excluded by another option.",
                fix="Leave out --recipe or --head, or the option that says something else.",
            )


def _check_own(wanted: Mapping[str, Wanted], engine: Engine, shelf: Shelf, given: Mapping[str, Weights]) -> None:
    """Raise an error if this machine would embed under a recipe that the user did not ask for."""
    for name, candidate in engine.candidates.items():
        own, recipes = candidate.recipe, wanted[name].recipes
        if recipes and not own.id.startswith(recipes):
            others = [recipe for recipe in shelf.admitted[name] if recipe.weights != own.weights]
            raise IncompleteError(
                f"This machine embeds {name} under {own.id[:12]}, not under --recipe {' '.join(recipes)}.",
                fix=f"--weights {name}=FILE with {describe_weights(others[0])}, or leave out --recipe"
                if others
                else "Leave out --recipe to embed here.",
            )
        others = [recipe for recipe in shelf.admitted[name] if recipe.weights != own.weights]
        if others and name not in given:
            raise UserError(
                f"The store holds embeddings of {name} by different weights: {others[0].weights[:12]} (recipe "
                f"{others[0].id[:12]}), while those of this machine are {own.weights[:12]}.",
                fix="--weights FILE to say which weights are meant",
            )


def _name(name: str, recipes: Iterable[Recipe]) -> str:
    """A backbone's name as recipes spell it; open_clip is asked only if something must be embedded."""
    if known := known_backbone(name):
        return known.name
    return next((recipe.backbone for recipe in recipes if plain(recipe.backbone) == plain(name)), name)


def of_accelerate(environment: Mapping[str, str]) -> str | None:
    """The precision that Accelerate was told; its `no` leaves the choice to fastclip."""
    told = environment.get("ACCELERATE_MIXED_PRECISION", "no")
    return None if told == "no" else told


def _distinct(prompts: Iterable[PromptSet]) -> list[PromptSet]:
    by_name: dict[str, PromptSet] = {}
    for each in prompts:
        if by_name.setdefault(each.name, each) != each:
            raise UserError(f"Two prompt sets are called {each.name!r}.", fix="Rename the file.")
    return list(by_name.values())
