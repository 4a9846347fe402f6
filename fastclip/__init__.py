"""fastclip scores CLIP models on labelled image sets: embed once, ask anything.

    import fastclip

    result = fastclip.evaluate("pacs", "ViT-B/32")           # from stored embeddings; embed=True makes them here
    result = fastclip.load("results/RUN")                    # what fastclip eval kept
    result.table(), result.cells(), result.compare(), result.to_html("page.html")
    array, index = fastclip.embeddings("pacs", "ViT-B/32")
    fastclip.probe("pacs/photo", "pacs/sketch", "ViT-B/32").table()

The commands of the command line stand in `fastclip --help`. Importing this loads nothing: names are looked up when they
are used.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastclip.api.comparison import Comparison
    from fastclip.api.drawing import draw_shapes
    from fastclip.api.evaluating import evaluate
    from fastclip.api.probing import probe
    from fastclip.api.reading import compare, load
    from fastclip.api.result import Result
    from fastclip.api.table import Table
    from fastclip.api.vectors import Embeddings, embeddings
    from fastclip.api.verdicts import Verdicts
    from fastclip.errors import FastclipError, IncompleteError, IntegrityError, UserError

__version__ = "0.1.0"

__all__ = [
    "Comparison",
    "Embeddings",
    "FastclipError",
    "IncompleteError",
    "IntegrityError",
    "Result",
    "Table",
    "UserError",
    "Verdicts",
    "__version__",
    "compare",
    "draw_shapes",
    "embeddings",
    "evaluate",
    "load",
    "probe",
]

_HOMES = {
    "Comparison": "api.comparison",
    "Embeddings": "api.vectors",
    "Result": "api.result",
    "Table": "api.table",
    "Verdicts": "api.verdicts",
    "compare": "api.reading",
    "draw_shapes": "api.drawing",
    "embeddings": "api.vectors",
    "evaluate": "api.evaluating",
    "load": "api.reading",
    "probe": "api.probing",
    **dict.fromkeys(("FastclipError", "IncompleteError", "IntegrityError", "UserError"), "errors"),
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(ModuleType):
    """Keeps `fastclip.evaluate` a function: importing the package of that name would put itself in its place.

    `from fastclip.evaluate.score import score` does not look here.
    """

    @property
    def evaluate(self) -> Any:
        return __getattr__("evaluate")

    @evaluate.setter
    def evaluate(self, package: ModuleType) -> None:
        """The package's own name for it, which nobody needs."""


sys.modules[__name__].__class__ = _Package
