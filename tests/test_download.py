"""Downloads against a server that runs here: whole and checked or not there at all, and resumed after anything."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import formatdate
from pathlib import Path

import pytest
from helpers import Outcome, Program
from PIL import Image
from servers import Handler, Route, Server, answer, file_route, one_after_the_other, serving, status

from fastclip.data.catalogue import Download, parse_card
from fastclip.data.download.fetch import FetchOptions, check_space, part_of
from fastclip.data.download.files import DOWNLOADED, download, list_remote_files, read_record
from fastclip.errors import FastclipError, IncompleteError, IntegrityError, UserError

DATA = bytes(i * 7 % 251 for i in range(300_000))
HALF = 140_000
ONE_CLASS = 'classes = ["cat"]\n[[domains]]\nname = "all"\n'
PATIENT = FetchOptions(timeout_s=5.0, retries=3)
HASTY = FetchOptions(timeout_s=0.3, retries=1)


@pytest.fixture
def site() -> Iterator[Server]:
    with serving() as start:
        yield start()


def cut_off(data: bytes, at: int, **headers: object) -> Route:
    """Announce all of `data`, send its beginning, and hang up."""
    return lambda handler: answer(handler, 200, data[:at], **{"Content_Length": len(data), "ETag": '"1"', **headers})


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def get(folder: Path, row: Download, options: FetchOptions = PATIENT) -> tuple[set[str], int]:
    """Fetch the file of one row; which files were new, and by how many bytes the disk's contents grew."""
    card = parse_card("pets", ONE_CLASS.encode(), "pets.toml")
    object.__setattr__(card, "downloads", (row,))
    (files,) = list_remote_files(card, options).values()
    moved: list[int] = []
    return download(files, folder, options, lambda _, count: moved.append(count)), sum(moved)


