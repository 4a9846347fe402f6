"""The result outlives its audience, nothing else is touched, and every error ends in two lines without an escape."""

from __future__ import annotations

import ast
import errno
import os
import pwd
import signal
import stat
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from helpers import REPOSITORY, Program, Sharded, wait_until
from rich.table import Table
from rich.text import Text

from fastclip import temporary
from fastclip.cli import console
from fastclip.cli.endings import ending
from fastclip.cli.surroundings import complete_environment
from fastclip.destinations import check_place
from fastclip.errors import EXIT_INCOMPLETE, EXIT_INTEGRITY, EXIT_USAGE, IntegrityError, UserError
from fastclip.files import write_whole
from fastclip.machine import is_writable
from fastclip.temporary import make_temporary_folder, remove_temporary_folders, temporary_folder

BASH = ("bash", "-c")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The outcome of a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env={**os.environ, **environment}
    )


def test_a_full_standard_output_is_told_after_the_files_are_written(shapes: Sharded, fastclip: Program):
    command = ("eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--json", "r.json", "--predictions", "p")
    outcome = fastclip(*command, prefix=(*BASH, '"$@" > /dev/full', "bash"))
    assert outcome.code == EXIT_INCOMPLETE
    assert outcome.err.splitlines()[-2:] == [
        "Error: Standard output cannot be written: No space left on device.",
        "Fix:   Free space there, then run the same command again to see what it prints.",
    ]
    assert (fastclip.folder / "r.json").stat().st_size and (fastclip.folder / "p").stat().st_size


def test_a_result_that_goes_to_standard_output_erases_nothing_that_stands_there(tmp_path: Path):
    with (tmp_path / "out").open("w") as file:
        code = (
            "from pathlib import Path; from fastclip.files import write_whole\n"
            "print('a table', flush=True); write_whole(Path('/dev/stdout'), b'a file\\n'); print('an end')"
        )
        subprocess.run([sys.executable, "-c", code], stdout=file, check=True)
    assert (tmp_path / "out").read_text() == "a table\na file\nan end\n"


def test_a_stream_that_nobody_reads_costs_nothing():
    reads, writes = os.pipe()
    os.close(reads)
    write_whole(Path(f"/dev/fd/{writes}"), b"nobody")
    os.close(writes)


def test_a_link_stays_and_what_it_leads_to_is_replaced_or_made(tmp_path: Path):
    (tmp_path / "there").write_bytes(b"old")
    for link, target in (("one", "there"), ("two", "one"), ("new", "made")):
        (tmp_path / link).symlink_to(target)
    for name in ("two", "new"):
        check_place(tmp_path / name)
        write_whole(tmp_path / name, name.encode())
    assert ((tmp_path / "there").read_bytes(), (tmp_path / "made").read_bytes()) == (b"two", b"new")
    assert all((tmp_path / name).is_symlink() for name in ("one", "two", "new"))
    assert len(list(tmp_path.iterdir())) == 5


def test_a_pipe_is_written_to_and_stays(tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append((tmp_path / "pipe").read_bytes()))
    reader.start()
    write_whole(tmp_path / "link", b"through")
    reader.join()
    assert found == [b"through"] and (tmp_path / "pipe").is_fifo()


def test_a_device_is_written_to_and_stays(tmp_path: Path):
    null = tmp_path / "null"
    try:
        os.mknod(null, stat.S_IFCHR | 0o666, os.makedev(1, 3))
        null.write_bytes(b"")
    except OSError as error:
        pytest.skip(f"no device can be made here: {error}")
    write_whole(null, b"nowhere")
    assert null.is_char_device()


def test_a_place_where_no_file_can_be_is_refused_before_the_work(tmp_path: Path):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "nowhere").symlink_to("not/there")
    places = (tmp_path, tmp_path / "loop", tmp_path / "file" / "x", tmp_path / "nowhere" / "x")
    for path in (*places, Path("/dev/not-there"), Path("/dev/fd/999")):
        with pytest.raises(UserError):
            check_place(path)


def test_a_temporary_folder_goes_with_its_block_and_at_an_end_without_one(tmp_path: Path, elsewhere: Path):
    with temporary_folder("test") as folder:
        (folder / "file").write_bytes(b"")
    left = make_temporary_folder("test")
    assert folder.parent == elsewhere and not folder.exists() and left.exists()
    remove_temporary_folders()
    assert not list(elsewhere.iterdir())


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(temporary.tempfile, "tempdir", str(tmp_path / "elsewhere"))
    return tmp_path / "elsewhere"


