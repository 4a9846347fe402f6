"""Objects that `print` shows as text, and a notebook as tables."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from fastclip.api.border import border

if TYPE_CHECKING:
    from fastclip.api.shown import Part


class Drawn:
    """An object that is shown by its parts."""

    _parts: Callable[[], Sequence[Part]]
    """Its tables and notes, as the command line prints them."""

    def __repr__(self) -> str:
        from fastclip.api.shown import as_text

        with border():
            return as_text(self._parts())

    def _repr_html_(self) -> str:
        from fastclip.api.shown import as_html

        with border():
            return as_html(self._parts())
