"""Copies by synchronisers, editors and backups, and things that are no files: never counted, never waited for."""

from __future__ import annotations

import os
import shutil
import socket
from pathlib import Path

import pytest
from drawn_store import RECIPE, drawn, fill
from helpers import Program, Sharded

from fastclip.data.catalogue import list_cards
from fastclip.data.shards.manifest import list_datasets, read_manifest
from fastclip.data.shards.reader import read_index
from fastclip.data.shards.targets import find_targets
from fastclip.embed.attempts import Attempts
from fastclip.embed.plan import Unit
from fastclip.errors import FastclipError, IncompleteError
from fastclip.files import digest_file, read_file, write_new
from fastclip.results.files.runs import find_runs
from fastclip.storage.folders import LocalFolder
from fastclip.store.store import Store
from fastclip.text.prototypes import copy_prototypes

UNIT, PROCESS = "ab" * 16, "0123456789ab-1-2"


@pytest.fixture(scope="module")
def letters(tmp_path_factory: pytest.TempPathFactory) -> Sharded:
    return drawn(tmp_path_factory.mktemp("letters"), per_class=3)


def surround(folder: Path) -> None:
    """Put beside every file and folder what synchronisers, editors and backups put there, and what is no file."""
    for path in [folder, *sorted(folder.rglob("*"))]:
        if path.is_dir():
            os.mkfifo(path / "pipe.safetensors")
            os.mkfifo(path / "pipe.json")
            (path / "folder.safetensors").mkdir()
            (path / "nowhere.json").symlink_to("/nowhere/at/all")
            (path / "loop.safetensors").symlink_to("loop.safetensors")
            Path(os.fsdecode(os.fsencode(path) + b"/\xff\xfe.safetensors")).write_bytes(b"x")
            (path / ".DS_Store").write_bytes(b"\0\0\0\1Bud1")
        else:
            stem, end = path.stem, path.suffix
            names = [f"{path.name}.bak", f"{path.name}~", f".{path.name}.swp", f"._{path.name}", f"{stem}\n{end}"]
            names += [f"{stem}.sync-conflict-20260101-120000-ABCDEFG{end}", f"{stem} (conflicted copy){end}"]
            for name in names:
                shutil.copyfile(path, path.with_name(name))
            path.with_name(f".#{path.name}").symlink_to("someone@somewhere.1234")


def notes_of_others(store: Path, unit: str = UNIT) -> None:
    """A note of a process, its sign and a unit that was given up."""
    for name in (f"attempts/{unit}.{PROCESS}", f"processes/{PROCESS}.json", f"given_up/{unit}.json"):
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text("{}")


def test_a_store_among_copies_of_its_files_holds_what_it_held(letters: Sharded, tmp_path: Path) -> None:
    store = fill(letters, tmp_path / "s")
    notes_of_others(store.folder)
    parts, size = store.parts(RECIPE.id), store.size(RECIPE.id)
    surround(store.folder)
    looked = Store(store.folder)
    assert (looked.parts(RECIPE.id), looked.size(RECIPE.id)) == (parts, size)
    assert [each.id for each in looked.recipes()] == [RECIPE.id]
    assert copy_prototypes(store.folder / "prototypes", tmp_path / "to", RECIPE.weights) == 1
    assert Attempts(store.folder).all_given_up() == {UNIT}


def test_notes_of_a_unit_are_removed_and_the_files_beside_them_stay(letters: Sharded, tmp_path: Path) -> None:
    (target,) = find_targets(str(letters.shards), ["letters"])
    unit = Unit(target.folder, next(target.shards), "p" * 64, {"tiny": RECIPE})
    notes_of_others(tmp_path, unit.id)
    surround(tmp_path)
    before = {path.name for path in (tmp_path / "attempts").iterdir()}
    Attempts(tmp_path).end(unit)
    assert before - {path.name for path in (tmp_path / "attempts").iterdir()} == {f"{unit.id}.{PROCESS}"}


@pytest.mark.parametrize(
    "words",
    ["status letters -b tiny", "store", "store copy --to other", "eval letters -b tiny", "eval -b tiny", "datasets"],
)
def test_commands_say_among_copies_what_they_say_without(letters: Sharded, tmp_path: Path, words: str) -> None:
    said = []
    for place in ("alone", "among"):
        shutil.copytree(letters.shards, tmp_path / place / "shards")
        notes_of_others(fill(letters, tmp_path / place / "embeddings").folder)
        if place == "among":
            surround(tmp_path / place)
            shutil.copytree(letters.folder, tmp_path / place / "shards" / "letters.bak")
            shutil.copytree(letters.folder, tmp_path / place / "shards" / "letters (conflicted copy)")
        program = Program(tmp_path / place)
        outcome = (program if words.startswith(("store", "datasets")) else program.here)(*words.split())
        assert outcome.code == 0, outcome.err
        said.append(outcome.out)
    assert said[0] == said[1]


