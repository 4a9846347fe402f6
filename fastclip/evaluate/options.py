"""What `fastclip eval` is asked for: every option says whether it can change a number."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fastclip.errors import UserError
from fastclip.models.compiled import COMPILE
from fastclip.pixels.decoder import DECODERS
from fastclip.results.cells import POLICIES

IDENTITY = {"changes": "identity"}
"""The option can change an embedding: another value reuses no part."""

RUNTIME = {"changes": "runtime"}
"""The option changes no embedding: which cells are asked for, how fast, where, and how they are shown."""


@dataclass(frozen=True, kw_only=True)
class EvalOptions:
    """What to evaluate and how. `None` lets fastclip choose for this machine."""

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
    compile_towers: str = field(default="auto", metadata=IDENTITY)
    """auto, on or off: torch's compiler, which moves the last bits."""
    device: str | None = field(default=None, metadata=IDENTITY)
    workers: int | None = field(default=None, metadata=RUNTIME)
    """Threads that decode and embed."""
    shards: str | Path = field(default="shards", metadata=RUNTIME)
    """A folder, or an address: https, s3, gs, hf."""
    store: Path = field(default=Path("embeddings"), metadata=RUNTIME)
    share: str | None = field(default=None, metadata=RUNTIME)
    """I/N: this process, or what its launcher starts, has share I of N, counted from 1."""
    unreadable: str = field(default="stop", metadata=RUNTIME)

    def __post_init__(self) -> None:
        if not self.backbones:
            raise UserError("No backbone is chosen.", fix="-b ViT-B/32 (repeat it for more), or --all-backbones")
        if self.random_weights and self.weights:
            raise UserError("Weights cannot be random and from a file.", fix="Leave out --random-weights or --weights.")
        if self.unreadable not in POLICIES:
            raise UserError(f"There is no policy {self.unreadable!r}.", fix=f"--unreadable {' | '.join(POLICIES)}")
        if self.decoder not in (None, *DECODERS):
            raise UserError(f"There is no decoder {self.decoder!r}.", fix=f"--decoder {' | '.join(DECODERS)}")
        if self.compile_towers not in COMPILE:
            raise UserError(f"--compile does not know {self.compile_towers!r}.", fix=f"--compile {' | '.join(COMPILE)}")
        for name in ("batch_size", "workers"):
            if (number := getattr(self, name)) is not None and number < 1:
                raise UserError(f"--{name.replace('_', '-')} must be at least 1, not {number}.", fix="Leave it out.")
