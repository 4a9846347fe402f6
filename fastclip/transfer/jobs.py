"""Jobs: heads to be fitted, with all that is asked of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

from fastclip.adapt.base import WithClassifier
from fastclip.heads.logistic import Logistic
from fastclip.heads.method import Method
from fastclip.heads.wise import Wise
from fastclip.transfer.folds import Fold


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """The data that a method is given."""

    source: bool = True
    """Images with labels. Relatives of zero-shot look at none."""
    text: bool = False
    """Prototypes of the class prompts."""
    target: bool = False
    """The tested images, without their labels: the method is transductive."""


def on_device(method: Method, device: str | None) -> Method:
    """The method with its logistic regression on a device of PyTorch's, if it has one."""
    if isinstance(method, Logistic):
        return replace(method, device=device)
    if isinstance(method, Wise):
        return replace(method, trained=on_device(method.trained, device))
    if isinstance(method, WithClassifier):
        return replace(method, classifier=on_device(method.classifier, device))
    return method


def device_of(method: Method) -> str | None:
    """The device of PyTorch's that the method is fitted on; None for NumPy."""
    if isinstance(method, Wise):
        return device_of(method.trained)
    if isinstance(method, WithClassifier):
        return device_of(method.classifier)
    return method.device if isinstance(method, Logistic) else None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One head to be fitted."""

    name: str
    """The name that cells have, such as `logistic, 4 shots, seed 1`."""
    fold: Fold
    method: Method
    inputs: Inputs
    fixed: bool
    """Whether the method's settings are given, so that nothing is held out to choose them."""
    shots: int | None = None
    seed: int | None = None

    @property
    def tuned(self) -> Method:
        """The method whose settings are chosen: of one that moves images, the classifier."""
        return self.method.classifier if isinstance(self.method, WithClassifier) else self.method

    @property
    def choice(self) -> tuple[Fold, Method, bool, int | None, int | None]:
        """Jobs of equal choices get the same settings."""
        return self.fold, self.tuned, self.inputs.text, self.shots, self.seed

    def with_settings(self, chosen: Method) -> Method:
        """The method that is fitted once `tuned` has become `chosen`."""
        return replace(self.method, classifier=chosen) if isinstance(self.method, WithClassifier) else chosen
