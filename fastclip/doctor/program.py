"""Checks of what is installed: versions against ranges, and what is loaded against what is installed."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from types import ModuleType

import fastclip
from fastclip.doctor.finding import Asked, Finding, fail, ok, warn

NAMED = ("torch", "torchvision", "nvidia-dali-cuda130", "open_clip_torch", "numpy", "pillow", "pyarrow", "accelerate")
"""Packages whose versions are shown: they decide numbers, pixels and processes."""


def python(asked: Asked) -> list[Finding]:
    """The versions of Python, the system and fastclip."""
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    there = Path(fastclip.__file__).parent
    return [ok("python", f"fastclip {fastclip.__version__} in {there}; Python {platform.python_version()}; {system}.")]


def packages(asked: Asked) -> list[Finding]:
    """Every package that fastclip needs, directly or not, against the ranges that ask for it.

    The ranges are those of the packages' metadata: constraints.txt is not installed.
    """
    try:
        own = distribution("fastclip")
    except PackageNotFoundError:
        where = Path(fastclip.__file__).parent.parent
        return [warn("packages", f"fastclip runs from {where} and is not installed, so no range is known.",
                     f"pip install --editable {where}")]  # fmt: skip
    found: dict[str, Distribution] = {}
    problems = list(_problems(own, found))
    versions = {_plain(name): each.version for name, each in found.items()}
    shown = ", ".join(f"{name} {versions[_plain(name)]}" for name in NAMED if _plain(name) in versions)
    line = f"{len(found)} packages; {shown}."
    return problems or [ok("packages", f"All within the ranges that fastclip and they themselves ask for: {line}")]


def _problems(own: Distribution, found: dict[str, Distribution]) -> Iterator[Finding]:
    """Packages that are missing or out of a range. All that are there are added to `found`."""
    from packaging.requirements import Requirement

    waiting = [(own, "")]
    asked: set[tuple[str, str]] = set()
    while waiting:
        by, extra = waiting.pop()
        for text in by.requires or ():
            need = Requirement(text)
            if need.marker and not need.marker.evaluate({"extra": extra}):
                continue
            name = _plain(need.name)
            direct = by is own
            try:
                there = found.get(name) or distribution(need.name)
            except PackageNotFoundError:
                level = fail if direct else warn
                yield level(need.name, f"It is not installed; {by.name} needs it.", f'pip install "{_range(need)}"')
                continue
            if not need.specifier.contains(there.version, prereleases=True):
                level = fail if direct else warn
                what = f"{there.version} is installed; {by.name} asks for {need.specifier}."
                yield level(need.name, what, f'pip install "{_range(need)}"')
            found[name] = there
            for each in ("", *need.extras):
                if (name, each) not in asked:
                    asked.add((name, each))
                    waiting.append((there, each))


def _range(need: object) -> str:
    return str(need).partition(";")[0].strip()


def _plain(name: str) -> str:
    return name.lower().replace("_", "-").replace(".", "-")


def libraries(asked: Asked) -> list[Finding]:
    """The small libraries as they are loaded."""
    import numpy
    import PIL
    import pyarrow
    import safetensors

    modules = {"numpy": numpy, "pillow": PIL, "pyarrow": pyarrow, "safetensors": safetensors}
    other = [found for package, module in modules.items() if (found := loaded_otherwise(package, module))]
    names = ", ".join(f"{package} {module.__version__}" for package, module in modules.items())
    return other or [ok("libraries", f"Loaded as installed: {names}.")]


def loaded_otherwise(package: str, module: ModuleType) -> Finding | None:
    """The finding for a library that is loaded from elsewhere or in another version than is installed; else None."""
    there = Path(str(module.__file__)).parent
    try:
        installed = distribution(package)
    except PackageNotFoundError:
        return warn(package, f"It is loaded from {there}, but not installed.", f"pip install {package}")
    version = str(getattr(module, "__version__", "?"))
    cure = f"Remove {there}, or take its folder off PYTHONPATH ({len(sys.path)} folders are searched)."
    if version.split("+")[0] != installed.version.split("+")[0]:
        return fail(package, f"Version {version} is loaded from {there}; {installed.version} is installed.", cure)
    if not there.resolve().is_relative_to(Path(str(installed.locate_file(""))).resolve()):
        return warn(package, f"It is loaded from {there}, which is not where it is installed.", cure)
    return None
