"""Every system call at which publishing can die or fail, one after the other: nothing is torn, and a rerun completes.

Run as a program, this file forks a child for every point: the models' libraries are then imported once, and strace
counts from the child's first call on the store.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import Sharded, recipe, stored_files, temporaries, wait_until

from fastclip.cli.main import run
from fastclip.data.shards.manifest import Unreadable
from fastclip.errors import FastclipError
from fastclip.files import is_temporary, write_whole
from fastclip.finetune.checkpoint import Checkpoint, find_checkpoint, save_checkpoint
from fastclip.store.parts import Part
from fastclip.store.store import Store
from fastclip.text import prototypes
from fastclip.text.prototypes import Question, TextRecipe

CALLS = {
    "openat": "openat",
    "write": "write",
    "fsync": "fsync",
    "link": "?link,?linkat",
    "rename": "?rename,?renameat,?renameat2",
    "unlink": "?unlink,?unlinkat",
    "mkdir": "?mkdir,?mkdirat",
    "close": "close",
}
"""The system calls that change a store, as strace calls them; which of the two exists depends on the processor."""

RECIPE = recipe()
ROWS = np.arange(12, dtype=np.float16).reshape(3, 4)
PART = Part(ROWS, np.ones(3, np.float32), (Unreadable(1, "why"),))
MINE, OTHER = "a" * 64, "b" * 64
"""Names of two parts."""
MY_PATH = f"{RECIPE.id}/{MINE}.safetensors"
QUESTION = Question(weights="w", architecture="a", templates=("a {}",), classes=(("a", "a"), ("b", "b"), ("c", "c")))
TEXT_RECIPE = TextRecipe(libraries="l", machine="m", switches=(), numerics=1)


def publish(store: Path) -> None:
    Store(store).publish(RECIPE, MINE, PART)


def read_and_publish(store: Path) -> None:
    if Store(store).read(RECIPE.id, MINE) is None:
        Store(store).publish(RECIPE, MINE, PART)


def prepare(store: Path) -> None:
    Store(store).prepare(1, 1000, tidy=True)


def keep_prototypes(store: Path) -> None:
    prototypes.keep_prototypes(store / "prototypes", QUESTION, TEXT_RECIPE, np.eye(3, dtype=np.float32))


def write_report(store: Path) -> None:
    write_whole(store / "report.json", b"new" * 10_000)


def list_and_read(store: Path) -> None:
    there = Store(store)
    assert [each.id for each in there.recipes()] == [RECIPE.id]
    assert there.has(RECIPE.id, MINE) and there.has(RECIPE.id, OTHER)
    for name in (MINE, OTHER):
        assert there.read(RECIPE.id, name) is not None


def checkpoint(step: int) -> Checkpoint:
    tensors = {"learning": {"w": torch.full((3,), float(step))}, "optimizer": {"exp_avg/w": torch.ones(3)}}
    return Checkpoint(step, (), 0.0, tensors)


def save_second(folder: Path) -> None:
    save_checkpoint(folder, MINE, checkpoint(2), keep=[])


def evaluate(store: Path) -> None:
    """The program, with the arguments in a file beside the store; what it prints goes into files there too."""
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(store.parent / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY), descriptor)
    os.chdir(store.parent)
    sys.argv[1:] = [*json.loads((store.parent / "arguments.json").read_text()), "--store", store.name]
    run()


ACTIONS = {
    each.__name__: each
    for each in (
        publish,
        read_and_publish,
        prepare,
        keep_prototypes,
        write_report,
        list_and_read,
        save_second,
        evaluate,
    )
}


def serve() -> None:
    """For each line `[action, folder]`: fork, say the child's number, let it go at the next line, say how it ended."""
    with tempfile.TemporaryDirectory() as once:
        save_second(Path(once))  # libraries are loaded before strace counts
    for line in sys.stdin:
        action, folder = json.loads(line)
        told, tell = os.pipe()
        if (child := os.fork()) == 0:
            code = 99
            try:
                os.readv(told, [bytearray(1)])  # no `read`, which is counted
                ACTIONS[action](Path(folder))
                code = 0
            except FastclipError as error:
                code = error.exit_code if folder in str(error) else 98
            except SystemExit as error:
                code = int(error.code or 0)
                sys.stdout.flush()
            finally:
                os._exit(code)
        print(child, flush=True)
        sys.stdin.readline()
        os.write(tell, b"!")
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        os.close(told)
        os.close(tell)


