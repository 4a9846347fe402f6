"""`import fastclip`: the command line's numbers as objects, in a process that stays as it was."""

from __future__ import annotations

import asyncio
import shlex
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from drawn_store import RECIPE, drawn, fill, vector
from helpers import Program, Sharded, part_paths, shard, temporaries, wait_until

import fastclip
from fastclip.api.border import alone
from fastclip.data.shapes import draw_shapes

LIBRARIES = "torch open_clip torchvision.io pyarrow.parquet safetensors.torch PIL.Image jinja2"
"""Importing them has effects of its own, which are theirs."""


def in_a_new_process(code: str, folder: Path) -> str:
    """What `code` prints on both streams."""
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_importing_loads_nothing_and_lists_what_there_is(tmp_path: Path):
    code = (
        "import sys; before = set(sys.modules); import fastclip\n"
        "loaded = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(sorted(loaded - set(sys.stdlib_module_names)), 'evaluate' in dir(fastclip), fastclip.load.__name__)\n"
        "print([name for name in ('torch', 'rich', 'typer', 'numpy', 'pyarrow') if name in sys.modules])"
    )
    assert in_a_new_process(code, tmp_path).split("\n")[:2] == ["['fastclip'] True load", "[]"]


def test_every_public_name_is_there_and_nothing_else():
    assert all(getattr(fastclip, name) is not None for name in fastclip.__all__)
    assert set(fastclip.__all__) <= set(dir(fastclip))
    with pytest.raises(AttributeError, match="no attribute 'evalaute'"):
        _ = fastclip.evalaute  # type: ignore[attr-defined]


def test_evaluate_stays_a_function_when_the_package_of_that_name_is_imported(tmp_path: Path):
    code = (
        "import fastclip.evaluate.setup, fastclip.cli.main; from fastclip.evaluate.options import EvalOptions\n"
        "import fastclip, inspect; print(inspect.isfunction(fastclip.evaluate), EvalOptions.__name__)"
    )
    assert in_a_new_process(code, tmp_path) == "True EvalOptions\n"


STATE = """
import atexit, gc, multiprocessing, os, random, signal, sys, threading, time, warnings
import {libraries}
import numpy as np
def state():
    cuda, cudnn, mkldnn = torch.backends.cuda.matmul, torch.backends.cudnn, torch.backends.mkldnn
    return dict(
        threads=(torch.get_num_threads(), torch.get_num_interop_threads()),
        alive=sorted(map(str, threading.enumerate())), collects=gc.isenabled(),
        products=(torch.get_float32_matmul_precision(), cuda.allow_tf32, cuda.allow_fp16_reduced_precision_reduction,
                  cuda.allow_bf16_reduced_precision_reduction, mkldnn.conv.fp32_precision, cudnn.allow_tf32),
        cudnn=(cudnn.benchmark, cudnn.deterministic), strict=torch.are_deterministic_algorithms_enabled(),
        kind=torch.get_default_dtype(), gradients=(torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
        drawn=(random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()), numpy=np.geterr(),
        signals=[signal.getsignal(each) for each in signal.valid_signals()], exits=atexit._ncallbacks(),
        environment=dict(os.environ), folder=os.getcwd(), mask=os.umask(0o022), path=list(sys.path),
        filters=list(warnings.filters), start=multiprocessing.get_start_method(allow_none=True),
        hooks=(sys.excepthook, sys.unraisablehook, threading.excepthook, sys.displayhook, sys.stdout, sys.stderr),
        modules={{name: id(module) for name, module in sys.modules.items() if name in known}},
    )
def same(what):
    for _ in range(200):
        changed = [name for name, value in state().items() if value != before[name]]
        if changed != ["alive"]: break
        time.sleep(0.02)  # a thread that was told to end
    print(what, "changed", changed)
torch.set_num_threads(3)
torch.set_float32_matmul_precision("medium")
torch.backends.cudnn.benchmark, torch.backends.cudnn.deterministic = True, False
torch.set_default_dtype(torch.float64)
os.umask(0o022)
known = set(sys.modules)
before = state()
""".format(libraries=", ".join(LIBRARIES.split()))  # fmt: skip


