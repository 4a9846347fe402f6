"""Embeds what a setup lacks under one bar, for commands that embed with several weights, one after the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

    from fastclip.evaluate.setup import Setup


def embed_with_bar(setup: Setup, messages: Console) -> None:
    """Embed all that is missing. Raises the error of the first shard that cannot be embedded."""
    from fastclip.cli.progress import progress_bar
    from fastclip.evaluate.embedding import embed, missing_units, share_images

    missing = missing_units(setup)
    if not missing:
        return
    weights = "".join(f", {path.name}" for path in setup.weights.values())
    with progress_bar(messages, f"embedding{weights}", share_images(setup, missing)) as advance:
        done = embed(setup, advance)
    if done.failures:
        raise done.failures[0]
