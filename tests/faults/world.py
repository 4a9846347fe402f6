"""A folder with everything that a command can read, and the commands that attacks run in copies of it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from helpers import REPOSITORY, shard
from safetensors.numpy import load_file, save_file

from fastclip.data.shapes import SCORED_SEED, draw_shapes
from faults import Faults, build
from faults.zygote import Running, Zygote, zygote

TINY = REPOSITORY / "fastclip" / "models" / "tiny" / "tiny.safetensors"
CLIP = ("-b", "tiny", "--weights", "weights.safetensors", "--precision", "fp32")
READ = ("-b", "tiny", "--precision", "fp32", "--weights", "weights.safetensors")
FIT = ("--head", "logistic", "--strength", "1")
VOLATILE = ("results", "attempts", "batches", "given_up", "processes", "faults")
"""Folders whose files may differ between equal runs: times, hosts and hints."""


@dataclass(frozen=True)
class Command:
    """A command of the program, and what it writes."""

    arguments: tuple[str, ...]
    outputs: tuple[str, ...] = ()
    """Files and folders that equal runs fill with equal bytes."""
    slow: bool = False
    codes: tuple[int, ...] = (0,)
    """Exit codes where nothing disturbs it."""


def _with(command: str, *options: str, outputs: str = "", slow: bool = False, codes: Sequence[int] = (0,)) -> Command:
    return Command((*command.split(), *options), tuple(outputs.split()), slow, tuple(codes))


COMMANDS: Mapping[str, Command] = {
    "eval": _with(
        "eval shapes --store new --json r.json --predictions p.parquet", *CLIP, outputs="new r.json p.parquet"
    ),
    "eval again": _with(
        "eval shapes --json r.json --predictions p.parquet", *CLIP, outputs="embeddings r.json p.parquet"
    ),
    "eval --head": _with("eval shapes/night --head head.safetensors --json r.json", *CLIP, outputs="embeddings r.json"),
    "probe": _with(
        "probe shapes/flat --test shapes/night --json r.json --save new_heads", *READ, *FIT, outputs="r.json"
    ),
    "adapt": _with("adapt shapes/flat --to shapes/night --strength 1 --json r.json", *READ, outputs="r.json"),
    "finetune": _with(
        "finetune shapes/flat --test shapes/night -b tiny --epochs 1 --batch-size 8 --store new --out new_tuned"
        " --weights weights.safetensors --json r.json",
        outputs="new r.json",
        slow=True,
    ),
    "wise": _with(
        "wise weights.safetensors tuned.safetensors --test shapes/night -b tiny --alpha 0.5 --precision fp32"
        " --store new --json r.json",
        outputs="new r.json",
        slow=True,
    ),
    "report": _with(
        "report kept/result.json --predictions kept/predictions.parquet --markdown m.md --latex t.tex --macros m.tex"
        " --csv c.csv --json r.json --html page.html",
        outputs="m.md t.tex m.tex c.csv r.json page.html",
    ),
    "card": _with("card kept/result.json --output card.md", outputs="card.md"),
    "compare": _with("compare kept/result.json --of prompts --json r.json", outputs="r.json"),
    "features": _with("features shapes --output new_features", *READ, outputs="new_features"),
    "export": _with("export shapes --output new_export", *READ, outputs="new_export"),
    "export a run": _with("export kept --for fiftyone --output new_export", outputs="new_export"),
    "search": _with("search shapes --like flat/00000000 --sheet s.html --json s.json", *READ, outputs="s.html s.json"),
    "search a text": _with("search shapes --text heart --sheet s.jpg", *READ, outputs="s.jpg"),
    "store": _with("store"),
    "store copy": _with("store copy --to copied", outputs="copied"),
    "status": _with("status shapes", *CLIP),
    "shards check": _with("shards check shapes"),
    "shards index": _with("shards index theirs", outputs="shards/theirs"),
    "shard a tree": _with("shard mine --source source --processes 1 --shard-images 10", outputs="shards/mine"),
    "shard a tree, 2 processes": _with(
        "shard mine --source source --processes 2 --shard-images 10", outputs="shards/mine", slow=True
    ),
    "shard a zip": _with("shard mine --source source.zip --processes 1", outputs="shards/mine"),
    "shard a tar": _with("shard mine --source source.tar --processes 1", outputs="shards/mine"),
    "shard a tgz": _with("shard mine --source source.tgz --processes 1", outputs="shards/mine"),
    "shard parquet": _with("shard mine --source parquet-of-source --processes 1", outputs="shards/mine"),
    "shard webdataset": _with("shard mine --source shards/theirs --processes 1", outputs="shards/mine"),
    "datasets": _with("datasets"),
    "datasets show": _with("datasets show shapes"),
    "grim": _with("grim table.csv --images 24", codes=(0, 5)),
    "dry run": _with("eval shapes --store new --dry-run", *CLIP),
    "reproduce": _with("reproduce pacs --dry-run -b ViT-B/32 --weights weights.safetensors", codes=(0, 2, 3, 4, 5)),
    "bench": _with("bench shapes --images 8 --rounds 1 --json b.json -b tiny --precision fp32", slow=True),
    "doctor": _with("doctor --json d.json", slow=True),
    "verify": _with("verify shapes --images 8 -b tiny --precision fp32 --json v.json", slow=True),
    "demo": _with("demo --shards demo_shards --store demo_store", outputs="demo_shards demo_store", slow=True),
}


class World:
    """A prepared folder, copies of it, and a process that runs commands in them."""

    def __init__(self, folder: Path, process: Zygote, faults: Faults) -> None:
        self.folder = folder
        self.process = process
        self.faults = faults
        self.template = folder / "world"
        self.names: dict[str, str] = {}

    def copy(self, name: str = "copy") -> Path:
        """A fresh copy of the world, in the place of the last one of this name."""
        place = self.folder / name
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self.template, place, symlinks=True)
        return place

    def start(self, folder: Path, command: Command, environment: Mapping[str, str] | None = None) -> Running:
        home = {"HOME": str(self.folder / "home"), "TMPDIR": str(self.folder / "tmp")}
        return self.process.start(folder, command.arguments, {**home, **(environment or {})})

    def run(self, folder: Path, command: Command, environment: Mapping[str, str] | None = None) -> Ended:
        running = self.start(folder, command, environment)
        return Ended(running.wait(), running.printed(), running.complained())

    def calm(self, command: Command) -> tuple[Ended, dict[str, str]]:
        """How a command ends that nobody disturbs, and the digests of what it writes."""
        folder = self.copy("calm")
        ended = self.run(folder, command)
        assert ended.code in command.codes, f"{command.arguments}: {ended}"
        return ended, digests(folder, command.outputs)


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def digests(folder: Path, outputs: Sequence[str]) -> dict[str, str]:
    """Path → SHA-256 of each file of the outputs, without the volatile ones, and hidden ones, which no reader takes."""
    found = {}
    for output in outputs:
        place = folder / output
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            name = path.relative_to(folder)
            if path.is_file() and not path.name.startswith(".") and not set(name.parts) & set(VOLATILE):
                found[str(name)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


@contextmanager
def world(folder: Path, images_per_class: int = 1) -> Iterator[World]:
    """A world in a folder below `folder`, in memory where that is possible: a disk takes milliseconds a sync."""
    memory = Path("/dev/shm")
    fits = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 1 << 30
    place = Path(tempfile.mkdtemp(dir=memory if fits else folder))
    try:
        library = build(place)
        for name in ("home", "tmp", "faults", "logs"):
            (place / name).mkdir()
        with zygote(library, place / "logs") as process:
            made = World(place, process, Faults(library, place / "faults"))
            _fill(made, images_per_class)
            yield made
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _fill(made: World, images_per_class: int) -> None:
    folder = made.template
    _write_shards(folder, "source", "shards", SCORED_SEED, images_per_class)
    _write_shards(folder, "source2", "others", SCORED_SEED + 1, images_per_class)
    shutil.copy(TINY, folder / "weights.safetensors")
    save_file(other_weights(TINY), folder / "other.safetensors")
    (folder / "table.csv").write_text("backbone,night,flat\ntiny,66.67,95.83\n")
    index = (folder / "shards/shapes/flat/0.index.jsonl").read_text()
    swapped = (
        index.replace('"label":0', '"label":x').replace('"label":1,', '"label":0,').replace('"label":x', '"label":1')
    )
    (folder / "relabelled.jsonl").write_text(swapped)
    _keep(made, "shards", "kept", "embeddings")
    _keep(made, "others", "kept2", "embeddings2")
    for name, strength in (("head", "1"), ("other_head", "100")):
        _do(
            made,
            folder,
            f"probe shapes/flat --test shapes/night --head logistic --strength {strength} --save {name}",
            *CLIP,
        )
        (head,) = (folder / name).rglob("*.safetensors")
        shutil.copy(head, folder / f"{name}.safetensors")
        shutil.rmtree(folder / name)
    shutil.rmtree(folder / "embeddings2")
    shutil.rmtree(folder / "results")
    made.names = _names(folder)


def _write_shards(folder: Path, source: str, shards: str, seed: int, images_per_class: int) -> None:
    """A drawn dataset as a tree, archives, Parquet, shards, and shards of another program."""
    draw_shapes(folder / source, seed=seed, images_per_class=images_per_class)
    shard(folder / source, folder / shards, "shapes", shard_images=6 * images_per_class)
    write_sources(folder, source, shards)


def _do(made: World, folder: Path, command: str, *options: str) -> None:
    ended = made.run(folder, Command((*command.split(), *options)))
    assert ended.code == 0, f"{command}: {ended}"


def _keep(made: World, shards: str, kept: str, store: str) -> None:
    files = f"--json {kept}/result.json --predictions {kept}/predictions.parquet"
    command = f"eval shapes --shards {shards} --store {store} --prompts photo --prompts transferlearning {files}"
    _do(made, made.template, command, *CLIP)


def add_fine_tuned(made: World) -> None:
    """Weights that were fine-tuned from the world's, for two different times."""
    for name, epochs in (("tuned", 1), ("tuned2", 2)):
        folder = made.copy("calm")
        command = f"finetune shapes/flat --test shapes/night -b tiny --epochs {epochs} --batch-size 8"
        _do(made, folder, command, "--weights", "weights.safetensors")
        (weights,) = (folder / "finetuned").glob("*/weights.safetensors")
        shutil.copy(weights, made.template / f"{name}.safetensors")


