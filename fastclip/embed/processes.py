"""The place of this process among all of a run, read from the environment. Nothing connects, nothing waits."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from fastclip.errors import UserError
from fastclip.machine import available_cores


@dataclass(frozen=True)
class Process:
    """This process among those that share the work. Ranks count from 0, local ones within this machine."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    leads_share: bool = False
    """Whether this process speaks for a share that `--share` gave."""

    @property
    def reports(self) -> bool:
        """Whether this process prints and writes the results."""
        return self.rank == 0

    @property
    def cores(self) -> int:
        """CPU cores for this process: an equal part of those that the processes of this machine may use."""
        return max(1, available_cores() // self.local_world_size)


def find_process(environment: Mapping[str, str], share: str | None = None) -> Process:
    """The process that `accelerate launch` or `torchrun` describes in the environment; alone without them.

    `share` is I/N with I from 1: the part of the work that this launcher takes, or this process without a launcher.
    """
    try:
        process = Process(
            rank=int(environment.get("RANK", 0)),
            world_size=int(environment.get("WORLD_SIZE", 1)),
            local_rank=int(environment.get("LOCAL_RANK", 0)),
            local_world_size=int(environment.get("LOCAL_WORLD_SIZE", environment.get("WORLD_SIZE", 1))),
        )
    except ValueError as error:
        raise UserError(f"RANK, WORLD_SIZE or LOCAL_RANK is not a number: {error}.", fix="Unset them.") from None
    if not 0 <= process.rank < process.world_size:
        raise UserError(
            f"RANK is {process.rank} and WORLD_SIZE {process.world_size}.", fix="Let the launcher set both, or neither."
        )
    wanted = environment.get("FASTCLIP_PROCESSES", str(process.world_size))
    if wanted != str(process.world_size):
        raise UserError(
            f"{process.world_size} processes were started, FASTCLIP_PROCESSES says {wanted}.",
            fix="Launch with distributed_type: MULTI_GPU and --num_processes N, or unset FASTCLIP_PROCESSES.",
        )
    return process if share is None else _with_share(process, share)


def _with_share(process: Process, share: str) -> Process:
    if not (match := re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", share)) or not 1 <= int(match[1]) <= int(match[2]):
        raise UserError(f"{share!r} is no share.", fix="--share I/N with I from 1 to N, such as --share 3/16")
    return replace(
        process,
        rank=(int(match[1]) - 1) * process.world_size + process.rank,
        world_size=int(match[2]) * process.world_size,
        leads_share=process.rank == 0,
    )
