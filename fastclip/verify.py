"""Proves the promises about numbers on this machine and these images: what `fastclip verify` checks.

A small sample of the images becomes a dataset of its own. Real worker processes embed it, in several numbers and one of
them killed, and must write the same bytes; decoders are held against Pillow, precisions against fp32.
"""

from __future__ import annotations

import io
import itertools
import json
import math
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType

import numpy as np
from jaxtyping import Float, Int64, UInt8
from PIL import Image

from fastclip.data.images import MAX_PIXELS
from fastclip.data.shards.manifest import ImageRecord, Shard
from fastclip.data.shards.reader import OpenShard, read_index
from fastclip.data.shards.writer import WriteOptions, write_shards
from fastclip.data.sources.blobs import Blob
from fastclip.data.sources.listing import Listing, SourceImage, in_order
from fastclip.errors import EXIT_INTEGRITY, IncompleteError, IntegrityError, UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.run import Run
from fastclip.evaluate.scoring import score
from fastclip.evaluate.targets import Target, dataset_facts
from fastclip.models.numerics import PRECISIONS
from fastclip.pixels.decoder import DECODERS, Decoder, EncodedImage
from fastclip.pixels.decoders import decoder_spec, make_decoder
from fastclip.results.cells import BackboneFacts, DatasetFacts
from fastclip.sealed import unseal
from fastclip.storage.folders import LocalFolder

MOST_SHARDS = 16
"""Shards that the sample is taken from, spread over the domains: each is hashed whole, and fetched whole from afar."""

SAMPLE_SHARDS = 8
"""Shards that the sample is written as, if its domains do not make it more: three workers need some each, and a worker
must be caught between the first and the last. Each costs a padded batch a pass."""

WORLD_SIZES = (1, 2, 3)

BATCH = 32
"""Images that a decoder gets at once when pixels are compared."""

MEAN_LEVELS = {"torchvision": 0.02, "dali": 0.25}
"""The promise: the largest mean difference from CLIP's own pixels over all images, in grey levels of 255."""

WORST_LEVELS, WORST_LEVELS_THIN, THIN = 0.5, 1.0, 16
"""The promise for every single image; the second where its short side has fewer than `THIN` pixels, and below `SIDE`.

Pillow rounds between its two passes, which shows where a photo becomes a hundredth: at side 64 DALI's worst is 0.65 of
448 photos, at 224 it is 0.22.
"""

SIDE = 224
"""The smallest side of OpenAI's backbones."""

LEAST_COSINE = 0.99
"""What an embedding may turn away from fp32's. bf16 stays above 0.999 on photos; a broken kernel does not."""

CATCHES = 5
"""How often a worker is started again that ended before it could be killed halfway."""


@dataclass(frozen=True)
class Check:
    """One thing that was checked. `holds` is None where nothing could be checked."""

    topic: str
    name: str
    figure: str
    holds: bool | None
    details: tuple[str, ...] = ()
    """What exactly does not hold, a sentence a line."""


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was checked, on which machine, of which images and backbones."""

    machine: str
    datasets: tuple[DatasetFacts, ...]
    images: int
    unusable: int
    """Images of the sample that do not decode: they are in no shard of it."""
    shards: int
    backbones: tuple[BackboneFacts, ...]
    prompts: tuple[str, ...]
    seconds: float
    checks: tuple[Check, ...]

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold."""
        return tuple(check for check in self.checks if check.holds is False)

    def to_json(self) -> bytes:
        """The record of the certificate."""
        document = {**asdict(self), "holds": not self.failed}
        return json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"


