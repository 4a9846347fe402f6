"""The numbers: equal to independent programs, the same for any number of processes, none that is not accounted for."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import oracle
import pyarrow.parquet as pq
import pytest
from helpers import Outcome, Program, Sharded, image_bytes, part_paths, shard, stored_files, wait_until, write
from rich.console import Console
from safetensors.torch import save_file

from fastclip.data.shards.manifest import read_manifest
from fastclip.evaluate.embedding import embed
from fastclip.evaluate.options import EvalOptions
from fastclip.evaluate.score import score
from fastclip.evaluate.setup import resolve
from fastclip.models.backbones import find_backbone
from fastclip.models.tower import build_model
from fastclip.report.terminal import footnotes, tables
from fastclip.text.prompts import BUILT_IN, find_prompt_set

ALL_PROMPTS = [word for name in BUILT_IN for word in ("--prompts", name)]


def evaluate(fastclip: Program, sharded: Sharded, *arguments: object) -> dict:
    """Run `fastclip eval` in this process and return its record."""
    path = fastclip.folder / "record.json"
    outcome = fastclip.here("eval", sharded.name, "--shards", sharded.shards, "--json", path, *arguments)
    assert outcome.code == 0, outcome.err
    return json.loads(path.read_text())


def answers(path: Path) -> dict[str, dict[str, dict]]:
    """Prompt set → path → row of a predictions file."""
    found: dict[str, dict[str, dict]] = {}
    for row in pq.read_table(path).to_pylist():
        found.setdefault(row["prompts"], {})[f"{row['domain']}/{row['path']}"] = row
    return found


def assert_same_answers(ours: dict[str, dict], theirs: dict[str, tuple[int, float]], scale: float = 1.0) -> None:
    """Every image has the other program's answer, but for ties: closer than twice what pixels move a margin by.

    `theirs`: path → (answer, margin of the two best scores, `scale` times a cosine). The exceptions are printed.
    """
    assert ours.keys() == theirs.keys()
    agreeing = [path for path in ours if ours[path]["predicted"] == theirs[path][0]]
    moved = max(abs(ours[path]["margin"] - theirs[path][1] / scale) for path in agreeing)
    assert moved < 0.05, "the two programs do not see the same images"
    for path in ours.keys() - set(agreeing):
        print(f"{path}: {ours[path]['predicted']} against {theirs[path]}, a tie within {moved:.2g}")
        assert theirs[path][1] / scale <= 2 * moved, f"{path} differs and is no tie"
    assert len(ours) - len(agreeing) <= max(1, len(ours) // 100)


@pytest.mark.parametrize("dataset", ["shapes", "pacs"])
def test_every_cell_equals_an_independent_loop(dataset: str, fastclip: Program, request: pytest.FixtureRequest):
    sharded: Sharded = request.getfixturevalue(dataset)
    predictions = fastclip.folder / "predictions.parquet"
    arguments = ("-b", "tiny", *ALL_PROMPTS, "--precision", "fp32", "--predictions", predictions)
    record = evaluate(fastclip, sharded, *arguments)
    manifest = read_manifest(sharded.folder)
    rows = answers(predictions)
    for name in BUILT_IN:
        prompts = [
            find_prompt_set(name).prompts(*names) for names in zip(manifest.classes, manifest.names, strict=True)
        ]
        paths, labels, scores = oracle.score(sharded.source, prompts)
        best = np.sort(scores, axis=1)[:, ::-1]
        theirs = {p: (int(s.argmax()), float(b[0] - b[1])) for p, s, b in zip(paths, scores, best, strict=True)}
        assert_same_answers(rows[name], theirs)
        differing = {path for path in paths if rows[name][path]["predicted"] != theirs[path][0]}
        for cell in (cell for cell in record["cells"] if cell["prompts"] == name):
            mine = [i for i, path in enumerate(paths) if path.startswith(cell["domain"] + "/")]
            better = [int((scores[i] > scores[i, labels[i]]).sum()) for i in mine]
            ties = sum(path.startswith(cell["domain"] + "/") for path in differing)
            assert cell["images"] == cell["classified"] == len(mine)
            assert abs(cell["top1"] - sum(rank == 0 for rank in better)) <= ties
            assert abs(cell["top5"] - sum(rank < 5 for rank in better)) <= 1


@pytest.mark.parametrize("dataset", [pytest.param("shapes", marks=pytest.mark.slow), "pacs"])
def test_every_image_has_the_answer_that_clip_benchmark_gives_on_the_same_shards(
    dataset: str, fastclip: Program, reference_python: Path, request: pytest.FixtureRequest
):
    sharded: Sharded = request.getfixturevalue(dataset)
    predictions = fastclip.folder / "predictions.parquet"
    evaluate(fastclip, sharded, "-b", "tiny", "--prompts", "photo", "--precision", "fp32", "--predictions", predictions)
    rows = answers(predictions)["photo"]
    manifest = read_manifest(sharded.folder)
    (fastclip.folder / "templates.json").write_text('["a photo of a {c}."]')
    (fastclip.folder / "names.json").write_text(json.dumps(manifest.names))
    script = Path(__file__).parent / "reference" / "peer.py"
    command = [reference_python, "-W", "ignore", script, "--config", oracle.TINY / "fastclip-tiny.json"]
    command += ["--weights", oracle.TINY / "tiny.safetensors", "--shards", sharded.folder, "--out", "out.json"]
    command += ["--templates", "templates.json", "--classnames", "names.json"]
    command += [word for domain in manifest.domains for word in ("--split", domain.name)]
    subprocess.run([str(word) for word in command], cwd=fastclip.folder, check=True, capture_output=True)
    for domain, theirs in json.loads((fastclip.folder / "out.json").read_text()).items():
        ours = {path: row for path, row in rows.items() if row["domain"] == domain}
        in_order = sorted(ours, key=lambda path: ours[path]["key"])
        assert [ours[path]["label"] for path in in_order] == theirs["labels"]
        counts = sum(row["rank"] == 0 for row in ours.values()), sum(row["rank"] < 5 for row in ours.values())
        assert max(abs(counts[0] - theirs["correct"]), abs(counts[1] - theirs["top5"])) <= 1
        assert len(ours) == theirs["images"]
        pairs = zip(theirs["predictions"], theirs["margin"], strict=True)
        assert_same_answers(ours, dict(zip(in_order, pairs, strict=True)), scale=100)


@pytest.fixture(scope="module")
def vit_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn weights of ViT-B/32 in a file, which is read sooner than they are drawn."""
    path = tmp_path_factory.mktemp("weights") / "vit.safetensors"
    save_file(build_model(find_backbone("ViT-B/32"), drawn=True).half().state_dict(), path)
    return path


