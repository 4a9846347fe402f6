"""Inputs from public bug reports, where they lie beside the project: each is read rightly or refused in two lines."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / "cases").is_dir(), reason="needs ../shared/cases")
def test_every_input_of_a_bug_report_is_read_rightly_or_refused():
    program = Path(sys.executable).with_name("fastclip")
    command = [sys.executable, SHARED / "tools" / "cases.py", program, SHARED / "cases"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, "\n".join(line for line in done.stdout.splitlines() if not line.startswith("ok"))