def verify(options: EvalOptions, images: int, on_step: Callable[[str], None] = lambda step: None) -> Certificate:
    """Check every promise on about `images` images of what `options` asks for. Raises `UserError` before any work."""
    started = time.monotonic()
    wanted = Run(options)
    if wanted.process.world_size > 1:
        raise UserError("verify starts its own processes.", fix="Start it once, without a launcher or --share.")
    with tempfile.TemporaryDirectory(prefix="fastclip-verify-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        on_step(f"taking {images} images")
        chosen = choose_images(wanted.targets, images)
        write_sample(chosen, folder)
        run = Run(_as_wanted(wanted, folder))
        sampled = [unit.shard.images for unit in run.units()]
        checks = [
            *check_bytes(run, folder, on_step),
            *check_decoders(run, on_step),
            *check_precisions(run, on_step),
        ]
    return Certificate(
        machine=wanted.numerics,
        datasets=tuple(dataset_facts(target, options.shards) for target in wanted.targets),
        images=sum(sampled),
        unusable=len(chosen) - sum(sampled),
        shards=len(sampled),
        backbones=tuple(candidate.facts for candidate in run.candidates),
        prompts=tuple(prompts.name for prompts in run.prompts),
        seconds=time.monotonic() - started,
        checks=tuple(checks),
    )


def _as_wanted(wanted: Run, folder: Path) -> EvalOptions:
    """The options of a run over the sample in `folder`: what fastclip chose for the real one is spelled out."""
    return replace(
        wanted.options,
        targets=(),
        precision=wanted.precision,
        decoder=wanted.decoder,
        batch_size=wanted.batch_size,
        device=wanted.device.type,
        shards=folder / "shards",
        store=_store(folder, 1, 1),
        unreadable="exclude",
    )


# The sample.


@dataclass(frozen=True)
class Chosen:
    """An image of the sample, and where it lies."""

    target: Target
    shard: Shard
    row: int
    record: ImageRecord


def choose_images(targets: Sequence[Target], images: int) -> list[Chosen]:
    """At most `images`, from every domain and class in turn, in each by digest: the same ones for everybody."""
    domains = sum(len(target.domains) for target in targets)
    found = [
        Chosen(target, shard, row, record)
        for target in targets
        for domain in target.domains
        for shard in _spread(target.manifest.shards_of(domain), max(1, MOST_SHARDS // domains))
        for row, record in enumerate(read_index(target.folder, shard))
    ]
    found.sort(key=lambda each: each.record.sha256)
    taken: Counter[tuple[str, str, int]] = Counter()
    turns = []
    for each in found:
        group = (each.target.folder.name, each.shard.domain, each.record.label)
        turns.append(taken[group])
        taken[group] += 1
    order = sorted(range(len(found)), key=turns.__getitem__)
    return [found[position] for position in order[:images]]


def _spread(shards: Sequence[Shard], most: int) -> list[Shard]:
    """At most `most` of `shards`, evenly spaced."""
    count = min(most, len(shards))
    return [shards[number * len(shards) // count] for number in range(count)]


def write_sample(chosen: Sequence[Chosen], folder: Path) -> None:
    """Write the images, byte for byte, as a dataset of the same name, classes and domains in `folder`/shards."""
    (folder / "images").mkdir()
    by_shard: dict[tuple[str, str], list[Chosen]] = {}
    for each in chosen:
        by_shard.setdefault((each.target.folder.name, each.shard.name), []).append(each)
    targets: dict[str, Target] = {}
    images: dict[str, list[SourceImage]] = {}
    for (dataset, _), from_shard in by_shard.items():
        target = targets[dataset] = from_shard[0].target
        opened = OpenShard(target.folder, from_shard[0].shard)
        for each in from_shard:
            record = each.record
            path = folder / "images" / record.sha256
            path.write_bytes(opened.image_bytes(each.row))
            blob = Blob("file", path, record.size)
            image = SourceImage(each.shard.domain, record.label, record.path, record.path, blob)
            images.setdefault(dataset, []).append(image)
    options = WriteOptions(shard_images=max(1, len(chosen) // SAMPLE_SHARDS), processes=1)
    for dataset, target in targets.items():
        domains = tuple(name for name in target.domains if any(image.domain == name for image in images[dataset]))
        listing = Listing(
            layout="a sample",
            classes=target.manifest.classes,
            names=target.manifest.names,
            domains=domains,
            images=in_order(images[dataset], domains),
        )
        shards = LocalFolder(folder / "shards" / dataset)
        write_shards(listing, shards, dataset=dataset, protocol=f"a sample of {len(chosen)}", options=options)


# The same bytes from any number of processes.


@dataclass(frozen=True)
class Job:
    """What one worker is told: to be `number` of `of`, with the embeddings in `store`."""

    number: int
    of: int
    store: Path

    def __str__(self) -> str:
        return f"worker {self.number} of {self.of}"


class Workers:
    """Runs `fastclip eval` on the sample in processes of their own, none of which outlives the `with` block."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._running: list[subprocess.Popen[bytes]] = []
        # Whoever stops this program interrupts its main thread: a process just started would be lost there.
        self._starter = ThreadPoolExecutor(1, "start")
        # Each holds a copy of the models: several at once load the machine, which is part of the test, but not a GPU.
        self.together = 1 if run.device.type == "cuda" else min(3, run.process.cores)

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._starter.shutdown()
        for process in self._running:
            process.terminate()
        until = time.monotonic() + 3
        for process in self._running:
            try:
                process.wait(max(0.0, until - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, jobs: Sequence[Job], on_step: Callable[[str], None]) -> dict[Job, str]:
        """Run every job, and return what those said that found a part with other bytes.

        Raises `IncompleteError` for one that ended for any other reason.
        """
        waiting = list(jobs)
        started: dict[Job, subprocess.Popen[bytes]] = {}
        complaints: dict[Job, str] = {}
        while waiting or started:
            while waiting and len(started) < self.together:
                job = waiting.pop(0)
                started[job] = self.start(job)
            on_step(f"evaluating in processes: {len(jobs) - len(waiting) - len(started)} of {len(jobs)} done")
            time.sleep(0.02)
            for job in [job for job, process in started.items() if process.poll() is not None]:
                if said := self._ended(job, started.pop(job).returncode):
                    complaints[job] = said
        return complaints

    def kill_halfway(self, folder: Path, parts: int) -> tuple[int, Path]:
        """Kill a worker when its first part is published: how many of the `parts` were then, and its store.

        Zero if it was too fast every time. Its store is in `folder`, a new one each time.
        """
        for number in range(CATCHES):
            job = Job(1, 2, folder / f"killed-{number}")
            process = self.start(job)
            while process.poll() is None and not _parts(job.store):
                time.sleep(0.001)
            process.kill()
            process.wait()
            if process.returncode < 0 and 0 < (published := _parts(job.store)) < parts:
                return published, job.store
        return 0, folder

    def start(self, job: Job) -> subprocess.Popen[bytes]:
        """A process that is at `job`."""
        return self._starter.submit(self._start, job).result()

    def _start(self, job: Job) -> subprocess.Popen[bytes]:
        self._running = [process for process in self._running if process.poll() is None]
        job.store.mkdir(exist_ok=True)
        with self._log(job).open("wb") as log:
            process = subprocess.Popen(_command(self._run, job), stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self._running.append(process)
        return process

    def _ended(self, job: Job, code: int) -> str | None:
        if code == 0:
            return None
        said = self._log(job).read_text(errors="replace").splitlines()
        error = next((line.removeprefix("Error: ") for line in said if line.startswith("Error: ")), "")
        if code == EXIT_INTEGRITY and error:
            return error
        fix = next((line.removeprefix("Fix: ").strip() for line in said if line.startswith("Fix: ")), "")
        raise IncompleteError(
            f"{job} ended with {code}: {error or (said or ['it said nothing'])[-1]}",
            fix=fix or "Free memory and space in the temporary folder, then run the same command again.",
        )

    def _log(self, job: Job) -> Path:
        return job.store / f"{job.number}-of-{job.of}.log"


def _command(run: Run, job: Job) -> list[str]:
    """The command line of a worker that evaluates as `run` does."""
    options = run.options
    words: list[object] = [sys.executable, "-m", "fastclip", "eval"]
    words += [word for name in options.backbones for word in ("-b", name)]
    words += [word for name in options.prompts for word in ("--prompts", name)]
    words += [word for name, path in options.weights.items() for word in ("--weights", f"{name}={path}")]
    words += ["--random-weights"] if options.random_weights else []
    words += ["--workers", options.workers] if options.workers else []
    words += ["--precision", run.precision, "--decoder", run.decoder, "--batch-size", run.batch_size]
    words += ["--device", run.device.type, "--unreadable", options.unreadable, "--shards", options.shards]
    words += ["--store", job.store, "--share", f"{job.number}/{job.of}", "--json", job.store / "record.json"]
    return [str(word) for word in words]


def check_bytes(run: Run, folder: Path, on_step: Callable[[str], None]) -> Iterator[Check]:
    """Every part and record that any number of workers writes, or one that was killed, against a single one's.

    Every worker has a store of its own, so that each embeds every shard, beginning with its own share; only the two
    that go on after the killed one share theirs.
    """
    of_size = {of: [Job(i, of, _store(folder, i, of)) for i in range(1, of + 1)] for of in WORLD_SIZES}
    called = _names(run)
    with Workers(run) as workers:
        complaints = workers.run(list(itertools.chain(*of_size.values())), on_step)
        on_step("killing a process, and going on with two")
        published, killed_store = workers.kill_halfway(folder, len(called))
        resumed = [Job(number, 2, killed_store) for number in (1, 2)] if published else []
        complaints |= workers.run(resumed, on_step)
    expected = contents(_store(folder, 1, 1))
    for of, jobs in of_size.items():
        stores = [Written(str(job), contents(job.store), job.number == 1) for job in jobs]
        said = [complaints[job] for job in jobs if job in complaints]
        name, each = ("1 worker", "") if of == 1 else (f"{of} workers", f"{of} × ")
        yield bytes_check(name, f"{each}{len(called)} parts, 1 record", stores, expected, called, said)
    if not published:
        yield Check(BYTES, KILLED, f"ended {CATCHES} times before it could be killed", None)
        return
    figure = f"after {published} of {len(called)} parts; 2 workers went on"
    said = [complaints[job] for job in resumed if job in complaints]
    yield bytes_check(KILLED, figure, [Written(KILLED, contents(killed_store), True)], expected, called, said)


BYTES, KILLED = "the same bytes", "killed, run again"


@dataclass(frozen=True)
class Written:
    """What is in a store: path → bytes. Only a first worker scores: it writes the record, and the prototypes."""

    label: str
    files: Mapping[str, bytes]
    scored: bool


def bytes_check(
    name: str,
    figure: str,
    stores: Sequence[Written],
    expected: Mapping[str, bytes],
    called: Mapping[str, str],
    complaints: Sequence[str],
) -> Check:
    """Whether `stores` hold the `expected` files and nothing else, and these a part for each key of `called`."""
    details = [f"{name}: {complaint}" for complaint in complaints]
    details += [f"{name}: {what} has no part" for key, what in called.items() if _part_name(key) not in expected]
    for store in stores:
        wanted = {path: data for path, data in expected.items() if store.scored or path.startswith("parts/")}
        details += [f"{store.label}: {line}" for line in differences(wanted, store.files, called)]
    return Check(BYTES, name, figure, not details, tuple(details))


def contents(store: Path) -> dict[str, bytes]:
    """Every part, prototype and record in a store by its path, whole."""
    files = [*store.glob("parts/*/*.safetensors"), *store.glob("prototypes/*.safetensors"), *store.glob("record.json")]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in sorted(files)}


def differences(expected: Mapping[str, bytes], found: Mapping[str, bytes], called: Mapping[str, str]) -> list[str]:
    """How `found` differs from what is `expected`, a line a file; none if every byte is the same."""
    lines = []
    for name in sorted(expected.keys() | found.keys()):
        label = called.get(Path(name).stem) or re.sub(r"(/.{8}).{56}\.", r"\1….", name)
        if name not in found:
            lines.append(f"{label} is missing")
        elif name not in expected:
            lines.append(f"{label} should not be there")
        elif found[name] != expected[name]:
            lines.append(f"{label}: {_difference(expected[name], found[name])}")
    return lines


def _difference(expected: bytes, found: bytes) -> str:
    """In numbers where both are files of tensors, else the first line that differs."""
    with suppress(IntegrityError):
        ours, theirs = unseal(found, "")[0], unseal(expected, "")[0]
        for name, numbers in theirs.items():
            if name in ours and ours[name].shape == numbers.shape:
                apart = np.abs(ours[name].astype(np.float64) - numbers.astype(np.float64))
                if count := int((apart != 0).sum()):
                    return f"{count:,} of {apart.size:,} numbers differ, by up to {apart.max():.2g}"
        return "what is said of its numbers differs, they do not"
    lines = itertools.zip_longest(expected.splitlines(), found.splitlines(), fillvalue=b"nothing")
    was, now = next((pair for pair in lines if pair[0] != pair[1]), (b"ended otherwise", b"ended so"))
    return f"{now[:60].decode(errors='replace').strip()} was {was[:60].decode(errors='replace').strip()}"


def _names(run: Run) -> dict[str, str]:
    """Key of every part that there must be → what it is of."""
    return {
        key: f"{backbone}, {unit.folder.name}/{unit.shard.name}"
        for unit in run.units()
        for backbone, key in unit.keys.items()
    }


def _store(folder: Path, number: int, of: int) -> Path:
    return folder / f"{number}-of-{of}"


def _part_name(key: str) -> str:
    return f"parts/{key[:2]}/{key}.safetensors"


def _parts(store: Path) -> int:
    return len(list(store.glob("parts/*/*.safetensors")))


# Pixels.


def check_decoders(run: Run, on_step: Callable[[str], None]) -> Iterator[Check]:
    """Every decoder that is installed here, at every side of the backbones, on all images of the sample."""
    images = {
        f"{unit.folder.name}/{unit.shard.domain}/{record.path}": EncodedImage(data, record.height, record.width)
        for unit in run.units()
        for record, data in _images(OpenShard(unit.folder, unit.shard))
    }
    for name, side in itertools.product(DECODERS, sorted({each.backbone.side for each in run.candidates})):
        on_step(f"comparing pixels: {name} at {side}")
        try:
            decoder_spec(name, run.device)
        except UserError as error:
            yield Check(PIXELS, f"{name} at {side}", f"not checked: {error}", None)
            continue
        yield pixel_check(name, make_decoder(name, [side], BATCH, run.device, run.process.cores), images, side)


PIXELS = "CLIP's pixels"


def _images(shard: OpenShard) -> Iterator[tuple[ImageRecord, memoryview]]:
    return ((record, shard.image_bytes(row)) for row, record in enumerate(shard.records))


def pixel_check(name: str, decoder: Decoder, images: Mapping[str, EncodedImage], side: int) -> Check:
    """Whether the crops of `images` (by path) are as near to Pillow's as the decoder called `name` promises."""
    apart, details = [], []
    for first in range(0, len(images), BATCH):
        paths = list(images)[first : first + BATCH]
        decoded = decoder.decode([images[path] for path in paths])
        crops = decoded.crops[side].cpu().numpy().astype(np.int16)
        failed = dict(decoded.unreadable)
        for row, path in enumerate(paths):
            image = images[path]
            if row in failed:
                details.append(f"{name}: {path}, which Pillow decodes, does not: {failed[row]}")
            elif (reference := clip_crop(image.data, side)) is not None:
                apart.append(difference := float(np.abs(crops[row] - reference).mean()))
                hard = min(image.height, image.width) < THIN or side < SIDE
                limit = WORST_LEVELS_THIN if hard else WORST_LEVELS
                if difference > limit:
                    details.append(f"{name} at {side}: {path} differs by {difference:.2f} grey levels, over {limit}")
    if not apart:
        return Check(PIXELS, f"{name} at {side}", "no image to compare", False if details else None, tuple(details))
    mean = sum(apart) / len(apart)
    if mean > MEAN_LEVELS[name]:
        details.append(f"{name} at {side}: the mean is over {MEAN_LEVELS[name]}")
    left_out = f", {len(images) - len(apart)} not compared" if len(apart) < len(images) else ""
    figure = f"mean {mean:.4f}, worst {max(apart):.4f} grey levels{left_out}"
    return Check(PIXELS, f"{name} at {side}", figure, not details, tuple(details))


def clip_crop(data: memoryview, side: int) -> UInt8[np.ndarray, "3 side side"] | None:
    """What CLIP's own preprocessing gives the model: RGB, shorter side to `side` by Pillow's bicubic, centre crop.

    None for a strip so long that this would need more than the pixel budget.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = (side * length // min(image.size) for length in image.size)
    if width * height > MAX_PIXELS:
        return None
    left, top = round((width - side) / 2), round((height - side) / 2)
    crop = image.resize((width, height), Image.Resampling.BICUBIC).crop((left, top, left + side, top + side))
    return np.asarray(crop).transpose(2, 0, 1)


# Precisions.


@dataclass(frozen=True)
class Answers:
    """What a backbone made of every readable image of the sample under every prompt set."""

    embeddings: Float[np.ndarray, "answers dim"]
    predicted: Int64[np.ndarray, " answers"]
    margin: Float[np.ndarray, " answers"]


def check_precisions(run: Run, on_step: Callable[[str], None]) -> Iterator[Check]:
    """Every precision against fp32, backbone by backbone."""
    found: dict[str, dict[str, Answers]] = {}
    for precision in PRECISIONS:
        on_step(f"embedding in {precision}")
        try:
            found[precision] = embed_and_score(Run(replace(run.options, precision=precision)))
        except IntegrityError as error:
            yield Check(COSINES, f"every backbone in {precision}", "no finite embedding", False, (str(error),))
    for precision, answers in found.items():
        for backbone, of_backbone in answers.items():
            if "fp32" in found:
                yield precision_check(f"{backbone} in {precision}", of_backbone, found["fp32"][backbone])


COSINES = "as in fp32"


def embed_and_score(run: Run) -> dict[str, Answers]:
    """The answers of every backbone. Raises `IntegrityError` if an embedding is not finite."""
    run.embed()
    found = {}
    _, answers = score(run, keep_predictions=True)
    for candidate in run.candidates:
        mine = [answer for answer in answers if answer.backbone == candidate.backbone.name]
        parts = [run.store.read(candidate.key(answer.shard)) for answer in mine]
        found[candidate.backbone.name] = Answers(
            np.concatenate([part.embeddings[answer.rows] for answer, part in zip(mine, parts, strict=True) if part]),
            np.concatenate([answer.predictions.predicted for answer in mine]),
            np.concatenate([answer.predictions.margin for answer in mine]),
        )
    return found


def precision_check(name: str, answers: Answers, reference: Answers) -> Check:
    """How far `answers` are from the `reference`. Only what is broken does not hold: a flipped tie is no fault."""
    if not np.isfinite(answers.embeddings).all():
        return Check(COSINES, name, "no finite embedding", False, (f"{name}: an embedding is not finite",))
    ours, theirs = _unit(answers.embeddings), _unit(reference.embeddings)
    cosine = float((ours * theirs).sum(axis=1).min())
    flipped = answers.predicted != reference.predicted
    margin = f", leads ≤ {reference.margin[flipped].max():.1g}" if flipped.any() else ""
    # Rounded down, for it says "at least", but not by the last bit of a sum.
    figure = f"cosine ≥ {math.floor(cosine * 1e5 + 1e-6) / 1e5:.5f}, {flipped.sum()} of {len(flipped)} flipped{margin}"
    details = () if cosine >= LEAST_COSINE else (f"{name}: a cosine with fp32 is below {LEAST_COSINE}",)
    return Check(COSINES, name, figure, not details, details)


def _unit(rows: Float[np.ndarray, "rows dim"]) -> Float[np.ndarray, "rows dim"]:
    exact = rows.astype(np.float64)
    return exact / np.linalg.norm(exact, axis=1, keepdims=True)
