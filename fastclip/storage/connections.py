"""Connections to web servers that have the timeout for the whole head of an answer, not for each byte of it."""

from __future__ import annotations

import http.client
import socket
import threading
import urllib.request
from contextlib import suppress
from http.client import HTTPResponse


class _HurriedConnection(http.client.HTTPConnection):
    """A connection that is hung up when the head of the answer is not there after the timeout."""

    def getresponse(self) -> HTTPResponse:
        sock, late = self.sock, threading.Event()

        def hang_up() -> None:
            late.set()
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

        timer = threading.Timer(self.timeout or 60.0, hang_up)
        timer.daemon = True
        timer.start()
        try:
            response = super().getresponse()
        except Exception:
            if late.is_set():
                raise TimeoutError from None
            raise
        finally:
            timer.cancel()
        if late.is_set():  # a head that was cut off looks like one that is complete
            response.close()
            raise TimeoutError
        return response


class _HurriedTlsConnection(_HurriedConnection, http.client.HTTPSConnection):
    pass


class HttpHandler(urllib.request.HTTPHandler):
    def http_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_HurriedConnection, request)


class HttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, request: urllib.request.Request) -> HTTPResponse:
        return self.do_open(_HurriedTlsConnection, request)