if __name__ == "__main__":
    serve()
    sys.exit()


@dataclass(frozen=True)
class Server:
    """Runs an action on a folder in a process of its own, under strace."""

    process: subprocess.Popen[str]
    folder: Path

    def __call__(
        self,
        action: Callable[[Path], None],
        store: Path,
        calls: str,
        fault: str,
        meanwhile: Callable[[Path], None] = lambda log: None,
    ) -> tuple[int, str]:
        """How the action ended, with `fault` in one of its `calls`, and strace's log of them.

        `meanwhile` is called with the path of the log as soon as the action begins.
        """
        self._say(json.dumps([action.__name__, str(store)]))
        child = self._hear()
        log = self.folder / "strace"
        log.unlink(missing_ok=True)
        command = ["strace", "-f", "-p", child, "-o", str(log), "-e", f"trace={calls}"]
        command += ["-e", f"inject={calls}:{fault}"] if fault else []
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
            assert strace.stderr is not None
            attached = strace.stderr.readline()
            assert "attached" in attached, attached
            self._say("go")
            meanwhile(log)
            code = int(self._hear())
        return code, log.read_text()

    def alone(self, action: Callable[[Path], None], store: Path) -> int:
        """How the action ended without strace."""
        self._say(json.dumps([action.__name__, str(store)]))
        self._hear()
        self._say("go")
        return int(self._hear())

    def _say(self, line: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()

    def _hear(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@pytest.fixture(scope="module")
def under_strace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if not can_trace():
        pytest.skip("no strace here, or it may not trace")
    # In memory where that is possible: a disk takes milliseconds for each of some thousand syncs.
    memory = Path("/dev/shm")
    folder = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else tmp_path_factory.getbasetemp()))
    with subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=folder
    ) as process:
        yield Server(process, folder)
        assert process.stdin is not None
        process.stdin.close()
    shutil.rmtree(folder)


def can_trace() -> bool:
    try:
        return subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True).returncode == 0
    except OSError:
        return False


def every_point(
    server: Server, action: Callable[[Path], None], before: Path, calls: Iterable[str], fault: str
) -> Iterator[tuple[str, int, Path]]:
    """Where the fault was, exit code and store of the action on a copy of `before`, for each of its `calls`."""
    store = server.folder / "store"

    def run(names: str, fault: str) -> tuple[int, str]:
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(before, store, symlinks=True)
        return server(action, store, names, fault)

    names = {call: CALLS.get(call, call) for call in calls}
    code, log = run(",".join(names.values()), "")
    assert code == 0, f"{action.__name__} fails without a fault: {code}\n{log}"
    found = Counter(line.partition("(")[0].split()[-1] for line in log.splitlines())
    for call, spellings in names.items():
        for number in range(1, 1 + sum(found[name.strip("?")] for name in spellings.split(","))):
            where = f"{fault} in {call} {number}"
            code, log = run(spellings, f"{fault}:when={number}")
            assert code == -9 or "INJECTED" in log, f"{where} did not happen"
            yield where, code, store


def tree(folder: Path) -> dict[str, bytes]:
    """Every file but the temporary ones."""
    files = (path for path in folder.rglob("*") if path.is_file() and not is_temporary(path.name))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def empty(store: Path) -> None:
    store.mkdir()


def with_other(store: Path) -> None:
    Store(store).publish(RECIPE, OTHER, PART)


def with_both(store: Path) -> None:
    with_other(store)
    publish(store)


