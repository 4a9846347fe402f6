"""torchvision and open_clip for a process of the command line, which starts often and is short.

torchvision imports torch's compiler for one function that `roi_align` calls. open_clip imports timm for the
architectures that it takes from there. Together they are 1.6 of the 3.9 seconds that importing all of it takes.
"""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

_CALLED = {
    "torch._dynamo": (),
    "torch._dynamo.utils": ("is_compile_supported",),
    "timm": ("create_model",),
    "timm.layers": ("AttentionPool2d", "Mlp", "RotAttentionPool2d", "to_2tuple"),
}
"""Functions that torchvision and open_clip take from the compiler and timm. Importing the two calls none of them."""


def load_lean() -> None:
    """Load torchvision and open_clip. The compiler and timm follow when one of the two calls something of them.

    Nothing stays replaced in `sys.modules`: a later `import timm` or `torch.compile` finds the real one.
    """
    sys.modules.update({name: _StandIn(name) for name in _CALLED if name not in sys.modules})
    try:
        import open_clip  # noqa: F401
        import torchvision.io  # noqa: F401
    finally:
        _remove_stand_ins()


class _StandIn(ModuleType):
    """Stands in `sys.modules` for a module. Its functions import the real one when they are called."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.__spec__ = ModuleSpec(name, None)  # without one, `importlib.util.find_spec(name)` raises an error

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"{self.__name__} has no {name} yet.")
        if name not in _CALLED[self.__name__]:
            return getattr(self._real(), name)  # another version takes something else

        def call(*args: Any, **kwargs: Any) -> Any:
            return getattr(self._real(), name)(*args, **kwargs)

        return call

    def _real(self) -> ModuleType:
        _remove_stand_ins()
        if self.__name__.startswith("timm"):
            import timm.layers  # noqa: F401
        else:
            import torch._dynamo.utils  # noqa: F401
        return sys.modules[self.__name__]


def _remove_stand_ins() -> None:
    for name in _CALLED:
        if isinstance(sys.modules.get(name), _StandIn):
            del sys.modules[name]
