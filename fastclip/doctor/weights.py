"""Checks of weights: which of the known ones are here and whole, and the SHA-256 of those that are asked about."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

from fastclip.doctor.finding import Asked, Finding, fail, ok, warn
from fastclip.errors import in_bytes
from fastclip.files import digest_file
from fastclip.models.archives import archive_folder
from fastclip.models.backbones import OPENAI_BACKBONES, PUBLISHED_ARCHIVES, known_backbone
from fastclip.models.weights import local_weights


def here(asked: Asked) -> list[Finding]:
    """Which of OpenAI's nine are on this machine, and whether their files end where they say. None is hashed."""
    from huggingface_hub import constants

    there = {name: path for name, each in OPENAI_BACKBONES.items() if (path := local_weights(each))}
    cut = [
        fail("weights", f"{path}, of {name}, is cut off or damaged.", f"Delete {path}; it is downloaded again.")
        for name, path in there.items()
        if not is_whole(path)
    ]
    places = f"{constants.HF_HUB_CACHE} and {archive_folder()}"
    sizes = ", ".join(f"{name} ({in_bytes(path.stat().st_size)})" for name, path in there.items())
    rest = "" if len(there) == len(OPENAI_BACKBONES) else " Others are downloaded when they are first needed."
    return [*cut, ok("weights", f"In {places}: {sizes or 'none of the nine'}.{rest}")]


def is_whole(path: Path) -> bool:
    """Whether a weights file has the length that its own header says; its bytes are not looked at."""
    with path.open("rb") as file:
        start = file.read(8)
        if start[:4] == b"PK\x03\x04":
            return zipfile.is_zipfile(path)
        header = file.read(min(int.from_bytes(start, "little"), 100_000_000)) if len(start) == 8 else b""
    ends = [int(end) for end in re.findall(rb'"data_offsets":\s*\[\d+,\s*(\d+)\]', header)]
    return bool(ends) and path.stat().st_size == 8 + int.from_bytes(start, "little") + max(ends)


def given(asked: Asked) -> list[Finding]:
    """The files that --weights names, by their SHA-256."""
    found = []
    for text in asked.weights:
        name, equals, rest = text.partition("=")
        found.append(_given(Path(rest), name) if equals and not Path(text).exists() else _given(Path(text), ""))
    return found


def _given(path: Path, backbone: str) -> Finding:
    if not path.is_file():
        return fail("weights", f"There is no file {path}.", "--weights BACKBONE=FILE")
    sha256, size = digest_file(path), in_bytes(path.stat().st_size)
    said = f"{path}: {size}, SHA-256 {sha256}"
    if published := PUBLISHED_ARCHIVES.get(sha256):
        wanted = known_backbone(backbone) if backbone else published
        if wanted is not published:
            return fail("weights", f"{said}, is OpenAI's {published.name}.", f"-b {published.name}")
        return ok("weights", f"{said}, as OpenAI published {published.name}.")
    blob = path.resolve().name
    if re.fullmatch("[0-9a-f]{64}", blob) and blob != sha256:
        return fail("weights", f"{said}, is not the hub's {blob[:12]}….", f"Delete {path}; it is downloaded again.")
    if not is_whole(path):
        return fail("weights", f"{said}, is cut off, or no safetensors file.", "Copy or download it again.")
    if zipfile.is_zipfile(path):
        what = f"{said}, is none of OpenAI's nine archives; fastclip opens no other one."
        return fail("weights", what, "Download it again, or use a safetensors file.")
    if blob == sha256:
        return ok("weights", f"{said}, as the hub names it.")
    return warn("weights", f"{said}: whole, but no published digest is known to compare with.", "Ask its publisher.")
