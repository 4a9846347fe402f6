"""The processes that train one model together. Unlike evaluation, training waits for all of them in every step."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import timedelta
from typing import Any

import torch
from torch import Tensor, nn

from fastclip.embed.processes import Process
from fastclip.errors import GO_ON, LostProcessError

LONGEST_WAIT = timedelta(minutes=30)
"""For the others: the first process may write a checkpoint of gigabytes meanwhile."""


class Team:
    """This process and the others, as Accelerate has started them. A process alone needs neither."""

    def __init__(self, process: Process, device: torch.device) -> None:
        self.rank, self.size = process.rank, process.world_size
        self.device = device
        self._accelerator: Any = None
        if self.size > 1:
            from accelerate import Accelerator, DistributedDataParallelKwargs

            with warnings.catch_warnings(), together():
                warnings.simplefilter("ignore")  # about threads, which are set by `training_numerics`
                _begin(process, device)
                self._accelerator = Accelerator(
                    cpu=device.type == "cpu",
                    mixed_precision="no",  # `TrainedModel` casts by itself
                    kwargs_handlers=[
                        # Statistics of batch norms never move, so nobody need send them.
                        DistributedDataParallelKwargs(broadcast_buffers=False, gradient_as_bucket_view=True),
                    ],
                )

    @property
    def leads(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def prepare(self, model: nn.Module) -> nn.Module:
        """The model, so that a backward pass leaves in every process the mean of all gradients."""
        if not self._accelerator:
            return model
        with together(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the name of the option about buffers is about to change
            prepared: nn.Module = self._accelerator.prepare_model(model)
        return prepared

    def apart(self, model: nn.Module, alone: bool) -> AbstractContextManager[None]:
        """In the block gradients stay in this process, if `alone`: more passes follow before the step."""
        if not self._accelerator or not alone:
            return nullcontext()
        block: AbstractContextManager[None] = self._accelerator.no_sync(model)
        return block

    def sum(self, numbers: Tensor) -> Callable[[], Tensor]:
        """Numbers added over all processes. The result is a function: a GPU need not be waited for at once.

        Every process must call it.
        """
        if self._accelerator:
            with together():
                torch.distributed.all_reduce(numbers)
        return numbers.cpu

    def agreed(self, number: int) -> int:
        """The number of the first process, in all of them."""
        own = torch.tensor(number if self.leads else 0, dtype=torch.int64, device=self.device)
        return int(self.sum(own)())

    def wait(self) -> None:
        """Wait until every process has come here."""
        if self._accelerator:
            with together():
                self._accelerator.wait_for_everyone()

    def leave(self) -> None:
        """End the group. What follows needs no other process."""
        if self._accelerator:
            with together():
                self._accelerator.end_training()
            self._accelerator = None


def _begin(process: Process, device: torch.device) -> None:
    """Begin the group of this attempt of the launcher. Accelerate takes it as it is.

    Launchers with a fixed address keep one table of addresses for all their restarts. A process that looks for the
    others in it may find those that have died, so each attempt has names of its own there.
    """
    if device.type == "cuda":
        torch.cuda.set_device(device)
    table, _, _ = next(torch.distributed.rendezvous("env://", timeout=LONGEST_WAIT))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    torch.distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        store=torch.distributed.PrefixStore(f"fastclip/{attempt}", table),
        rank=process.rank,
        world_size=process.world_size,
        timeout=LONGEST_WAIT,
    )


@contextmanager
def together() -> Iterator[None]:
    """Turn the end of another process into an error that says what to do."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        raise LostProcessError(
            f"Another process of this training has ended, or cannot be reached: {str(error).splitlines()[0][:150]}",
            fix=GO_ON,
        ) from error