def test_importing_and_using_it_changes_nothing_of_the_process_and_prints_nothing(shapes: Sharded, tmp_path: Path):
    code = f"""{STATE}
import fastclip
same("import")
options = dict(shards={str(shapes.shards)!r}, store="store")
result = fastclip.evaluate("shapes", "tiny", ["photo", "transferlearning"], embed=True, **options)
same("evaluate")
result.to_html("page.html", shards={str(shapes.shards)!r}); result.save("kept"); repr(result); result._repr_html_()
repr(fastclip.load("kept").predictions()); repr(result.compare()); result.to_latex(); result.against_published()
same("result")
repr(fastclip.probe("shapes/flat", "shapes/night", "tiny", ["logistic", "knn"], **options).fits())
fastclip.embeddings("shapes", "tiny", **options)
same("probe")
try: fastclip.evaluate("shapes", "RN50", **options)
except fastclip.IncompleteError: same("error")
"""
    lines = in_a_new_process(code, tmp_path).splitlines()
    assert lines == [f"{each} changed []" for each in ("import", "evaluate", "result", "probe", "error")]


def test_results_are_those_of_the_command_line_byte_for_byte(shapes: Sharded, tmp_path: Path):
    program = Program(tmp_path)
    places = ("-b", "tiny", "--shards", shapes.shards, "--store", tmp_path / "store")
    probed = ("shapes/flat", "--test", "shapes/night", "--head", "knn")
    for words in (("eval", "shapes", "--prompts", "photo"), ("probe", *probed)):
        assert program.here(*words, *places, "--json", f"{words[0]}.json").code == 0
    options = {"shards": shapes.shards, "store": tmp_path / "other"}
    found = {
        "eval": fastclip.evaluate("shapes", "tiny", "photo", embed=True, **options),
        "probe": fastclip.probe("shapes/flat", "shapes/night", "tiny", "knn", **options),
    }
    for command, result in found.items():
        assert result.to_json().encode() == (tmp_path / f"{command}.json").read_bytes()
        (run,) = (tmp_path / "results").glob(f"{command}-*")
        assert result.names == (run.name,), "it is called as its folder would be"
        kept = fastclip.load(run)
        assert kept.to_json() == result.to_json()
        assert kept.predictions().to_arrow().equals(result.predictions().to_arrow())
        assert repr(kept) == repr(result)
        assert kept.to_html(shards=shapes.shards) == result.to_html(shards=shapes.shards)


