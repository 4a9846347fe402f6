"""Connections to web servers that have the timeout for the whole head of an answer, not for each byte of it."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from http.client import HTTPResponse
from typing import Any, TypeVar

T = TypeVar("T")


class _HurriedResponse(HTTPResponse):
    """An answer whose connection is hung up when its head, or the head of one of its chunks, takes too long."""

    def __init__(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        super().__init__(sock, *arguments, **named)
        self._sock = sock

    def begin(self) -> None:
        self._in_time(super().begin)

    def read1(self, n: int = -1) -> bytes:
        read = partial(super().read1, n)
        return self._in_time(read) if self.chunked else read()

    def _in_time(self, action: Callable[[], T]) -> T:
        """The result of `action()`. Raises `TimeoutError` if it took longer than the timeout of the connection."""
        late = threading.Event()

        def hang_up() -> None:
            late.set()
            with suppress(OSError):
                self._sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self._sock.gettimeout() or 60.0, hang_up)
        timer.daemon = True
        timer.start()
        try:
            result = action()
        except Exception:
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        if late.is_set():  # a head that was cut off looks like one that is complete
            raise TimeoutError
        return result


class _HurriedConnection(http.client.HTTPConnection):
    response_class = _HurriedResponse


class _HurriedTlsConnection(http.client.HTTPSConnection):
    response_class = _HurriedResponse


class HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_HurriedConnection, request)


class HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_HurriedTlsConnection, request)
