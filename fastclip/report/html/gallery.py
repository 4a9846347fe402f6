"""The wrong images of a dataset with their pictures, as the page shows them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from fastclip.report.html.pictures import PICTURE_BYTES, Picture, PictureError, find_pictures
from fastclip.report.html.shown import Shown
from fastclip.report.html.wrong import WrongImage, wrong_lists
from fastclip.storage.folders import Location

FULL = "the page is full"
OPEN = 24
"""Images of a list that are seen at once; the others are behind a click."""


@dataclass(frozen=True, kw_only=True)
class Listed:
    """A list of wrong images, each with its picture if there are any."""

    kind: str
    total: int
    images: tuple[tuple[WrongImage, Picture], ...]

    @property
    def first(self) -> Sequence[tuple[WrongImage, Picture]]:
        """The images that are seen at once."""
        return self.images[:OPEN]

    @property
    def rest(self) -> Sequence[tuple[WrongImage, Picture]]:
        """The others."""
        return self.images[OPEN:]


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """The wrong images of one dataset."""

    shown: Shown
    lists: tuple[Listed, ...]
    no_pictures: str
    """Why there is no picture, and what to do; empty if there are some."""


def make_galleries(shown: Sequence[Shown], shards: Location | None, thumbnails: int) -> list[Gallery]:
    """The wrong images of every dataset, with at most `thumbnails` pictures, and no more of them than a page holds."""
    room, found = PICTURE_BYTES, []
    for number, each in enumerate(shown):
        of_this = thumbnails // len(shown) + (number < thumbnails % len(shown))
        gallery = _gallery(each, shards, of_this, room // (len(shown) - number))
        room -= sum(len(picture.jpeg) for listed in gallery.lists for _, picture in listed.images)
        found.append(gallery)
    return found


def _gallery(shown: Shown, shards: Location | None, thumbnails: int, room: int) -> Gallery:
    try:
        if not thumbnails:
            raise PictureError("They were not asked for: --thumbnails 0.")
        read = find_pictures(shown, shards)
        lists = list(wrong_lists(shown, thumbnails, with_pictures=True))
        pictures = read([place for each in lists for place in each.places])
    except PictureError as error:
        lists = list(wrong_lists(shown, thumbnails, with_pictures=False))
        bare = [Listed(kind=e.kind, total=e.total, images=tuple((i, Picture()) for i in e.images)) for e in lists]
        return Gallery(shown=shown, lists=tuple(bare), no_pictures=str(error))
    listed = []
    for each in lists:
        images = []
        for image, place in zip(each.images, each.places, strict=True):
            picture = pictures[place]
            if len(picture.jpeg) > room:
                picture = Picture(why=FULL)
            room -= len(picture.jpeg)
            images.append((image, picture))
        listed.append(Listed(kind=each.kind, total=each.total, images=tuple(images)))
    return Gallery(shown=shown, lists=tuple(listed), no_pictures="")