def test_a_removed_recipe_leaves_files_of_others(letters: Sharded, tmp_path: Path) -> None:
    store = fill(letters, tmp_path)
    folder = tmp_path / RECIPE.id
    surround(folder)
    parts = store.parts(RECIPE.id)
    foreign = {path.name for path in folder.iterdir()} - {f"{name}.safetensors" for name in parts} - {"recipe.json"}
    assert store.remove(RECIPE.id) == len(parts)
    assert {path.name for path in folder.iterdir()} == foreign
    assert store.recipes() == []


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to nowhere", "link to itself"])
def test_no_file_under_a_parts_name_is_no_part_and_is_moved_aside(letters: Sharded, tmp_path: Path, kind: str) -> None:
    store = fill(letters, tmp_path)
    name = min(store.parts(RECIPE.id))
    path = store.path(RECIPE.id, name)
    part = store.read(RECIPE.id, name)
    path.unlink()
    put(path, kind)
    assert store.read(RECIPE.id, name) is None
    assert part
    store.publish(RECIPE, name, part)
    assert store.read(RECIPE.id, name) is not None


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to nowhere"])
def test_no_file_under_a_manifests_name_is_no_dataset(
    letters: Sharded, fastclip: Program, tmp_path: Path, kind: str
) -> None:
    put(tmp_path / "shards" / "letters" / "manifest.json", kind)
    outcome = fastclip.here("eval", "letters", "-b", "tiny")
    assert (outcome.code, outcome.err.count("\n")) == (2, 2)
    assert "letters is not sharded" in outcome.err


def test_pipes_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for read in (read_file, digest_file):
        with pytest.raises(IsADirectoryError):
            read(tmp_path / "pipe")
    with pytest.raises(Exception, match="exists with other bytes"):
        write_new(tmp_path / "pipe", b"x")


def test_copies_are_no_datasets_no_cards_and_no_runs(letters: Sharded, tmp_path: Path) -> None:
    for name in ("letters", "letters.bak", "letters.sync-conflict-20260101-120000-AB", "letters (conflicted copy)"):
        shutil.copytree(letters.folder, tmp_path / name)
        (tmp_path / "results" / name).mkdir(parents=True)
        (tmp_path / "results" / name / "result.json").write_text("{}")
    for name in ("._own.toml", "own (conflicted copy).toml", ".#own.toml"):
        (tmp_path / name).write_bytes(b"\0\xff")
    assert list_datasets(LocalFolder(tmp_path)) == ["letters"]
    assert "own" not in {card.name for card in list_cards(str(tmp_path))}
    assert [run.path.name for run in find_runs(tmp_path / "results")] == ["letters"]


def put(path: Path, kind: str) -> None:
    """Put something that is no file at `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        here = Path.cwd()
        os.chdir(path.parent)  # the address of a socket has room for 107 bytes
        try:
            socket.socket(socket.AF_UNIX).bind("s")
            Path("s").rename(path.name)
        finally:
            os.chdir(here)
    else:
        path.symlink_to(path.name if kind == "link to itself" else "/nowhere/at/all")


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "link to nowhere"])
@pytest.mark.parametrize("name", ["recipe.json", "prototypes", "index"])
def test_no_file_where_a_file_belongs_makes_nobody_wait(letters: Sharded, tmp_path: Path, kind: str, name: str) -> None:
    shards = tmp_path / "shards"
    shutil.copytree(letters.shards, shards)
    store = fill(letters, tmp_path / "embeddings")
    manifest = read_manifest(str(shards / "letters"))
    (answer,) = (store.folder / "prototypes").glob("*/*")
    paths = {
        "recipe.json": store.folder / RECIPE.id / "recipe.json",
        "prototypes": answer,
        "index": shards / "letters" / manifest.shards[0].index_name,
    }
    paths[name].unlink()
    put(paths[name], kind)
    if name == "index":
        with pytest.raises(FastclipError):
            read_index(LocalFolder(shards / "letters"), manifest.shards[0])
    elif (name, kind) == ("recipe.json", "folder"):
        with pytest.raises(IncompleteError, match=r"recipe\.json: Is a directory"):
            fill(letters, store.folder)
    else:
        fill(letters, store.folder)
        assert paths[name].is_file() or kind == "folder"
