"""What of an evaluation is there, what is missing, and why a part that is there does not count. Embeds nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from fastclip.data.shards.manifest import Shard
from fastclip.embed.store import part_identity
from fastclip.evaluate.run import Candidate, Run
from fastclip.evaluate.targets import Target


@dataclass(frozen=True, kw_only=True)
class CellStatus:
    """How far a backbone is in a domain, for every prompt set alike."""

    dataset: str
    domain: str
    backbone: str
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


def status(run: Run) -> list[CellStatus]:
    """The status of every backbone in every domain, and the reasons."""
    found = None
    cells = []
    for target in run.targets:
        for candidate in run.candidates:
            for domain in target.domains:
                shards = target.manifest.shards_of(domain)
                missing = [shard for shard in shards if not run.store.has(candidate.key(shard))]
                if missing and found is None:
                    found = _identities_by_shard(run)
                reasons = Counter(_reason(run, target, candidate, shard, found or {}) for shard in missing)
                cells.append(_cell(run, target, candidate, domain, shards, missing, reasons))
    return cells


def _cell(
    run: Run,
    target: Target,
    candidate: Candidate,
    domain: str,
    shards: Sequence[Shard],
    missing: Sequence[Shard],
    reasons: Mapping[str, int],
) -> CellStatus:
    rejected = next(each.unreadable for each in target.manifest.domains if each.name == domain)
    keys = {candidate.key(shard) for shard in shards} - {candidate.key(shard) for shard in missing}
    return CellStatus(
        dataset=target.folder.name,
        domain=domain,
        backbone=candidate.backbone.name,
        images=rejected + sum(shard.images for shard in shards),
        missing_images=sum(shard.images for shard in missing),
        shards=len(shards),
        missing_shards=len(missing),
        unreadable=rejected + sum(len((run.store.facts(key) or {}).get("unreadable", ())) for key in keys),
        reasons=reasons,
    )


def _identities_by_shard(run: Run) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """What the store's parts say that they were made from, by the digests of their shards."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for key in run.store:
        if identity := (run.store.facts(key) or {}).get("identity"):
            found.setdefault((identity.get("shard_sha256"), identity.get("index_sha256")), []).append(identity)
    return found


def _reason(
    run: Run,
    target: Target,
    candidate: Candidate,
    shard: Shard,
    found: Mapping[tuple[str, str], Sequence[Mapping[str, Any]]],
) -> str:
    key = candidate.key(shard)
    if path := run.attempts.given_up(run.unit(target, shard)):
        return f"it kills the process that embeds it; delete {path} to try again"
    if (run.store.folder / "damaged" / f"{key}.safetensors").exists():
        return "its part was damaged and is moved aside"
    identities = found.get((shard.sha256, shard.index_sha256), ())
    wanted = part_identity(candidate.recipe, shard)
    nearest = min(
        (each for each in identities if each.get("architecture") == wanted["architecture"]),
        key=lambda each: len(list(differences(each, wanted))),
        default=None,
    )
    if nearest is None:
        return "not embedded yet" if identities or not found else "not embedded yet, or its shard is another one now"
    return "; ".join(differences(nearest, wanted)) or "not embedded yet"


def differences(there: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    """How a part that is there differs from the one that is wanted, a phrase a field."""
    for name in sorted(there.keys() | wanted.keys()):
        old, new = there.get(name), wanted.get(name)
        if isinstance(new, Sequence) and not isinstance(new, str):
            new = _plain(new)
        if old == new:
            continue
        if name == "numerics":
            olds, news = (str(value).split(", ") for value in (old, new))
            old = ", ".join(each for each in olds if each not in news)
            new = ", ".join(each for each in news if each not in olds)
        elif name == "weights":
            old, new = str(old)[:12], str(new)[:12]
        yield f"{name.replace('_', ' ')} {'differ' if name == 'weights' else 'differs'}: {old} there, {new} now"


def _plain(value: Any) -> Any:
    """As JSON gives it back."""
    return [_plain(each) for each in value] if isinstance(value, list | tuple) else value
