"""A finding of one check, and the question that all checks are asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

OK, WARN, FAIL = "ok", "warn", "fail"
"""Nothing to do · works, but slowly, unlike others, or not for long · something that fastclip does will fail."""


@dataclass(frozen=True)
class Finding:
    """A fact about this machine: `level` is ok, warn or fail. Each but an ok has a cure, a command or a sentence."""

    level: str
    name: str
    text: str
    cure: str = ""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The places that are looked at. `weights` are FILE or BACKBONE=FILE."""

    store: str = "embeddings"
    shards: str = "shards"
    weights: tuple[str, ...] = ()
    online: bool = False


Look: TypeAlias = Callable[[Asked], list[Finding]]
"""Looks at one thing. It may be slow, hang or crash: it runs in a process of its own."""


@dataclass(frozen=True)
class Check:
    """A check by its name, in the group under which it is shown."""

    group: str
    name: str
    look: Look


def ok(name: str, text: str) -> Finding:
    """A finding that needs nothing."""
    return Finding(OK, name, text)


def warn(name: str, text: str, cure: str) -> Finding:
    """A finding that costs time or room, or will cost more."""
    return Finding(WARN, name, text, cure)


def fail(name: str, text: str, cure: str) -> Finding:
    """A finding with which something of fastclip fails."""
    return Finding(FAIL, name, text, cure)
