"""TAB in real shells: the words that may follow, in the shell's own way, and nothing else."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import typer
from helpers import REPOSITORY, Program, write

from fastclip.cli import choices, completing
from fastclip.cli.completion import SCRIPTS
from fastclip.cli.main import app

Ask = Callable[..., list[str]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of work with two datasets, a store and some files; and `fastclip` for shells to find."""
    manifest = b'{"domains": [{"name": "photo"}, {"name": "art work"}, {"name": "\\u001b[31m"}]}'
    files = {"shards/mine/manifest.json": manifest, "shards/other/manifest.json": b"[]", "shards/none/x": b""}
    write(tmp_path, {**files, "mine.txt": b"", "embeddings/" + "ab" * 32 + "/recipe.json": b"{}"})
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "fastclip"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m fastclip "$@"\n')
    program.chmod(0o755)
    return tmp_path


@pytest.fixture
def ask(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Ask:
    """The words that may follow on a line, without a shell."""
    monkeypatch.chdir(folder)

    def follow(*words: str) -> list[str]:
        answer = completing.answer({completing.ASKED: "zsh"}, words)
        return [line.split("\t")[0] for line in answer.splitlines()]

    return follow


def environment(folder: Path) -> dict[str, str]:
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "PYTHONPATH": str(REPOSITORY), "HOME": str(folder), "ZDOTDIR": str(folder)}


def test_commands_options_and_values_are_completed(ask: Ask) -> None:
    assert ask("ev") == ["eval"] and set(ask("shards", "")) == {"check", "index"}
    assert ask("eval", "--pre") == ["--precision", "--predictions"]
    assert ask("eval", "--precision", "") == ["fp32", "fp16", "bf16"]
    assert ask("eval", "--precision=b") == ["--precision=bf16"]
    assert ask("eval", "-b", "ViT-L") == ["ViT-L/14", "ViT-L/14@336px"]
    assert ask("eval", "-b", "tiny", "--prompts", "o") == ["openai80"]
    assert ask("probe", "--head", "k") == ["knn"] and ask("eval", "--head", "") == [], "a file"
    assert ask("compare", "--correct", "") == ["holm", "bh", "none"], "the placeholder lists them"
    assert ask("report", "--against", "") == ["published"], "and FILE is none"


def test_an_option_that_was_given_is_offered_again_only_if_it_may_be_repeated(ask: Ask) -> None:
    offered = ask("eval", "--precision", "fp32", "-b", "tiny", "--here", "--")
    assert "--precision" not in offered and "--here" not in offered and "--backbone" in offered and "--help" in offered


def test_after_two_dashes_come_arguments_only(ask: Ask) -> None:
    assert ask("eval", "--", "--") == [] and ask("eval", "--", "mi") == ["mine"]


def test_datasets_and_domains_come_from_the_folder_of_shards(ask: Ask, folder: Path) -> None:
    assert ask("eval", "") == ["mine", "other"] and ask("probe", "mine", "--test", "o") == ["other"]
    assert ask("eval", "mine/p") == ["mine/photo"] and ask("eval", "mine/") == ["mine/photo", "mine/art work"]
    assert ask("eval", "other/") == [], "its manifest is none"
    assert ask("eval", "--shards", "nowhere", "") == [] and ask("shards", "check", "m") == ["mine"]
    (folder / "shards").rename(folder / "elsewhere")
    assert ask("eval", "--shards", "elsewhere", "m") == ["mine"]
    assert "pacs" in ask("download", "") and ask("shard", "pa") == ["pacs"]
    assert ask("store", "remove", "") == ["ab" * 6] and ask("eval", "--recipe", "") == ["ab" * 6]


