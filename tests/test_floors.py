"""Every package imports only from the floors below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import fastclip

PACKAGE = Path(fastclip.__file__).parent
FLOORS = [
    {"errors", "machine", "threads", "lean"},
    {"files"},
    {"sealed"},
    {"storage"},
    {"data"},
    {"pixels", "models"},
    {"text", "heads"},
    {"results"},
    {"embed", "report"},
    {"evaluate"},
    {"verify", "bench"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def imports(path: Path) -> Iterator[str]:
    """Rooms of fastclip that a file imports, inside functions too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            names = (
                [node.module or ""] if node.module != "fastclip" else [f"fastclip.{name.name}" for name in node.names]
            )
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        yield from (name.split(".")[1] for name in names if name.startswith("fastclip."))


def test_every_room_imports_only_from_lower_floors_or_itself():
    offending = []
    for path in PACKAGE.rglob("*.py"):
        room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
        if room in ("__init__", "__main__"):
            continue
        assert room in FLOOR, f"{room} stands on no floor: add it to FLOORS"
        offending += [
            f"{path.relative_to(PACKAGE)} imports {other}"
            for other in imports(path)
            if other in FLOOR and other != room and FLOOR[other] >= FLOOR[room]
        ]
    assert not offending


def test_help_and_reports_need_no_torch():
    """What answers at once must not load what takes seconds."""
    code = (
        "import sys, fastclip.cli.main, fastclip.report.terminal; "
        "print([name for name in ('torch', 'numpy', 'open_clip', 'webdataset', 'PIL') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_a_run_does_not_load_what_it_does_not_use():
    """torch's compiler and timm take a second and a half of every start."""
    code = (
        "import sys, fastclip.evaluate.scoring, fastclip.pixels.torchvision; "
        "from fastclip.models.backbones import find_backbone; "
        "from fastclip.models.tower import build_model; "
        "model = build_model(find_backbone('RN50'), drawn=False); "
        "print([name for name in ('torch._dynamo', 'timm', 'sympy', 'pandas') if name in sys.modules]); "
        "from torchvision.ops import roi_align; import torch; "
        "roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2); "
        "find_backbone('EVA02-B-16/merged2b_s8b_b131k'); "
        "print(type(build_model(find_backbone('EVA02-B-16/merged2b_s8b_b131k'), drawn=False).visual).__name__)"
    )
    out = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert out.split("\n")[:2] == ["[]", "TimmModel"]
