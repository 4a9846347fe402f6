"""A last look at files that were written: a folder lists every one of them, with its size."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Mapping

from fastclip.errors import GO_ON, IncompleteError
from fastclip.storage.local import Folder


def check_presence(folder: Folder, sizes: Mapping[str, int]) -> None:
    """Raise `IncompleteError` unless `folder` lists every file of `sizes` by its name and with so many bytes."""
    found: dict[str, int] = {}
    for inner in sorted({name.rpartition("/")[0] for name in sizes}):
        found |= {f"{inner}/{name}".lstrip("/"): size for name, size in folder.sizes(inner).items()}
    if missing := sizes.keys() - found.keys():
        found |= _otherwise_spelled(folder, missing, sizes, found)
    for name, size in sizes.items():
        if (there := found.get(name)) != size:
            how = "is not there any more" if there is None else f"has {there:,} bytes now, {size:,} were written"
            raise IncompleteError(
                f"{folder}/{name} {how}: another program has changed {folder}.",
                fix=f"{GO_ON} If it ends the same, choose another folder.",
            )


def _otherwise_spelled(
    folder: Folder, names: set[str], wanted: Mapping[str, int], found: Mapping[str, int]
) -> dict[str, int]:
    """The sizes of those of `names` that are listed in lower case or with accents apart, as some file systems list all.

    Such a file can be opened by the name that it was given. No two that were wanted are taken for one.
    """
    keep_case = folder.tells_case_apart()

    def spelling(name: str) -> str:
        normal = unicodedata.normalize("NFC", name)
        return normal if keep_case else normal.casefold()

    listed = {spelling(name): size for name, size in found.items()}
    times = Counter(map(spelling, wanted))
    return {name: listed[key] for name in names if times[key := spelling(name)] == 1 and key in listed}