def test_values_are_those_that_the_commands_take() -> None:
    from fastclip.adapt.methods import METHODS
    from fastclip.evaluate.options import POLICIES
    from fastclip.finetune.training_recipes import TRAINING_RECIPES
    from fastclip.models.backbones import find_backbone
    from fastclip.store.recipes import DECODERS, PRECISIONS
    from fastclip.text.prompts import BUILT_IN
    from fastclip.transfer.methods import HEADS

    known = {
        "--precision": PRECISIONS,
        "--decoder": DECODERS,
        "--unreadable": POLICIES,
        "--prompts": BUILT_IN,
        "probe --head": HEADS,
        "adapt --method": METHODS,
        "finetune --recipe": TRAINING_RECIPES,
        "bench --finetune": TRAINING_RECIPES,
    }
    for option, values in known.items():
        assert set(choices.FIXED[option]) == set(values), option
    assert all(find_backbone(name).name == name for name in choices.FIXED["--backbone"])


def test_every_option_with_known_values_exists() -> None:
    places = set()
    for name, command in typer.main.get_command(app).commands.items():
        for words, each in (
            (name, command),
            *((f"{name} {sub}", c) for sub, c in getattr(command, "commands", {}).items()),
        ):
            for param in each.params:
                option = param.param_type_name == "option"
                places |= {f"{words} {max(param.opts, key=len) if option else param.metavar}", max(param.opts, key=len)}
    named = [*choices.FIXED, *choices.KNOWN_DATASETS, *choices.SHARDED_DATASETS]
    commands = typer.main.get_command(app).commands
    named = [each for each in named if each.startswith("--") or each.split()[0] in commands]
    assert not [place for place in named if place not in places]


def test_an_answer_loads_no_library_of_numbers_or_formats_and_starts_no_thread(folder: Path) -> None:
    code = (
        "import sys, threading; from fastclip.cli.completing import answer; print(answer());"
        "print([n for n in ('torch', 'numpy', 'rich', 'pyarrow', 'PIL', 'open_clip') if n in sys.modules],"
        "threading.active_count())"
    )
    asked = {**environment(folder), completing.ASKED: "zsh"}
    command = [sys.executable, "-c", code, "eval", "--prompts", ""]
    out = subprocess.run(command, env=asked, capture_output=True, text=True, check=True, cwd=folder).stdout
    assert "openai80" in out and out.splitlines()[-1] == "[] 1"


@pytest.mark.parametrize("words", [("nonsense", ""), ("eval", "--no-such=", ""), ("eval", "'"), ("\x1b", "\x1b"), ()])
def test_a_line_that_means_nothing_is_answered_with_nothing_printed_but_words(words: Sequence[str], folder: Path):
    asked = {**environment(folder), completing.ASKED: "fish", "TORCHELASTIC_RUN_ID": "x", "RANK": "0"}
    command = [sys.executable, "-m", "fastclip", *words]
    outcome = subprocess.run(command, env=asked, capture_output=True, text=True, cwd=folder)
    assert (outcome.returncode, outcome.stderr) == (0, "") and "\x1b" not in outcome.stdout


def test_the_script_of_the_own_shell_is_printed_and_no_file_is_touched(fastclip: Program, tmp_path: Path) -> None:
    fastclip.environment.update({"SHELL": "/usr/bin/fish", "HOME": str(tmp_path)})
    assert fastclip("completion").out == SCRIPTS["fish"] and list(tmp_path.iterdir()) == []
    for shell, script in SCRIPTS.items():
        assert fastclip("completion", shell).out == script
    outcome = fastclip("completion", "tcsh\x1b")
    assert outcome.code == 2 and "tcsh\\x1b" in outcome.err and outcome.err.count("\n") == 2


# ---- In the shells themselves ----


