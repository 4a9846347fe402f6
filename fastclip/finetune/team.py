"""The processes that train one model together. Unlike evaluation, training waits for all of them in every step.

Accelerate starts them; torch joins them: gloo on CPUs, NCCL on GPUs.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import cast

import torch
from torch import Tensor, distributed, nn

from fastclip.embed.processes import Process
from fastclip.errors import GO_ON, LostProcessError

LONGEST_WAIT = timedelta(minutes=10)
"""For the others: the first process may write a checkpoint of gigabytes meanwhile. A process on another machine that
is gone without a word costs the others as long on GPUs."""


class Team:
    """This process and the others. A process alone needs no group."""

    def __init__(self, process: Process, device: torch.device) -> None:
        self.rank, self.size = process.rank, process.world_size
        self.device = device
        if self.size > 1:
            with self.together():
                _begin(process, device)

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model, so that a backward pass leaves in every process the mean of all gradients."""
        if self.size == 1:
            return model
        on_gpu = self.device.type == "cuda"
        with self.together(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the name of the option about buffers is about to change
            return nn.parallel.DistributedDataParallel(
                model,
                device_ids=[self.device.index or 0] if on_gpu else None,
                broadcast_buffers=False,  # statistics of batch norms never move
                gradient_as_bucket_view=True,
                # Else gradients are put into other buckets after the first step, in whose order three or more processes
                # add them up: a training that goes on would differ in last bits from one that was never stopped.
                find_unused_parameters=not on_gpu,
            )

    def apart(self, model: nn.Module, alone: bool) -> AbstractContextManager[None]:
        """In the block gradients stay in this process, if `alone`: more passes follow before the step."""
        if self.size == 1 or not alone:
            return nullcontext()
        return cast(nn.parallel.DistributedDataParallel, model).no_sync()

    def sum(self, numbers: Tensor) -> Callable[[], Tensor]:
        """Numbers added over all processes. The result is a function: a GPU need not be waited for at once.

        Every process must call it.
        """
        if self.size > 1:
            with self.together():
                distributed.all_reduce(numbers)
        if numbers.device.type == "cpu":
            return lambda: numbers
        # The copy begins now: if it were asked for later, it would wait for all work that was queued meanwhile.
        arrived = torch.cuda.Event()
        here = numbers.to("cpu", non_blocking=True)
        arrived.record()

        def wait() -> Tensor:
            arrived.synchronize()
            return here

        return wait

    def agreed(self, number: int) -> int:
        """The number of the first process, in all of them."""
        own = torch.full((), number if self.leads else 0, dtype=torch.int64, device=self.device)
        return int(self.sum(own)())

    def wait(self) -> None:
        """Wait until every process has come here."""
        self.agreed(0)

    def leave(self) -> None:
        """End the group. Nothing that follows needs another process."""
        if self.size > 1:
            distributed.destroy_process_group()

    @contextmanager
    def together(self) -> Iterator[None]:
        """Turn the end of another process into an error that says what to do."""
        try:
            yield
        except RuntimeError as error:
            if self.size == 1 or not _is_of_another(error):
                raise
            raise LostProcessError(
                f"Another process of this training has ended, or cannot be reached: {str(error).splitlines()[0][:150]}",
                fix=GO_ON,
            ) from error


def _is_of_another(error: RuntimeError) -> bool:
    words = "gloo|nccl|connection|connect|timed out|timeout|broken pipe"
    return isinstance(error, distributed.DistError) or re.search(words, str(error), re.IGNORECASE) is not None


def _begin(process: Process, device: torch.device) -> None:
    """Begin the group of this attempt of the launcher.

    Launchers with a fixed address keep one table of addresses for all their restarts. A process that looks for the
    others in it may find those that have died, so each attempt has names of its own there.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    table, _, _ = next(distributed.rendezvous("env://", timeout=LONGEST_WAIT))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=distributed.PrefixStore(f"fastclip/{attempt}", table),
        rank=process.rank,
        world_size=process.world_size,
        timeout=LONGEST_WAIT,
    )
