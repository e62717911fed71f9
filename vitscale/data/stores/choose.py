"""From the text of a recipe to the store it means."""

from __future__ import annotations

import urllib.parse
from pathlib import Path

from vitscale.data.stores.backend import Backend, without_secrets
from vitscale.data.stores.command import SCHEME as PIPE
from vitscale.data.stores.command import Command
from vitscale.data.stores.folder import Folder
from vitscale.data.stores.objects import PACKAGES, Objects
from vitscale.data.stores.store import Patience, Store
from vitscale.errors import ConfigError

_SCHEMES = ("file", "http", "https", *PACKAGES)


def open_store(
    source: str | Path, *, allow_pipe: bool = False, patience: Patience | None = None
) -> Store:
    """The store that `source` names: a folder, a URL, or a `pipe:` command where `allow_pipe` says so.

    Raises:
        ConfigError: an unknown scheme, an address that is none, or a command that is not allowed.
        ResourceError: the package for this kind of store is missing.
    """
    return Store(_backend_of(str(source), allow_pipe), patience)


def local_folder(source: str | Path) -> Path | None:
    """The folder that a path or a `file://` URL names; None for anything that is not on this machine.

    Raises:
        ConfigError: a `file://` URL of another machine.
    """
    text = str(source)
    if text.startswith(PIPE) or "://" not in text:
        return None if text.startswith(PIPE) else Path(source)
    scheme, _, rest = text.partition("://")
    if scheme != "file":
        return None
    host, slash, path = rest.partition("/")
    if host not in ("", "localhost") or not slash:
        raise ConfigError(
            "a file:// URL names a folder of this machine by three slashes",
            given=text,
            do=f"Write file:///{rest}, or the plain path.",
        )
    return Path("/" + urllib.parse.unquote(path))


def _backend_of(text: str, allow_pipe: bool) -> Backend:
    folder = local_folder(text)
    if folder is not None:
        return Folder(folder)
    if text.startswith(PIPE):
        return _command_of(text, allow_pipe)
    scheme, _, rest = text.partition("://")
    if scheme not in _SCHEMES:
        raise ConfigError(
            f"no store is known by {scheme}://",
            given=without_secrets(text),
            do=f"Known are {', '.join(f'{name}://' for name in _SCHEMES)} and pipe:.",
        )
    if not rest.strip("/"):
        raise ConfigError(
            "the address names no place",
            given=without_secrets(text),
            do=f"Write {scheme}://HOST-OR-BUCKET/FOLDER.",
        )
    if scheme in PACKAGES:
        return Objects(text)
    from vitscale.data.stores.web import Web

    return Web(text)


def _command_of(text: str, allow_pipe: bool) -> Command:
    if not allow_pipe:
        raise ConfigError(
            "a pipe: source runs a command on this machine, which a recipe may not do unasked",
            given=without_secrets(text),
            do="Set data.allow_pipe = true if you trust where the recipe comes from.",
        )
    return Command(text)