@pytest.mark.parametrize("precision", [pytest.param("fp32", marks=pytest.mark.slow), "bf16"])
def test_any_number_of_processes_and_cores_gives_the_same_bytes(
    precision: str, shapes: Sharded, fastclip: Program, launch: Callable[[int], list[str]], vit_weights: Path
):
    few = {
        f"{path.parent.name}/{path.name}": path.read_bytes()
        for path in sorted((shapes.source / "flat").glob("*/*"))[:18]
    }
    sharded = shard(write(fastclip.folder / "few", few), fastclip.folder / "shards", "few", shard_images=6)
    results = {}
    # Two processes are compared with one in test_launch, test_two_nodes and test_unbreakable.
    runs: dict[str, Callable[..., Outcome]] = {
        "one": fastclip.here,
        "one core": partial(fastclip, prefix=("taskset", "-c", "0", sys.executable, "-m", "fastclip")),
        "three": partial(fastclip, prefix=launch(3)),
    }
    for name, program in runs.items():
        store, record = fastclip.folder / name / "store", fastclip.folder / name / "record.json"
        record.parent.mkdir()
        command = ["eval", "few", "-b", "tiny", "-b", "ViT-B-32-quickgelu"]
        command += ["--weights", f"ViT-B-32-quickgelu={vit_weights}"]
        command += ["--precision", precision]
        command += ["--shards", sharded.shards, "--store", store, "--json", record, "--prompts", "photo"]
        command += ["--batch-size", 4]
        outcome = program(*command)
        assert outcome.code == 0, outcome.err
        results[name] = (stored_files(store), record.read_bytes(), outcome.out)
        assert len(results[name][0]) == 2 * 3 + 2, "a part for each shard and backbone, prototypes for each backbone"
    assert results["one"] == results["one core"] == results["three"]


