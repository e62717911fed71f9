"""Object stores and HDFS through fsspec: S3, Google Cloud Storage, Azure, Hugging Face.

Credentials and endpoints come from the environment, by the rules of each store's own library.
"""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator
from typing import Any

from vitscale.data.stores.backend import Gone, Permanent, StoreFault, Transient, without_secrets
from vitscale.errors import ResourceError

PACKAGES = {
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "hf": "huggingface_hub",
    "hdfs": "pyarrow",
}
"""The package to install for each scheme."""
_CONNECT_S, _READ_S = 10, 60
_S3 = {
    "config_kwargs": {
        "connect_timeout": _CONNECT_S,
        "read_timeout": _READ_S,
        "retries": {"max_attempts": 0},
    }
}
_PIECE = 8 << 20
_TRANSIENT = {408, 425, 429, 500, 502, 503, 504}
_FOR_GOOD = {errno.EINVAL, errno.EACCES, errno.EPERM, errno.ENOSYS, errno.EISDIR}


class Objects:
    """Objects below `SCHEME://BUCKET/PATH`."""

    def __init__(self, url: str) -> None:
        scheme = url.partition("://")[0]
        self.place = without_secrets(url).rstrip("/")
        self.ranged = True
        self._files: Any = _file_system(scheme, url, self.place)
        self._base = str(self._files._strip_protocol(url)).rstrip("/")

    def size(self, name: str) -> int | None:
        try:
            found = self._files.info(f"{self._base}/{name}").get("size")
        except Exception as error:
            raise fault_of(error) from error
        return None if found is None else int(found)

    def chunks(self, name: str, begin: int, end: int | None) -> Iterator[bytes]:
        path = f"{self._base}/{name}"
        if end is None:
            yield self._piece(path, begin or None, None)
            return
        for start in range(begin, end, _PIECE):
            stop = min(start + _PIECE, end)
            data = self._piece(path, start, stop)
            yield data[: stop - start]
            if len(data) != stop - start:
                raise Transient(f"{len(data)} bytes came where {stop - start} were asked for")

    def names(self) -> list[str]:
        try:
            found = self._files.ls(self._base, detail=False)
        except Exception as error:
            raise fault_of(error) from error
        return sorted(str(path).rstrip("/").rpartition("/")[2] for path in found)

    def _piece(self, path: str, start: int | None, stop: int | None) -> bytes:
        try:
            return bytes(self._files.cat_file(path, start=start, end=stop))
        except Exception as error:  # every library has errors of its own
            raise fault_of(error) from error


def _file_system(scheme: str, url: str, place: str) -> Any:
    import fsspec

    options: dict[str, Any] = {"skip_instance_cache": True, "use_listings_cache": False}
    try:
        kind = fsspec.get_filesystem_class(scheme)
        files = kind(
            **options, **kind._get_kwargs_from_urls(url), **(_S3 if scheme == "s3" else {})
        )
    except ImportError as error:
        package = PACKAGES[scheme]
        raise ResourceError(
            f"reading {scheme}:// needs the package {package}, which is not installed",
            where=place,
            do=f"Install it: pip install '{package}'.",
        ) from error
    except Exception as error:
        raise ResourceError(
            "the store cannot be opened",
            where=place,
            given=without_secrets(f"{type(error).__name__}: {error}"),
            do="HDFS needs a Hadoop client: set JAVA_HOME, HADOOP_HOME and CLASSPATH."
            if scheme == "hdfs"
            else "Check the address and the credentials in the environment.",
        ) from error
    if scheme == "s3":
        files.retries = 1  # s3fs would try five times inside each of ours
    return files


def fault_of(error: Exception) -> StoreFault:
    """Which kind of failure an exception of any of the libraries is.

    By type, then by the HTTP status that it or a cause of it carries. What is not recognised may pass.
    """
    cause = f"{type(error).__name__}: {error}"
    if isinstance(error, FileNotFoundError):
        return Gone(cause)
    status = next((found for found in map(_status_of, _causes(error)) if found), 0)
    if status in (404, 410):
        return Gone(cause)
    if status in _TRANSIENT:
        return Transient(cause)
    if 400 <= status < 500 or _is_for_good(error):
        return Permanent(cause)
    return Transient(cause)


def _is_for_good(error: Exception) -> bool:
    if isinstance(error, PermissionError | TypeError | ValueError | NotImplementedError):
        return True
    if isinstance(error, OSError) and error.errno in _FOR_GOOD:
        return True
    return any("Credential" in type(one).__name__ for one in _causes(error))


def _causes(error: BaseException) -> Iterable[BaseException]:
    one: BaseException | None = error
    for _ in range(10):
        if one is None:
            return
        yield one
        one = one.__cause__ or one.__context__


def _status_of(error: BaseException) -> int:
    """HTTP status as botocore, gcsfs, Azure and Hugging Face attach it; 0 if none."""
    answer = getattr(error, "response", None)
    if isinstance(answer, dict):
        found = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        found = getattr(answer, "status_code", None)
    for other in (found, getattr(error, "status_code", None), getattr(error, "code", None)):
        if isinstance(other, int) or (isinstance(other, str) and other.isdecimal()):
            return int(other)
    return 0
