"""Every package imports only from the floors below it."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

import fastclip

PACKAGE = Path(fastclip.__file__).parent
FLOORS = [
    {"errors", "machine", "threads"},
    {"destinations", "faults", "temporary"},
    {"files"},
    {"proven", "sealed"},
    {"storage"},
    {"data"},
    {"store"},
    {"features", "heads", "models", "pixels"},
    {"text"},
    {"adapt", "results"},
    {"embed", "report"},
    {"evaluate", "publish"},
    {"handover", "prompts", "transfer"},
    {"finetune"},
    {"bench", "doctor", "verify"},
    {"api"},
    {"cli"},
]
FLOOR = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def module_name(path: Path) -> str:
    """`fastclip.data.images` of fastclip/data/images.py; a package is called as its folder."""
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path): path for path in PACKAGE.rglob("*.py")}


def imports(path: Path) -> Iterator[str]:
    """Modules of fastclip that a file imports, inside functions and for type checkers too."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        names = []
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            # `from package import module` names a file in the package, anything else the package itself.
            names = [f"{node.module}.{name.name}" for name in node.names]
            names = [name if name in MODULES else node.module or "" for name in names]
        elif isinstance(node, ast.Import):
            names = [name.name for name in node.names]
        yield from (name for name in names if name.startswith("fastclip."))


def test_every_room_imports_only_from_lower_floors_or_itself():
    offending = []
    for name, path in MODULES.items():
        room = name.partition(".")[2].partition(".")[0]
        if room in ("", "__main__"):
            continue
        assert room in FLOOR, f"{room} stands on no floor: add it to FLOORS"
        offending += [
            f"{name} imports {other}"
            for other in imports(path)
            if (there := other.split(".")[1]) != room and FLOOR[there] >= FLOOR[room]
        ]
    assert not offending
    assert FLOOR.keys() == {name.split(".")[1] for name in MODULES if "." in name} - {"__main__"}, "an empty room"


def circle(graph: Mapping[str, Iterable[str]]) -> list[str]:
    """Names of which each leads to the next and the last is the first; empty if there is no circle."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for other in graph.get(name, ()):
            if found := walk(other, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in graph if (found := walk(name, []))), [])


def test_no_two_files_import_each_other_in_a_circle():
    found = circle({name: sorted(set(imports(path)) - {name}) for name, path in MODULES.items()})
    assert not found, " imports ".join(found)


def test_a_circle_is_found_wherever_it_begins():
    assert circle({"a": ["b"], "b": ["c", "d"], "c": [], "d": ["b"]}) == ["b", "d", "b"]
    assert circle({"a": ["b", "c"], "b": ["c"], "c": ["d"], "d": []}) == []


def test_help_and_reports_need_no_torch():
    """A command that answers at once must not load a library that takes seconds."""
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
        "import fastclip.evaluate.score, fastclip.pixels.torchvision; "
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