def test_a_second_run_embeds_nothing_and_a_new_prompt_set_is_only_scored(shapes: Sharded, fastclip: Program):
    first = evaluate(fastclip, shapes, "-b", "tiny")
    store = fastclip.folder / "embeddings"
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")}
    assert evaluate(fastclip, shapes, "-b", "tiny") == first
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*.safetensors")} == before
    outcome = fastclip.here("eval", "--shards", shapes.shards, "-b", "tiny", "--prompts", "openai80")
    assert outcome.code == 0 and "Embedded" not in outcome.err
    assert len(stored_files(store)) == len(before) + 1


def test_a_killed_run_goes_on_and_ends_in_the_same_bytes(shapes: Sharded, fastclip: Program):
    command = ["eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--precision", "fp32", "--batch-size", 128]
    command += ["--prompts", "photo"]
    whole = fastclip.here(*command, "--store", "whole")
    assert whole.code == 0, whole.err
    killed, store = fastclip.start(*command, "--store", "killed"), fastclip.folder / "killed"
    wait_until(lambda: len(part_paths(store)) >= 3, "three parts")
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    assert 3 <= len(part_paths(store)) < 12
    assert stored_files(store).items() <= stored_files(fastclip.folder / "whole").items()
    again = fastclip.here(*command, "--store", "killed")
    assert (again.code, again.out) == (0, whole.out)
    assert stored_files(store) == stored_files(fastclip.folder / "whole")


def test_a_damaged_part_is_made_again(shapes: Sharded, fastclip: Program):
    first = evaluate(fastclip, shapes, "-b", "tiny")
    part = part_paths(fastclip.folder / "embeddings")[0]
    whole = part.read_bytes()
    part.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert evaluate(fastclip, shapes, "-b", "tiny") == first
    assert part.read_bytes() == whole


def test_what_is_not_embedded_yet_shows_as_incomplete_and_never_as_a_number(shapes: Sharded, tmp_path: Path):
    setup = resolve(EvalOptions(targets=("shapes",), backbones=("tiny",), shards=shapes.shards, store=tmp_path))
    embed(setup)
    removed = next(unit for unit in setup.units if unit.shard.domain == "night")
    setup.store.path(removed.recipes["tiny"].id, removed.part).unlink()
    evaluation, _ = score(setup)
    console = Console(width=80, record=True, file=io.StringIO())
    for table in tables(evaluation):
        console.print(table)
    (row,) = (line.split() for line in console.export_text().splitlines() if line.startswith(" tiny"))
    assert row[2] == "—" and row[-1] == "—" and "—" not in row[3:5], "neither that domain nor the average has a number"
    (cell,) = (cell for cell in evaluation.cells if cell.domain == "night")
    assert (cell.images, cell.classified, cell.missing_shards) == (60, 40, 1)
    assert cell.accuracy("stop") is None and not evaluation.complete
    assert "night, tiny: 1 of 3 shards are missing." in footnotes(evaluation)


