"""Which class names are ids: WordNet numbers, digits, hexadecimal. A prompt that is made of one measures nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from fastclip.data.catalogue import readable_name

ALWAYS = re.compile(
    r"\d+([._]\d+)*"  # digits
    r"|[nvars]\d{8}"  # WordNet's numbers
    r"|[mg][_/.][01]\w+"  # Freebase's, as Open Images has them: /m/0bt9lr
    r"|(?=.*\d)(?=.*[a-f])[0-9a-f-]{8,}"  # hexadecimal digests, UUIDs
)
"""Names that are ids, whatever the other classes are called."""

NUMBERED = re.compile(
    r"([a-z]{0,2}|class|cls|label|category|id|idx|index|type|group|cluster|folder|target|object)[ _.#-]*\d+"
)
"""A name that is an id if those of all classes are like it: c0, c1, c2. `A310` beside `Spitfire` is an aircraft."""

HEXADECIMAL = re.compile(r"[0-9a-f]*\d[0-9a-f]*")
"""Likewise: 1f600, 1f601."""


def ids(names: Sequence[str]) -> frozenset[str]:
    """Those among a dataset's class names that are ids."""
    plain = [name.strip(" _.+-/").casefold() for name in names]
    numbered = {match[1] if (match := NUMBERED.fullmatch(name)) else None for name in plain}
    if (len(numbered) == 1 and None not in numbered) or all(map(HEXADECIMAL.fullmatch, plain)):
        return frozenset(names)
    return frozenset(name for name, each in zip(names, plain, strict=True) if ALWAYS.fullmatch(each))


def nameless(folders: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """The class folders whose readable name is an id, or the folder's name again where that is one."""
    of_folders, of_names = ids(folders), ids(names)
    return tuple(
        folder
        for folder, name in zip(folders, names, strict=True)
        if name in of_names or (folder in of_folders and name == readable_name(folder))
    )


def with_names(folders: Sequence[str], names: Sequence[str], given: Mapping[str, str]) -> tuple[str, ...]:
    """`names`, with those that are `given` (folder → readable name) for the nameless."""
    without = set(nameless(folders, names))
    return tuple(
        given.get(folder, name) if folder in without else name for folder, name in zip(folders, names, strict=True)
    )


def words(folders: Sequence[str], names: Sequence[str]) -> tuple[str, ...]:
    """What `{folder}` stands for: the folder's name, or the readable one where the folder's is an id."""
    of_folders = ids(folders)
    return tuple(name if folder in of_folders else folder for folder, name in zip(folders, names, strict=True))