def _names(folder: Path) -> dict[str, str]:
    """Inputs that no table can name beforehand."""
    parts = sorted(path for path in (folder / "embeddings").glob("*/*.safetensors"))
    prototypes = sorted((folder / "embeddings" / "prototypes").glob("*/*.safetensors"))
    images = [sorted((folder / source / "flat").rglob("*.*"))[0] for source in ("source", "source2")]
    found = {
        "PART": parts[0],
        "OTHER PART": parts[1],
        "PROTOTYPES": prototypes[0],
        "OTHER PROTOTYPES": prototypes[1],
        "IMAGE": images[0],
        "OTHER IMAGE": images[1],
    }
    return {name: str(path.relative_to(folder)) for name, path in found.items()}


def other_weights(path: Path) -> dict[str, np.ndarray]:
    """Weights of the same shape that classify worse."""
    random = np.random.default_rng(0)

    def moved(tensor: np.ndarray) -> np.ndarray:
        noisy = tensor.dtype.kind == "f" and tensor.ndim > 1
        return (tensor + random.normal(0, 0.05, tensor.shape)).astype(tensor.dtype) if noisy else tensor

    return {name: moved(tensor) for name, tensor in load_file(path).items()}


def write_sources(folder: Path, source: str, shards: str) -> None:
    """The images of a tree once more, as archives, as Parquet, and as shards of another program."""
    paths = sorted(path for path in (folder / source).rglob("*") if path.is_file())
    names = [path.relative_to(folder / source) for path in paths]
    with zipfile.ZipFile(folder / f"{source}.zip", "w") as archive:
        for path, name in zip(paths, names, strict=True):
            archive.writestr(zipfile.ZipInfo(str(name)), path.read_bytes())
    for ending, mode in (("tar", "w"), ("tgz", "w:gz")):
        with tarfile.open(folder / f"{source}.{ending}", mode) as tar:  # type: ignore[call-overload]
            for path, name in zip(paths, names, strict=True):
                tar.add(path, str(name))
    columns = {
        "image": [{"bytes": path.read_bytes(), "path": str(name)} for path, name in zip(paths, names, strict=True)],
        "domain": [name.parts[0] for name in names],
        "label": [sorted({each.parts[1] for each in names}).index(name.parts[1]) for name in names],
    }
    classes = sorted({name.parts[1] for name in names})
    info = {"info": {"features": {"label": {"names": classes, "_type": "ClassLabel"}}}}
    (folder / f"parquet-of-{source}").mkdir()
    table = pa.table(columns).replace_schema_metadata({"huggingface": json.dumps(info)})
    pq.write_table(table, folder / f"parquet-of-{source}" / "train.parquet", row_group_size=8)
    theirs = folder / shards / "theirs" / "test"
    theirs.mkdir(parents=True, exist_ok=True)
    (theirs.parent / "classnames.txt").write_text("".join(f"{each}\n" for each in classes))
    with tarfile.open(theirs / "0.tar", "w") as tar:
        for number, (path, label) in enumerate(zip(paths, columns["label"], strict=True)):
            tar.add(path, f"{number:04d}{path.suffix}")
            (folder / "cls").write_text(str(label))
            tar.add(folder / "cls", f"{number:04d}.cls")
    (folder / "cls").unlink()
