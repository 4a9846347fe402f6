"""Texts of libraries and addresses without the secrets that they may hold."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

HIDDEN = "***"
_SECRET = "token|key|secret|pass|credential"
_SHORTEST = 6
"""Letters of a value of the environment that is taken for a secret: shorter ones are `1` or `true`."""


def without_secrets(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` without passwords in addresses and without the values of variables that are called TOKEN or the like."""
    text = re.sub(r"(?<=://)[^\s/?#]*@", f"{HIDDEN}@", text)
    text = re.sub(rf"(?i)(\b[\w-]*(?:{_SECRET})[\w-]*=)[^&;\s\"']+", rf"\1{HIDDEN}", text)
    values = {value for name, value in environment.items() if re.search(f"(?i){_SECRET}", name)}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, HIDDEN)
    return text