def with_damaged(store: Path) -> None:
    with_both(store)
    part = store / MY_PATH
    part.write_bytes(part.read_bytes()[:-1] + b"\x7f")


def with_a_torn_recipe(store: Path) -> None:
    with_other(store)
    path = store / RECIPE.id / "recipe.json"
    path.write_bytes(path.read_bytes()[:-9])


def with_report(store: Path) -> None:
    with_other(store)
    (store / "report.json").write_bytes(b"old")


def with_damaged_prototypes(store: Path) -> None:
    with_other(store)
    keep_prototypes(store)
    (kept,) = (store / "prototypes").glob("*/*")
    kept.write_bytes(kept.read_bytes()[:-1])


SCENES = {
    "a part into an empty store": (empty, publish),
    "a part beside another": (with_other, publish),
    "a part that is there": (with_both, publish),
    "a damaged part": (with_damaged, read_and_publish),
    "the probe": (with_other, prepare),
    "prototypes": (with_other, keep_prototypes),
    "damaged prototypes": (with_damaged_prototypes, keep_prototypes),
    "a part under a recipe whose file is torn": (with_a_torn_recipe, publish),
    "a report in the place of another": (with_report, write_report),
}


@pytest.mark.parametrize("scene", SCENES)
def test_whatever_call_dies_or_fails_nothing_is_torn_and_a_rerun_completes(
    scene: str, under_strace: Server, tmp_path: Path
):
    build, action = SCENES[scene]
    build(before := tmp_path / "before")
    shutil.copytree(before, after := tmp_path / "after")
    action(after)
    done, untouched = tree(after), tree(before)
    faults = {"signal=SIGKILL": list(CALLS), "error=EIO": list(CALLS), "error=ENOSPC": list(CALLS)}
    faults |= {"error=EDQUOT": ["write", "fsync", "link", "rename", "close"]}
    tried: Counter[str] = Counter()
    for fault, calls in faults.items():
        for where, code, store in every_point(under_strace, action, before, calls, fault):
            tried[fault] += 1
            left = tree(store)
            # Every file holds what it held before or what it holds in the end, and none is gone but a damaged one.
            for name, data in left.items():
                assert data in (untouched.get(name), done.get(name)), f"{where}: {name} is torn"
            assert left.keys() | {MY_PATH} >= untouched.keys() & done.keys(), f"{where}: a file is gone"
            if fault == "signal=SIGKILL":
                assert code == -9, where
            else:
                assert code in (0, 4) or (scene == "a damaged part" and code == 5), f"{where}: exit code {code}"
                assert "unlink" in where or not temporaries(store), f"{where}: a temporary file is left"
                # Prototypes that cannot be kept are used all the same.
                assert code or action is keep_prototypes or left == done, f"{where}: it did not notice"
            found = Store(store).read(RECIPE.id, MINE)
            assert found is None or (found.embeddings == ROWS).all(), where
            assert {each.id for each in Store(store).recipes()} <= {RECIPE.id}, where
            action(store)
            wanted = {name: data for name, data in done.items() if not name.startswith("damaged")}
            assert tree(store).items() >= wanted.items(), f"{where}: a rerun does not complete"
    print(f"{scene}: {', '.join(f'{points} points {fault}' for fault, points in tried.items())}")
    assert tried["signal=SIGKILL"] >= 4, "strace injects nothing"


@pytest.mark.parametrize(
    ("call", "error"),
    [("openat", "ESTALE"), ("openat", "ENOENT"), ("read", "ESTALE"), ("getdents64", "ESTALE")],
)
def test_a_reader_that_is_told_once_that_a_file_is_not_there_finds_it_all_the_same(
    call: str, error: str, under_strace: Server, tmp_path: Path
):
    with_both(before := tmp_path / "before")
    points = 0
    for where, code, store in every_point(under_strace, list_and_read, before, [call], f"error={error}"):
        points += 1
        assert code == 0, where
        assert tree(store) == tree(before), "what can be read is not moved aside"
    print(f"{error} in {call}: {points} points")
    assert points


