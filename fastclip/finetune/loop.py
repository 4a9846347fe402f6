"""The training loop: batches in an order that is known beforehand, epochs that are counted, checkpoints.

Nothing here depends on the number of processes but the last bits of sums over a batch.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from fastclip.errors import IncompleteError
from fastclip.finetune.batches import Batches, part_of
from fastclip.finetune.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    check_space,
    find_checkpoint,
    read_checkpoint,
    remove_checkpoints,
    save_checkpoint,
)
from fastclip.finetune.job import Job, NotFiniteError, Progress, Trained, Watch
from fastclip.finetune.judging import check_readable, count, loader_of
from fastclip.finetune.learner import Learner, finite
from fastclip.finetune.loader import Loader
from fastclip.finetune.log import LOG, Log, open_log
from fastclip.finetune.optimizer import learning_rate
from fastclip.finetune.tars import Tars
from fastclip.finetune.team import Team
from fastclip.models.numerics import fixed_numerics, is_out_of_memory
from fastclip.results.cells import Epoch

NAMED = 3
"""Images that an error names."""


def train(job: Job, team: Team, watch: Watch) -> Trained | None:
    """Train, or go on with a training of before. None if it was asked to stop: a checkpoint is there then.

    Raises `NotFiniteError`, `UnreadableTrainingImageError`, and `IncompleteError` for a full disk or a dead process.
    """
    try:
        with training_numerics(team.device, job.cores):
            return _Loop(job, team, watch).run()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        # The frames and their tensors go with the first error.
        raise IncompleteError(
            f"The memory of {team.device} does not hold a step of training: {str(error)[:100]}",
            fix="--checkpointing, a smaller --batch-size, or for ce and clipood --accumulate 4",
        ) from None


@contextmanager
def training_numerics(device: torch.device, cores: int) -> Iterator[None]:
    """As embedding has them, but with a thread a core: a step is one batch, whose sums always run in the same order."""
    with fixed_numerics(device):
        torch.set_num_threads(cores)
        yield


def choose(epochs: tuple[Epoch, ...], select: str) -> int:
    """The epoch with most right answers, of equal ones the earliest; or the last. Epoch 0 only where no other is."""
    trained = epochs[1:]
    if select == "last" or not trained:
        return len(epochs) - 1 if epochs else 0
    return max(trained, key=lambda each: (each.right, -each.number)).number


@dataclass(frozen=True)
class _Pending:
    """A step whose loss was not looked at yet. `stops` is how to get the number of processes that want to stop."""

    step: int
    epoch: int
    loss: Callable[[], float]
    stops: Callable[[], Tensor]
    seconds: float
    wait_s: float


class _Loop:
    def __init__(self, job: Job, team: Team, watch: Watch) -> None:
        self.job, self.team, self.watch, self.log = job, team, watch, Log(None)
        self.batches = Batches(job.samples, job.recipe.batch_size, job.recipe.seed)
        self.per_epoch = self.batches.steps_per_epoch
        self.learner = Learner(job, team, self.per_epoch * job.recipe.epochs)
        self.step, self.loss_sum = 0, 0.0
        self.epochs: tuple[Epoch, ...] = ()
        self._pending: deque[_Pending] = deque()
        self._stop = False
        self._resume()
        self.learner.join()
        if team.leads:
            check_space(job.folder, self.learner.state()["learning"])
        self._saved = time.monotonic()

    def run(self) -> Trained | None:
        """See `train`."""
        job = self.job
        self.watch.on_start(self.step)
        with ExitStack() as stack:
            self.log = stack.enter_context(
                open_log(job.folder / LOG if self.team.leads else None, self.step, len(self.epochs))
            )
            self.log("start", step=self.step, processes=self.team.size, device=str(self.team.device))
            device, tars = self.team.device, Tars(job.samples.sources)
            loader = stack.enter_context(loader_of(job, job.samples, device, tars, random_views=True))
            judging = None
            if job.judges:
                shared = tars if job.judges.sources is job.samples.sources else None
                judging = stack.enter_context(loader_of(job, job.judges, device, shared))
            for epoch in range(self.step // self.per_epoch, job.recipe.epochs + 1):
                if self.step == epoch * self.per_epoch and len(self.epochs) <= epoch:
                    if not self._end_epoch(epoch, judging):
                        self._save()
                        return None
                    for each in filter(None, (loader, judging)):
                        each.check_unchanged()
                    if epoch:
                        self._save()
                if epoch < job.recipe.epochs and not self._run_epoch(epoch, loader):
                    self._save()
                    return None
        return self._chosen()

    def _run_epoch(self, epoch: int, loader: Loader) -> bool:
        """The steps of an epoch that are left. False if training is to stop."""
        steps = range(self.step, (epoch + 1) * self.per_epoch)
        parts = (part_of(self.batches.batch(step), self.team.rank, self.team.size)[0] for step in steps)
        started = time.monotonic()
        for step, loaded in zip(steps, loader.ahead((rows, epoch) for rows in parts), strict=True):
            check_readable(self.job.samples, loaded)
            loss = self.learner.step(step, epoch, self.batches.batch(step), loaded)
            stops = self.team.sum(torch.full((), float(self.watch.stopping()), device=self.team.device))
            self.step = step + 1
            now = time.monotonic()
            self._pending.append(_Pending(step, epoch, loss, stops, now - started, loaded.wait_s))
            started = now
            # A GPU is a step ahead of what is read back from it.
            self._settle(leave=int(self.team.device.type == "cuda" and self.step < steps.stop))
            if self._stop:
                return False
            if self.team.leads and now - self._saved > self.job.save_every_s:
                loader.check_unchanged()
                self._save()
        return True

    def _settle(self, leave: int = 0) -> None:
        """Look at the losses of all steps but the last `leave`, and whether any process wants to stop."""
        while len(self._pending) > leave:
            each = self._pending.popleft()
            loss, images = each.loss(), len(self.batches.batch(each.step))
            if not math.isfinite(loss):
                raise self._not_finite(each.step, f"The loss is {loss}")
            self.loss_sum += loss * images
            self._stop |= bool(each.stops() > 0)
            progress = Progress(each.step + 1, each.epoch, images, loss, each.seconds, each.wait_s)
            rate = learning_rate(self.job.recipe, each.step, self.learner.steps)
            self.log("step", lr=rate, **vars(progress))
            self.watch.on_step(progress)

    def _end_epoch(self, epoch: int, judging: Loader | None) -> bool:
        """Count what chooses the epoch. Epoch 0 is the backbone as it was. False if training is to stop."""
        loss = self.loss_sum / len(self.job.samples) if epoch else None
        right = images = 0
        if self.job.judges is not None and judging is not None:
            images = len(self.job.judges)
            counted = count(self.learner, self.job.judges, judging, self.watch.stopping)
            if counted is None:
                return False
            right = counted
            if right < 0:
                raise self._not_finite(self.step - 1, "An embedding is not finite")
        self.epochs, self.loss_sum = (*self.epochs, Epoch(number=epoch, loss=loss, right=right, images=images)), 0.0
        self.log("epoch", step=self.step, epoch=epoch, loss=loss, right=right, images=images)
        self.watch.on_epoch(self.epochs[-1])
        return True

    def _not_finite(self, step: int, what: str) -> NotFiniteError:
        if step < 0:
            return NotFiniteError(f"{what} before the first step.", fix="Check the weights file.")
        names = [self.job.samples.named(int(row)) for row in self.batches.batch(step)]
        self.log("not finite", step=step + 1, epoch=step // self.per_epoch, images=names)
        more = f" and {len(names) - NAMED} more, which {LOG} names" if len(names) > NAMED else ""
        return NotFiniteError(
            f"{what} at step {step + 1} (epoch {step // self.per_epoch + 1}), on {'; '.join(names[:NAMED])}{more}. "
            "Nothing is published.",
            fix="A smaller --lr" + (", or --precision fp32" if self.job.precision != "fp32" else "") + ": another run.",
        )

    def _resume(self) -> None:
        """Go on after the newest whole checkpoint. The first process chooses it for all."""
        found = self._newest() if self.team.leads else None
        step = self.team.agreed(found.step if found else 0)
        if step:
            found = found or read_checkpoint(self.job.folder, self.job.run, step)
            self.learner.load(found.tensors, step)
            self.step, self.epochs, self.loss_sum = step, found.epochs, found.loss_sum

    def _newest(self) -> Checkpoint | None:
        """The newest whole checkpoint, if the best epoch's, which the end will need, is whole too."""
        found = find_checkpoint(self.job.folder, self.job.run, self.watch.on_damaged)
        best = choose(found.epochs, self.job.recipe.select) * self.per_epoch if found else 0
        if not found or best in (0, found.step):
            return found
        try:
            read_checkpoint(self.job.folder, self.job.run, best)
        except DamagedCheckpointError as error:
            self.watch.on_damaged(error)
            remove_checkpoints(self.job.folder)  # the others lead to nothing
            return None
        return found

    def _save(self) -> None:
        """Publish a checkpoint of what is settled. The first process writes for all: they have the same weights."""
        self._settle()
        self._saved = time.monotonic()
        if not self.team.leads:
            return
        state = self.learner.state()
        if not finite(list(state["learning"].values())):
            raise self._not_finite(self.step - 1, "A weight is not finite")
        checkpoint = Checkpoint(self.step, self.epochs, self.loss_sum, state)
        best = choose(self.epochs, self.job.recipe.select) * self.per_epoch
        save_checkpoint(self.job.folder, self.job.run, checkpoint, keep=[best])
        self.log("checkpoint", step=self.step)

    def _chosen(self) -> Trained:
        chosen = choose(self.epochs, self.job.recipe.select)
        state = None
        if self.team.leads and chosen < self.job.recipe.epochs:
            file = "average" if self.job.recipe.averaged else "learning"
            state = read_checkpoint(self.job.folder, self.job.run, chosen * self.per_epoch, [file]).tensors
        return Trained(self.epochs, chosen, self.learner.published(state) if self.team.leads else {})
