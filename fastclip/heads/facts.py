"""Everything that has to be said of a head: how it was fitted, and on what. Needs no NumPy, as tables do not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fastclip.store.recipes import Recipe
from fastclip.store.training import TrainingSet


@dataclass(frozen=True, kw_only=True)
class HeadFacts:
    """How a head was fitted, on which images, for which embeddings, over which classes."""

    method: str
    settings: Mapping[str, float]
    recipe: Recipe
    """Of the embeddings: backbone, architecture, digest of the weights and all else."""
    prompts: str | None
    """The name of the prompt set where text took part, with `templates`."""
    templates: tuple[str, ...]
    classes: tuple[str, ...]
    """Folders, in label order."""
    training: tuple[TrainingSet, ...]
    images: int
    """Images that the head was fitted on: fewer than in `training` for shots, or where images are unreadable."""
    seed: int | None
    shots: int | None
    split: float | None
    """The share of the images that trained; the others tested."""
    duplicates: int
    """Images of the test that are among those of the training too."""
    made_by: str
    """From `describe_numpy`: last bits of a fit depend on it."""
    figures: Mapping[str, float]
    """Of the fit, such as iterations and the size of the gradient."""

    def to_document(self) -> dict[str, Any]:
        """The facts as JSON has them."""
        return {**asdict(self), "recipe": self.recipe.to_document()}
