"""Checks of how processes are started, and of the variables around them. Of variables only names are shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from fastclip.doctor.finding import Asked, Finding, fail, ok, warn
from fastclip.errors import FastclipError

CONFIGURATIONS = "accelerate launch --config_file FILE; fastclip's folder launch/ has one for each kind of machine"
RANKS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
NOTED = re.compile(
    r"(?i:(https?|all|no|ftp)_proxy)|(HF|FASTCLIP|ACCELERATE|CUDA|NCCL|OMP|MKL|SLURM|LD)_\w+|PYTHON(PATH|HOME|UTF8)|TMPDIR"
)
"""Variables that change what fastclip does or finds."""

MOST_NAMED = 12


def accelerate(asked: Asked) -> list[Finding]:
    """Accelerate's default configuration, which every `accelerate launch` without --config_file reads."""
    folder = Path(os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface")
    files = [folder.expanduser() / "accelerate" / f"default_config.{each}" for each in ("yaml", "json")]
    there = next((path for path in files if path.is_file()), None)
    if there is None:
        return [ok("Accelerate", "It has no default configuration; --config_file gives one.")]
    text = there.read_text("utf-8", errors="replace")
    settings = dict(re.findall(r'^[\s"{]*(\w+)"?\s*:\s*["\']?([\w.-]+)', text, re.MULTILINE))
    kind, number = settings.get("distributed_type", "?"), settings.get("num_processes", "?")
    said = f"{there} says {kind}, {number} processes"
    if "distributed_type" not in settings:
        return [fail("Accelerate", f"{there} is no configuration.", f"Remove it, or use {CONFIGURATIONS}.")]
    if kind == "MULTI_CPU":
        return [warn("Accelerate", f"{said}: Accelerate starts only one with that, and says nothing.", CONFIGURATIONS)]
    if kind == "NO" and number not in ("?", "1"):
        return [warn("Accelerate", f"{said}: it starts only one.", CONFIGURATIONS)]
    if settings.get("mixed_precision") == "fp8":
        return [warn("Accelerate", f"{said}, in fp8, which fastclip does not have.", "fastclip … --precision bf16")]
    return [ok("Accelerate", f"{said}.")]


def launcher(asked: Asked) -> list[Finding]:
    """Whether this process believes that it is one of several."""
    return [of_launcher(os.environ)]


def of_launcher(environment: Mapping[str, str]) -> Finding:
    """The finding about the variables that launchers set."""
    from fastclip.embed.processes import find_process

    names = [name for name in RANKS if name in environment]
    try:
        process = find_process(environment)
    except FastclipError as error:
        return fail("launcher", f"{error} (Set: {', '.join(names)}.)", error.fix)
    launched = "TORCHELASTIC_RUN_ID" in environment or any(name.startswith("ACCELERATE_") for name in environment)
    if process.world_size > 1 and not launched:
        what = (
            f"{', '.join(names)} {'is' if len(names) == 1 else 'are'} set without a launcher: eval does only 1 of "
            f"{process.world_size} shares first."
        )
        return warn("launcher", what, f"unset {' '.join(names)}")
    if process.world_size > 1:
        return ok("launcher", f"Process {process.rank + 1} of {process.world_size}.")
    return ok("launcher", "None: one process, which uses all cores or one GPU.")


def variables(asked: Asked) -> list[Finding]:
    """The names of variables that change what fastclip does or finds."""
    names = sorted(name for name in os.environ if NOTED.fullmatch(name))
    if not names:
        return [ok("variables", "None that matters is set.")]
    more = f" and {len(names) - MOST_NAMED} more" if len(names) > MOST_NAMED else ""
    return [ok("variables", f"Set: {', '.join(names[:MOST_NAMED])}{more}.")]


def hub(asked: Asked) -> list[Finding]:
    """Whether Hugging Face's hub gives weights. Asked only with --online."""
    if not asked.online:
        return []
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url

    from fastclip.models.backbones import OPENAI_BACKBONES
    from fastclip.models.weights import HUB_FILE, is_near

    cure = "Set HTTPS_PROXY or HF_ENDPOINT, unset HF_HUB_OFFLINE, or copy weights here and use --weights FILE."
    if constants.HF_HUB_OFFLINE:
        return [warn("hub", "HF_HUB_OFFLINE forbids asking it.", "unset HF_HUB_OFFLINE")]
    if not is_near(constants.ENDPOINT):
        return [fail("hub", f"{constants.ENDPOINT} cannot be reached.", cure)]
    backbone = OPENAI_BACKBONES["ViT-B/32"]
    assert backbone.hub
    try:
        facts = get_hf_file_metadata(hf_hub_url(backbone.hub, HUB_FILE), timeout=10)
    except Exception as error:
        return [fail("hub", f"{constants.ENDPOINT} gives no weights: {type(error).__name__}: {error}", cure)]
    return [ok("hub", f"It has {backbone.hub}, {(facts.size or 0) / 1e6:,.0f} MB.")]