def test_what_is_missing_is_named_with_the_command_that_makes_it_and_nothing_is_touched(
    shapes: Sharded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(fastclip.IncompleteError, match=r"has 0 of 12 shards[^\n]*\nFix:   fastclip eval") as refused:
        fastclip.evaluate(["shapes"], ["tiny"], precision="fp32", shards=shapes.shards, store="store here")
    assert not [*tmp_path.iterdir()]
    command = str(refused.value).partition("fastclip ")[2].partition(", or embed=True")[0]
    assert Program(tmp_path).here(*shlex.split(command)).code == 0
    result = fastclip.evaluate("shapes", "tiny", precision="fp32", shards=shapes.shards, store="store here")
    assert {row["images"] for row in result.cells()} == {60}


def test_a_misspelt_name_has_the_same_two_lines_as_on_the_command_line(shapes: Sharded, tmp_path: Path):
    options = {"shards": shapes.shards, "store": tmp_path}
    with pytest.raises(fastclip.UserError, match=r"Did you mean tiny\?\nFix:   Choose from RN50"):
        fastclip.evaluate("shapes", "tny", **options)
    with pytest.raises(fastclip.UserError, match=r"is not sharded.*\nFix:   fastclip shard"):
        fastclip.evaluate("shape", "tiny", **options)
    with pytest.raises(fastclip.UserError, match=r"has no domain 'nigth'.*\nFix:   Choose from flat"):
        fastclip.evaluate("shapes/nigth", "tiny", **options)
    with pytest.raises(fastclip.UserError, match=r"\nFix:   --precision fp32"):
        fastclip.evaluate("shapes", "tiny", precision="fp8", **options)


def test_ctrl_c_leaves_no_thread_and_no_temporary_file_and_the_next_call_goes_on(shapes: Sharded, tmp_path: Path):
    before = set(threading.enumerate())
    options = {"shards": shapes.shards, "store": tmp_path, "embed": True, "workers": 2}
    seen: list[int] = []

    def stop(images: int) -> None:
        seen.append(images)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fastclip.evaluate("shapes", "tiny", on_images=stop, **options)
    assert not [each for each in threading.enumerate() if each not in before and each.name.startswith("embed")]
    wait_until(lambda: set(threading.enumerate()) <= before, "its threads end")
    assert not temporaries(tmp_path) and not [*(tmp_path / "attempts").iterdir()]
    rest: list[int] = []
    result = fastclip.evaluate("shapes", "tiny", on_images=rest.append, **options)
    assert 0 < sum(rest) < 240 and sum(row["classified"] for row in result.cells()) == 240


def test_it_works_in_threads_and_under_an_event_loop(shapes: Sharded, tmp_path: Path):
    def call(prompts: str) -> str:
        return fastclip.evaluate("shapes", "tiny", prompts, embed=True, shards=shapes.shards, store=tmp_path).to_json()

    async def both() -> list[str]:
        threads = [asyncio.to_thread(call, prompts) for prompts in ("photo", "transferlearning")]
        return [*await asyncio.gather(*threads), call("photo")]

    photo, other, again = asyncio.run(both())
    assert photo == again != other


def test_shards_that_are_written_anew_are_embedded_anew_in_the_same_process(tmp_path: Path):
    counts = []
    for seed in (11, 12):
        shutil.rmtree(tmp_path / "shards", ignore_errors=True)
        draw_shapes(tmp_path / str(seed), seed=seed, images_per_class=2 + seed % 2, domains=["flat"])
        shard(tmp_path / str(seed), tmp_path / "shards", "shapes")
        result = fastclip.evaluate("shapes", "tiny", embed=True, shards=tmp_path / "shards", store=tmp_path / "store")
        counts += [row["images"] for row in result.cells()]
    assert counts == [36, 24]


def test_a_damaged_part_is_named_or_made_again(shapes: Sharded, tmp_path: Path):
    options = {"shards": shapes.shards, "store": tmp_path}
    before = fastclip.evaluate("shapes", "tiny", embed=True, **options).to_json()
    part = part_paths(tmp_path)[3]
    part.write_bytes(part.read_bytes()[:-8] + b"another.")
    with pytest.raises(fastclip.IncompleteError, match=r"has 11 of 12 shards.*\nFix:   fastclip eval shapes -b tiny "):
        fastclip.evaluate("shapes", "tiny", **options)
    assert fastclip.evaluate("shapes", "tiny", embed=True, **options).to_json() == before
    part.write_bytes(part.read_bytes()[:-8] + b"another.")
    assert fastclip.evaluate("shapes", "tiny", embed=True, **options).to_json() == before


def test_a_process_of_a_launcher_does_all_of_the_work_on_its_own_gpu():
    assert alone({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "FASTCLIP_PROCESSES": "2"}) == {"LOCAL_RANK": "1"}


def test_embeddings_are_the_stored_vectors_with_the_index_of_their_images(tmp_path: Path):
    sharded = drawn(tmp_path)
    fill(sharded, tmp_path / "store", unreadable=["photo/00000003"])
    array, index = fastclip.embeddings("letters", "tiny", shards=sharded.shards, store=tmp_path / "store")
    rows = index.to_pylist()
    expected = np.stack([vector(row["sha256"], row["label"], row["domain"]) for row in rows])
    lengths = np.linalg.norm(expected, axis=1)
    assert array.dtype == np.float16 and np.array_equal(array, (expected / lengths[:, None]).astype(np.float16))
    assert len(rows) == 107 and "photo/00000003" not in index["key"].to_pylist()
    assert np.allclose(index["norm"].to_numpy(), lengths) and {row["class"] for row in rows} == {
        "apple",
        "bread",
        "cup",
    }
    raw, _ = fastclip.embeddings("letters/night", "tiny", raw=True, shards=sharded.shards, store=tmp_path / "store")
    of_night = [row["domain"] == "night" for row in rows]
    assert raw.dtype == np.float32 and np.abs(raw - expected[of_night]).max() < 2e-3 * lengths.max()


def test_results_of_several_runs_are_one_and_are_compared(tmp_path: Path):
    sharded = drawn(tmp_path)
    places = {"shards": sharded.shards, "store": tmp_path / "store"}
    fill(sharded, tmp_path / "store")
    fill(sharded, tmp_path / "store", of=replace(RECIPE, backbone="RN50", weights="cd" * 32))
    runs = [fastclip.evaluate("letters", name, **places) for name in ("tiny", "RN50")]
    for run, name in zip(runs, "ab", strict=True):
        run.save(tmp_path / name)
    loaded = fastclip.load([tmp_path / "a", tmp_path / "b"])
    assert loaded.table()["backbone"] == ["tiny", "RN50"]
    tests = fastclip.compare(*runs, to="tiny")
    assert list(tests) == list(fastclip.compare(tmp_path / "a", str(tmp_path / "b"), to="tiny"))
    assert [(row["backbone"], row["other_backbone"]) for row in tests] == [("RN50", "tiny")] * 4
    assert all(row["net"] == row["gained"] - row["lost"] == 0 for row in tests), "their drawn vectors are the same"
    loaded.save(tmp_path / "both")
    assert fastclip.load(tmp_path / "both").table()["backbone"] == ["tiny", "RN50"]
