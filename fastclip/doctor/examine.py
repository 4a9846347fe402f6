"""All checks at once, each in a process of its own with a limit of time: a crash or a hang is a finding of its own."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict

from fastclip.doctor.finding import Asked, Check, Finding, fail
from fastclip.doctor.secrets import without_secrets
from fastclip.machine import available_cores
from fastclip.threads import threads

LIMIT_S = 60.0
"""Seconds after which a check has hung. Importing torch from a cold network disk takes half of them."""

MOST_WORDS = 300
"""Letters of what a check printed before it died."""

_CODE = "import sys; sys.path[:] = sys.argv[2:]; from fastclip.doctor.child import main; main(sys.argv[1])"
"""The path is that of this process: `python -c` alone would find modules in the folder of work."""


def examine(asked: Asked, checks: Sequence[Check], limit_s: float = LIMIT_S) -> Iterator[tuple[Check, list[Finding]]]:
    """Each check with its findings, in order, as soon as it and those before it have ended."""
    running: set[subprocess.Popen[str]] = set()
    try:
        with threads(min(8, max(2, available_cores())), "doctor") as pool:
            futures = [pool.submit(_run, check, asked, limit_s, running) for check in checks]
            for check, future in zip(checks, futures, strict=True):
                yield check, future.result()
    finally:
        for process in list(running):
            _kill(process)


def _run(check: Check, asked: Asked, limit_s: float, running: set[subprocess.Popen[str]]) -> list[Finding]:
    try:
        process = _start(check.name)
    except OSError as error:
        what = f"This check could not be started: {sys.executable}: {error.strerror}."
        lacking = error.errno in (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
        cure = "Allow more processes (ulimit -u) or free memory." if lacking else "Let this user run that file."
        return [fail(check.name, what, cure)]
    running.add(process)
    try:
        out, err = process.communicate(json.dumps(asdict(asked)), timeout=limit_s)
    except subprocess.TimeoutExpired:
        return [_hung(check, limit_s)]
    finally:
        _kill(process)
        running.discard(process)
    try:
        return [Finding(**row) for row in json.loads(out)]
    except (ValueError, TypeError):
        return [_died(check, process.returncode, err)]


def _start(name: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _CODE, name, *sys.path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # what it starts ends with it
    )


def _kill(process: subprocess.Popen[str]) -> None:
    """End a process and what it started. One that waits for a dead disk does not end, and is left alone."""
    with suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)


def _hung(check: Check, limit_s: float) -> Finding:
    cure = f"If a disk or a driver is only slow: --limit {10 * limit_s:.0f}. Else look at dmesg, mount and nvidia-smi."
    what = f"This check did not end within {limit_s:g} s: the disk, driver or library that it looks at hangs."
    return fail(check.name, what, cure)


def _last_words(err: str) -> str:
    """The last line that a process printed, and where in Python it was if it crashed there."""
    before, crashed, trace = err.partition("Fatal Python error")
    lines = before.split("\n") if crashed else err.split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    place = next((line.strip() for line in trace.split("\n") if line.lstrip().startswith('File "')), "")
    said = f" It said: {last[:MOST_WORDS]}" if last else ""
    return said + (f" It was at {place.removeprefix('File ')}." if place else "")


def _died(check: Check, code: int, err: str) -> Finding:
    said = _last_words(without_secrets(err, os.environ))
    if code == -signal.SIGKILL:
        return fail(check.name, f"This check was killed.{said}", "Free memory, or allow this process more: see dmesg.")
    if code < 0:
        how = f"This check crashed by {signal.Signals(-code).name}.{said}"
        return fail(check.name, how, "Install the library that it loads anew, in the version that fastclip asks for.")
    return fail(check.name, f"This check ended with code {code}.{said}", "Report it, please, with this page.")