def test_a_damaged_shard_ends_in_exit_code_5_and_costs_the_others_nothing(shapes: Sharded, fastclip: Program):
    shutil.copytree(shapes.shards, fastclip.folder / "copy")
    tar = fastclip.folder / "copy" / "shapes" / "flat" / "0.tar"
    data = bytearray(tar.read_bytes())
    data[len(data) // 2] ^= 1
    tar.write_bytes(data)
    (fastclip.folder / "copy" / "shapes" / "night" / "1.tar").unlink()
    for again in (False, True):
        outcome = fastclip.here("eval", "shapes", "-b", "tiny", "--shards", "copy")
        assert outcome.code == 5 and "flat/0.tar" in outcome.err, outcome.err
        assert outcome.err.count("Error: ") == 1 and ("Embedded" in outcome.err) != again
        (row,) = (line.split() for line in outcome.out.splitlines() if line.startswith(" tiny"))
        assert [value == "—" for value in row[1:]] == [True, True, False, False, True]
        assert "run the same command again" not in outcome.out
        assert len(part_paths(fastclip.folder / "embeddings")) == 10


@pytest.fixture
def partly_broken(tmp_path: Path) -> Sharded:
    """Twenty images, not verified. One was rejected by its header, one is cut behind it: only decoding shows that."""
    good = [image_bytes("JPEG", (40 + n, 50)) for n in range(10)]
    files = {f"{name}/{n}.jpg": data for name in ("circle", "star") for n, data in enumerate(good)}
    files["star/3.jpg"] = b"<html>"
    files["circle/7.jpg"] = image_bytes("JPEG", (640, 640))[:-2000]
    return shard(write(tmp_path / "source", files), tmp_path / "shards", "broken", verify=False)


@pytest.mark.parametrize("decoder", ["torchvision", "dali"])
def test_an_unreadable_image_counts_as_the_user_says_and_is_named(
    decoder: str, partly_broken: Sharded, fastclip: Program
):
    command = ["eval", "broken", "-b", "tiny", "--shards", partly_broken.shards, "--decoder", decoder]
    command += ["--json", "r.json", "--predictions", "p.parquet"]
    for policy, code, images in (("stop", 3, None), ("wrong", 0, 20), ("exclude", 0, 18)):
        outcome = fastclip.here(*command, "--unreadable", policy)
        assert outcome.code == code, outcome.err
        assert "2 unreadable" in outcome.out and "star/3.jpg" in outcome.out
        record = json.loads((fastclip.folder / "r.json").read_text())
        assert [image["path"] for image in record["unreadable"]] == ["star/3.jpg", "circle/7.jpg"]
        (cell,) = record["cells"]
        assert (cell["images"], cell["classified"], cell["unreadable"]) == (20, 18, 2)
        assert cell["accuracy"] == (None if images is None else cell["top1"] / images)
        assert ("—" in outcome.out) == (policy == "stop")
    rows = answers(fastclip.folder / "p.parquet")["transferlearning"]
    assert len(rows) == 19 and [path for path, row in rows.items() if row["predicted"] is None] == ["all/circle/7.jpg"]


def test_weights_from_a_file_are_used_and_a_good_run_is_silent(shapes: Sharded, fastclip: Program):
    shutil.copy(oracle.TINY / "tiny.safetensors", fastclip.folder / "a=b.safetensors")
    command = ["eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards]
    first = fastclip(*command, "--weights", "a=b.safetensors")
    lines = first.err.splitlines()
    assert first.code == 0 and len(lines) == 4, lines
    assert "(a=b.safetensors, QuickGELU)" in lines[0]
    assert lines[1].startswith("Embedded 60 images") and lines[2].startswith("Thread seconds")
    kept = lines[3]
    assert kept.startswith("Result kept: fastclip report results/eval-shapes-tiny-")
    again = fastclip.here(*command, "--weights", "tiny=a=b.safetensors")
    assert (again.code, again.out, again.err) == (0, first.out, kept + "\n"), "equal work is kept in the same place"
    for wrong in (["--weights", "RN50=a=b.safetensors"], ["--weights", "a=b.safetensors", "--random-weights"]):
        outcome = fastclip.here(*command, *wrong)
        assert outcome.code == 2 and outcome.err.count("\n") == 2


def test_other_precisions_flip_few_answers_and_the_flips_are_counted(pacs: Sharded, fastclip: Program):
    rows = {}
    for precision in ("fp32", "bf16", "fp16"):
        path = fastclip.folder / f"{precision}.parquet"
        evaluate(fastclip, pacs, "-b", "tiny", "--precision", precision, "--predictions", path)
        rows[precision] = answers(path)["transferlearning"]
    for precision in ("bf16", "fp16"):
        flipped = [p for p, row in rows["fp32"].items() if rows[precision][p]["predicted"] != row["predicted"]]
        widest = max((rows["fp32"][path]["margin"] for path in flipped), default=0.0)
        print(f"{precision}: {len(flipped)} of {len(rows['fp32'])} flipped, margins up to {widest:.2g}")
        assert len(flipped) <= len(rows["fp32"]) // 20 and widest < 0.05


@pytest.mark.slow  # a minute of compiling; --compile is off unless it is asked for
def test_compiled_towers_give_the_same_answers_and_every_run_the_same_bytes(shapes: Sharded, fastclip: Program):
    cached = dataclasses.replace(fastclip, environment={"TORCHINDUCTOR_CACHE_DIR": str(fastclip.folder / "compiled")})
    command = ["eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--json", "record.json"]
    rows, stored = {}, {}
    for name, program, arguments in (
        ("eager", fastclip.here, []),
        ("compiled", cached, ["--compile", "on"]),
        ("again", cached, ["--compile", "on"]),
    ):
        outcome = program(*command, *arguments, "--store", name, "--predictions", f"{name}.parquet")
        assert outcome.code == 0, outcome.err
        rows[name] = answers(fastclip.folder / f"{name}.parquet")["transferlearning"]
        stored[name] = stored_files(fastclip.folder / name)
        (used,) = json.loads((fastclip.folder / "record.json").read_text())["recipes"]
        assert used["recipe"]["engine"].startswith("eager" if name == "eager" else "compiled by g++")
    theirs = {path: (row["predicted"], row["margin"]) for path, row in rows["eager"].items()}
    assert_same_answers(rows["compiled"], theirs)
    assert stored["compiled"] == stored["again"]
    parts = [{path.name: path.parent.name for path in part_paths(fastclip.folder / name)} for name in rows]
    assert parts[0].keys() == parts[1].keys() and not set(parts[0].values()) & set(parts[1].values())


def test_what_cannot_be_compiled_is_said_in_two_lines(shapes: Sharded, fastclip: Program):
    bare = dataclasses.replace(
        fastclip,
        environment={"TORCHINDUCTOR_CACHE_DIR": str(fastclip.folder / "compiled"), "CXX": "nothing", "PATH": ""},
    )
    outcome = bare("eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--compile", "on")
    assert outcome.code == 2 and outcome.err.count("\n") == 2, outcome.err
    assert "cannot be compiled" in outcome.err and "--compile off" in outcome.err
    outcome = fastclip.here("eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards, "--compile", "auto")
    assert outcome.code == 2 and "--compile on | off" in outcome.err


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_gpu_gives_the_answers_of_a_cpu(precision: str, pacs: Sharded, fastclip: Program):
    rows = {}
    for device, arguments in (("cpu", ["--precision", "fp32"]), ("cuda", ["--precision", precision])):
        path = fastclip.folder / f"{device}.parquet"
        evaluate(fastclip, pacs, "-b", "tiny", "--device", device, *arguments, "--predictions", path)
        rows[device] = answers(path)["transferlearning"]
    theirs = {path: (row["predicted"], row["margin"]) for path, row in rows["cpu"].items()}
    assert_same_answers(rows["cuda"], theirs)


def test_precision_follows_accelerate_and_stands_in_the_table(shapes: Sharded, fastclip: Program, launch, monkeypatch):
    command = ["eval", "shapes/flat", "-b", "tiny", "--shards", shapes.shards]
    prefix = launch(2)
    prefix.insert(prefix.index("--num_processes"), "--mixed_precision=bf16")
    outcome = fastclip(*command, prefix=prefix)
    assert outcome.code == 0 and "bf16" in outcome.out, outcome.err
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "fp16")
    outcome = fastclip.here(*command)
    assert outcome.code == 0 and "fp16" in outcome.out
