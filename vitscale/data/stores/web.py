"""Shards on a web server: ranges, kept connections, redirects, proxies of the environment.

The answer is believed only as far as it can be checked: a server without ranges sends the whole
file with status 200, of which the wanted part is taken, and a range that was not asked for is an
error.
"""

from __future__ import annotations

import email.utils
import re
import ssl
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

import urllib3
from urllib3.exceptions import HTTPError, MaxRetryError, ResponseError

from vitscale.data.stores.backend import Gone, Permanent, Transient, without_secrets

if TYPE_CHECKING:
    from urllib3.response import BaseHTTPResponse

_CHUNK = 256 << 10
_CONNECTIONS = 16
_REDIRECTS = 5
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504, 509, 520, 521, 522, 523, 524, 529}
_GONE = {404, 410}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+|\*)")


class Web:
    """Files below an `http://` or `https://` address. A query string of the address is sent with every request."""

    def __init__(self, url: str, *, connect_s: float = 10.0, read_s: float = 60.0) -> None:
        parts = urllib.parse.urlsplit(url)
        self.place = without_secrets(url).rstrip("/")
        self.ranged = True
        host = parts.netloc.rpartition("@")[2]
        path = parts.path.rstrip("/")
        self._base = f"{parts.scheme}://{host}{path}"
        self._query = f"?{parts.query}" if parts.query else ""
        self._headers = {"Accept-Encoding": "identity", "User-Agent": "vitscale"}
        if parts.username is not None:
            login = f"{_plain(parts.username)}:{_plain(parts.password or '')}"
            self._headers |= urllib3.make_headers(basic_auth=login)
        self._pool = _pool_for(parts.scheme, host, urllib3.Timeout(connect=connect_s, read=read_s))

    def size(self, name: str) -> int | None:
        with closing(self._request("HEAD", name, {})) as answer:
            if answer.status in (405, 501):
                return None
            self._check_status(answer)
            length = answer.headers.get("Content-Length")
            return int(length) if length and length.isdecimal() else None

    def chunks(self, name: str, begin: int, end: int | None) -> Iterator[bytes]:
        partly = begin > 0 or end is not None
        last = "" if end is None else end - 1
        answer = self._request("GET", name, {"Range": f"bytes={begin}-{last}"} if partly else {})
        with closing(answer):
            self._check_status(answer)
            skip = self._skip(answer, begin, end) if partly else 0
            wanted = None if end is None else end - begin
            yield from _cut(_body(answer), skip, wanted)
            if answer.length_remaining == 0:
                answer.release_conn()

    def names(self) -> list[str]:
        raise Permanent("a web server cannot list its files")

    def _request(self, method: str, name: str, headers: dict[str, str]) -> BaseHTTPResponse:
        once = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=_REDIRECTS)
        try:
            return self._pool.request(
                method,
                f"{self._base}/{urllib.parse.quote(name)}{self._query}",
                headers=self._headers | headers,
                retries=once,
                preload_content=False,
                decode_content=False,
            )
        except MaxRetryError as error:
            _raise_fault(error.reason or error)
        except (HTTPError, OSError) as error:
            _raise_fault(error)

    def _check_status(self, answer: BaseHTTPResponse) -> None:
        status = answer.status
        if status in (200, 206):
            encoding = answer.headers.get("Content-Encoding", "identity")
            if encoding != "identity":
                raise Permanent(f"the server packs the file ({encoding}) although asked not to")
            return
        cause = f"status {status} {answer.reason or ''}".rstrip()
        if status in _GONE:
            raise Gone(cause)
        if status in _TRANSIENT:
            raise Transient(cause, _retry_after_s(answer.headers.get("Retry-After")))
        if status == 416:
            cause += ": the file ends before the wanted bytes"
        raise Permanent(cause)

    def _skip(self, answer: BaseHTTPResponse, begin: int, end: int | None) -> int:
        """Bytes of the body that come before `begin`."""
        if answer.status == 200:
            self.ranged = False
            return begin
        text = answer.headers.get("Content-Range", "")
        found = _CONTENT_RANGE.fullmatch(text)
        if not found or int(found[1]) != begin:
            raise Transient(f"asked for bytes from {begin}, the server sent {text!r}")
        if end is not None and int(found[2]) != end - 1:
            if found[3].isdecimal() and int(found[3]) < end:
                raise Permanent(f"the file has {found[3]} bytes, byte {end - 1} was asked for")
            raise Transient(f"asked for bytes {begin}-{end - 1}, the server sent {text!r}")
        return 0


def _pool_for(scheme: str, host: str, timeout: urllib3.Timeout) -> urllib3.PoolManager:
    """Connections through the proxy that `HTTP_PROXY`, `HTTPS_PROXY` and `NO_PROXY` ask for, or without."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return urllib3.PoolManager(timeout=timeout, maxsize=_CONNECTIONS)
    parts = urllib.parse.urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    headers = None
    if parts.username is not None:
        login = f"{_plain(parts.username)}:{_plain(parts.password or '')}"
        headers = urllib3.make_headers(proxy_basic_auth=login)
    address = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
    return urllib3.ProxyManager(
        address, timeout=timeout, maxsize=_CONNECTIONS, proxy_headers=headers
    )


def _body(answer: BaseHTTPResponse) -> Iterator[bytes]:
    try:
        yield from answer.stream(_CHUNK, decode_content=False)
    except (HTTPError, OSError) as error:
        _raise_fault(error)


def _cut(chunks: Iterator[bytes], skip: int, wanted: int | None) -> Iterator[bytes]:
    """What is left of `chunks` without the first `skip` bytes, at most `wanted` bytes of it.

    Raises:
        Transient: fewer came.
    """
    left = wanted
    for chunk in chunks:
        piece = chunk[skip:]
        skip = max(0, skip - len(chunk))
        if left is not None:
            piece = piece[:left]
            left -= len(piece)
        if piece:
            yield piece
        if left == 0:
            return
    if left:
        raise Transient(f"the body ended {left} bytes before its end")


def _raise_fault(error: BaseException) -> NoReturn:
    """A fault of the connection: only a certificate, a redirect in circles or a bad address are for good."""
    inner = error.args[0] if error.args else None
    if isinstance(inner, ssl.SSLCertVerificationError):
        raise Permanent(f"the server's certificate is not accepted: {inner}") from error
    if isinstance(error, ResponseError | urllib3.exceptions.LocationValueError):
        raise Permanent(error) from error
    raise Transient(f"{type(error).__name__}: {error}") from error


def _retry_after_s(text: str | None) -> float | None:
    """Seconds from now, of a number or of a date."""
    if text is None:
        return None
    if text.strip().isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except ValueError:
        return None


def _plain(text: str) -> str:
    return urllib.parse.unquote(text)
