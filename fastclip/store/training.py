"""How weights were fine-tuned, as far as every reader of their numbers must know it. Weights and recipes carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from fastclip.files import canonical_json, digest


@dataclass(frozen=True, kw_only=True)
class TrainingSet:
    """One domain that trained. `fingerprint` is that of the images, from the manifest."""

    dataset: str
    domain: str
    fingerprint: str
    images: int


@dataclass(frozen=True, kw_only=True)
class Training:
    """How weights were fine-tuned. They start from those with the SHA-256 `base`."""

    recipe: str
    """The name of the training recipe, with what differs from it: `ce`, `transferlearning, fp16 round trip`."""
    base: str
    backbone: str
    architecture: str
    domains: tuple[TrainingSet, ...]
    images: int
    """Images that gradients were computed on: fewer than in `domains`, where some were held out or unreadable."""
    prompts: str
    """The name of the prompt set, with `templates`."""
    templates: tuple[str, ...]
    classes: str
    """From `classes_digest`."""
    selected: str
    """The way in which the epoch was chosen: `held-out images`, `the last epoch`, `the test domain shapes/outline`."""
    epoch: int
    seed: int
    changes: str = ""
    """The training recipe's values that are others than it has by its name: `learning rate 0.0001, 4 epochs`."""
    alpha: float = 1.0
    """The share of the fine-tuned weights, where they were interpolated with those they started from."""

    @property
    def places(self) -> str:
        """`new/outline + new/flat`: the domains that trained."""
        return " + ".join(f"{each.dataset}/{each.domain}" for each in self.domains)

    @property
    def recipe_text(self) -> str:
        """The training recipe, with its changes, and with α where weights were interpolated: `ce`, `ce (α 0.5)`."""
        changes = [self.changes] if self.changes else []
        alpha = [f"α {self.alpha:g}"] if self.alpha != 1 else []
        return f"{self.recipe} ({', '.join(changes + alpha)})" if changes or alpha else self.recipe

    @property
    def epoch_text(self) -> str:
        """`epoch 3 chosen by held-out images`, or `epoch 10, the last`."""
        chosen = ", the last" if self.selected == "the last epoch" else f" chosen by {self.selected}"
        return f"epoch {self.epoch}{chosen}"

    @property
    def summary(self) -> str:
        """`ce on new/outline, epoch 3`."""
        alpha = f" (α {self.alpha:g})" if self.alpha != 1 else ""
        return f"{self.recipe}{alpha} on {self.places}, epoch {self.epoch}"

    def to_document(self) -> dict[str, Any]:
        """The record as JSON has it."""
        return {**asdict(self), "domains": [asdict(each) for each in self.domains], "templates": list(self.templates)}


def classes_digest(names: Mapping[str, str]) -> str:
    """The digest of class folders and their readable names, in label order."""
    return digest(canonical_json(list(map(list, names.items()))))


def parse_training(document: Any) -> Training:
    """The record in a JSON document. Raises `ValueError` for anything that is none."""
    try:
        if not isinstance(document, Mapping):
            raise TypeError("it is no object")
        training = Training(
            **{
                **document,
                "domains": tuple(TrainingSet(**each) for each in document["domains"]),
                "templates": tuple(document["templates"]),
            }
        )
        records: tuple[Training | TrainingSet, ...] = (training, *training.domains)
        for record in records:
            for field in fields(record):
                wanted = {"str": str, "int": int, "float": float}.get(str(field.type))
                if wanted and type(getattr(record, field.name)) is not wanted:
                    raise TypeError(f"its {field.name} is no {field.type}")
        if type(document["templates"]) is str or set(map(type, training.templates)) - {str}:
            raise TypeError("a template is no text")
        if not 0 <= training.alpha <= 1:  # nor NaN, which no digest can be made of
            raise TypeError("its alpha is no share")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"it does not say how its weights were fine-tuned: {error}") from None
    return training
