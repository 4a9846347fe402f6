"""Publishing and sealing: whole or absent, and every damage noticed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fastclip.errors import IncompleteError, IntegrityError
from fastclip.files import write_new, write_whole
from fastclip.sealed import seal, unseal


def test_equal_bytes_may_be_published_twice_and_others_raise_an_alarm(tmp_path: Path):
    path = tmp_path / "a" / "part"
    assert write_new(path, b"one")
    assert not write_new(path, b"one")
    with pytest.raises(IntegrityError, match="other bytes"):
        write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert [file.name for file in path.parent.iterdir()] == ["part"], "temporary files are left"


def test_replacing_leaves_the_new_bytes_and_nothing_else(tmp_path: Path):
    write_whole(tmp_path / "file", b"old")
    write_whole(tmp_path / "file", b"new")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {"file": b"new"}


def test_a_folder_that_cannot_be_written_is_named_with_the_cure(tmp_path: Path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(IncompleteError, match="file/part") as caught:
        write_new(tmp_path / "file" / "part", b"")
    assert "again" in caught.value.fix and caught.value.exit_code == 4


SEALED = seal({"embeddings": np.arange(12, dtype=np.float16).reshape(3, 4)}, {"identity": {"a": 1}, "unreadable": []})


def test_a_sealed_file_is_ordinary_safetensors(tmp_path: Path):
    from safetensors.numpy import load

    assert (load(SEALED)["embeddings"] == unseal(SEALED, "part")[0]["embeddings"]).all()
    assert unseal(SEALED, "part")[1] == {"identity": {"a": 1}, "unreadable": []}


@pytest.mark.parametrize("bit", [0, 5, 7])
def test_every_flipped_byte_of_a_sealed_file_is_noticed(bit: int):
    for position in range(len(SEALED)):
        damaged = bytearray(SEALED)
        damaged[position] ^= 1 << bit
        with pytest.raises(IntegrityError):
            unseal(bytes(damaged), "part")


def test_every_cut_and_every_appended_byte_is_noticed():
    for length in range(len(SEALED)):
        with pytest.raises(IntegrityError):
            unseal(SEALED[:length], "part")
    with pytest.raises(IntegrityError):
        unseal(SEALED + b"\0", "part")
