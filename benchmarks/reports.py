"""Time and memory of a report of nine backbones on predictions as many as DomainNet's, six domains and 345 classes.

    .venv/bin/python benchmarks/reports.py [--images 586575] [--classes 345] [--rounds 3] [--keep DIR]

Answers are drawn, of backbones that get easier as they get larger. Measured are whole processes of `fastclip report`
with a page, and of `fastclip compare`; and, in this process, the writing of the predictions.
"""

from __future__ import annotations

import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path

import numpy as np
from common import keep, of_whole_processes, parser, whole_process
from scoring import DATASET, write_index_files

from fastclip.bench.records import Measurement, measurement
from fastclip.data.shards.reader import read_labels
from fastclip.data.shards.targets import Target, find_targets
from fastclip.evaluate.score import dataset_facts
from fastclip.models.backbones import OPENAI_BACKBONES
from fastclip.results.answers import ColumnAnswers, ShardAnswers, by_domain, joined
from fastclip.results.cells import ZERO_SHOT, Cell, Column, Evaluation, UsedPrompts, UsedRecipe
from fastclip.results.files.runs import Run, keep_run
from fastclip.results.patterns import count_patterns, near_ties
from fastclip.store.recipes import Preprocessing, Recipe

DOMAINS = "abcdef"
PROMPTS = "transferlearning"
FORMATS = ("markdown", "latex", "csv", "json", "macros")


def drawn_answers(target: Target) -> list[ShardAnswers]:
    """Answers of OpenAI's nine: every image has a difficulty, and every backbone an ability."""
    rng = np.random.default_rng(0)
    classes, answers = len(target.manifest.classes), []
    for shard in target.shards:
        labels = read_labels(target.folder, shard)
        hard, wrong = rng.normal(size=shard.images), rng.integers(0, classes, shard.images)
        for number, backbone in enumerate(OPENAI_BACKBONES):
            lead = 0.1 * number + rng.normal(size=shard.images) * 0.6 - hard
            right = lead > 0
            rank = np.where(right, 0, rng.integers(1, classes, shard.images)).astype(np.int32)
            predicted = np.where(right, labels, (labels + 1 + wrong % (classes - 1)) % classes).astype(np.int32)
            found = ColumnAnswers(predicted, rank, np.abs(lead * 0.05).astype(np.float32))
            column = Column(backbone, ZERO_SHOT, PROMPTS)
            answers.append(ShardAnswers(target.folder, shard, column, np.arange(shard.images), found))
    return answers


def drawn_evaluation(target: Target, answers: list[ShardAnswers], shards: Path) -> Evaluation:
    """The counts of the answers, with recipes that nobody made."""
    cells, patterns, ties = [], [], []
    for (dataset, domain), columns in by_domain(answers).items():
        whole = {column: joined(each) for column, each in columns.items()}
        patterns += count_patterns(dataset, domain, whole, "stop", 0)
        ties += near_ties(dataset, domain, whole)
        for column, each in whole.items():
            counts = {"images": len(each.rank), "classified": len(each.rank), "top1": int(each.right.sum())}
            counts |= {"top5": int((each.rank < 5).sum()), "unreadable": 0, "shards": len(columns[column])}
            cells.append(Cell(dataset=dataset, domain=domain, **column._asdict(), **counts, missing_shards=0))
    return Evaluation(
        unreadable_policy="stop",
        datasets=(dataset_facts(target, shards),),
        recipes=tuple(
            UsedRecipe(dataset=DATASET, backbone=n, id=_recipe(n).id, recipe=_recipe(n)) for n in OPENAI_BACKBONES
        ),
        prompts={PROMPTS: UsedPrompts(templates=("a picture of a {folder}",))},
        cells=tuple(cells),
        unreadable=(),
        patterns=tuple(patterns),
        near_ties=tuple(ties),
    )


def _recipe(backbone: str) -> Recipe:
    known = OPENAI_BACKBONES[backbone]
    way = Preprocessing(resize="drawn", side=known.side, mean=known.mean, std=known.std)
    return Recipe(
        backbone=backbone, architecture=known.architecture, weights=known.archive_sha256 or "", preprocessing=way,
        decoder="none", precision="fp16", batch_size=1, engine="eager", libraries="drawn", machine="drawn",
        switches=(), numerics=1,
    )  # fmt: skip


def make_run(folder: Path, images: int, classes: int) -> tuple[Path, Measurement]:
    """A run of drawn answers, kept below `folder`, and how long its predictions took to write."""
    write_index_files(images, classes, folder / "shards", DOMAINS)
    (target,) = find_targets(folder / "shards", [DATASET])
    answers = drawn_answers(target)
    evaluation = drawn_evaluation(target, answers, folder / "shards")
    run = Run("eval", ["drawn"], datetime.now(timezone.utc), 0.0)
    started = time.perf_counter()
    place, _ = keep_run(folder / "results", run, evaluation, answers)
    seconds = time.perf_counter() - started
    settings = {"benchmark": "reports.py", "classes": f"{classes}", "columns": f"{len(OPENAI_BACKBONES)}"}
    return place, measurement("write predictions", images * len(OPENAI_BACKBONES), [seconds], settings)


def main() -> None:
    options = parser(__doc__, photos=False)
    options.add_argument("--images", type=int, default=586_575)
    options.add_argument("--classes", type=int, default=345)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.work) as name:
        work = Path(name)
        place, written = make_run(work, arguments.images, arguments.classes)
        program = [sys.executable, "-m", "fastclip"]
        commands = {
            "report, page": ["report", place, "--shards", work / "shards", "--html", work / "page.html"],
            "report, every format": ["report", place, *(f"--{kind}={work / kind}" for kind in FORMATS)],
            "report, compare": ["compare", place, "--to", "RN50"],
        }
        found = [written]
        for what, words in commands.items():
            runs = [whole_process([*program, *words], work) for _ in range(arguments.rounds)]
            found.append(of_whole_processes(what, written.images, runs, written.settings))
    keep(found)


if __name__ == "__main__":
    main()
