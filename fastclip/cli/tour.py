"""The commands in the groups in which `fastclip --help` shows them, and an example of each."""

from __future__ import annotations

from collections.abc import Mapping

TITLE = """Measure how well CLIP models classify your images. Each image is embedded once;
then asking for more takes seconds, and every number accounts for its images.

Start with `fastclip demo`: it draws images and scores a small CLIP on them.
"""

TOUR: Mapping[str, tuple[str, ...]] = {
    "Data": ("shard", "shards", "datasets", "download", "demo"),
    "Evaluate": ("eval", "finetune", "wise", "reproduce", "verify"),
    "Ask": ("probe", "adapt", "prompts", "search", "compare", "features"),
    "Publish": ("report", "card", "track", "export", "grim"),
    "Operate": ("doctor", "status", "store", "bench", "completion"),
}
"""Each command is in one group. The example of a group is that of its first command."""

EXAMPLES: Mapping[str, str] = {
    "demo": "--probe",
    "download": "pacs",
    "datasets": "",
    "datasets show": "pacs",
    "shard": "mine --source DIR",
    "shards": "check mine",
    "shards check": "mine",
    "shards index": "mine",
    "eval": "mine -b ViT-B/32 --prompts photo",
    "finetune": "mine/A --test mine/C -b ViT-B/32",
    "wise": "finetuned/RUN --test mine/B --test mine/C",
    "reproduce": "officehome",
    "verify": "mine -b ViT-B/32",
    "probe": "mine/A mine/B --test mine/C -b ViT-B/32",
    "adapt": "mine --all-pairs -b ViT-B/32 --method coral",
    "prompts": "rank mine -b ViT-B/32 --templates openai80",
    "prompts rank": "mine -b ViT-B/32 --templates openai80",
    "prompts select": "mine -b ViT-B/32 --templates openai80",
    "prompts check": "my.json",
    "search": 'mine -b ViT-B/32 --text "a dog on snow"',
    "compare": "results/RUN --to ViT-B/32",
    "features": "mine -b ViT-B/32",
    "report": "results/RUN --html page.html --latex table.tex",
    "card": "results/RUN -b ViT-B/32",
    "track": "results/RUN --to tensorboard:runs",
    "export": "results/RUN -b ViT-B/32 --for atlas",
    "grim": "table.csv --dataset pacs",
    "status": "mine -b ViT-B/32",
    "store": "",
    "store remove": "RECIPE",
    "store copy": "RECIPE --to laptop-embeddings",
    "bench": "mine -b ViT-B/32 --random-weights",
    "doctor": "--store embeddings",
    "completion": "bash",
}
"""Of each command, the words after its name in an example."""


def example(command: str) -> str:
    """An example of a command, which may be called by two words; "" if there is none."""
    return f"fastclip {command} {EXAMPLES[command]}".rstrip() if command in EXAMPLES else ""
