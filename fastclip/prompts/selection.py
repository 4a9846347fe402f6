"""A selection: the candidates that were chosen, how, and what they reach on images that chose them and on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from fastclip.data.shards.targets import Target
from fastclip.prompts.candidates import Candidate, Candidates, texts_of
from fastclip.prompts.scoring import Source
from fastclip.results.cells import mean
from fastclip.text.prompt_sets import PromptSet

ALL, SINGLE, HELD_OUT, SAME = "mean of all", "best single", "held out", "same images"
"""Columns beside the references: the ensemble of all candidates; the best candidate, and the ensemble, that images
without those of the row chose; the ensemble that is kept, on images that chose it."""

COLUMNS = (ALL, SINGLE, HELD_OUT, SAME)

METHODS = {
    True: "greedy forward selection by average accuracy",
    False: "zero-shot prompt ensembling's score without labels (arXiv 2302.06235), equal weights",
}


@dataclass(frozen=True, kw_only=True)
class SelectOptions:
    """How an ensemble is chosen."""

    hold_out: str = "domains"
    most: int = 7
    """Candidates in it at most."""
    seed: int = 0
    """Of folds and halves."""
    labels: bool = True


@dataclass(frozen=True)
class Share:
    """Right answers of so many images."""

    right: int
    images: int

    @property
    def accuracy(self) -> Fraction | None:
        """None without an image."""
        return Fraction(self.right, self.images) if self.images else None


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The candidates that were chosen, in that order, and shares of right answers by column and domain."""

    source: Source
    candidates: Candidates
    options: SelectOptions
    chosen: tuple[int, ...]
    chosen_by_fold: tuple[tuple[int, ...], ...]
    columns: Mapping[str, Mapping[str, Share]]
    """Column → domain → share."""
    all_on_same: Mapping[str, Share]
    """Domain → share of the ensemble of all candidates, on the images that chose."""
    selected_on: tuple[str, ...]
    """Domains."""
    unreadable: int

    def gap(self, domain: str) -> Fraction | None:
        """The gain over the ensemble of all candidates, less where images choose for themselves: the optimism."""
        same, held_out = self.columns[SAME][domain].accuracy, self.columns[HELD_OUT][domain].accuracy
        bases = self.all_on_same[domain].accuracy, self.columns[ALL][domain].accuracy
        if same is None or held_out is None or bases[0] is None or bases[1] is None:
            return None
        return (same - bases[0]) - (held_out - bases[1])

    def average(self, column: str) -> Fraction | None:
        """The unweighted mean over the domains that have images."""
        return mean([each for share in self.columns[column].values() if (each := share.accuracy) is not None])

    def prompts(self, name: str) -> PromptSet:
        """The chosen ensemble as a prompt set that says how it was chosen: templates, unless a candidate has texts."""
        chosen = [self.candidates.each[row] for row in self.chosen]
        facts = self.facts()
        if all(each.prompts.templates for each in chosen):
            return PromptSet(name, tuple(t for each in chosen for t in each.prompts.templates), selection=facts)
        return PromptSet(name, texts=joined_texts(chosen, self.source.target), selection=facts)

    def facts(self) -> dict[str, Any]:
        """How it was chosen, as its file says it."""
        target, recipe = self.source.target, self.source.recipe
        fingerprints = {each.name: each.fingerprint for each in target.manifest.domains}
        counts = {
            column: {domain: {"right": each.right, "images": each.images} for domain, each in shares.items()}
            for column, shares in self.columns.items()
        }
        return {
            "labels_used": self.options.labels,
            "selected_on": [f"{target.name}/{each}" for each in self.selected_on],
            "fingerprints": {f"{target.name}/{each}": fingerprints[each] for each in self.selected_on},
            "hold_out": self.options.hold_out if self.options.labels else None,
            "reported_on": _reported(self.options),
            "method": METHODS[self.options.labels],
            "most": self.options.most,
            "seed": self.options.seed,
            "candidates": {"number": len(self.candidates), "sha256": self.candidates.sha256},
            "chosen": [self.candidates.each[row].name for row in self.chosen],
            "counts": counts,
            "backbone": recipe.backbone,
            "weights": recipe.weights,
            "recipe": recipe.id,
        }


def _reported(options: SelectOptions) -> str:
    if not options.labels:
        return "the same images: no label chose"
    return {
        "domains": "each domain, by an ensemble that the other domains chose",
        "folds": "each fifth of the images by SHA-256, by an ensemble that the others chose",
        "half": "the half of the images by SHA-256 that did not choose",
    }[options.hold_out]


def joined_texts(chosen: Sequence[Candidate], target: Target) -> dict[str, tuple[str, ...]]:
    """Class folder → the texts of all chosen sets."""
    of_each = [texts_of(each, target) for each in chosen]
    return {
        folder: tuple(text for texts in of_each for text in texts[row])
        for row, folder in enumerate(target.manifest.classes)
    }
