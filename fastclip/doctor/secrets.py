"""Texts without secrets: passwords in addresses, and the values of variables whose names say what they hold."""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMES = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|COOKIE|AUTH", re.IGNORECASE)

SHORTEST = 6
"""Letters of a value that is looked for in a text. Shorter ones stand in many words by chance; none is ever shown."""


def without_secrets(text: str, environment: Mapping[str, str]) -> str:
    """`text` with `***` for each secret in it."""
    values = [value for name, value in environment.items() if _NAMES.search(name)]
    hidden = {line.strip() for value in values for line in value.splitlines()}  # private keys have many lines
    for value in sorted(hidden, key=len, reverse=True):  # one may be the beginning of another
        if len(value) < SHORTEST:
            break
        text = text.replace(value, "***")
    text = re.sub(r"([A-Za-z][\w+.-]*://)[^\s/@]*@", r"\1***@", text)
    return re.sub(r"([A-Za-z][\w+.-]*://[^\s?]*)\?\S*", r"\1?***", text)
