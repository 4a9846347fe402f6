"""Errors that are told before an image is embedded, with the cure that is true."""

from __future__ import annotations

import ctypes
import errno
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from drawn_store import RECIPE, draw_dataset, fill
from helpers import Program, part_paths, shard, stored_files

from fastclip.data.shards.check import check_dataset
from fastclip.data.shards.manifest import check_dataset_name, path_name, read_manifest
from fastclip.data.sources.listing import check_classes
from fastclip.errors import IntegrityError, UserError
from fastclip.files import write_new
from fastclip.storage.folders import LocalFolder
from fastclip.text.prompts import find_prompt_set
from fastclip.text.prototypes import Question, check_question

NO_LINKS = [errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS]
CHINESE = "长" * 50


def without_links(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the file system have no hard links."""

    def link(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", link)


def test_a_prompt_that_does_not_fit_is_told_before_anything_is_embedded(fastclip: Program, tmp_path: Path) -> None:
    sharded = shard(draw_dataset(tmp_path / "s"), tmp_path / "shards", "s", layout="domain/class")
    (tmp_path / "long.txt").write_text("a photo of a {}, " + "seen from far away, " * 500)
    outcome = fastclip.here("eval", sharded.name, "-b", "tiny", "--prompts", "long.txt")
    assert (outcome.code, outcome.err.count("\n")) == (2, 2)
    assert "tokens; 30 fit" in outcome.err
    assert "10,0" in outcome.err
    assert len(outcome.err) < 500
    assert part_paths(tmp_path / "embeddings") == []


def test_prompts_that_are_answered_already_are_not_asked_again(fastclip: Program, tmp_path: Path) -> None:
    sharded = shard(draw_dataset(tmp_path / "s"), tmp_path / "shards", "s", layout="domain/class")
    assert fastclip.here("eval", sharded.name, "-b", "tiny").code == 0
    for path in part_paths(tmp_path / "embeddings"):
        path.unlink()
    assert fastclip.here("eval", sharded.name, "-b", "tiny").code == 0
    assert part_paths(tmp_path / "embeddings")


@pytest.mark.parametrize("number", NO_LINKS)
def test_a_store_without_hard_links_holds_the_same_bytes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded = shard(draw_dataset(tmp_path / "s"), tmp_path / "shards", "s", layout="domain/class")
    fill(sharded, tmp_path / "linked")
    without_links(monkeypatch, number)
    fill(sharded, tmp_path / "renamed")
    fill(sharded, tmp_path / "renamed")  # what is there already is found
    assert stored_files(tmp_path / "renamed") == stored_files(tmp_path / "linked")
    assert not list(tmp_path.rglob("*.tmp"))


def test_without_hard_links_a_name_is_still_given_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_links(monkeypatch, errno.EPERM)
    assert write_new(tmp_path / "a", b"first")
    assert not write_new(tmp_path / "a", b"first")
    with pytest.raises(IntegrityError):
        write_new(tmp_path / "a", b"second")
    assert (tmp_path / "a").read_bytes() == b"first"


@pytest.mark.parametrize("number", NO_LINKS)
def test_where_nothing_can_be_published_the_cure_is_another_file_system(
    number: int, fastclip: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sharded = shard(draw_dataset(tmp_path / "s"), tmp_path / "shards", "s", layout="domain/class")
    without_links(monkeypatch, number)
    real = ctypes.CDLL
    # A C library without renameat2.
    monkeypatch.setattr(ctypes, "CDLL", lambda name, *rest, **options: real(name, *rest, **options) if name else 0)
    outcome = fastclip.here("eval", sharded.name, "-b", "tiny")
    assert (outcome.code, outcome.err.count("\n")) == (2, 2)
    assert "without hard links" in outcome.err
    assert "--store on another one" in outcome.err
    assert stored_files(tmp_path / "embeddings") == {}


def test_domains_with_long_names_are_sharded_and_read(fastclip: Program, tmp_path: Path) -> None:
    names = [CHINESE, CHINESE + "一", "photo"]
    source = draw_dataset(tmp_path / "s", domains="a b photo", per_class=2)
    for old, new in zip("ab", names, strict=False):
        (source / old).rename(source / new)
    sharded = shard(source, tmp_path / "shards", "s", layout="domain/class")
    manifest = read_manifest(str(sharded.folder))
    assert {domain.name for domain in manifest.domains} == set(names)
    checked = check_dataset(LocalFolder(sharded.folder), manifest, workers=1)
    assert [*checked.differences, *checked.unread] == []
    fill(sharded, tmp_path / "embeddings", of=RECIPE)
    words = ["--recipe", RECIPE.id[:12], "--format", "transferlearning"]
    assert fastclip.here("features", "s", "-b", "tiny", *words).code == 0
    assert len(list((tmp_path / "features").rglob("*.csv"))) == 3


@pytest.mark.parametrize("name", ["photo", "Real World", "a" * 255, "长" * 28, "50%", "..", "a~b"])
def test_names_that_fit_are_spelt_as_they_always_were(name: str) -> None:
    from urllib.parse import quote

    assert path_name(name) == quote(name, safe="").replace(".", "%2E")


def test_long_names_are_shortened_to_different_names_that_no_short_one_has() -> None:
    short = {path_name(CHINESE + end) for end in ("", "一", "二", ".", "/")}
    assert len(short) == 5
    assert all(len(name) <= 255 and name.isascii() and "/" not in name for name in short)


def test_a_dataset_name_that_is_too_long_is_refused() -> None:
    check_dataset_name("a" * 200)
    with pytest.raises(UserError, match="has 300 letters"):
        check_dataset_name("a" * 300)


def test_texts_that_no_file_holds_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no Unicode text"):
        check_classes(["cat", "\ud800"])
    (tmp_path / "p.json").write_text('["a \\ud800 {}"]')
    with pytest.raises(UserError, match="no Unicode text"):
        find_prompt_set(str(tmp_path / "p.json"))


def test_classes_whose_prototypes_no_file_holds_are_refused() -> None:
    question = Question(weights="w", architecture="a", templates=("{}",), classes=(("a" * 10**8, "b"),))
    with pytest.raises(UserError, match="take 100 MB"):
        check_question(question, "letters")


def test_a_manifest_is_written_as_json_writes_it(tmp_path: Path) -> None:
    sharded = shard(draw_dataset(tmp_path / "s"), tmp_path / "shards", "s", layout="domain/class", shard_images=7)
    manifest = read_manifest(str(sharded.folder))
    for each in (manifest, replace(manifest, shards=()), replace(manifest, title='"shards": [] \\ \n é')):
        data = each.to_json()
        assert data == json.dumps(json.loads(data), indent=1, ensure_ascii=False).encode() + b"\n"
        assert [row["name"] for row in json.loads(data)["shards"]] == [row.name for row in each.shards]
