"""Files of text vectors and prototypes in a store: each replaces a damaged one, and a copy is proved on the way."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastclip.errors import IncompleteError, IntegrityError
from fastclip.files import read_file, write_new, write_over
from fastclip.sealed import unseal

NO_FILE = (FileNotFoundError, IsADirectoryError, NotADirectoryError)
"""Errors of reading where there is no file: a folder, a pipe or a link to nowhere under its name."""


def keep(path: Path, data: bytes, is_whole: Callable[[Path], bool]) -> None:
    """Write a file unless a whole one has its name.

    A store that cannot be written to, such as a full disk, is no error: what is in the file can be computed again.
    """
    with suppress(IncompleteError):
        if os.path.lexists(path) and not is_whole(path):
            write_over(path, data)
        else:
            write_new(path, data)


def copy_sealed(files: Iterable[Path], target: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> int:
    """Copy those of some sealed files whose facts are wanted, each into a folder of its folder's name below `target`.

    Returns how many of them the target has now. A damaged one is left out: what is in it can be computed again.
    """
    copied = 0
    for path in sorted(files):
        with suppress(IntegrityError, *NO_FILE):
            data = read_file(path)
            _, facts = unseal(data, str(path))
            if is_wanted(facts):
                there = target / path.parent.name / path.name
                write_over(there, data) if os.path.lexists(there) else write_new(there, data)
                copied += 1
    return copied
