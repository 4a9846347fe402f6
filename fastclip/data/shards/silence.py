"""Loaded by the process that starts those which write shards, and by nobody else: they print no traceback.

One that dies while it starts says nothing that the first process, which tells of its end, does not know.
"""

from __future__ import annotations

import os
import sys

if "FASTCLIP_TRACEBACK" not in os.environ:
    sys.excepthook = lambda kind, error, trace: None
