"""A web server that runs here: a folder's files with faults on the way, and answers that a test writes down."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote, urlsplit

import pytest

HALVED = ("drop", "stall", "too short", "other bytes, drop")
FAULTS = (*HALVED, "trickle", "too long", "no ranges", "503")


class Asked(NamedTuple):
    path: str
    query: str
    headers: dict[str, str]


class Server(ThreadingHTTPServer):
    """Answers by `routes`, else from `folder`. `faults[path]` befall the next requests for a path, one each."""

    daemon_threads = True

    def __init__(self, folder: Path | None = None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.routes: dict[str, Route] = {}
        self.faults: dict[str, deque[str]] = defaultdict(deque)
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, path: str = "", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server_port}{path}"

    def requests_for(self, ending: str) -> list[Asked]:
        return [asked for asked in self.asked if asked.path.endswith(ending)]

    def ranges(self, path: str) -> list[str | None]:
        return [asked.headers.get("range") for asked in self.requests_for(path)]


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.server.asked.append(Asked(url.path, url.query, headers))
        self.close_connection = True
        path = unquote(url.path).lstrip("/")
        faults = self.server.faults[path]
        if route := self.server.routes.get(url.path):
            route(self)
        elif self.server.folder and (self.server.folder / path).is_file():
            send_file(self, (self.server.folder / path).read_bytes(), fault=faults.popleft() if faults else "")
        else:
            answer(self, 404)

    def log_message(self, format: str, *args: object) -> None:
        pass


Route = Callable[[Handler], None]


def answer(handler: Handler, code: int, body: bytes = b"", **headers: object) -> None:
    handler.send_response(code)
    for name, value in {"Content_Length": len(body), **headers}.items():
        if value is not None:
            handler.send_header(name.replace("_", "-"), str(value))
    handler.end_headers()
    handler.wfile.write(body)
    handler.wfile.flush()


def send_file(handler: Handler, data: bytes, *, tag: str | None = None, fault: str = "") -> None:
    """Answers as a good server does with Range and If-Range, but for the fault."""
    if fault == "503":
        return answer(handler, 503)
    if "other bytes" in fault:
        data = bytes(byte ^ 1 for byte in data)
    start = int(handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
    if fault == "no ranges" or (fault != "no If-Range" and handler.headers.get("If-Range", tag) != tag):
        start = 0
    if start and start >= len(data):
        return answer(handler, 416, Content_Range=f"bytes */{len(data)}" if tag else None)
    body = data[start:]
    half = body[: len(body) // 2]
    sent = half if fault in HALVED else b"" if fault == "trickle" else body
    span = f"bytes {start}-{len(data) - 1}/{len(data)}" if start else None
    claimed = {"too short": len(half), "too long": len(body) + 100}.get(fault, len(body))
    answer(handler, 206 if start else 200, sent, Content_Length=claimed, ETag=tag, Content_Range=span)
    for byte in body if fault == "trickle" else b"":
        handler.wfile.write(bytes([byte]))
        if handler.server.closing.wait(0.02):
            break
    if fault == "stall":
        handler.server.closing.wait(30)
    return None


def file_route(data: bytes, tag: str | None = '"1"', fault: str = "") -> Route:
    return lambda handler: send_file(handler, data, tag=tag, fault=fault)


def status(code: int, **headers: object) -> Route:
    return lambda handler: answer(handler, code, **headers)


def one_after_the_other(*routes: Route) -> Route:
    """The first request gets the first answer, and so on; the last answer is for all further ones."""
    left = list(routes)
    return lambda handler: (left.pop(0) if len(left) > 1 else left[0])(handler)


@contextmanager
def serving() -> Iterator[Callable[..., Server]]:
    """Starts servers, to which no proxy is in the way."""
    servers: list[Server] = []

    def start(folder: Path | None = None) -> Server:
        servers.append(Server(folder))
        return servers[-1]

    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield start
    for server in servers:
        server.closing.set()
        server.shutdown()
        server.server_close()
