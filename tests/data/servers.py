"""A web server on the loopback address that misbehaves on demand."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

Fault = Callable[["Handler", bytes], None]
"""Answers a GET for these bytes of a file in its own way."""


class Server(ThreadingHTTPServer):
    """Serves the files of a folder; `faults[name]` are used up, `always[name]` stays."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path, *, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.ranges = folder, ranges
        self.faults: dict[str, list[Fault]] = {}
        self.always: dict[str, Fault] = {}
        self.seen: list[tuple[str, str, str | None]] = []
        self.sent: Counter[str] = Counter()
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def fault_for(self, name: str) -> Fault | None:
        with self.lock:
            waiting = self.faults.get(name)
            return waiting.pop(0) if waiting else self.always.get(name)

    def gets(self, name: str) -> int:
        return sum(method == "GET" and seen == name for method, seen, _ in self.seen)

    def handle_error(self, request, client_address) -> None:
        pass  # clients that hang up are part of the tests


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Server

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        name = self.path.partition("?")[0].rpartition("/")[2]
        with self.server.lock:
            self.server.seen.append((self.command, name, self.headers.get("Range")))
        path = self.server.folder / name
        if not path.is_file():
            return self.status(404)
        data = path.read_bytes()
        fault = self.server.fault_for(name) if self.command == "GET" else None
        if fault is not None:
            return fault(self, data)
        self.answer(data)

    def answer(self, data: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not found or not self.server.ranges:
            return self.send(200, data)
        begin, end = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
        if begin >= len(data):
            return self.status(416)
        self.send(206, data[begin:end], {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"})

    def status(self, status: int, **headers: str) -> None:
        self.send(status, b"", {name.replace("_", "-"): text for name, text in headers.items()})

    def send(
        self, status: int, body: bytes, headers: dict[str, str] | None = None, length: int = -1
    ) -> None:
        self.send_response(status)
        for name, text in (headers or {}).items():
            self.send_header(name, text)
        self.send_header("Content-Length", str(len(body) if length < 0 else length))
        self.end_headers()
        if self.command != "HEAD":
            with self.server.lock:
                self.server.sent[self.path.rpartition("/")[2]] += len(body)
            self.wfile.write(body)

    def hang_up(self) -> None:
        """End the connection with a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, format: str, *args) -> None:
        pass


def replies(status: int, **headers: str) -> Fault:
    return lambda handler, data: handler.status(status, **headers)


def cut_after(size: int) -> Fault:
    """Announce everything that was asked for, send `size` bytes of it and reset."""

    def fault(handler: Handler, data: bytes) -> None:
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", handler.headers.get("Range", ""))
        headers, status, begin, end = {}, 200, 0, len(data)
        if found:
            begin, end = int(found[1]), min(int(found[2] or len(data)) + 1, len(data))
            headers, status = {"Content-Range": f"bytes {begin}-{end - 1}/{len(data)}"}, 206
        handler.send(status, data[begin : begin + size], headers, length=end - begin)
        handler.wfile.flush()
        time.sleep(0.05)  # a reset would overtake what the client has not read
        handler.hang_up()

    return fault


def resets(handler: Handler, data: bytes) -> None:
    handler.hang_up()


def flips(handler: Handler, data: bytes) -> None:
    """One bit of every 1,000th byte is wrong."""
    wrong = bytearray(data)
    wrong[::1000] = bytes(byte ^ 1 for byte in wrong[::1000])
    handler.answer(bytes(wrong))


def waits(seconds: float) -> Fault:
    def fault(handler: Handler, data: bytes) -> None:
        time.sleep(seconds)
        handler.answer(data)

    return fault


def serves(content: bytes) -> Fault:
    """Other contents than the file's."""
    return lambda handler, data: handler.answer(content)


@contextlib.contextmanager
def serving(
    folder: Path, *, ranges: bool = True, context: ssl.SSLContext | None = None
) -> Iterator[Server]:
    server = Server(folder, ranges=ranges)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def no_proxy(monkeypatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
