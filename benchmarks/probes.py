"""Time and memory of `fastclip probe`: leave-one-out over a dataset of PACS's size, by OpenAI's nine backbones.

    .venv/bin/python benchmarks/probes.py [--images 9991] [--classes 7] [--rounds 3] [--head logistic …]

Embeddings are drawn in four domains, as wide as each backbone's: a common mean, a direction a class and a domain, noise
whose spectrum falls. The dataset has index files and no tars. Measured are whole processes: 36 heads, each with its
search for λ, and the scores of all.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from common import keep, of_whole_processes, parser, whole_process
from scoring import write_index_files

from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.setup import Setup, resolve
from fastclip.features.read import read_shard_labels
from fastclip.models.backbones import OPENAI_BACKBONES, embedding_dim
from fastclip.store.parts import Part, part_name
from fastclip.text.prototypes import Question, TextRecipe, keep_prototypes

DOMAINS = "abcd"


def publish_clustered(setup: Setup) -> None:
    """A part for every shard and backbone, and prototypes near the classes' directions."""
    (target,) = setup.targets
    classes = tuple(zip(target.manifest.classes, target.manifest.names, strict=True))
    for (_, backbone), recipe in setup.recipes.items():
        rng = np.random.default_rng(1)
        dim = embedding_dim(OPENAI_BACKBONES[backbone])
        spectrum = (1 + np.arange(dim)) ** -0.5
        common = 6 * spectrum * rng.normal(size=dim)
        of_class = rng.normal(size=(len(classes), dim)) * spectrum
        of_domain = dict(zip(DOMAINS, rng.normal(size=(len(DOMAINS), dim)) * spectrum, strict=True))
        for shard in target.shards:
            labels = read_shard_labels(target, shard)
            raw = common + of_class[labels] + of_domain[shard.domain]
            raw = raw + 1.5 * spectrum * rng.normal(size=(shard.images, dim))
            norms = np.linalg.norm(raw, axis=1)
            part = Part((raw / norms[:, None]).astype(np.float16), norms.astype(np.float32), ())
            setup.store.publish(recipe, part_name(shard), part)
        setup.store.publish_recipe(recipe)
        texts = of_class + rng.normal(size=of_class.shape) * spectrum
        texts = (texts / np.linalg.norm(texts, axis=1, keepdims=True)).astype(np.float32)
        drawn = TextRecipe(libraries="drawn", machine="drawn", switches=(), numerics=recipe.numerics)
        for prompts in setup.prompts:
            question = Question(
                weights=recipe.weights, architecture=recipe.architecture, templates=prompts.templates, classes=classes
            )
            keep_prototypes(setup.store.folder / "prototypes", question, drawn, texts)


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=9_991)
    options.add_argument("--classes", type=int, default=7)
    options.add_argument("--head", nargs="+", default=["logistic"])
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        write_index_files(arguments.images, arguments.classes, work / "shards", DOMAINS)
        places = {"shards": work / "shards", "store": work / "store"}
        backbones = tuple(OPENAI_BACKBONES)
        publish_clustered(resolve(EvalOptions(backbones=backbones, random_weights=True, precision="bf16", **places)))
        command = [sys.executable, "-m", "fastclip", "probe", "many", "--leave-one-out", "--all-backbones"]
        command += ["--random-weights", *(word for head in arguments.head for word in ("--head", head))]
        command += [word for option, value in places.items() for word in (f"--{option}", value)]
        runs = [whole_process(command, work) for _ in range(arguments.rounds)]
    settings = {
        "benchmark": "probes.py",
        "classes": arguments.classes,
        "backbones": len(backbones),
        "heads": ", ".join(arguments.head),
        "fits": len(backbones) * len(DOMAINS) * len(arguments.head),
    }
    keep([of_whole_processes("probe", arguments.images, runs, settings)])


if __name__ == "__main__":
    main()
