"""Names of files are UTF-8 whatever the locale says: another reading would make another dataset of the same files."""

from __future__ import annotations

import os
import sys
from codecs import lookup
from contextlib import suppress


def read_names_as_utf8() -> None:
    """Start this program again in Python's UTF-8 mode if the locale has another encoding; else do nothing.

    Python decodes names by an encoding that it fixes when it starts: under ISO 8859-1, `größe` is `grÃ¶Ã\\x9fe`. The
    process and what it prints stay as they are. Processes that it starts inherit the mode.
    """
    if lookup(sys.getfilesystemencoding()).name == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    printed = {"PYTHONIOENCODING": f"{getattr(sys.stdout, 'encoding', None) or 'utf-8'}:backslashreplace"}
    with suppress(OSError):
        os.execve(
            sys.executable,
            [sys.executable, "-X", "utf8", *sys.orig_argv[1:]],
            {**printed, **os.environ, "PYTHONUTF8": "1"},
        )
