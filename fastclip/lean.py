"""torchvision and open_clip without torch's compiler and timm: 1.3 of 3.3 seconds that every process would begin with.

torchvision loads the compiler (and sympy with it) for a question that `roi_align` may ask, timm to mark functions for
it; open_clip loads timm for the architectures that it takes from there and does without it where it is not installed.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

_COMPILER = ("torch._dynamo", "torch._dynamo.utils")


def import_torchvision() -> None:
    """Load torchvision, as `import torchvision` would."""
    if "torchvision" not in sys.modules:
        with _absent(*_COMPILER) as missing:
            if missing:
                _put_stand_ins()
            try:
                import torchvision
            except (ImportError, AttributeError):  # a version that needs more of it
                _forget("torchvision")
    import torchvision.io  # noqa: F401


def import_open_clip(*, timm: bool = False) -> Any:
    """open_clip; with `timm` also its architectures from there."""
    import_torchvision()
    loaded = sys.modules.get("open_clip.timm_model")
    if timm and loaded is not None and getattr(loaded, "timm", None) is None:
        _forget("open_clip")  # objects made with it go on working
    elif not timm and loaded is None:
        with _absent("timm") as missing:
            if missing:
                sys.modules["timm"] = None  # type: ignore[assignment]  # so that importing it fails
            import open_clip

            return open_clip
    import open_clip

    return open_clip


@contextmanager
def _absent(*names: str) -> Iterator[bool]:
    """Whether none of `names` is loaded; what is put in their places is gone afterwards."""
    missing = not any(name in sys.modules for name in names)
    try:
        yield missing
    finally:
        for name in names if missing else ():
            sys.modules.pop(name, None)


def _put_stand_ins() -> None:
    package, utils = (ModuleType(name) for name in _COMPILER)

    def is_compile_supported(device: Any) -> Any:
        from torch._dynamo.utils import is_compile_supported as real

        return real(device)

    package.__path__ = []
    package.utils, utils.is_compile_supported = utils, is_compile_supported  # type: ignore[attr-defined]
    sys.modules.update(zip(_COMPILER, (package, utils), strict=True))


def _forget(package: str) -> None:
    for name in [name for name in sys.modules if name == package or name.startswith(f"{package}.")]:
        del sys.modules[name]
