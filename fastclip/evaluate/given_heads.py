"""Heads from files: which backbones and recipes they ask for, and where they are scored."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from fastclip.errors import UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import FittedHeads
from fastclip.evaluate.setup import Setup
from fastclip.files import digest
from fastclip.heads.facts import HeadFacts
from fastclip.heads.head_files import check_head, read_head, unseal_head
from fastclip.heads.scores import Head
from fastclip.models.backbones import known_backbone, plain
from fastclip.results.cells import UsedHead
from fastclip.store.store import Store


@dataclass(frozen=True, kw_only=True)
class GivenHead:
    """A head and the file that it came from."""

    name: str
    """The name that cells have: the method and what it was trained on."""
    sha256: str
    head: Head
    facts: HeadFacts


def load_heads(paths: Iterable[Path]) -> list[GivenHead]:
    """The heads in files, each once. Where several would have one name, their names end in their digests.

    Raises `UserError` for a file that is none, `IntegrityError` for a damaged one.
    """
    found = list({each.sha256: each for each in map(_load, paths)}.values())
    called = [(each.facts.recipe.backbone, each.name) for each in found]
    return [
        replace(each, name=f"{each.name}, {each.sha256[:8]}") if called.count(name) > 1 else each
        for each, name in zip(found, called, strict=True)
    ]


def _load(path: Path) -> GivenHead:
    data = read_head(path)
    head, facts = unseal_head(data, str(path))
    shots = f", {facts.shots} shots, draw {facts.seed}" if facts.shots else ""
    name = f"{facts.method}{shots} from {' + '.join(each.domain for each in facts.training)}"
    return GivenHead(name=name, sha256=digest(data), head=head, facts=facts)


def options_with(options: EvalOptions, heads: Sequence[GivenHead]) -> EvalOptions:
    """The options with the heads' backbones, and with their recipes where the store has them.

    A recipe that is asked for by name stands: `heads_by_domain` refuses heads for another. Raises `UserError` for a
    head of a backbone that is not among those that are asked for, or of random weights that are not asked for.
    """
    asked = {plain(known.name if (known := known_backbone(name)) else name) for name in options.backbones}
    for each in heads:
        if asked and plain(each.facts.recipe.backbone) not in asked:
            raise UserError(
                f"The head {each.name} is for {each.facts.recipe.backbone}, not for {', '.join(options.backbones)}.",
                fix=f"-b {each.facts.recipe.backbone}, or leave out -b",
            )
        if each.facts.recipe.random_weights and not options.random_weights:
            raise UserError(f"The head {each.name} was fitted on random weights.", fix="--random-weights")
    there = Store(options.store).recipes()
    recipes = [each.facts.recipe for each in heads]
    named = {each.backbone for each in there if options.recipes and each.id.startswith(options.recipes)}
    backbones = dict.fromkeys([*options.backbones, *(recipe.backbone for recipe in recipes)])
    own = (recipe.id for recipe in recipes if recipe in there and recipe.backbone not in named)
    ids = dict.fromkeys([*options.recipes, *own])
    return replace(options, backbones=tuple(backbones), recipes=tuple(ids))


def heads_by_domain(setup: Setup, heads: Sequence[GivenHead]) -> tuple[FittedHeads, tuple[UsedHead, ...]]:
    """Every head for every domain. Raises `UserError` for embeddings or classes that a head is not for."""
    fitted: dict[tuple[str, str, str], dict[str, Head]] = {}
    used = []
    for each in heads:
        for target in setup.targets:
            backbone = each.facts.recipe.backbone
            check_head(each.facts, setup.recipes[target.name, backbone], target.manifest.classes)
            for domain in target.domains:
                fitted.setdefault((backbone, target.name, domain), {})[each.name] = each.head
            used.append(
                UsedHead(
                    name=each.name,
                    dataset=target.name,
                    domains=target.domains,
                    sha256=each.sha256,
                    facts=each.facts,
                    transductive=False,
                )
            )
    return fitted, tuple(used)
