"""The values that an option or an argument can have, for TAB: fixed ones, and those that lie in the folder of work.

Fixed values stand here as text, so that an answer loads no library; a test compares them with what the commands take.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from contextlib import suppress
from importlib import resources
from pathlib import Path
from typing import Any

from fastclip.models.backbones import OPENAI_BACKBONES, TINY

FIXED: Mapping[str, tuple[str, ...]] = {
    "--backbone": (*OPENAI_BACKBONES, TINY.name),
    "--precision": ("fp32", "fp16", "bf16"),
    "--decoder": ("torchvision", "dali"),
    "--device": ("cpu", "cuda"),
    "--compile": ("on", "off"),
    "--unreadable": ("stop", "wrong", "exclude"),
    "--prompts": ("transferlearning", "photo", "openai80"),
    "probe --head": ("logistic", "text-logistic", "ridge", "knn", "prototype", "tip", "wise"),
    "adapt --method": ("coral", "sa", "tca", "jda", "bda", "ot", "ot-entropic", "prior", "prototype"),
    "finetune --recipe": ("ce", "contrastive", "flyp", "clipood", "transferlearning"),
    "bench --finetune": ("ce", "contrastive", "flyp", "clipood", "transferlearning"),
    "finetune --select": ("held-out", "last", "test"),
    "features --format": ("parquet", "npy", "clip-retrieval", "transferlearning"),
    "shard --layout": ("domain/class", "class", "split/class", "path"),
    "shard --protocol": ("full", "domainbed"),
    "prompts rank --templates": ("openai80",),
    "prompts select --templates": ("openai80",),
    "prompts select --hold-out": ("domains", "folds", "half"),
    "export --for": ("atlas", "spotlight", "fiftyone"),
    "track --to": ("wandb:", "mlflow:", "tensorboard:", "trackio:"),
}
"""By the name of the option, with the command before it where the same name means something else elsewhere."""

KNOWN_DATASETS = ("download NAME", "shard NAME", "datasets show NAME", "grim --dataset")
SHARDED_DATASETS = ("shards check NAME", "shards index NAME", "datasets show NAME")
"""Arguments and options that name a dataset and whose placeholder does not say so."""

MOST_MANIFEST_BYTES = 20_000_000
"""Larger manifests are not read for their domains: an answer takes a fraction of a second."""


def choices(command: str, param: Any, current: str, given: Mapping[str, str]) -> list[str]:
    """The values of a parameter of `command` that are known; others, such as files, may be possible too.

    `given` are the values of options that stand on the line already.
    """
    name = max(param.opts, key=len) if param.param_type_name == "option" else param.metavar or ""
    metavar = param.metavar or ""
    place = f"{command} {name}"
    found = list(FIXED.get(place) or FIXED.get(name) or ())
    if re.fullmatch(r"[\w-]+(\|[\w-]+)+", metavar):  # holm|bh|none, published|FILE
        found += [word for word in metavar.split("|") if not word.isupper()]
    if place in KNOWN_DATASETS:
        found += _known_datasets()
    if place in SHARDED_DATASETS or "DATASET" in metavar:
        found += _sharded(Path(given.get("--shards", "shards")), current)
    if metavar == "RECIPE" and not found:
        found += _recipes(Path(given.get("--store", "embeddings")))
    return list(dict.fromkeys(found))


def _known_datasets() -> list[str]:
    cards = resources.files("fastclip.data") / "cards"
    return sorted(each.name.removesuffix(".toml") for each in cards.iterdir() if each.name.endswith(".toml"))


def _sharded(shards: Path, current: str) -> list[str]:
    """Datasets in a folder of this machine; after `DATASET/`, the dataset with each of its domains."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        dataset, slash, _ = current.partition("/")
        if not slash:
            return sorted(each.name for each in shards.iterdir() if (each / "manifest.json").is_file())
        manifest = shards / dataset / "manifest.json"
        if manifest.stat().st_size <= MOST_MANIFEST_BYTES:
            return [f"{dataset}/{each['name']}" for each in json.loads(manifest.read_bytes())["domains"]]
    return []


def _recipes(store: Path) -> list[str]:
    """The beginnings of the names of a store's recipes, as `fastclip store` shows them."""
    with suppress(OSError):
        return sorted(each.name[:12] for each in store.iterdir() if re.fullmatch("[0-9a-f]{64}", each.name))
    return []
