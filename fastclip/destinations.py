"""Places of output as a user names them: a file, a link to one, a pipe, a device, or a stream such as /dev/stdout."""

from __future__ import annotations

import errno
import os
import re
import stat
from pathlib import Path

from fastclip.errors import UserError

MOST_LINKS = 40
"""Links in a row that Linux follows."""


def destination(path: Path) -> Path:
    """The path at the end of all symbolic links at `path`: of a file that is there, or of the one to be made.

    /dev/stdout ends as /proc/self/fd/1: what that leads to may be a pipe, which has no path.
    """
    for _ in range(MOST_LINKS):
        folder = Path(os.path.realpath(path.parent))
        path = folder / path.name
        if _descriptor(path) is not None or not path.is_symlink():
            return path
        path = folder / path.readlink()
    raise UserError(f"{path} cannot be written: {os.strerror(errno.ELOOP)}.", fix="Name another file.")


def stream(path: Path) -> int | None:
    """An open descriptor of a destination that is written to as it is; None for a file, which is replaced whole.

    Nothing is created: a name in /dev that is not there is no file to be made.
    """
    number = _descriptor(path)
    if number is not None:
        return os.dup(number)  # opening it anew would empty a file in which other output stands already
    if _is_special(path) or path.parent == Path("/dev"):
        return os.open(path, os.O_WRONLY | os.O_NOCTTY)
    return None


def check_place(path: Path) -> None:
    """Raise `UserError` if no file can be written at `path`, before any work is done for it."""
    if path.is_dir():
        raise UserError(f"{path} is a folder, and a file is to be written there.", fix=f"{path / 'NAME'}, for example")
    end = destination(path)
    if (number := _descriptor(end)) is not None:
        try:
            os.fstat(number)
        except OSError as error:
            raise UserError(f"{path} cannot be written: it is not open.", fix="Name a file.") from error
        return
    if _is_special(end) or end.parent == Path("/dev"):
        if not end.exists():
            raise UserError(f"{path} cannot be written: there is no such device.", fix="Name another.")
        if end.is_block_device() or end.is_socket() or not os.access(end, os.W_OK):
            raise UserError(f"{path} is no file, pipe or device that you may write to.", fix="Name another.")
        return
    for folder, needed in ((_nearest_folder(path), os.X_OK), (_nearest_folder(end), os.W_OK)):
        if not folder.is_dir() or not os.access(folder, needed):
            raise UserError(
                f"{path} cannot be written: {folder} is no folder that you may write to.", fix="Name another."
            )


def _descriptor(path: Path) -> int | None:
    """The number of this process's open file that `path` stands for."""
    found = re.fullmatch(r"/(?:dev|proc/(?:self|([0-9]+)))/fd/([0-9]+)", str(path))
    own = found and found[1] in (None, str(os.getpid()))
    return int(found[2]) if found and own else None


def _is_special(path: Path) -> bool:
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not stat.S_ISREG(mode) and not stat.S_ISDIR(mode)


def _nearest_folder(path: Path) -> Path:
    """The folder above `path` that is there, or what stands in its place: a file, a link to nowhere."""
    return next(each for each in path.absolute().parents if each.exists() or each.is_symlink())
