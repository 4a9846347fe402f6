"""Files that are read as they were hashed, whatever happens to their path."""

from __future__ import annotations

import os
import pickle
import time
from functools import partial
from pathlib import Path

import pytest
from numpy.random import default_rng

from fastclip.errors import IntegrityError
from fastclip.files import digest
from fastclip.proven import ProvenFile, read_proven

BYTES = default_rng(0).bytes(100_000)


def differs(how: str) -> IntegrityError:
    return IntegrityError(how, fix="")


def written(folder: Path, data: bytes = BYTES) -> Path:
    path = folder / "file"
    path.write_bytes(data)
    return path


opened = partial(ProvenFile, differs=differs)


def test_what_is_read_is_what_was_hashed_after_another_file_took_the_name(tmp_path: Path):
    path = written(tmp_path)
    file = opened(path)
    (tmp_path / "other").write_bytes(BYTES[::-1])
    (tmp_path / "other").replace(path)
    assert file.sha256 == digest(BYTES) and file.read() == BYTES and file.read(5, 7) == BYTES[5:12]
    path.unlink()
    file.check_unchanged()


@pytest.mark.parametrize("at", [0, 50_000, len(BYTES) - 1])
def test_a_flipped_byte_is_noticed_even_at_once_and_with_the_old_times(at: int, tmp_path: Path):
    path = written(tmp_path)
    file, facts = opened(path), path.stat()
    with path.open("r+b") as out:
        out.seek(at)
        out.write(bytes([BYTES[at] ^ 1]))
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(IntegrityError, match="changed while it was read"):
        file.check_unchanged()


def test_a_file_with_another_name_is_the_same_file(tmp_path: Path):
    path = written(tmp_path)
    time.sleep(0.15)
    file = opened(path)
    (tmp_path / "link").hardlink_to(path)
    file.check_unchanged()
    (tmp_path / "link").unlink()
    file.check_unchanged()


def test_other_bytes_for_a_moment_are_noticed_with_the_first_ones_and_the_old_times_back(tmp_path: Path):
    path = written(tmp_path)
    time.sleep(0.15)
    file, facts = opened(path), path.stat()
    for data in (BYTES[::-1], BYTES):
        path.write_bytes(data)
    os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    with pytest.raises(IntegrityError, match="changed while it was read"):
        file.check_unchanged()


def test_a_file_of_the_cache_may_be_touched(tmp_path: Path):
    path = written(tmp_path)
    file = opened(path, ours=True)
    for _ in range(2):
        os.utime(path)
        file.check_unchanged()
    os.truncate(path, 9)
    with pytest.raises(IntegrityError, match="changed while it was read"):
        file.check_unchanged()


@pytest.mark.parametrize("size", [0, 1, 99_999])
def test_a_file_that_was_cut_short_is_an_error_and_not_the_end_of_the_process(size: int, tmp_path: Path):
    path = written(tmp_path)
    file = opened(path)
    os.truncate(path, size)
    with pytest.raises(IntegrityError, match=f"it ends at byte {size:,}"):
        file.read()
    with pytest.raises(IntegrityError, match="changed"):
        file.check_unchanged()


def test_other_bytes_another_size_and_what_is_no_file_are_refused(tmp_path: Path):
    path = written(tmp_path)
    with pytest.raises(IntegrityError, match="SHA-256"):
        opened(path, sha256=digest(b""))
    with pytest.raises(IntegrityError, match=r"100,000 bytes, and should have 7"):
        opened(path, size=7)
    with pytest.raises(IntegrityError, match="SHA-256"):
        read_proven(path, digest(b""), differs)
    os.mkfifo(tmp_path / "pipe")  # which nobody writes to
    for place in (tmp_path / "pipe", tmp_path):
        with pytest.raises(IntegrityError, match="no regular file"):
            opened(place)
    with pytest.raises(FileNotFoundError):
        opened(tmp_path / "none")


def test_another_process_gets_the_same_bytes_or_none(tmp_path: Path):
    path = written(tmp_path)
    sent = pickle.dumps(opened(path))
    assert pickle.loads(sent).read() == BYTES
    path.write_bytes(BYTES[:-1] + b"?")
    with pytest.raises(IntegrityError, match="SHA-256"):
        pickle.loads(sent)


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted on Linux only")
def test_a_file_that_nobody_holds_is_closed(tmp_path: Path):
    path, before = written(tmp_path), open_files()
    files = [opened(path) for _ in range(9)]
    assert open_files() == before + 9
    del files
    assert open_files() == before