def test_a_part_that_was_made_again_is_not_moved_aside_by_who_read_the_damaged_one(
    under_strace: Server, tmp_path: Path
):
    with_damaged(store := tmp_path / "store")
    with_both(good := tmp_path / "good")

    def mend(log: Path) -> None:
        """Once the child is about to move the part: move it, and make it again."""
        wait_until(lambda: log.exists() and "rename" in log.read_text(), "the child moves the part")
        read_and_publish(store)
        assert Store(store).read(RECIPE.id, MINE) is not None

    code, log = under_strace(read_and_publish, store, CALLS["rename"], "delay_enter=1500000:when=1", mend)
    assert code == 0 and log.count("rename") == 1, log
    assert tree(store).items() >= tree(good).items()


def test_the_program_goes_on_after_a_call_died_or_failed(shapes: Sharded, under_strace: Server, tmp_path: Path):
    arguments = ["eval", "shapes", "-b", "tiny", "--shards", str(shapes.shards), "--precision", "fp32"]
    arguments += ["--workers", "1"]
    (tmp_path / "arguments.json").write_text(json.dumps(arguments))
    whole, store = tmp_path / "whole", tmp_path / "store"
    code = under_strace.alone(evaluate, whole)
    assert code == 0, (tmp_path / "err").read_text()
    table, done = (tmp_path / "out").read_text(), tree(whole)
    seed = random.Random(1)
    # Each run meets what those before have published: a probe and three calls of fsync, then two or three a part.
    for call, when, fault, code in (
        ("fsync", seed.randint(5, 10), "signal=SIGKILL", -9),
        ("link", seed.randint(2, 3), "error=EDQUOT", 4),
        ("unlink", seed.randint(1, 3), "signal=SIGKILL", -9),
        ("fsync", seed.randint(3, 6), "error=EIO", 4),
    ):
        temporary = set(temporaries(store))
        found, _ = under_strace(evaluate, store, CALLS[call], f"{fault}:when={when}")
        out, err = ((tmp_path / name).read_text() for name in ("out", "err"))
        assert (found, out) == (code, ""), (call, when, fault, err)
        if code == 4:
            error, fix = err.splitlines()[-2:]
            assert error.startswith("Error: Cannot write store/") and "again" in fix
            assert set(temporaries(store)) == temporary
        left = stored_files(store)
        print(f"{fault} in {call} {when}: {len(left)} of {len(done)} files are there")
        assert left.items() <= done.items()
    code = under_strace.alone(evaluate, store)
    assert (code, (tmp_path / "out").read_text()) == (0, table)
    assert tree(store).items() >= done.items()


def test_wherever_saving_a_checkpoint_dies_or_fails_a_whole_one_is_there(under_strace: Server, tmp_path: Path):
    save_checkpoint(before := tmp_path / "before", MINE, checkpoint(1), keep=[])
    # safetensors renames by another call than Python, and strace counts each by itself.
    one_by_one = [spelling for spellings in CALLS.values() for spelling in spellings.split(",")]
    tried: Counter[str] = Counter()
    for fault in ("signal=SIGKILL", "error=EIO", "error=ENOSPC"):
        for where, code, folder in every_point(under_strace, save_second, before, one_by_one, fault):
            tried[fault] += 1
            assert code in ((-9,) if "KILL" in fault else (0, 4)), f"{where}: exit code {code}"
            found = find_checkpoint(folder, MINE)
            assert found and found.step in (1, 2), where
            assert torch.equal(found.tensors["learning"]["w"], torch.full((3,), float(found.step))), where
            save_second(folder)
            assert (again := find_checkpoint(folder, MINE)) and again.step == 2, f"{where}: a rerun does not complete"
    print(f"a checkpoint: {dict(tried)}")
    assert tried["signal=SIGKILL"] >= 8, "strace injects nothing"
