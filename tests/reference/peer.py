r"""Score WebDataset shards with LAION's CLIP_benchmark, as the reference for our counts and predictions.

    .venv-reference/bin/python tests/reference/peer.py --config tiny.json --weights tiny.safetensors --shards ROOT \
        --split test --templates templates.json --classnames classnames.json --batch-size 32 --out OUT.json

ROOT holds `<split>/nshards.txt` and `<split>/0.tar`, `1.tar`, … with the members `key.jpg|jpeg|png|webp` and `key.cls`.
The name of the architecture is the stem of the config's file. Class names are a JSON list; templates are a JSON list
with `{c}` where the class name goes, or an object with a list of finished texts for each class name.

OUT, for each split: `images`, `correct` and `top5` (counts), and for each image, in the order of the shards,
`predictions`, `labels` and `margin` (best score minus second best, where a score is 100 times the cosine similarity).
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import open_clip
import torch
from clip_benchmark.datasets.builder import build_dataset
from clip_benchmark.metrics.zeroshot_classification import accuracy, run_classification, zero_shot_classifier
from clip_benchmark.models import load_clip
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import Compose
from webdataset import WebDataset

DATASET = "wds/shards"  # the prefix makes CLIP_benchmark read shards; the rest is only a key in its JSON files
DEVICE = "cpu"


def read_dataset(arguments: argparse.Namespace, split: str, transform: Compose) -> WebDataset:
    """One split as CLIP_benchmark reads it, with `classes` and `templates` from the files of the command line."""
    with TemporaryDirectory() as folder:
        files = {name: Path(folder) / f"{name}.json" for name in ("classnames", "templates")}
        for name, file in files.items():
            # CLIP_benchmark keeps many datasets in one file, so that each list stands under the name of its dataset.
            file.write_text(json.dumps({DATASET: json.loads(getattr(arguments, name).read_text())}))
        return build_dataset(
            DATASET,
            root=str(arguments.shards),
            transform=transform,
            split=split,
            custom_classname_file=str(files["classnames"]),
            custom_template_file=str(files["templates"]),
        )


def load(arguments: argparse.Namespace) -> tuple[torch.nn.Module, Compose, Callable[..., Tensor]]:
    """Model, preprocessing and tokenizer as CLIP_benchmark loads them."""
    open_clip.add_model_config(arguments.config)
    model, transform, tokenizer = load_clip(
        model_type="open_clip",
        model_name=arguments.config.stem,
        pretrained=str(arguments.weights),
        cache_dir=None,
        device=DEVICE,
    )
    return model.eval(), transform, tokenizer


def score(arguments: argparse.Namespace, split: str, clip: tuple) -> tuple[Tensor, Tensor]:
    """Scores (images × classes) and labels, by the calls of CLIP_benchmark's command line with `--no_amp`."""
    model, transform, tokenizer = clip
    dataset = read_dataset(arguments, split, transform)
    # No worker processes: with several, the images come in another order, and fewer shards than workers is an error.
    loader = DataLoader(dataset.batched(arguments.batch_size), batch_size=None, shuffle=False, num_workers=0)
    classifier = zero_shot_classifier(model, tokenizer, dataset.classes, dataset.templates, DEVICE, amp=False)
    return run_classification(model, classifier, loader, DEVICE, amp=False)


def summarise(scores: Tensor, labels: Tensor) -> dict[str, object]:
    """What OUT says of a split. With fewer than five classes every image counts in `top5`."""
    images, classes = scores.shape
    top1, top5 = accuracy(scores, labels, topk=(1, min(5, classes)))
    best = scores.topk(2).values
    return {
        "images": images,
        # accuracy() divides whole counts by the number of images; rounding the product gives them back exactly.
        "correct": round(top1 * images),
        "top5": round(top5 * images),
        "predictions": scores.argmax(dim=1).tolist(),
        "labels": labels.tolist(),
        "margin": (best[:, 0] - best[:, 1]).tolist(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("config", "weights", "shards", "templates", "classnames", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--split", action="append", required=True, help="repeatable")
    parser.add_argument("--batch-size", type=int, default=32)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    clip = load(arguments)
    results = {split: summarise(*score(arguments, split, clip)) for split in arguments.split}
    arguments.out.write_text(json.dumps(results))


if __name__ == "__main__":
    main()
