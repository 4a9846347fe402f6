"""One line of a certificate: a promise that was tried, and how it came out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was checked. `holds` is None where nothing could be checked."""

    topic: str
    name: str
    figure: str
    holds: bool | None
    details: tuple[str, ...] = ()
    """Everything that does not hold, a sentence a line."""
    flipped_lead: float | None = None
    """Of a precision: the largest lead that fp32 gives to an answer which it flips; None if it flips none."""