def files_in(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_file_comes_once_with_its_bytes_its_digest_and_its_record(site: Server, tmp_path: Path):
    site.routes["/a/pets%20v1.zip"] = file_route(DATA)
    row = Download(url=site.url("/a/pets%20v1.zip?key=secret"), bytes=len(DATA), sha256=sha256(DATA))
    assert get(tmp_path, row) == ({"pets v1.zip"}, len(DATA))
    assert (tmp_path / "pets v1.zip").read_bytes() == DATA
    assert files_in(tmp_path) == [DOWNLOADED, "pets v1.zip"]
    assert json.loads((tmp_path / DOWNLOADED).read_bytes()) == {
        "pets v1.zip": {"bytes": len(DATA), "sha256": sha256(DATA), "url": site.url("/a/pets%20v1.zip")}
    }
    assert get(tmp_path, row) == (set(), 0)
    assert len(site.asked) == 1, "what is complete is not asked for again"


def test_what_was_fetched_once_is_held_to_its_digest_ever_after(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = file_route(DATA)
    row = Download(url=site.url("/pets.zip"))
    get(tmp_path, row)
    (tmp_path / "pets.zip").write_bytes(DATA[:-1] + b"?")
    with pytest.raises(IntegrityError, match=r"pets\.zip has SHA-256"):
        get(tmp_path, row)
    assert (tmp_path / "pets.zip").read_bytes() == DATA[:-1] + b"?", "it may be somebody's: it stays"
    (tmp_path / "pets.zip").unlink()
    site.routes["/pets.zip"] = file_route(DATA[::-1])
    with pytest.raises(IntegrityError, match="came with SHA-256"):
        get(tmp_path, row)
    assert files_in(tmp_path) == [DOWNLOADED]


def test_a_file_put_there_by_hand_is_taken_if_it_can_be_the_file(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = file_route(DATA)
    (tmp_path / "pets.zip").write_bytes(DATA[:HALF])
    with pytest.raises(IntegrityError, match="140,000 bytes, expected 300,000"):
        get(tmp_path, Download(url=site.url("/pets.zip")))
    (tmp_path / "pets.zip").write_bytes(DATA)
    assert get(tmp_path, Download(url=site.url("/pets.zip"))) == (set(), 0)
    assert read_record(tmp_path)["pets.zip"].sha256 == sha256(DATA)


@pytest.mark.parametrize("known", [False, True])
def test_a_dropped_connection_is_taken_up_where_it_broke(site: Server, tmp_path: Path, known: bool):
    site.routes["/pets.zip"] = one_after_the_other(cut_off(DATA, HALF), status(503, Retry_After="0"), file_route(DATA))
    row = Download(url=site.url("/pets.zip"), sha256=sha256(DATA) if known else None)
    assert get(tmp_path, row) == ({"pets.zip"}, len(DATA))
    assert (tmp_path / "pets.zip").read_bytes() == DATA
    assert site.ranges("/pets.zip") == [None, f"bytes={HALF}-", f"bytes={HALF}-"]
    assert site.asked[-1].headers["if-range"] == '"1"'


def drip(step: int) -> Route:
    """Send so many bytes, where all that are left were announced, and hang up."""

    def serve(handler: Handler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(DATA) - 1}/{len(DATA)}"
        announced = len(DATA) - start
        answer(handler, 206, DATA[start : start + step], Content_Length=announced, ETag='"1"', Content_Range=span)

    return serve


def test_a_server_that_drops_every_connection_but_gets_on_is_not_given_up(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = drip(50_000)
    get(tmp_path, Download(url=site.url("/pets.zip")), FetchOptions(timeout_s=5.0, retries=0))
    assert (tmp_path / "pets.zip").read_bytes() == DATA and len(site.asked) == 6


def test_a_server_that_ignores_ranges_starts_the_file_again(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = one_after_the_other(cut_off(DATA, HALF), file_route(DATA, fault="no ranges"))
    assert get(tmp_path, Download(url=site.url("/pets.zip"))) == ({"pets.zip"}, len(DATA))
    assert (tmp_path / "pets.zip").read_bytes() == DATA
    assert site.ranges("/pets.zip") == [None, f"bytes={HALF}-"]


@pytest.mark.parametrize("good", [True, False], ids=["If-Range", "no If-Range"])
def test_a_file_that_changed_in_between_is_not_spliced(site: Server, tmp_path: Path, good: bool):
    new = DATA[::-1]
    changed = file_route(new, '"2"', fault="" if good else "no If-Range")
    site.routes["/pets.zip"] = one_after_the_other(cut_off(DATA, HALF), changed)
    assert get(tmp_path, Download(url=site.url("/pets.zip"))) == ({"pets.zip"}, len(DATA))
    assert (tmp_path / "pets.zip").read_bytes() == new


@pytest.mark.parametrize("known", [False, True])
def test_without_a_version_only_a_known_digest_allows_to_go_on(site: Server, tmp_path: Path, known: bool):
    site.routes["/pets.zip"] = one_after_the_other(cut_off(DATA, HALF, ETag='W/"weak"'), file_route(DATA, None))
    get(tmp_path, Download(url=site.url("/pets.zip"), sha256=sha256(DATA) if known else None))
    assert (tmp_path / "pets.zip").read_bytes() == DATA
    assert site.ranges("/pets.zip") == [None, f"bytes={HALF}-" if known else None]


def test_pieces_of_two_versions_that_only_the_digest_tells_are_fetched_anew(site: Server, tmp_path: Path):
    other = file_route(DATA[::-1], None)
    site.routes["/pets.zip"] = one_after_the_other(cut_off(DATA, HALF, ETag=None), other, file_route(DATA, None))
    get(tmp_path, Download(url=site.url("/pets.zip"), sha256=sha256(DATA)))
    assert (tmp_path / "pets.zip").read_bytes() == DATA
    assert site.ranges("/pets.zip") == [None, f"bytes={HALF}-", None]


def test_a_part_that_is_whole_already_is_not_fetched_again(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = one_after_the_other(cut_off(DATA, HALF), file_route(DATA))
    row = Download(url=site.url("/pets.zip"))
    with pytest.raises(IncompleteError):
        site.routes["/pets.zip"] = cut_off(DATA, HALF)
        get(tmp_path, row, HASTY)
    with part_of(tmp_path / "pets.zip").open("r+b") as part:
        part.truncate(0)
        part.write(DATA)  # as if it had been killed after the last byte
    site.routes["/pets.zip"] = file_route(DATA)
    assert get(tmp_path, row) == ({"pets.zip"}, 0)
    assert site.ranges("/pets.zip")[-1] == f"bytes={len(DATA)}-"
    assert files_in(tmp_path) == [DOWNLOADED, "pets.zip"]


def test_a_part_of_another_address_is_not_gone_on_with(site: Server, tmp_path: Path):
    site.routes["/old/pets.zip"] = cut_off(DATA[::-1], HALF)
    site.routes["/new/pets.zip"] = file_route(DATA)  # with the same ETag, as small servers' counters have
    with pytest.raises(IncompleteError):
        get(tmp_path, Download(url=site.url("/old/pets.zip")), HASTY)
    assert get(tmp_path, Download(url=site.url("/new/pets.zip"))) == ({"pets.zip"}, len(DATA) - HALF)
    assert (tmp_path / "pets.zip").read_bytes() == DATA


def nonsense(handler: Handler) -> None:
    answer(handler, 206, DATA[:HALF], Content_Range="bytes 77-99/100", ETag='"1"')


def silence(handler: Handler) -> None:
    cut_off(DATA, HALF)(handler)
    handler.server.closing.wait(30)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (cut_off(DATA, HALF), "160,000 bytes early"),
        (nonsense, "other bytes than it was asked for"),
        (silence, "silent"),
        (file_route(DATA, fault="trickle"), "fewer than 1,000 bytes a second"),
        (drip(1), "299,99. bytes early"),
        (status(503), "503"),
        (lambda handler: handler.connection.close(), "cut off|reset|closed"),
    ],
    ids=["cut", "nonsense", "stalled", "trickle", "a byte a time", "503", "hangs up"],
)
def test_what_does_not_get_better_ends_with_what_came_and_code_4(site: Server, tmp_path: Path, route: Route, said: str):
    site.routes["/pets.zip"] = route
    with pytest.raises(IncompleteError, match=said):
        get(tmp_path, Download(url=site.url("/pets.zip")), HASTY)
    assert not (tmp_path / "pets.zip").exists()
    if said in ("160,000 bytes early", "silent"):
        assert part_of(tmp_path / "pets.zip").read_bytes() == DATA[:HALF]


@pytest.mark.parametrize(
    ("headers", "waits"),
    [({}, [1, 2, 4, 8]), ({"Retry_After": "7"}, [7, 7, 7, 8]), ({"Retry_After": "290"}, [290] * 4)],
)
def test_each_pause_is_twice_the_last_or_what_the_server_asks_for(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], waits: list[int]
):
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    site.routes["/pets.zip"] = status(429, **headers)
    with pytest.raises(IncompleteError, match="429"):
        get(tmp_path, Download(url=site.url("/pets.zip")), FetchOptions(retries=4))
    assert len(slept) == 4 and all(abs(pause / wait - 1) <= 0.25 for pause, wait in zip(slept, waits, strict=True))
    assert all(float(headers.get("Retry_After", 0)) <= pause for pause in slept)


@pytest.mark.parametrize(
    ("after", "words"),
    [("31536000", "365 days"), ("7200", "2 hours"), ("301", "5 minutes"), ("Thu, 01 Jan 2099 00:00:00 GMT", "days")],
)
def test_a_server_that_wants_to_be_left_alone_for_long_is_given_up_at_once(
    site: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: str, words: str
):
    monkeypatch.setattr(time, "sleep", lambda pause: pytest.fail("it waits"))
    site.routes["/pets.zip"] = status(503, Retry_After=after)
    with pytest.raises(IncompleteError, match=f"answers 503, and asks to come back in .*{words}") as caught:
        get(tmp_path, Download(url=site.url("/pets.zip")))
    assert caught.value.fix == "Run the same command then; it goes on where it was." and len(site.asked) == 1


def packed(data: bytes, how: str = "gzip", cut: int = 0) -> Route:
    body = gzip.compress(data)
    return lambda handler: answer(handler, 200, body[: len(body) - cut], Content_Encoding=how, ETag='"1"')


@pytest.mark.parametrize("how", ["gzip", "x-gzip", "GZIP"])
def test_what_is_packed_on_the_way_unasked_is_unpacked_again(site: Server, tmp_path: Path, how: str):
    large = DATA * 9
    site.routes["/pets.zip"] = packed(large, how)
    assert get(tmp_path, Download(url=site.url("/pets.zip"))) == ({"pets.zip"}, len(large))
    assert (tmp_path / "pets.zip").read_bytes() == large and site.asked[0].headers["accept-encoding"] == "identity"
    site.routes["/cats.zip"] = lambda handler: answer(
        handler, 200, gzip.compress(DATA) + gzip.compress(DATA[::-1]), Content_Encoding=how
    )
    get(tmp_path, Download(url=site.url("/cats.zip")))
    assert (tmp_path / "cats.zip").read_bytes() == DATA + DATA[::-1], "several streams are one file"


def test_a_packed_file_that_a_server_calls_encoded_keeps_its_bytes(site: Server, tmp_path: Path):
    site.routes["/pets.tar.gz"] = packed(DATA, "x-gzip")
    get(tmp_path, Download(url=site.url("/pets.tar.gz")))
    assert (tmp_path / "pets.tar.gz").read_bytes() == gzip.compress(DATA)


@pytest.mark.parametrize(
    ("route", "error", "said"),
    [
        (packed(DATA, cut=30), IncompleteError, "ended early"),
        (lambda handler: answer(handler, 200, DATA, Content_Encoding="gzip"), IncompleteError, "packed, and damaged"),
        (packed(DATA, "br"), UserError, r"comes packed \(br\), although it was asked for as it is"),
    ],
    ids=["cut", "not packed at all", "another way"],
)
def test_packed_bytes_never_stand_under_a_plain_name(
    site: Server, tmp_path: Path, route: Route, error: type[FastclipError], said: str
):
    site.routes["/pets.zip"] = route
    with pytest.raises(error, match=said):
        get(tmp_path, Download(url=site.url("/pets.zip")), HASTY)
    assert not (tmp_path / "pets.zip").exists()


def test_an_empty_body_is_no_file_unless_the_card_says_so(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = status(200, Content_Length=0)
    with pytest.raises(IncompleteError, match="it comes empty"):
        get(tmp_path, Download(url=site.url("/pets.zip")), HASTY)
    assert files_in(tmp_path) == []
    (tmp_path / "pets.zip").touch()
    with pytest.raises(IntegrityError, match=r"pets\.zip has no bytes"):
        get(tmp_path, Download(url=site.url("/pets.zip")), HASTY)
    site.routes["/pets.zip"] = one_after_the_other(status(200, Content_Length=0), file_route(DATA))
    get(tmp_path / "later", Download(url=site.url("/pets.zip")))
    assert (tmp_path / "later" / "pets.zip").read_bytes() == DATA


LONG_AGO, LATELY = "Mon, 06 Jan 2020 10:00:00 GMT", "Tue, 07 Jan 2020 10:00:00 GMT"


def piece(data: bytes, **headers: object) -> Route:
    """What is asked for of `data`, and these headers, whatever version is wanted."""

    def serve(handler: Handler) -> None:
        start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        span = f"bytes {start}-{len(data) - 1}/{len(data)}" if start else None
        answer(handler, 206 if start else 200, data[start:], Content_Range=span, **headers)

    return serve


@pytest.mark.parametrize("run", ["one", "two"])
@pytest.mark.parametrize(
    ("first", "new", "headers"),
    [
        ({}, DATA[::-1] + b"longer", {"ETag": '"1"'}),
        ({"Last_Modified": LONG_AGO}, DATA[::-1], {"ETag": '"1"', "Last_Modified": LATELY}),
        ({"ETag": None, "Last_Modified": LONG_AGO}, DATA[::-1], {"Last_Modified": LATELY}),
        ({}, DATA[::-1], {}),
    ],
    ids=["length", "date", "date alone", "no version any more"],
)
def test_another_file_under_one_version_is_not_spliced_where_anything_shows_it(
    site: Server, tmp_path: Path, first: dict[str, object], new: bytes, headers: dict[str, object], run: str
):
    row = Download(url=site.url("/pets.zip"))
    begun, later = cut_off(DATA, HALF, **first), piece(new, **headers)
    if run == "two":
        site.routes["/pets.zip"] = begun
        with pytest.raises(IncompleteError):
            get(tmp_path, row, FetchOptions(timeout_s=5.0, retries=0))
        site.routes["/pets.zip"] = later
    else:
        site.routes["/pets.zip"] = one_after_the_other(begun, later)
    get(tmp_path, row)
    assert (tmp_path / "pets.zip").read_bytes() == new and files_in(tmp_path) == [DOWNLOADED, "pets.zip"]
    assert site.ranges("/pets.zip")[-2:] == [f"bytes={HALF}-", None]


def test_the_time_of_a_change_names_a_version_only_when_it_is_a_minute_old(site: Server, tmp_path: Path):
    now = formatdate(usegmt=True)
    for name, changed in (("old", LONG_AGO), ("new", now)):
        begun = cut_off(DATA, HALF, ETag=None, Last_Modified=changed)
        site.routes[f"/{name}.zip"] = one_after_the_other(begun, piece(DATA, Last_Modified=changed))
        get(tmp_path, Download(url=site.url(f"/{name}.zip")))
        assert (tmp_path / f"{name}.zip").read_bytes() == DATA
    assert site.ranges("/old.zip") == [None, f"bytes={HALF}-"] and site.ranges("/new.zip") == [None, None]


@pytest.mark.parametrize("of", ["answer", "chunk"])
def test_a_head_that_comes_byte_by_byte_is_not_waited_for(site: Server, tmp_path: Path, of: str):
    def slowly(handler: Handler) -> None:
        head = b"Content-Length: 300000\r\nX-Long: "
        if of == "chunk":
            head = b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n7;extension="
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n" + head)
        with suppress(OSError):
            while not handler.server.closing.wait(0.02):
                handler.wfile.write(b"x")

    site.routes["/pets.zip"] = slowly
    with pytest.raises(IncompleteError, match="silent"):
        get(tmp_path, Download(url=site.url("/pets.zip")), HASTY)
    assert not (tmp_path / "pets.zip").exists() and len(site.asked) >= 2


def test_a_file_that_goes_while_others_come_is_named(site: Server, tmp_path: Path):
    def remove(handler: Handler) -> None:
        (tmp_path / "cats.zip").unlink()
        file_route(DATA)(handler)

    site.routes["/cats.zip"], site.routes["/dogs.zip"] = file_route(DATA), remove
    card = parse_card("pets", ONE_CLASS.encode(), "pets.toml")
    rows = tuple(Download(url=site.url(f"/{name}.zip")) for name in ("cats", "dogs"))
    object.__setattr__(card, "downloads", rows)
    files = [file for found in list_remote_files(card, PATIENT).values() for file in found]
    with pytest.raises(IncompleteError, match=r"cats\.zip is not there any more"):
        download(files, tmp_path, PATIENT, lambda now, count: None)
    site.routes["/dogs.zip"] = file_route(DATA)
    assert download(files, tmp_path, PATIENT, lambda now, count: None) == {"cats.zip"}


def chunked(data: bytes, *, ended: bool) -> Route:
    def serve(handler: Handler) -> None:
        handler.protocol_version = "HTTP/1.1"
        body = b"%x\r\n%s\r\n" % (len(data), data) + (b"0\r\n\r\n" if ended else b"")
        answer(handler, 200, body, Content_Length=None, Transfer_Encoding="chunked")

    return serve


def test_a_length_that_nobody_knows_is_not_guessed(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = lambda handler: answer(handler, 200, DATA, Content_Length=None)
    with pytest.raises(UserError, match="a cut would go unnoticed"):
        get(tmp_path, Download(url=site.url("/pets.zip")))
    get(tmp_path / "known", Download(url=site.url("/pets.zip"), sha256=sha256(DATA)))
    assert (tmp_path / "known" / "pets.zip").read_bytes() == DATA

    site.routes["/pets.zip"] = chunked(DATA, ended=False)
    with pytest.raises(IncompleteError, match="cut off"):
        get(tmp_path / "chunked", Download(url=site.url("/pets.zip")), HASTY)
    site.routes["/pets.zip"] = chunked(DATA, ended=True)
    get(tmp_path / "chunked", Download(url=site.url("/pets.zip")))
    assert (tmp_path / "chunked" / "pets.zip").read_bytes() == DATA


@pytest.mark.parametrize(
    ("route", "facts", "error", "said"),
    [
        (file_route(DATA), {"sha256": "0" * 64}, IntegrityError, "SHA-256 .*, expected 0000"),
        (file_route(DATA), {"bytes": 7}, IntegrityError, "300,000 bytes, expected 7"),
        (chunked(DATA, ended=True), {"bytes": 7}, IntegrityError, "at least .* bytes, expected 7"),
        (status(404), {}, UserError, "answers 404"),
        (status(403), {}, UserError, "answers 403"),
        (status(302, Location="file:///etc/passwd"), {}, UserError, "neither http nor https"),
        (status(302, Location="ftp://127.0.0.1/pets.zip"), {}, UserError, "neither http nor https"),
        (status(302, Location="/pets.zip"), {}, UserError, "circles"),
        (lambda handler: answer(handler, 200, b"<html>", Content_Type="text/html"), {}, UserError, "a web page"),
    ],
    ids=["digest", "size", "size when chunked", "404", "403", "to file:", "to ftp:", "to itself", "web page"],
)
def test_what_is_not_the_file_leaves_nothing(
    site: Server, tmp_path: Path, route: Route, facts: dict[str, object], error: type[FastclipError], said: str
):
    site.routes["/pets.zip"] = route
    with pytest.raises(error, match=said) as caught:
        get(tmp_path, Download(url=site.url("/pets.zip?key=secret"), **facts))
    assert files_in(tmp_path) == []
    assert "secret" not in str(caught.value) + caught.value.fix


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_redirects_within_the_web_are_followed(site: Server, tmp_path: Path, code: int):
    site.routes["/pets.zip"] = status(code, Location=site.url("/mirror/0815", host="localhost"))
    site.routes["/mirror/0815"] = file_route(DATA)
    get(tmp_path, Download(url=site.url("/pets.zip")))
    assert (tmp_path / "pets.zip").read_bytes() == DATA


def test_a_redirect_that_wants_its_cookie_back_is_followed(site: Server, tmp_path: Path):
    def log_in(handler: Handler) -> None:
        known = handler.headers.get("Cookie") == "visit=1"
        (file_route(DATA) if known else status(302, Location="/pets.zip", Set_Cookie="visit=1"))(handler)

    site.routes["/pets.zip"] = log_in
    get(tmp_path, Download(url=site.url("/pets.zip")))
    assert (tmp_path / "pets.zip").read_bytes() == DATA


@pytest.mark.parametrize("there", ["http://127.0.0.1:port/", f"http://{'a' * 70}.example.org/", "http://[/"])
def test_a_redirect_to_an_address_that_cannot_be_is_two_lines(site: Server, tmp_path: Path, there: str):
    site.routes["/pets.zip"] = status(302, Location=there)
    with pytest.raises(UserError, match="address that cannot be valid"):
        get(tmp_path, Download(url=site.url("/pets.zip")))


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("/%2e%2e%5C%2e%2e%5Cpets.zip", "pets.zip"),
        ("/.ssh", "ssh"),
        ("/pets%00%1b[31m.zip", "pets___31m.zip"),
        ("/pets.zip/", "pets.zip"),
    ],
)
def test_a_name_from_a_url_stays_in_its_folder(site: Server, tmp_path: Path, path: str, name: str):
    site.routes[path] = file_route(DATA)
    assert get(tmp_path / "in" / "here", Download(url=site.url(path))) == ({name}, len(DATA))
    assert files_in(tmp_path) == sorted([f"in/here/{DOWNLOADED}", f"in/here/{name}"])


@pytest.mark.parametrize(
    "row",
    [
        'url = "file:///etc/passwd"',
        'url = "ftp://example.org/pets.zip"',
        'url = "https://user:password@example.org/pets.zip"',
        'url = "hf://models/a/b"',
        'url = "hf://datasets/a/b"\nsha256 = "' + "0" * 64 + '"',
        'url = "https://example.org/pets.zip"\nsha256 = "ABC"',
        'url = "https://example.org/pets.zip"\nfile = "../pets.zip"',
        'url = "https://example.org/pets.zip"\npatterns = ["*.zip"]',
        'url = "https://example.org/pets.zip"\ncolour = "blue"',
    ],
)
def test_a_card_with_a_row_that_cannot_be_meant_is_refused(row: str):
    with pytest.raises(UserError, match=r"pets\.toml is not a dataset card") as caught:
        parse_card(
            "pets", f'classes = ["cat"]\n[[domains]]\nname = "all"\n[[downloads]]\n{row}\n'.encode(), "pets.toml"
        )
    assert "password@" not in str(caught.value)


def test_two_rows_do_not_write_one_file(site: Server, tmp_path: Path):
    rows = "".join(f'[[downloads]]\nurl = "{site.url(path)}"\n' for path in ("/a/pets.zip", "/b/pets.zip"))
    card = parse_card("pets", f"{ONE_CLASS}{rows}".encode(), "pets.toml")
    with pytest.raises(UserError, match=r"two files of its card are called pets\.zip"):
        list_remote_files(card, PATIENT)


def test_a_disk_that_is_too_small_is_told_before_anything_comes(site: Server, tmp_path: Path):
    site.routes["/pets.zip"] = lambda handler: answer(handler, 200, b"", Content_Length=1 << 60)
    with pytest.raises(IncompleteError, match=" more"):
        get(tmp_path, Download(url=site.url("/pets.zip"), bytes=1 << 60))
    assert site.asked == []
    with pytest.raises(IncompleteError, match=" more"):
        get(tmp_path, Download(url=site.url("/pets.zip")))
    assert files_in(tmp_path) == []
    check_space(tmp_path / "not" / "there", 1)


# From here on, the program as a user runs it.


@pytest.fixture
def pets(site: Server, fastclip: Program) -> Callable[..., Outcome]:
    """Writes a card of the user's own with these rows, and downloads it."""

    def run(*rows: str, arguments: tuple[object, ...] = ()) -> Outcome:
        write_card(fastclip.folder, *rows)
        return fastclip("download", "pets", *arguments)

    return run


def write_card(folder: Path, *rows: str) -> None:
    card = 'title = "Cats and Dogs"\nhomepage = "https://example.org/pets"\nlicence = "CC0"\ncitation = "Doe: Pets"\n'
    card += ONE_CLASS + "".join(f"[[downloads]]\n{row}\n" for row in rows)
    (folder / "shards").mkdir(exist_ok=True)
    (folder / "shards" / "pets.toml").write_text(card, "utf-8")


def error_lines(outcome: Outcome) -> tuple[str, str]:
    what, how = outcome.err.splitlines()
    assert what.startswith("Error: ") and how.startswith("Fix:   "), outcome
    return what, how


def test_the_program_says_what_comes_from_where_and_what_to_type_next(
    site: Server, pets: Callable[..., Outcome], tmp_path: Path
):
    site.routes["/pets.zip"] = file_route(DATA)
    row = f'url = "{site.url("/pets.zip")}"\nbytes = {len(DATA)}\nnote = "all of it"'
    outcome = pets(row)
    assert (outcome.code, outcome.err) == (0, "")
    for fact in ("Cats and Dogs", site.url("/pets.zip"), "300.0 kB", "all of it", "CC0", "Doe: Pets", "1 file fetched"):
        assert fact in outcome.out
    assert outcome.out.splitlines()[-1] == "Next: fastclip shard pets"
    assert (tmp_path / "downloads" / "pets" / "pets.zip").read_bytes() == DATA
    again = pets(row)
    assert again.code == 0 and "0 files fetched, 1 there already" in again.out and len(site.asked) == 1
    assert pets(row, arguments=("--to", "elsewhere")).code == 0
    assert (tmp_path / "elsewhere" / "pets.zip").read_bytes() == DATA


def test_what_was_downloaded_is_sharded_without_saying_where_it_is(
    site: Server, pets: Callable[..., Outcome], fastclip: Program, tmp_path: Path
):
    missing = fastclip.here("shard", "pets")
    assert missing.code == 2 and "no downloads/pets" in error_lines(missing)[0]
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as images:
        image = io.BytesIO()
        Image.new("RGB", (8, 8), "red").save(image, "PNG")
        images.writestr("cat/1.png", image.getvalue())
    site.routes["/pets.zip"] = file_route(archive.getvalue())
    assert pets(f'url = "{site.url("/pets.zip")}"', arguments=("--to", "elsewhere")).code == 0
    assert "fastclip download pets" in error_lines(fastclip.here("shard", "pets"))[1]
    assert pets(f'url = "{site.url("/pets.zip")}"').code == 0
    outcome = fastclip.here("shard", "pets")
    assert "Found as" in outcome.out and (tmp_path / "shards" / "pets" / "manifest.json").is_file(), outcome


def test_a_killed_download_goes_on_with_the_byte_it_had(
    site: Server, fastclip: Program, pets: Callable[..., Outcome], tmp_path: Path
):
    killed = threading.Event()

    def half_then_wait(handler: Handler) -> None:
        cut_off(DATA, HALF)(handler)
        killed.wait(60)

    site.routes["/pets.zip"] = one_after_the_other(half_then_wait, file_route(DATA))
    row = f'url = "{site.url("/pets.zip")}"'
    write_card(tmp_path, row)
    process = fastclip.start("download", "pets")
    part = part_of(tmp_path / "downloads" / "pets" / "pets.zip")
    wait_for(lambda: part.is_file() and part.stat().st_size == HALF)
    second = pets(row)
    assert second.code == 4 and "Another process" in error_lines(second)[0]
    process.kill()
    process.communicate()
    killed.set()
    assert files_in(tmp_path / "downloads") == ["pets/pets.zip.part", "pets/pets.zip.part.json"]

    outcome = pets(row)
    assert outcome.code == 0, outcome
    assert (tmp_path / "downloads" / "pets" / "pets.zip").read_bytes() == DATA
    assert files_in(tmp_path / "downloads") == [f"pets/{DOWNLOADED}", "pets/pets.zip"]
    assert site.ranges("/pets.zip") == [None, f"bytes={HALF}-"]


def wait_for(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < end, "it never happened"
        time.sleep(0.01)


def test_a_wrong_digest_is_two_lines_and_code_5(site: Server, pets: Callable[..., Outcome], tmp_path: Path):
    site.routes["/pets.zip"] = file_route(DATA)
    outcome = pets(f'url = "{site.url("/pets.zip")}"\nsha256 = "{"0" * 64}"')
    assert outcome.code == 5 and sha256(DATA)[:16] in error_lines(outcome)[0]
    assert files_in(tmp_path / "downloads") == []


def test_a_stalled_server_is_two_lines_and_code_4(site: Server, fastclip: Program, pets: Callable[..., Outcome]):
    fastclip.environment.update(FASTCLIP_TIMEOUT_S="0.3", FASTCLIP_RETRIES="0")
    site.routes["/pets.zip"] = lambda handler: handler.rfile.read(1) and None
    outcome = pets(f'url = "{site.url("/pets.zip")}"')
    assert outcome.code == 4 and "silent" in error_lines(outcome)[0]


def test_what_a_person_must_fetch_says_from_where_and_where_to(
    site: Server, pets: Callable[..., Outcome], tmp_path: Path
):
    outcome = pets()
    what, how = error_lines(outcome)
    assert outcome.code == 2 and "No stable source of Cats and Dogs" in what
    assert "https://example.org/pets" in how and "downloads/pets" in how

    site.routes["/labels.zip"] = file_route(DATA)
    by_hand = 'url = "https://drive.example.org/?id=1"\nfile = "pets.zip"\nby_hand = true\nnote = "Sign the form."'
    rows = (f'url = "{site.url("/labels.zip")}"', f'{by_hand}\nsha256 = "{sha256(DATA)}"')
    outcome = pets(*rows)
    what, how = error_lines(outcome)
    assert outcome.code == 2 and "pets.zip" in what and "Sign the form" in what
    assert "https://drive.example.org/?id=1" in how and "downloads/pets" in how
    assert (tmp_path / "downloads" / "pets" / "labels.zip").is_file(), "the rest came"

    (tmp_path / "downloads" / "pets" / "pets.zip").write_bytes(DATA[1:])
    assert pets(*rows).code == 5, "what a person fetched is checked too"
    (tmp_path / "downloads" / "pets" / "pets.zip").write_bytes(DATA)
    outcome = pets(*rows)
    assert outcome.code == 0 and "Next: " in outcome.out
    assert read_record(tmp_path / "downloads" / "pets").keys() == {"labels.zip", "pets.zip"}


def test_an_unknown_dataset_is_two_lines_with_the_known_ones(fastclip: Program):
    outcome = fastclip("download", "pcas")
    what, how = error_lines(outcome)
    assert outcome.code == 2 and outcome.out == "" and "'pcas'" in what and "pacs" in how
    assert fastclip("download", "../pacs").code == 2


COMMIT = "c0ffee" * 6 + "beef"


@dataclass(frozen=True)
class Repository:
    """A dataset on a hub that runs here: the three addresses that huggingface_hub and fastclip ask."""

    site: Server
    files: dict[str, bytes]

    def publish(self) -> None:
        tree = [
            {"type": "directory", "path": "data", "oid": "0" * 40, "size": 0},
            *(self.entry(path, data) for path, data in self.files.items()),
        ]
        info = json.dumps({"id": "doe/pets", "sha": COMMIT, "siblings": []}).encode()
        listing = json.dumps(tree).encode()
        api = "/api/datasets/doe/pets"
        for path in (api, f"{api}/revision/main", f"{api}/revision/{COMMIT}"):
            self.site.routes[path] = lambda handler: answer(handler, 200, info, Content_Type="application/json")
        self.site.routes[f"{api}/tree/{COMMIT}"] = lambda handler: answer(
            handler, 200, listing, Content_Type="application/json"
        )
        for path, data in self.files.items():
            there = self.site.url(f"/cdn/{path}", host="localhost") + "?signature=secret"
            self.site.routes[f"/datasets/doe/pets/resolve/{COMMIT}/{path}"] = status(302, Location=there)
            self.site.routes[f"/cdn/{path}"] = file_route(data, None)

    @staticmethod
    def entry(path: str, data: bytes) -> dict[str, object]:
        row: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": "1" * 40}
        if path.endswith(".parquet"):
            row["lfs"] = {"oid": sha256(data), "size": len(data), "pointerSize": 130}
        return row


@pytest.fixture
def hub(site: Server, fastclip: Program) -> Repository:
    fastclip.environment.update(
        HF_ENDPOINT=site.url(""),
        HF_HUB_OFFLINE="0",
        HF_TOKEN="hf_secret",
        HF_HOME=str(fastclip.folder / "hf"),
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    files = {
        ".gitattributes": b"*.parquet filter=lfs\n",
        "README.md": b"pets\n",
        "data/test-00000-of-00001.parquet": DATA[:1000],
        "data/train-00000-of-00001.parquet": DATA,
    }
    return Repository(site, files)


def test_a_hugging_face_dataset_comes_file_by_file_at_one_commit(
    hub: Repository, site: Server, pets: Callable[..., Outcome], tmp_path: Path
):
    hub.publish()
    outcome = pets('url = "hf://datasets/doe/pets@main"\npatterns = ["data/*.parquet"]')
    assert (outcome.code, outcome.err) == (0, ""), outcome
    assert "hf://datasets/doe/pets@main (301.0 kB, 2 files)" in outcome.out
    folder = tmp_path / "downloads" / "pets"
    wanted = {path: data for path, data in hub.files.items() if path.endswith(".parquet")}
    assert files_in(folder) == sorted([*wanted, DOWNLOADED])
    for path, data in wanted.items():
        assert (folder / path).read_bytes() == data
        assert read_record(folder)[path].url == f"hf://datasets/doe/pets@{COMMIT}/{path}"
        assert read_record(folder)[path].sha256 == sha256(data)
    for path, _, headers in site.asked:
        assert ("authorization" in headers) == (not path.startswith("/cdn/")), "the token goes to the hub alone"
    before = len(site.asked)
    outcome = pets('url = "hf://datasets/doe/pets"')
    assert outcome.code == 0 and "1 file fetched, 2 there already" in outcome.out, "a README more; no dot files"
    assert sum(path.startswith("/cdn/") for path, *_ in site.asked[before:]) == 1


def test_a_parquet_file_that_is_not_what_the_hub_lists_is_not_kept(
    hub: Repository, site: Server, pets: Callable[..., Outcome], tmp_path: Path
):
    hub.publish()
    site.routes["/cdn/data/train-00000-of-00001.parquet"] = file_route(DATA[::-1])
    outcome = pets('url = "hf://datasets/doe/pets"\npatterns = ["data/train-*"]')
    assert outcome.code == 5 and "SHA-256" in error_lines(outcome)[0] and "secret" not in outcome.err
    assert files_in(tmp_path / "downloads") == []


def test_what_the_hub_cannot_give_is_two_lines(
    hub: Repository, site: Server, fastclip: Program, pets: Callable[..., Outcome], tmp_path: Path
):
    outcome = pets('url = "hf://datasets/doe/pets"')  # not published yet
    assert outcome.code in (2, 4) and "doe/pets" in error_lines(outcome)[0]
    hub.publish()
    outcome = pets('url = "hf://datasets/doe/pets"\npatterns = ["*.zip"]')
    assert outcome.code == 2 and "*.zip" in error_lines(outcome)[0]
    outcome = pets('url = "hf://datasets/doe/pets"\nbytes = 1')
    assert outcome.code == 5 and "expected 1" in error_lines(outcome)[0]
    hub.files["data/../../../escaped"] = b"!"
    hub.publish()
    outcome = pets('url = "hf://datasets/doe/pets"')
    assert outcome.code == 5 and "escaped" in error_lines(outcome)[0]
    fastclip.environment["HF_HUB_OFFLINE"] = "1"
    outcome = pets('url = "hf://datasets/doe/pets"')
    assert outcome.code == 4 and "Offline" in error_lines(outcome)[0]
    assert "secret" not in outcome.err and not (tmp_path / "escaped").exists()
    assert not os.path.lexists(tmp_path / "downloads")