def shell(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def in_bash(folder: Path, line: str) -> list[str]:
    """What bash would put in place of the last of its words, which it breaks at = : and @ too."""
    words = [word for word in re.split(r"([=:@])|\s+", line) if word]
    words += [""] if line[-1] in " =:@" else []
    script = (
        "source <(fastclip completion bash)\n"
        f"COMP_LINE={shlex.quote(line)} COMP_POINT={len(line)} COMP_WORDS=({' '.join(map(shlex.quote, words))})\n"
        f"COMP_CWORD={len(words) - 1}\n"
        "_fastclip_completion fastclip\n"
        '((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"\n'
    )
    command = [shell("bash"), "--norc", "-c", script]
    outcome = subprocess.run(command, env=environment(folder), capture_output=True, text=True, cwd=folder)
    assert outcome.stderr == "", outcome.stderr
    return outcome.stdout.splitlines()


def test_bash_completes(folder: Path) -> None:
    assert in_bash(folder, "fastclip ev") == ["eval"]
    assert in_bash(folder, "fastclip eval --unreadable ") == ["stop", "wrong", "exclude"]
    assert in_bash(folder, "fastclip eval -b ViT-L/14@") == ["336px"], "bash replaces what follows the @"
    assert in_bash(folder, "fastclip eval --precision=") == ["fp32", "fp16", "bf16"]
    assert in_bash(folder, "fastclip eval mine/a") == ["mine/art\\ work"], "quoted"
    assert in_bash(folder, 'fastclip eval "mine/p') == ["mine/photo"]
    write(folder, {"shards/z$(touch hit)/manifest.json": b"{}"})
    assert in_bash(folder, "fastclip eval z") == ["z\\$\\(touch\\ hit\\)"], "text, and no command"
    assert not (folder / "hit").exists()
    assert in_bash(folder, "fastclip eval --weights ") == [], "files, by bash itself"


def typed(command: list[str], folder: Path, setup: str, keys: str, until: str) -> str:
    """The screen of an interactive shell into which a line is typed, and then keys, up to the text `until`."""
    process, terminal = pty.fork()
    if process == 0:
        os.chdir(folder)
        os.execve(command[0], command, {**environment(folder), "TERM": "dumb", "PS1": "> ", "COLUMNS": "200"})
    screen, deadline = "", time.monotonic() + 60
    waiting = select.poll()  # `select.select` takes no descriptor above 1,023, which a long run of tests may reach
    waiting.register(terminal, select.POLLIN)
    try:
        for text, then in ((f"{setup}; echo re''ady\n", "ready"), (keys, until)):
            os.write(terminal, text.encode())
            begun = len(screen)
            while then not in screen[begun:]:
                assert time.monotonic() < deadline, f"{then!r} is not on the screen: {screen!r}"
                if waiting.poll(1000):
                    screen += os.read(terminal, 65536).decode(errors="replace")
    finally:
        os.close(terminal)
        os.waitpid(process, 0)
    return screen


def test_bash_completes_at_a_terminal(folder: Path) -> None:
    setup = "source <(fastclip completion bash)"
    screen = typed([shell("bash"), "--norc", "-i"], folder, setup, "fastclip eval --unreadable ex\t", "exclude")
    assert "error" not in screen.lower()


def test_zsh_completes_at_a_terminal(folder: Path) -> None:
    setup = "autoload -U compinit; compinit -u; source <(fastclip completion zsh)"
    screen = typed([shell("zsh"), "-f", "-i"], folder, setup, "fastclip eval --unreadable ex\t", "exclude")
    assert "error" not in screen.lower()


def in_fish(folder: Path, line: str) -> list[str]:
    script = f"fastclip completion fish | source; complete -C {shlex.quote(line)}"
    command = [shell("fish"), "--no-config", "-c", script]
    outcome = subprocess.run(command, env=environment(folder), capture_output=True, text=True, cwd=folder)
    assert outcome.stderr == "", outcome.stderr
    return [each.split("\t")[0] for each in outcome.stdout.splitlines()]


def test_fish_completes(folder: Path) -> None:
    assert in_fish(folder, "fastclip ev") == ["eval"]
    assert set(in_fish(folder, "fastclip eval --unreadable ")) == {"stop", "wrong", "exclude"}
    assert in_fish(folder, "fastclip eval --weights mi") == ["mine.txt"], "files, by fish itself"
