"""`fastclip verify`: a good machine gets its certificate, and every single check can fail."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import sys
import time
from collections.abc import Sequence
from functools import partial
from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Program, Sharded, image_bytes
from PIL import Image

from fastclip.cli.verify import print_certificate
from fastclip.data.shards.manifest import Unreadable, read_manifest
from fastclip.data.shards.reader import OpenShard
from fastclip.data.shards.targets import find_targets
from fastclip.errors import IncompleteError, UserError
from fastclip.evaluate.options import EvalOptions
from fastclip.machine import started
from fastclip.pixels.decoder import DecodedBatch, EncodedImage
from fastclip.pixels.decoders import make_decoder
from fastclip.sealed import seal, unseal
from fastclip.store.recipes import DECODERS, PRECISIONS, Preprocessing, Recipe
from fastclip.verify.certificate import Certificate, verify
from fastclip.verify.check import Check
from fastclip.verify.pixels import MEAN_LEVELS, pixel_check
from fastclip.verify.precisions import Answers, precision_check
from fastclip.verify.same_bytes import Written, bytes_check, differences
from fastclip.verify.sample import choose_images, sample_options, write_sample
from fastclip.verify.workers import Job, Workers, evaluate

CPU = torch.device("cpu")


@pytest.fixture
def program(fastclip: Program) -> Program:
    """The program with a folder of its own for temporary files, `temporary`."""
    (fastclip.folder / "temporary").mkdir()
    return dataclasses.replace(fastclip, environment={"TMPDIR": str(fastclip.folder / "temporary")})


def verdicts(certificate: str) -> dict[str, str]:
    """Row of the certificate → its last column."""
    rows = re.findall(r"^ (\S.*?)  +\S.*?  +(holds|DOES NOT HOLD|—) *$", certificate, re.MULTILINE)
    return dict(rows)


def test_a_good_run_prints_a_certificate_on_which_everything_holds(shapes: Sharded, program: Program):
    command = ["verify", "shapes", "-b", "tiny", "--shards", shapes.shards, "--images", 48, "--json", "c.json"]
    outcome = program(*command)
    assert outcome.code == 0, outcome
    assert outcome.err == "" and max(map(len, outcome.out.splitlines())) <= 80
    rows = verdicts(outcome.out)
    names = ["1 worker", "2 workers", "3 workers", "killed, run again"]
    names += [f"{decoder}{what}" for decoder in DECODERS for what in (" at 64", ", odd files")]
    names += [f"tiny in {p}" for p in PRECISIONS]
    assert rows == dict.fromkeys(names, "holds"), outcome.out
    assert re.search(r"killed, run again +after [1-7] of 8 parts", outcome.out)
    assert "48 images of shapes in 8 shards." in outcome.out and "Everything holds." in outcome.out
    record = json.loads((program.folder / "c.json").read_text())
    assert record["holds"] and [check["name"] for check in record["checks"]] == names
    assert record["images"] == 48
    (recipe,) = record["recipes"]
    weights, digest = recipe["weights"][:12], recipe["id"][:12]
    facts = [
        recipe["machine"],
        recipe["libraries"],
        f"tiny, weights {weights} (QuickGELU), recipe {digest}: {recipe['precision']}, ",
    ]
    facts += ["decoded by torchvision ", f"batches of {recipe['batch_size']}."]
    assert [fact for fact in facts if fact not in " ".join(outcome.out.split())] == []
    assert sorted(path.name for path in program.folder.iterdir()) == ["c.json", "temporary"]
    assert not list((program.folder / "temporary").glob("fastclip*"))


@pytest.mark.slow
def test_a_certificate_of_compiled_towers_holds_and_names_the_compiler(shapes: Sharded, program: Program):
    command = ["verify", "shapes/flat", "-b", "tiny", "--compile", "on", "--precision", "fp32", "--images", 16]
    process = program.start(*command, "--shards", shapes.shards, "--json", "c.json")
    out, err = process.communicate(timeout=1800)  # each of nine processes loads the compiler
    assert (process.returncode, err) == (0, ""), out
    assert set(verdicts(out).values()) == {"holds"} and "fp32, compiled, decoded by" in " ".join(out.split())
    (recipe,) = json.loads((program.folder / "c.json").read_text())["recipes"]
    assert recipe["engine"].startswith("compiled by ") and recipe["engine"] in " ".join(out.split())


VALUES = {
    "targets": ("pacs/photo",),
    "backbones": ("ViT-B/32", "RN50"),
    "prompts": ("photo", "openai80"),
    "weights": {"RN50": Path("here/RN50.pt")},
    "random_weights": True,
    "precision": "fp16",
    "decoder": "dali",
    "batch_size": 7,
    "compile_towers": "on",
    "device": "cuda",
    "recipes": ("ab12",),
    "here": True,
    "workers": 3,
    "shards": "https://example.org/shards",
    "store": Path("elsewhere"),
    "share": "3/4",
    "unreadable": "wrong",
}
"""Another value than the default for every option of an evaluation."""


def test_every_option_of_an_evaluation_reaches_the_workers(tmp_path: Path):
    """Those that say which images, which store and which share are the worker's own."""
    assert VALUES.keys() == {field.name for field in dataclasses.fields(EvalOptions)}, "give each option a value here"
    plain = EvalOptions(backbones=("tiny",))
    assert not [name for name, value in VALUES.items() if value == getattr(plain, name)]
    # Some exclude each other.
    for number, left_out in enumerate(({"weights", "recipes"}, {"random_weights", "here"})):
        given = {name: value for name, value in VALUES.items() if name not in left_out}
        job = Job(2, 3, tmp_path / str(number))
        of_the_sample = sample_options(EvalOptions(**given), tmp_path, tmp_path / "unused")
        with Workers(of_the_sample, 1, print) as workers:  # which goes to the log
            assert workers.run([job], lambda step: None) == {}
        own = {
            "targets": (),
            "shards": tmp_path / "shards",
            "store": job.store,
            "share": "2/3",
            "unreadable": "exclude",
        }
        assert job.log.read_text() == f"{EvalOptions(**{**given, **own})}\n"


