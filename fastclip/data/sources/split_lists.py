"""Lists that say which images of a domain count: text files in a copy of a dataset, an image's path a line."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator

from fastclip.data.catalogue import DatasetCard, DomainCard, same_name
from fastclip.errors import UserError


def find_split_lists(files: Iterable[str], card: DatasetCard, domain: DomainCard, root: str) -> list[str]:
    """The paths of a domain's lists among `files`; its images lie in the folder `root`.

    Raises `UserError` if there are two of one name, or not all that the card names.
    """
    found: dict[str, str] = {}
    spellings = [same_name(each) for each in (domain.name, *domain.folders)]
    for pattern in card.split_lists:
        names = {same_name(pattern.replace("{domain}", spelling)) for spelling in spellings}
        for path in files:
            base = same_name(posixpath.basename(path))
            if base in names and ("{domain}" in pattern or path.startswith(f"{root}/".removeprefix("/"))):
                if base in found:
                    raise UserError(
                        f"Two lists say which images of {domain.name} count: {found[base]} and {path}.",
                        fix="Move the other release's lists out of --source.",
                    )
                found[base] = path
    lists = list(found.values())
    if lists and len(lists) < len(card.split_lists):
        raise UserError(
            f"Of the lists that say which images of {domain.name} count there is only {lists[0]}; expected are "
            f"{', '.join(card.split_lists)}.",
            fix="Get the others too, or move this one away to take every image.",
        )
    return lists


def read_split_lists(
    lists: Iterable[str], read: Callable[[str], bytes], classes: int
) -> dict[str, tuple[int | None, str]]:
    """Listed path → its label, if the line has one, and the list. `read(path)` gives the bytes of a list."""
    return {name: (label, path) for path in lists for name, label in _lines(read(path), classes)}


def _lines(text: bytes, classes: int) -> Iterator[tuple[str, int | None]]:
    for line in text.decode("utf-8-sig", "replace").splitlines():
        name, _, number = line.strip().rpartition(" ")
        if name and number.isdigit():
            yield name, int(number) if int(number) < classes else None
        elif line.strip():
            yield line.strip(), None
