"""The model that learns with its optimiser: one step, and their state as tensors."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from jaxtyping import Float32, Int64
from torch import Tensor, nn

from fastclip.finetune.batches import part_of
from fastclip.finetune.job import Job
from fastclip.finetune.kept import on_device
from fastclip.finetune.loader import LoadedBatch
from fastclip.finetune.losses import class_loss, gather, pair_loss, shared
from fastclip.finetune.model import TrainedModel, trim_tokens
from fastclip.finetune.optimizer import (
    Average,
    after_step,
    learning_rate,
    load_optimizer,
    make_optimizer,
    optimizer_tensors,
)
from fastclip.finetune.team import Team
from fastclip.finetune.views import uniform


class Learner:
    """The model of a job in one process of a team."""

    def __init__(self, job: Job, team: Team, steps: int) -> None:
        """`steps` are those of the whole training."""
        self.job, self.team, self.steps = job, team, steps
        self.model = TrainedModel(
            job.backbone,
            job.weights,
            job.recipe,
            team.device,
            precision=job.precision,
            checkpointing=job.checkpointing,
        )
        self.parameters = self.model.learning()
        self.optimizer = make_optimizer(self.parameters, job.recipe)
        self.average = Average(self.parameters, steps) if job.recipe.averaged else None
        self._prototypes = torch.from_numpy(job.prototypes).to(team.device)
        self._tokens = torch.zeros((0, 0, 0), dtype=torch.int64)
        self._prompts_of = np.zeros(0, np.int64)
        if job.tokens is not None and job.prompts_of is not None:
            self._prompts_of = job.prompts_of
            length = trim_tokens(self.model, job.tokens.flatten(0, 1)).shape[1]
            self._tokens = job.tokens[..., :length]  # on the CPU, where they are chosen
        self._prepared: nn.Module = self.model

    def join(self) -> None:
        """From now on gradients are those of all processes. Call it when the state is loaded."""
        self._prepared = self.team.prepare(self.model)

    def step(self, number: int, epoch: int, rows: np.ndarray, loaded: LoadedBatch) -> Callable[[], float]:
        """One step on the global batch `rows`, of which this process has `loaded` its part.

        `number` counts from 0. Returns how to get the loss.
        """
        recipe = self.job.recipe
        lost = torch.zeros((), dtype=torch.float64, device=self.team.device)
        pieces = np.array_split(np.arange(len(loaded.labels)), min(self.job.accumulate, len(loaded.labels)))
        for piece in pieces:
            with self.team.together(), self.team.apart(self._prepared, alone=piece is not pieces[-1]):
                loss = self._loss(rows, loaded, slice(int(piece[0]), int(piece[-1]) + 1), epoch)
                (loss * self.team.size).backward()  # the gradients' mean over the processes is then their sum
                lost += loss.detach()
        if recipe.clip is not None:
            nn.utils.clip_grad_norm_(self.parameters.values(), recipe.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(recipe, number, self.steps)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        after_step(self.model, recipe)
        if self.average:
            self.average.update(number + 1)
        if recipe.loss != "classes":
            lost /= self.team.size  # every process has the whole loss of the pairs
        summed = self.team.sum(lost)
        return lambda: float(summed())

    def _loss(self, rows: np.ndarray, loaded: LoadedBatch, piece: slice, epoch: int) -> Float32[Tensor, ""]:
        own, real = part_of(rows, self.team.rank, self.team.size)
        recipe = self.job.recipe
        if recipe.loss == "classes":
            images, _, scale = self._prepared(loaded.crops[piece])
            # Only the last batch of an epoch is filled up; any other mask needs no copy, which a GPU would wait for.
            ones = torch.ones(piece.stop - piece.start, dtype=torch.bool, device=self.team.device)
            mask = ones if real.all() else on_device(real[piece], self.team.device)
            labels = loaded.labels[piece]
            return class_loss(images, self._prototypes, labels, scale, mask, len(rows), margin=recipe.margin)
        tokens, place = self._texts(own, epoch)
        images, texts, scale = self._prepared(loaded.crops, tokens)
        counts = [int(part_of(rows, rank, self.team.size)[1].sum()) for rank in range(self.team.size)]
        images, texts = (gather(each, counts, self.team.rank) for each in (images, texts[place]))
        labels = on_device(self.job.samples.labels[rows], self.team.device)
        same_class = recipe.loss == "same class"
        return pair_loss(images, texts, shared(scale, self.team.size), labels, same_class=same_class)

    def _texts(
        self, rows: Int64[np.ndarray, " batch"], epoch: int
    ) -> tuple[Int64[Tensor, "texts length"], Int64[Tensor, " batch"]]:
        """The distinct prompts of images as tokens, and for each image the place of its own."""
        samples, recipe = self.job.samples, self.job.recipe
        templates = np.zeros(len(rows), np.int64)
        if recipe.random_template and len(self._tokens) > 1:
            draws = (next(uniform(recipe.seed, epoch, "template", bytes(each), 0)) for each in samples.digests[rows])
            counts = self._prompts_of[samples.labels[rows]]
            templates[:] = [int(count * each) for count, each in zip(counts, draws, strict=True)]
        pairs, place = np.unique(np.stack([templates, samples.labels[rows]], axis=1), axis=0, return_inverse=True)
        tokens = self._tokens[pairs[:, 0], pairs[:, 1]]
        return on_device(tokens.numpy(), self.team.device), on_device(place.reshape(-1), self.team.device)

    def prototypes(self) -> Float32[Tensor, "classes dim"]:
        """Unit vectors of the classes by the text tower as it is now."""
        if not self.job.recipe.both_towers:
            return self._prototypes
        texts = torch.stack([self.model.embed_texts(tokens.to(self.team.device)) for tokens in self._tokens])
        if len(set(self._prompts_of.tolist())) == 1:
            means = texts.mean(dim=0)
        else:
            counts = torch.from_numpy(self._prompts_of).to(texts.device)
            real = torch.arange(len(texts), device=texts.device)[:, None] < counts
            means = (texts * real[..., None]).sum(dim=0) / counts[:, None]
        return nn.functional.normalize(means, dim=-1)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The model has the weights that will be published in the block: the average, where the recipe has one."""
        if self.average is None:
            yield
        else:
            with self.average.in_place():
                yield

    def state(self) -> dict[str, dict[str, Tensor]]:
        """Everything that changes in training, for a checkpoint: by file and name."""
        learning = {name: value.detach().cpu().contiguous() for name, value in self.parameters.items()}
        tensors = {"learning": learning, "optimizer": optimizer_tensors(self.optimizer, self.parameters)}
        return tensors | ({"average": self.average.tensors()} if self.average else {})

    @torch.no_grad()
    def load(self, state: Mapping[str, Mapping[str, Tensor]], step: int) -> None:
        """Put back what `state` returned after `step` steps."""
        for name, parameter in self.parameters.items():
            parameter.copy_(state["learning"][name])
        load_optimizer(self.optimizer, self.parameters, state["optimizer"], step)
        if self.average:
            self.average.load(state["average"], step)

    def published(self, state: Mapping[str, Mapping[str, Tensor]] | None) -> dict[str, Tensor]:
        """The whole model's tensors after the step of a `state`; as it is now without one."""
        learned = state["average" if self.average else "learning"] if state else {}
        if state is None and self.average:
            learned = self.average.tensors()
        return {**self.model.tensors(), **learned}


def finite(tensors: Sequence[Tensor]) -> bool:
    """Whether all numbers are finite."""
    return all(bool(each.isfinite().all()) for each in tensors)