HOLDS = (
    "import time; from fastclip.temporary import *; print(make_temporary_folder('test'), flush=True); time.sleep(60)"
)


def test_the_folder_of_a_killed_process_is_removed_by_the_next_and_that_of_a_living_one_is_not(elsewhere: Path):
    environment = {**os.environ, "TMPDIR": str(elsewhere)}
    holders = [
        subprocess.Popen([sys.executable, "-c", HOLDS], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    dead, living = (Path(each.stdout.readline().strip()) for each in holders if each.stdout)
    holders[0].kill()
    holders[0].wait()
    for folder in (dead, living):
        os.utime(folder, (time.time() - 3600,) * 2)
    with temporary_folder("test"):
        assert not dead.exists() and living.exists()
    holders[1].terminate()  # without a handler: Python's own ends the process as kill -9 does
    holders[1].wait()


STOPPED = """
import importlib, os, signal, sys
from fastclip.cli.signals import stop_on_signals
from fastclip.temporary import make_temporary_folder
class Stops:
    def find_spec(self, name, path=None, target=None):
        os.kill(os.getpid(), signal.SIGTERM)
sys.meta_path.insert(0, Stops())
make_temporary_folder("test")
stop_on_signals()
import some_library
"""


def test_a_signal_while_a_library_is_loaded_leaves_no_temporary_folder(tmp_path: Path):
    outcome = python(STOPPED, TMPDIR=str(tmp_path))
    assert outcome.returncode == 128 + signal.SIGTERM and "Stopped by SIGTERM" in outcome.stderr
    assert not list(tmp_path.iterdir())


LAUNCHER = """
import os, subprocess, sys
code = ("from fastclip.cli.launcher import *; import os, sys; os.write(1, f'{leave_verdict(2)} '.encode()); "
        "sys.stdin.read(); end_launch()")
settings = {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_RESTART_COUNT": "1", "TORCHELASTIC_MAX_RESTARTS": sys.argv[1]}
workers = [
    subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, env={**os.environ, **settings})
    for _ in range(3)
]
for worker in workers:
    worker.stdin.close()
print([worker.wait() for worker in workers])
"""


@pytest.mark.parametrize(("restarts", "left"), [(1, 0), (2, 1)])
def test_the_last_process_of_the_last_attempt_takes_the_verdict_away(tmp_path: Path, restarts: int, left: int):
    command = [sys.executable, "-c", LAUNCHER, str(restarts)]
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    outcome = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert sorted(outcome.stdout.split(maxsplit=3)) == ["False", "False", "True", "[0, 0, 0]\n"], outcome.stderr
    assert len(list(tmp_path.glob("*.verdict"))) == left


def test_a_launch_removes_the_verdicts_of_dead_launchers(tmp_path: Path):
    (tmp_path / "fastclip-1-7.verdict").write_text("2")
    (tmp_path / "fastclip-notes.verdict").write_text("mine")
    code = "from fastclip.cli.launcher import *; from fastclip.cli import launcher; launcher._verdict_path().touch(); "
    python(f"{code} join_launcher(dict(TORCHELASTIC_RUN_ID='x'))", TMPDIR=str(tmp_path))
    kept = {path.name.split("-")[1] for path in tmp_path.iterdir()}
    assert kept == {"notes.verdict", str(os.getpid())}


def test_a_forecast_touches_no_folder_but_fastclips_own(shapes: Sharded, tmp_path: Path):
    for name in ("home", "temporary"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"), "HF_HOME": str(tmp_path / "hub")}
    (tmp_path / "here").mkdir()
    outcome = Program(tmp_path / "here", places)("eval", "shapes", "-b", "tiny", "--shards", shapes.shards, "--dry-run")
    assert outcome.code == 0, outcome.err
    outside = [path for path in tmp_path.rglob("*") if (tmp_path / "home" / ".cache" / "fastclip") not in path.parents]
    names = {path.relative_to(tmp_path).as_posix() for path in outside}
    assert names - {"home/.cache", "home/.cache/fastclip"} == {"home", "temporary", "here"}


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_home_that_may_not_be_entered_is_one_that_takes_nothing(tmp_path: Path):
    (tmp_path / "home").mkdir(mode=0o700)
    process = os.fork()
    if not process:
        os.setuid(54321)
        os._exit(is_writable(tmp_path / "home" / ".cache" / "fastclip"))
    assert os.waitpid(process, 0)[1] == 0
    assert is_writable(tmp_path / "home" / ".cache" / "fastclip")


def test_a_user_whom_the_system_does_not_know_has_a_home(monkeypatch: pytest.MonkeyPatch, elsewhere: Path):
    def unknown(user: int) -> None:
        raise KeyError(user)

    for name in ("TORCHINDUCTOR_CACHE_DIR", "OPENBLAS_NUM_THREADS"):  # else they would be set for the tests to come
        monkeypatch.setenv(name, "1")
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError):
        Path.home()
    complete_environment()
    assert Path.home() == Path("/")


STARTED = """
import os, signal, sys
class Hurts:
    def find_spec(self, name, path=None, target=None):
        if name == "fastclip.cli.main":
            {what}
sys.meta_path.insert(0, Hurts())
from fastclip.cli.start import start
start()
"""


@pytest.mark.parametrize(
    ("what", "code", "message"),
    [
        ("os.kill(os.getpid(), signal.SIGHUP)", 128 + signal.SIGHUP, "Stopped by SIGHUP"),
        ("raise MemoryError", EXIT_INCOMPLETE, "The program could not be loaded: MemoryError"),
        ("raise ModuleNotFoundError('No typer')", EXIT_USAGE, "could not be loaded: No typer"),
    ],
)
def test_a_program_that_cannot_be_loaded_ends_in_two_lines(what: str, code: int, message: str):
    outcome = python(STARTED.format(what=what))
    assert outcome.returncode == code and outcome.stderr.count("\n") == 2 and message in outcome.stderr


def raised(error: BaseException, because: BaseException | None = None) -> BaseException:
    error.__context__ = because
    return error


ENDINGS = {
    "ours": (IntegrityError("It is damaged.", fix="Make it anew."), EXIT_INTEGRITY, "It is damaged."),
    "memory": (MemoryError(), EXIT_INCOMPLETE, "gave no more memory: MemoryError."),
    "torch's memory": (RuntimeError("DefaultCPUAllocator: can't allocate memory"), EXIT_INCOMPLETE, "no more memory"),
    "memory below": (raised(ValueError("no"), MemoryError()), EXIT_INCOMPLETE, "gave no more memory: no."),
    "map": (ImportError("x.so: failed to map segment from shared object"), EXIT_INCOMPLETE, "gave no more memory"),
    "threads": (RuntimeError("can't start new thread"), EXIT_INCOMPLETE, "gave no more threads"),
    "processes": (BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable"), EXIT_INCOMPLETE, "processes"),
    "files": (OSError(errno.EMFILE, "Too many open files", "a"), EXIT_INCOMPLETE, "gave no more open files"),
    "no file": (FileNotFoundError(errno.ENOENT, "No such file", "a\x1b[31m"), EXIT_USAGE, "No such file."),
    "disk": (OSError(errno.EIO, "Input/output error", "a"), EXIT_INCOMPLETE, "a: Input/output error."),
    "library": (ModuleNotFoundError("No module named 'x'"), EXIT_USAGE, "A library is missing: No module named 'x'."),
    "bytes": (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "bad"), EXIT_INTEGRITY, "Text in an input is damaged"),
    "a fault": (KeyError("x"), EXIT_INTEGRITY, "fastclip has a fault: KeyError: 'x'."),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_every_error_has_a_code_that_is_true_and_words(name: str):
    error, code, words = ENDINGS[name]
    found = ending(error)
    assert (found.code, words in found.message) == (code, True), found
    assert found.fix and "\n" not in found.message + found.fix


FAULT = """
from fastclip.cli import main
def app(standalone_mode):
    raise {error}
main.app = app
main.run()
"""


def test_a_fault_of_fastclip_is_two_lines_and_a_traceback_on_request():
    plain = python(FAULT.format(error=r"AssertionError('not\x1b[31m\nso')"))
    assert plain.returncode == EXIT_INTEGRITY and plain.stderr.splitlines() == [
        r"Error: fastclip has a fault: AssertionError: not\x1b[31m so.",
        "Fix:   Report it, please, with the command. FASTCLIP_TRACEBACK=1 before the command shows where.",
    ]
    traced = python(FAULT.format(error="AssertionError('not so')"), FASTCLIP_TRACEBACK="1")
    assert traced.returncode == EXIT_INTEGRITY and "Traceback" in traced.stderr
    rust = python("class Panic(BaseException): pass\n" + FAULT.format(error="Panic('overflow')"))
    assert rust.returncode == EXIT_INTEGRITY and rust.stderr.count("\n") == 2


EVIL = "a\x1b[31mb\x07\x9bc"


def test_a_console_prints_no_control_character_of_any_text(capsys: pytest.CaptureFixture[str]):
    table = Table(EVIL, title=Text(EVIL))
    table.add_row(EVIL)
    table.add_row(Text(EVIL))
    for each in (console.out(), console.err()):
        for what in (EVIL, Text(EVIL), table):
            each.print(what)
            each.print(what, style="bold", soft_wrap=True)
    console.say(EVIL)
    console.say(EVIL, error=True)
    out, err = capsys.readouterr()
    for text in (out, err):
        assert r"a\x1b[31mb\x07\x9bc" in text and not [char for char in "\x1b\x07\x9b" if char in text]


def printing(path: Path) -> list[str]:
    """The calls of a file that print past the console's door."""
    calls = [
        ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text("utf-8"))) if isinstance(node, ast.Call)
    ]
    past = ("typer.echo", "click.echo", "print", "sys.stdout.write", "sys.stderr.write", "Console", "typer.secho")
    return [call for call in calls if call in past]


def test_all_that_is_printed_goes_through_the_consoles_door():
    files = sorted((REPOSITORY / "fastclip").rglob("*.py"))
    program = REPOSITORY / "fastclip" / "models" / "tiny" / "train.py"  # one of its own
    door = REPOSITORY / "fastclip" / "cli" / "console.py"
    text = REPOSITORY / "fastclip" / "api" / "shown.py"  # it draws into a text
    assert printing(door) and printing(program) and printing(text) == ["Console"]
    allowed = (door, program, text)
    assert not {path.name: printing(path) for path in files if path not in allowed and printing(path)}


@pytest.mark.slow
def test_a_killed_shard_leaves_no_folder_of_sockets(shapes: Sharded, tmp_path: Path):
    (tmp_path / "temporary").mkdir()
    program = Program(tmp_path, {"TMPDIR": str(tmp_path / "temporary")})
    process = program.start("shard", "x", "--source", shapes.source, "--processes", 2, "--shard-images", 10)
    wait_until(lambda: list(tmp_path.glob("**/*.tmp")), "a shard that is being written")
    process.kill()
    process.communicate()
    wait_until(lambda: not list((tmp_path / "temporary").iterdir()), "an empty folder")


def changed_since(stamp: Path, own: Path) -> set[str]:
    """Files and folders anywhere on the machine that were touched since `stamp`, but for `own` and other programs'."""
    left_out = [str(own), "/proc", "/sys", "/dev/pts", "/var/log", "/run"]
    words = ["find", "/", "/dev/shm", "(", *" -o ".join(f"-path {each}" for each in left_out).split(), ")", "-prune"]
    found = subprocess.run([*words, "-o", "-cnewer", stamp, "-print"], capture_output=True, text=True, check=False)
    return {line for line in found.stdout.splitlines() if "__pycache__" not in line}


@pytest.mark.slow
@pytest.mark.parametrize("end", [None, signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_no_command_touches_anything_on_the_machine_but_its_own_folders(
    end: signal.Signals | None, shapes: Sharded, tmp_path: Path
):
    """Nothing else may run on the machine: what another program touches is found too."""
    for name in ("home", "temporary", "here"):
        (tmp_path / name).mkdir()
    places = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "temporary"), "HF_HOME": str(tmp_path / "hub")}
    program = Program(tmp_path / "here", places)
    stamp = tmp_path / "stamp"
    stamp.touch()
    time.sleep(0.1)
    eval_it = ("eval", "shapes", "-b", "tiny", "--shards", shapes.shards)
    commands = [eval_it, ("eval", "none", "-b", "tiny"), ("shard", "new", "--source", shapes.source), ("demo",),
                ("bench", "shapes", "-b", "tiny", "--shards", shapes.shards, "--images", 20, "--rounds", 1),
                ("datasets",), ("report", "none")]  # fmt: skip
    for words in commands:
        process = program.start(*words)
        if end:
            time.sleep(1.5)
            with suppress(ProcessLookupError):
                process.send_signal(end)
        process.communicate(timeout=120)
    touched = changed_since(stamp, tmp_path)
    folders = {str(path) for path in (Path("/"), Path("/dev/shm"), Path(os.environ.get("TMPDIR", "/tmp")))}
    assert {each for each in touched if each not in folders} == set()
    left = {path.name for path in (tmp_path / "temporary").iterdir()}
    assert not left or end == signal.SIGKILL, left
