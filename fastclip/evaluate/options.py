"""Options of an evaluation: each says whether it can change a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastclip.errors import UserError
from fastclip.results.cells import POLICIES
from fastclip.store.recipes import DECODERS, PRECISIONS

IDENTITY = {"changes": "identity"}
"""The option is in the recipe: another value is another set of embeddings. Given, it filters what is read."""

RUNTIME = {"changes": "runtime"}
"""The option changes no embedding: which cells are asked for, how fast, where, and how they are shown."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """The datasets, backbones and prompts to evaluate, and how. `None` leaves the choice to fastclip."""

    targets: tuple[str, ...] = field(default=(), metadata=RUNTIME)
    """DATASET or DATASET/DOMAIN; none means everything that is sharded."""
    backbones: tuple[str, ...] = field(metadata=IDENTITY)
    prompts: tuple[str, ...] = field(default=("transferlearning",), metadata=RUNTIME)
    weights: Mapping[str, Path] = field(default_factory=dict, metadata=IDENTITY)
    """Backbone → weights file, for those that are not to be looked for."""
    random_weights: bool = field(default=False, metadata=IDENTITY)
    precision: str | None = field(default=None, metadata=IDENTITY)
    decoder: str | None = field(default=None, metadata=IDENTITY)
    batch_size: int | None = field(default=None, metadata=IDENTITY)
    """Images a forward pass, short batches padded to it: it picks kernels, and they move the last bits."""
    compile_towers: str | None = field(default=None, metadata=IDENTITY)
    """on or off: torch's compiler, which moves the last bits."""
    device: str | None = field(default=None, metadata=IDENTITY)
    recipes: tuple[str, ...] = field(default=(), metadata=RUNTIME)
    """Beginnings of recipes' digests: only these are read."""
    here: bool = field(default=False, metadata=RUNTIME)
    """Use this machine's own recipe only, and embed under it whatever is missing."""
    workers: int | None = field(default=None, metadata=RUNTIME)
    """Threads that decode and embed."""
    shards: str | Path = field(default="shards", metadata=RUNTIME)
    """A folder, or an address: https, s3, gs, hf."""
    store: Path = field(default=Path("embeddings"), metadata=RUNTIME)
    share: str | None = field(default=None, metadata=RUNTIME)
    """I/N: this process, or all processes of its launcher together, have share I of N, counted from 1."""
    unreadable: str = field(default="stop", metadata=RUNTIME)

    def __post_init__(self) -> None:
        if self.random_weights and self.weights:
            raise UserError("Weights cannot be random and from a file.", fix="Leave out --random-weights or --weights.")
        if self.here and self.recipes:
            raise UserError("--here and --recipe exclude each other.", fix="Leave out one of them.")
        for name, known in (
            ("unreadable", POLICIES),
            ("precision", PRECISIONS),
            ("decoder", DECODERS),
            ("device", ("cpu", "cuda")),
            ("compile_towers", ("on", "off")),
        ):
            option = name.removesuffix("_towers")
            if (value := getattr(self, name)) is not None and value not in known:
                raise UserError(f"--{option} does not know {value!r}.", fix=f"--{option} {' | '.join(known)}")
        for name in ("batch_size", "workers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {number}.", fix="Leave it out.")