def test_an_error_in_a_worker_comes_back_whole(tmp_path: Path):
    job = Job(1, 1, tmp_path / "store")
    options = EvalOptions(backbones=("tiny",), shards=tmp_path / "nowhere")
    with pytest.raises(UserError) as alone:
        evaluate(job.options(options))
    with Workers(options, 1) as workers, pytest.raises(IncompleteError) as raised:
        workers.run([job], lambda step: None)
    assert str(raised.value) == f"worker 1 of 1 ended with 2: {alone.value}" and raised.value.fix == alone.value.fix
    with (
        Workers(options, 1, attrgetter("colour")) as workers,
        pytest.raises(IncompleteError, match="no attribute"),
    ):
        workers.run([job], lambda step: None)
    with Workers(options, 1, partial(unseal, b"other bytes")) as workers:
        assert " is damaged: " in workers.run([job], lambda step: None)[job]


SITECUSTOMIZE = """
import fastclip.embed.processes as processes

right_process = processes.find_process


def find_process(environment, share=None):
    if share == "2/3":
        from fastclip.models.tower import Embedded, ImageTower

        right = ImageTower.__call__

        def wrong(tower, crops):
            vectors, norms = right(tower, crops)
            return Embedded(vectors * (1 + 2**-20), norms)

        ImageTower.__call__ = wrong
    return right_process(environment, share)


processes.find_process = find_process
"""


