"""Steps of fine-tuning: the optimiser, its learning rate, what follows a step, and the mean over steps."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.optim import Adam, AdamW, Optimizer

from fastclip.finetune.model import TrainedModel
from fastclip.finetune.training_recipes import TrainingRecipe

MOMENTS = ("exp_avg", "exp_avg_sq")
LARGEST_LOGIT_SCALE = math.log(100)


def make_optimizer(learning: Mapping[str, nn.Parameter], recipe: TrainingRecipe) -> Optimizer:
    """AdamW, or Adam with L2 in the gradient, over the learning parameters, with the recipe's decay."""
    decays = {name: recipe.decay_all or is_decayed(name, each) for name, each in learning.items()}
    groups = [
        {"params": [each for name, each in learning.items() if decays[name] == decayed], "weight_decay": decay}
        for decayed, decay in ((True, recipe.weight_decay), (False, 0.0))
    ]
    kind = AdamW if recipe.decoupled else Adam
    return kind([each for each in groups if each["params"]], lr=recipe.learning_rate, betas=recipe.betas,
                eps=recipe.eps, fused=True)  # fmt: skip


def is_decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay pulls at it, as in open_clip: not at gains, biases and the logit scale."""
    return parameter.ndim >= 2 and not name.endswith("logit_scale")


def learning_rate(recipe: TrainingRecipe, step: int, steps: int) -> float:
    """The rate of step `step` (from 0) of `steps`: a linear warm-up, then a cosine to zero; or constant."""
    if recipe.constant:
        return recipe.learning_rate
    warmup = min(recipe.warmup_steps, steps // 10)
    if step < warmup:
        return recipe.learning_rate * (step + 1) / warmup
    return recipe.learning_rate * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


@torch.no_grad()
def after_step(model: TrainedModel, recipe: TrainingRecipe) -> None:
    """Cap the logit scale, and round weights to fp16 and back, where the recipe says so."""
    if recipe.logit_scale == "capped":
        model.clip.logit_scale.clamp_(max=LARGEST_LOGIT_SCALE)
    if recipe.fp16_round_trip:
        for parameter in halved(model.clip):
            if parameter.requires_grad:
                parameter.copy_(parameter.half())


def halved(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that OpenAI's `convert_weights` keeps in fp16: of convolutions, linear layers and attention, and
    the projections. Norms, embeddings and the logit scale stay in fp32.
    """
    for module in model.modules():
        if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Linear, nn.MultiheadAttention)):
            yield from module.parameters(recurse=False)
        for name in ("proj", "text_projection"):
            if isinstance(found := getattr(module, name, None), nn.Parameter):
                yield found


def optimizer_tensors(optimizer: Optimizer, learning: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Both moments of each parameter, on the CPU, for a checkpoint: `exp_avg/NAME`. Empty before the first step."""
    state = optimizer.state
    return {
        f"{moment}/{name}": state[each][moment].detach().cpu().contiguous()
        for name, each in learning.items()
        if each in state
        for moment in MOMENTS
    }


def load_optimizer(
    optimizer: Optimizer, learning: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor], step: int
) -> None:
    """Put back what `optimizer_tensors` returned after `step` steps."""
    for name, parameter in learning.items() if step else ():
        # A fused step counts on the device of its parameter.
        state = {"step": torch.tensor(float(step), device=parameter.device)}
        for moment in MOMENTS:
            state[moment] = torch.empty_like(parameter, requires_grad=False).copy_(tensors[f"{moment}/{name}"])
        optimizer.state[parameter] = state


class Average:
    """CLIPood's mean of the weights over all steps, the first weights included: step k of `steps` weighs as
    Beta(0.5, 0.5) has it at (k + 0.5) / (steps + 1), so that the first and the last count most.
    """

    def __init__(self, learning: Mapping[str, nn.Parameter], steps: int) -> None:
        self._learning, self._steps = learning, steps
        self._means = {name: each.detach().clone() for name, each in learning.items()}
        self._total = self._weight(0)

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Count the weights after `step` steps (from 1). Call it after each."""
        weight = self._weight(step)
        self._total += weight
        for name, each in self._learning.items():
            self._means[name].lerp_(each, weight / self._total)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The model has the mean weights in the block."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def tensors(self) -> dict[str, Tensor]:
        """The means by name, on the CPU, for a checkpoint."""
        return {name: each.cpu().contiguous() for name, each in self._means.items()}

    def load(self, tensors: Mapping[str, Tensor], step: int) -> None:
        """Put back what `tensors` returned after `step` steps."""
        for name, each in self._means.items():
            each.copy_(tensors[name])
        self._total = 0.0
        for each_step in range(step + 1):  # one by one, for the same bits as `update` gave
            self._total += self._weight(each_step)

    def _weight(self, step: int) -> float:
        place = (step + 0.5) / (self._steps + 1)
        return 1 / (math.pi * math.sqrt(place * (1 - place)))

    def _exchange(self) -> None:
        for name, each in self._learning.items():
            each.data, self._means[name] = self._means[name], each.data
