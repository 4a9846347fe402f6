"""Every package imports only from the floors below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fastclip

PACKAGE = Path(fastclip.__file__).parent
FLOORS = [
    {"errors", "machine", "threads"},
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


def in_a_new_process(code: str) -> str:
    """What `code` prints."""
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def test_a_run_of_the_command_line_does_not_load_what_it_does_not_use():
    """torch's compiler and timm take more than a second of every start."""
    code = (
        "import sys; from fastclip.cli.lean import load_lean; load_lean(); "
        "import fastclip.evaluate.scoring, fastclip.pixels.torchvision; "
        "from fastclip.models.backbones import find_backbone; "
        "from fastclip.models.tower import build_model; "
        "model = build_model(find_backbone('RN50'), drawn=False); "
        "print([name for name in ('torch._dynamo', 'timm', 'sympy', 'pandas') if name in sys.modules])"
    )
    assert in_a_new_process(code) == "[]"


BEFORE = {
    "every module and a backbone": (
        "import fastclip, importlib, pkgutil\n"
        "names = [each.name for each in pkgutil.walk_packages(fastclip.__path__, 'fastclip.')]\n"
        "for name in names: name == 'fastclip.__main__' or importlib.import_module(name)\n"
        "assert len(names) > 50\n"
        "import fastclip.models.backbones as b; b.embedding_dim(b.find_backbone('RN50'))\n"
    ),
    "load_lean and a tower from timm": (
        "from fastclip.cli.lean import load_lean; load_lean()\n"
        "from fastclip.models.backbones import find_backbone\n"
        "from fastclip.models.tower import build_model\n"
        "tower = build_model(find_backbone('EVA02-B-16/merged2b_s8b_b131k'), drawn=False).visual\n"
        "assert type(tower).__name__ == 'TimmModel'\n"
    ),
}


@pytest.mark.parametrize("before", BEFORE)
def test_a_users_own_models_and_compiler_work_after(before: str):
    code = BEFORE[before] + (
        "import open_clip, torch, torchvision\n"
        "model = open_clip.create_model('convnext_base_w')\n"
        "import timm, timm.layers\n"
        "assert isinstance(model.visual.trunk, timm.models.ConvNeXt) and issubclass(timm.layers.Mlp, torch.nn.Module)\n"
        "double = torch.compile(lambda x: x + x, backend='eager', fullgraph=True)\n"
        "torchvision.ops.roi_align(torch.zeros(1, 1, 4, 4), torch.zeros(1, 5), 2)\n"
        "print(type(model.visual).__name__, double(torch.ones(1)).item())\n"
    )
    assert in_a_new_process(code) == "TimmModel 2.0"
