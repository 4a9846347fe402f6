"""Finds classes that CLIP cannot tell apart: names with the same tokens give the same prototype.

The lower label then wins every tie, and the other class gets 0 %. In a list that somebody wrote, such names are meant:
ImageNet has `missile` twice. Among folders and texts, two spellings that never meet in a domain are one class.
"""

from __future__ import annotations

import html
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from fastclip.errors import UserError, printable

if TYPE_CHECKING:
    from fastclip.data.sources.listing import Listing

SHOWN_TWINS = 5
"""Groups of twins that are named."""


@cache
def _words() -> Any:
    """The pattern by which CLIP's tokenizer cuts a text into words; blanks between them leave no trace."""
    import regex  # type: ignore[import-untyped]  # Python's own `re` knows no \p{L}

    pattern = r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
    return regex.compile(pattern, regex.IGNORECASE)


def token_key(text: str) -> tuple[str, ...]:
    """The words of `text` as CLIP's tokenizer sees them: equal for two texts exactly if their tokens are equal.

    Done as in open_clip, whose import takes seconds.
    """
    import ftfy

    cleaned = html.unescape(html.unescape(ftfy.fix_text(text)))
    return tuple(_words().findall(" ".join(cleaned.split()).lower()))


def twins(names: Sequence[str]) -> tuple[tuple[int, ...], ...]:
    """The groups of labels, two or more in each, whose names have the same tokens."""
    labels: dict[tuple[str, ...], list[int]] = {}
    for label, name in enumerate(names):
        labels.setdefault(token_key(name), []).append(label)
    return tuple(tuple(group) for group in labels.values() if len(group) > 1)


def twins_line(names: Sequence[str], groups: Sequence[Sequence[int]]) -> str:
    """A sentence that names the classes in `groups`, and what that means for their numbers."""
    shown = [
        f"{' and '.join(dict.fromkeys(names[label] for label in group))} (labels {', '.join(map(str, group))})"
        for group in groups[:SHOWN_TWINS]
    ]
    more = f"; and {len(groups) - SHOWN_TWINS:,} more" if len(groups) > SHOWN_TWINS else ""
    text = f"CLIP cannot tell apart: {'; '.join(shown)}{more}. Their prompts have the same tokens; "
    return printable(f"{text}the lower label wins every tie.")


def check_twins(listing: Listing) -> None:
    """Raise `UserError` if two classes whose names were found, not listed, are two spellings of one.

    Twins that share a domain are two classes. Twins that never do are one class, spelt in two ways.
    """
    domains: dict[int, set[str]] = {}
    for image in listing.images:
        domains.setdefault(image.label, set()).add(image.domain)
    for row in listing.rejected:
        if row.label is not None and row.domain is not None:
            domains.setdefault(row.label, set()).add(row.domain)
    for group in twins(listing.names):
        for first, second in ((a, b) for a in group for b in group if a < b):
            if not domains.get(first, set()) & domains.get(second, set()):
                one, other = (f"{listing.classes[label]!r}" for label in (first, second))
                where = [min(domains.get(label, {"none"})) for label in (first, second)]
                raise UserError(
                    f"{one} (in {where[0]}) and {other} (in {where[1]}) are one text to CLIP, and no domain has both: "
                    "they look like one class, spelt in two ways.",
                    fix="Spell it in one way; or, if they are two classes, list both in a card (shards/README.md).",
                )
