"""The form of a hand-over: for which viewer, with which thumbnails, and how many bytes it takes."""

from __future__ import annotations

from dataclasses import dataclass

from fastclip.errors import UserError

VIEWERS = ("atlas", "spotlight", "fiftyone")
SIDE = 96
"""Of a thumbnail, in pixels, unless another is asked for."""
SIDES = (16, 512)


@dataclass(frozen=True, kw_only=True)
class Form:
    """For which viewer files are written, and how large thumbnails are."""

    viewer: str = "atlas"
    side: int | None = SIDE
    """Of a thumbnail, in pixels; None for no thumbnails."""

    def __post_init__(self) -> None:
        if self.viewer not in VIEWERS:
            raise UserError(f"--for does not know {self.viewer!r}.", fix=f"--for {' | '.join(VIEWERS)}")
        if self.side is not None and not SIDES[0] <= self.side <= SIDES[1]:
            raise UserError(
                f"A thumbnail of {self.side} pixels is not possible.", fix=f"--thumbnails {SIDE} (16 to 512), or off"
            )
        if self.side is None and self.viewer == "fiftyone":
            raise UserError("FiftyOne shows files, and without thumbnails there are none.", fix="--thumbnails 96")


def parse_side(text: str) -> int | None:
    """The side that `--thumbnails` asks for; None for `off`."""
    if text == "off":
        return None
    if not text.isascii() or not text.isdigit():
        raise UserError(f"--thumbnails {text} is neither a number of pixels nor off.", fix=f"--thumbnails {SIDE}")
    return int(text)