@pytest.mark.slow
def test_a_worker_whose_tower_is_off_by_a_millionth_is_named_and_ends_in_exit_code_5(shapes: Sharded, program: Program):
    (program.folder / "python").mkdir()
    (program.folder / "python" / "sitecustomize.py").write_text(SITECUSTOMIZE)
    search = [str(program.folder / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**program.environment, "PYTHONPATH": os.pathsep.join(search)}
    command = ["verify", "shapes/flat", "-b", "tiny", "--precision", "fp32", "--shards", shapes.shards, "--images", 16]
    outcome = dataclasses.replace(program, environment=environment)(*command, "--json", "c.json")
    assert outcome.code == 5, outcome
    assert max(map(len, outcome.out.splitlines())) <= 80
    rows = verdicts(outcome.out)
    assert rows.pop("3 workers") == "DOES NOT HOLD" and set(rows.values()) == {"holds"}, outcome.out
    assert "worker 2 of 3: tiny, shapes/flat/0.tar: " in outcome.out
    assert "3 workers: and 3 more" in outcome.out and "1 of 11 checks: DOES NOT HOLD." in outcome.out
    record = json.loads((program.folder / "c.json").read_text())
    (failed,) = (check for check in record["checks"] if not check["holds"])
    assert not record["holds"] and len(failed["details"]) == 8
    for line in failed["details"]:
        assert re.fullmatch(r"worker 2 of 3: tiny, shapes/flat/\d\.tar: \d+ of 128 numbers differ, by up to \S+", line)


def workers_of(process: int) -> list[int]:
    """The workers that a process has started. It has other children while it imports torch."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = folder.joinpath("stat").read_text().rpartition(")")[2].split()[1]
            is_worker = int(parent) == process and b"fastclip.verify.workers" in folder.joinpath("cmdline").read_bytes()
        except OSError:
            continue  # gone by now
        found += [int(folder.name)] if is_worker else []
    return found


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGKILL])
def test_a_stopped_command_leaves_no_process_and_where_it_can_no_file(
    number: signal.Signals, shapes: Sharded, program: Program
):
    process = program.start("verify", "shapes", "-b", "tiny", "--shards", shapes.shards)
    until = time.monotonic() + 120
    while not (workers := workers_of(process.pid)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.01)
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=60)
    assert workers and out == "", err
    if number == signal.SIGTERM:
        assert process.returncode == 128 + number and err.startswith("Error: Stopped by SIGTERM.")
        assert not list((program.folder / "temporary").glob("fastclip*"))
    else:  # they notice by themselves
        until = time.monotonic() + 60
        while any(map(started, workers)) and time.monotonic() < until:
            time.sleep(0.01)
    assert not any(map(started, workers))


def test_several_processes_that_would_all_verify_are_refused(shapes: Sharded, program: Program):
    launcher = ["env", "RANK=0", "WORLD_SIZE=2", sys.executable, "-m", "fastclip"]
    outcome = program("verify", "shapes", "-b", "tiny", "--shards", shapes.shards, prefix=launcher)
    assert outcome.code == 2 and outcome.err.startswith("Error: verify starts its own processes.")


def test_a_recipe_to_read_is_refused_for_a_command_that_embeds(shapes: Sharded):
    with pytest.raises(UserError, match="reads no recipe"):
        verify(EvalOptions(backbones=("tiny",), shards=shapes.shards, recipes=("ab",)), 8)


def test_without_shards_the_error_is_the_usual_one(program: Program):
    verify, evaluate = (program(command, "-b", "tiny", "--shards", "nowhere") for command in ("verify", "eval"))
    assert verify == evaluate and verify.code == 2


def test_the_sample_is_the_same_for_everybody_and_of_every_domain_and_class(shapes: Sharded, tmp_path: Path):
    targets = find_targets(shapes.shards, ["shapes/flat", "shapes/night"])
    chosen = choose_images(targets, 48)
    assert chosen == choose_images(targets, 48) and chosen[:24] == choose_images(targets, 24)
    write_sample(chosen, tmp_path)
    folder = tmp_path / "shards" / "shapes"
    manifest, whole = read_manifest(folder), read_manifest(shapes.folder)
    assert (manifest.classes, manifest.names) == (whole.classes, whole.names)
    assert [domain.class_images for domain in manifest.domains] == [(2,) * 12] * 2
    assert len(manifest.shards) >= 6
    for shard in manifest.shards:
        opened = OpenShard(folder, shard)
        for row, record in enumerate(opened.records):
            source = shapes.source / shard.domain / record.path
            assert opened.image_bytes(row) == source.read_bytes()
            assert manifest.classes[record.label] == source.parent.name


KEY = "ab" * 32
PART = f"{KEY}/{'cd' * 32}.safetensors"
CALLED = {PART: "tiny, d/0.tar"}
ROWS = np.arange(6, dtype=np.float16).reshape(2, 3)


def part(rows: np.ndarray = ROWS, **facts: object) -> bytes:
    return seal({"embeddings": rows}, facts)


PROTOTYPES = f"prototypes/{KEY}/{'cd' * 32}.safetensors"
RECIPE = f"{KEY}/recipe.json"
FILES = {
    PART: part(),
    PROTOTYPES: part(),
    RECIPE: b"{}",
    "record.json": b'{\n "top1": 3,\n "top5": 5\n}\n',
}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({PART: part(ROWS + np.float16(0.5))}, "tiny, d/0.tar: 6 of 6 numbers differ, by up to 0.5"),
        ({PART: part(unreadable=1)}, "tiny, d/0.tar: its facts differ, its numbers do not"),
        ({PART: part()[:-1]}, "tiny, d/0.tar: "),
        ({PART: None}, "tiny, d/0.tar is missing"),
        ({"record.json": FILES["record.json"].replace(b"3", b"4")}, 'record.json: "top1": 4, was "top1": 3,'),
        ({"record.json": FILES["record.json"].strip()}, "record.json: "),
        ({"record.json": None}, "record.json is missing"),
        ({f"{KEY}/{'ef' * 32}.safetensors": part()}, "abababab…/efefefef….safetensors should not be there"),
        ({RECIPE: None}, "abababab…/recipe.json is missing"),
        ({PROTOTYPES: part(ROWS + np.float16(1))}, "prototypes/abababab…/cdcdcdcd….safetensors: 6 of 6 numbers differ"),
    ],
)
def test_any_byte_that_differs_is_found_and_named(change: dict[str, bytes | None], line: str):
    found = {path: data for path, data in {**FILES, **change}.items() if data is not None}
    (said,) = differences(FILES, found, CALLED)
    assert said.startswith(line)
    check = bytes_check("2 workers", "", [Written("worker 1 of 2", found, True)], FILES, CALLED, [])
    assert check.holds is False and check.details == (f"worker 1 of 2: {said}",)


def test_the_same_bytes_hold_and_no_bytes_at_all_do_not():
    workers = [
        Written("worker 1 of 2", FILES, True),
        Written("worker 2 of 2", {path: FILES[path] for path in (PART, RECIPE)}, False),
    ]
    assert bytes_check("2 workers", "", workers, FILES, CALLED, []).holds is True
    assert bytes_check("2 workers", "", workers, FILES, CALLED, ["other bytes for the same key"]).holds is False
    nothing = bytes_check("1 worker", "", [Written("worker 1 of 1", {}, True)], {}, CALLED, [])
    assert nothing.holds is False and nothing.details == ("1 worker: tiny, d/0.tar has no part",)


class Shifted:
    """A decoder whose crops are one pixel off."""

    def __init__(self, side: int) -> None:
        self._right = make_decoder("torchvision", [side], 32, CPU, 1)

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        decoded = self._right.decode(images)
        return DecodedBatch({side: crops.roll(1, dims=3) for side, crops in decoded.crops.items()}, [])


class Blind:
    """A decoder that cannot read the second image."""

    def decode(self, images: Sequence[EncodedImage]) -> DecodedBatch:
        return DecodedBatch(make_decoder("torchvision", [64], 32, CPU, 1).decode(images).crops, [Unreadable(1, "why")])


@pytest.fixture
def encoded(shapes: Sharded) -> dict[str, EncodedImage]:
    paths = sorted((shapes.source / "texture").glob("*/*"))[:40]
    images = {}
    for path in paths:
        width, height = Image.open(path).size
        images[path.name + path.parent.name] = EncodedImage(memoryview(bytearray(path.read_bytes())), height, width)
    return images


@pytest.mark.parametrize("name", DECODERS)
@pytest.mark.parametrize("side", [64, 100])
def test_a_decoder_holds_and_one_that_is_a_pixel_off_does_not(name: str, side: int, encoded: dict[str, EncodedImage]):
    right = pixel_check(name, make_decoder(name, [side], 32, CPU, 1), encoded, side)
    assert right.holds is True and right.details == (), right
    mean = float(re.match(r"mean (\S+), worst", right.figure)[1])
    assert mean <= MEAN_LEVELS[name]
    wrong = pixel_check(name, Shifted(side), encoded, side)
    assert wrong.holds is False and len(wrong.details) > 1 and "mean" in wrong.details[-1]


def test_an_image_that_only_the_decoder_cannot_read_does_not_hold(encoded: dict[str, EncodedImage]):
    check = pixel_check("torchvision", Blind(), encoded, 64)
    assert check.holds is False and list(encoded)[1] in check.details[0] and "2 not compared" in check.figure


def test_a_strip_too_long_for_the_pixel_budget_is_left_out_and_counted():
    strip = EncodedImage(memoryview(bytearray(image_bytes(size=(20_000, 1)))), 1, 20_000)
    plain = EncodedImage(memoryview(bytearray(image_bytes(size=(30, 20)))), 20, 30)
    decoder = make_decoder("torchvision", [448], 32, CPU, 1)
    assert pixel_check("torchvision", decoder, {"strip": strip}, 448).holds is None
    both = pixel_check("torchvision", decoder, {"strip": strip, "plain": plain}, 448)
    assert both.holds is True and both.figure.endswith(", 1 not compared")


def answers(embeddings: np.ndarray, predicted: Sequence[int]) -> Answers:
    return Answers(embeddings, np.array(predicted, np.int32), np.array([0.1, 0.25, 0.004]))


def test_a_precision_holds_while_it_is_finite_and_near_and_tells_what_it_flips():
    exact = answers(np.eye(3, 4), [0, 1, 2])
    assert precision_check("tiny in fp32", exact, exact) == Check(
        "as in fp32", "tiny in fp32", "cosine ≥ 1.00000, 0 of 3 flipped", True
    )
    turned = np.eye(3, 4)
    turned[2, 3] = 0.1
    near = precision_check("tiny in bf16", answers(turned, [0, 0, 1]), exact)
    assert near.holds is True and near.figure == "cosine ≥ 0.99503, 2 of 3 flipped, leads ≤ 0.2"
    assert near.flipped_lead == 0.25
    far = precision_check("tiny in bf16", answers(np.roll(turned, 1, axis=1), [0, 1, 2]), exact)
    assert far.holds is False and len(far.details) == 1
    broken = precision_check("tiny in fp16", answers(np.full((3, 4), np.nan), [0, 1, 2]), exact)
    assert broken.holds is False


def test_a_certificate_of_long_names_fits_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    monkeypatch.setenv("COLUMNS", "80")
    checks = [Check("the same bytes", "3 workers", "3 × 1,024 parts, 1 record", True)]
    checks.append(Check("CLIP's pixels", "dali at 224", "not checked: the DALI decoder needs a package " * 2, None))
    name, details = "ViT-B-32/laion2b_s34b_b79k in bf16", ("x " * 100, *map(str, range(9)))
    checks.append(Check("as in fp32", name, "cosine ≥ 0.98765, 64 of 64 flipped, leads ≤ 0.0003", False, details))
    recipe = Recipe(
        backbone=name, architecture="ViT-B-32", weights="random in fp32, seed 1", precision="bf16", batch_size=256,
        preprocessing=Preprocessing(resize="crop", side=224, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0)),
        engine="compiled by g++", decoder="dali 2.4.0 mixed, torchvision 1",
        libraries="torch " * 20, machine="cpu " * 25,
        switches=("A=1",), numerics=7,
    )  # fmt: skip
    print_certificate(
        Certificate(
            datasets=(), images=64, unusable=1, shards=8, recipes=(recipe,), prompts=("photo",), seconds=31.0,
            checks=tuple(checks),
        )
    )  # fmt: skip
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for text in ("DOES NOT HOLD", "—", "RANDOM WEIGHTS", "unreadable: 1.", "and 5 more", "compiled by g++", "A=1"):
        assert text in out
