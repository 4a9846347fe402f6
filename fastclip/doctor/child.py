"""One check in a process of its own, which may crash or hang without taking the others along."""

from __future__ import annotations

import contextlib
import faulthandler
import json
import os
import sys
from dataclasses import asdict

from fastclip.doctor.finding import Asked, Finding, fail
from fastclip.doctor.secrets import without_secrets
from fastclip.errors import FastclipError

MOST_LETTERS = 800
"""Of a finding: some libraries' errors are pages of advice."""


def main(name: str) -> None:
    """Run the check called `name` on the question on standard input, and write its findings to standard output.

    Libraries that print do so on standard error.
    """
    from fastclip.doctor.checks import CHECKS

    question = json.load(sys.stdin)
    faulthandler.enable()  # a crash says where
    answer = os.dup(1)
    os.dup2(2, 1)
    check = next(each for each in CHECKS if each.name == name)
    try:
        findings = check.look(Asked(**{**question, "weights": tuple(question["weights"])}))
    except Exception as error:
        findings = [of_error(name, error)]
    rows = [{key: _told(text) for key, text in asdict(each).items()} for each in findings]
    with contextlib.suppress(BrokenPipeError), os.fdopen(answer, "w") as file:
        json.dump(rows, file)
    sys.stderr.flush()
    os._exit(0)  # no library may crash at its end


def _told(text: str) -> str:
    """A text as it is told: cut only after secrets are hidden, or half of one would stay."""
    hidden = without_secrets(text, os.environ)
    return hidden if len(hidden) <= MOST_LETTERS else f"{hidden[:MOST_LETTERS]} …"


def of_error(name: str, error: Exception) -> Finding:
    """The finding for an error that ended a check."""
    words = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, FastclipError):
        return fail(name, words, error.fix)
    if isinstance(error, ImportError):
        return fail(name, f"A library cannot be loaded: {words}", "Install fastclip and its dependencies anew.")
    kind = "" if isinstance(error, OSError) else f"{type(error).__name__}: "
    return fail(name, f"{kind}{words}", "See what it says; if it tells nothing, report it with this page.")
