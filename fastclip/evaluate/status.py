"""The state of an evaluation: what is there, what is missing, and why a part does not count. Embeds nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fastclip.data.shards.manifest import Shard
from fastclip.data.shards.targets import Target
from fastclip.embed.attempts import Attempts
from fastclip.evaluate.setup import Setup
from fastclip.store.parts import part_name
from fastclip.store.recipes import Recipe, differences


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """How far a backbone is in a domain, for every prompt set alike."""

    dataset: str
    domain: str
    backbone: str
    recipe: Recipe | None
    """The recipe that `fastclip eval` would read or embed under; None if this machine cannot embed."""
    images: int
    missing_images: int
    shards: int
    missing_shards: int
    unreadable: int
    """Images that cannot be used: rejected when the shards were written, or in a part that is there."""
    reasons: Mapping[str, int]
    """Why shards are missing → how many."""

    @property
    def complete(self) -> bool:
        """Whether every shard has its part."""
        return not self.missing_shards


def status(setup: Setup) -> list[CellStatus]:
    """The status of every backbone in every domain, and the reasons."""
    look = _Look(setup)
    return [
        look.cell(target, backbone, domain)
        for target in setup.targets
        for backbone in setup.backbones
        for domain in target.domains
    ]


class _Look:
    """One look at a store."""

    def __init__(self, setup: Setup) -> None:
        self._setup = setup
        self._attempts = Attempts(setup.store.folder)
        self._given_up = self._attempts.all_given_up()
        self._units = {(unit.folder, unit.shard): unit for unit in setup.units} if self._given_up else {}
        self._recipes = setup.store.recipes()
        ids = {recipe.id for recipe in (*self._recipes, *setup.recipes.values())}
        self._known = {each: setup.store.parts(each) for each in ids}
        shards = (shard for target in setup.targets for shard in target.manifest.shards if shard.images_sha256)
        self._names = set(map(part_name, shards))

    def cell(self, target: Target, backbone: str, domain: str) -> CellStatus:
        recipe = self._setup.recipes.get((target.name, backbone))
        parts = self._known.get(recipe.id, set()) if recipe else set()
        shards = target.manifest.shards_of(domain)
        missing = [shard for shard in shards if part_name(shard) not in parts]
        rejected = next(each.unreadable for each in target.manifest.domains if each.name == domain)
        return CellStatus(
            dataset=target.name,
            domain=domain,
            backbone=backbone,
            recipe=recipe,
            images=rejected + sum(shard.images for shard in shards),
            missing_images=sum(shard.images for shard in missing),
            shards=len(shards),
            missing_shards=len(missing),
            unreadable=rejected + self._unreadable(recipe, shards, parts),
            reasons=Counter(self._reason(target, backbone, recipe, shard) for shard in missing),
        )

    def _unreadable(self, recipe: Recipe | None, shards: Sequence[Shard], parts: set[str]) -> int:
        names = {part_name(shard) for shard in shards} & parts
        facts = [self._setup.store.facts(recipe.id, name) for name in names] if recipe else []
        return sum(len((each or {}).get("unreadable", ())) for each in facts)

    def _reason(self, target: Target, backbone: str, recipe: Recipe | None, shard: Shard) -> str:
        name = part_name(shard)
        unit = self._units.get((target.folder, shard))
        if unit and (path := self._attempts.given_up(unit)):
            return f"it kills the process that embeds it; delete {path} to try again"
        if recipe and self._setup.store.damaged_path(recipe.id, name).exists():
            return "its part was damaged and is moved aside"
        there = [each for each in self._recipes if each.backbone == backbone and name in self._known[each.id]]
        if self._setup.no_engine:
            return f"not embedded yet, and cannot be embedded here: {self._setup.no_engine.rstrip('.')}"
        assert recipe, "a machine that can embed has a recipe"
        if not there:
            others = self._known.get(recipe.id, set()) - self._names
            return "not embedded yet, or its shard is another one now" if others else "not embedded yet"
        nearest = min(there, key=lambda each: len(differences(each, recipe)))
        return f"embedded under another recipe, {nearest.id[:12]}: {'; '.join(differences(nearest, recipe))}"
