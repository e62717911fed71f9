"""Runs the steps of a Dockerfile without a container engine, in a throw-away copy of this machine's root.

    python docker/try_image.py docker/Dockerfile.cpu [--build-arg NAME=VALUE ...]

This machine stands in for the base image, so it must be of the same family (Debian 12) with the same Python; a new
virtual environment of that takes the place of the image's own. What the steps write lies in an overlay in memory and is
gone with this process. Needs root, unshare and overlayfs. The steps are read from the Dockerfile, which may have one
stage.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

CONTEXT = Path(__file__).parents[1]
_PYTHON = "/opt/python-of-the-image"
_SEARCH = f"{_PYTHON}/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ROOM = "12g"
_VARIABLE = re.compile(r"\$\{(\w+)\}")
# Settings without which this machine may reach no packages.
_KEPT = re.compile(r"PIP_\w+|\w+_proxy|\w+_PROXY|\w*SSL\w*|\w*CA_BUNDLE")


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """(word, rest) of each instruction of a Dockerfile; comments are left out, lines that go on are joined."""
    whole = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#") or not line.strip():
            continue
        whole += line
        if whole.endswith("\\"):
            whole = whole[:-1]
            continue
        word, _, rest = whole.strip().partition(" ")
        yield word.upper(), rest.strip()
        whole = ""


def pins(text: str) -> dict[str, str]:
    """The variables of versions.env."""
    words = (word.partition("=") for word in shlex.split(text, comments=True))
    return {name: value for name, _, value in words}


class Image:
    """A root that instructions change, and what they have set for those that follow.

    Args:
        root: of the image.
        arguments: what `docker build` would be given with --build-arg.
    """

    def __init__(self, root: Path, arguments: Mapping[str, str]) -> None:
        self._root, self._arguments = root, arguments
        self._variables = {"PATH": _SEARCH, "HOME": "/root", "LANG": "C.UTF-8"}
        self._variables |= {n: text for n, text in os.environ.items() if _KEPT.fullmatch(n)}
        self._shell = ["/bin/sh", "-c"]
        self._folder, self._user = "/", "0"
        self._start: list[str] = []
        self.steps = 0

    def take(self, word: str, rest: str) -> None:
        """Do what one instruction says.

        Raises:
            ValueError: an instruction that is not known here.
            subprocess.CalledProcessError: a step failed.
        """
        if word == "RUN":
            self.steps += 1
            print(f"=== RUN {rest}", flush=True)
            self._inside([*self._shell, rest])
        elif word == "COPY":
            self._copy(rest)
        elif word in ("ARG", "ENV"):
            self._set(word, rest)
        elif word == "WORKDIR":
            self._folder = os.path.join(self._folder, self._filled(rest))
            self._place(self._folder).mkdir(parents=True, exist_ok=True)
        elif word == "USER":
            self._user = self._filled(rest)
        elif word == "SHELL":
            self._shell = json.loads(rest)
        elif word in ("ENTRYPOINT", "CMD"):
            self._start += json.loads(rest)
        elif word != "FROM":
            raise ValueError(f"{word} is not known here")

    def start(self) -> None:
        """What a container does first."""
        self._inside(self._start)

    def _set(self, word: str, rest: str) -> None:
        for part in shlex.split(self._filled(rest)):
            name, _, value = part.partition("=")
            self._variables[name] = self._arguments.get(name, value) if word == "ARG" else value

    def _copy(self, rest: str) -> None:
        *sources, target = shlex.split(self._filled(rest))
        into = self._place(os.path.join(self._folder, target))
        if target.endswith("/"):
            into.mkdir(parents=True, exist_ok=True)
        for source in sources:
            path = CONTEXT / source
            if path.is_dir():
                shutil.copytree(path, into, dirs_exist_ok=True, ignore=_ignored())
            else:
                shutil.copy(path, into)

    def _inside(self, command: Sequence[str]) -> None:
        jail = ["chroot", f"--userspec={self._user}:{self._user}", str(self._root)]
        jail += ["env", f"--chdir={self._folder}", *command]
        subprocess.run(jail, env=self._variables, check=True)

    def _place(self, path: str) -> Path:
        return self._root / path.lstrip("/")

    def _filled(self, text: str) -> str:
        return _VARIABLE.sub(lambda found: self._variables.get(found[1], ""), text)


def _ignored():
    """What .dockerignore keeps out of folders: its patterns that begin with **/ ."""
    lines = (CONTEXT / ".dockerignore").read_text(encoding="utf-8").split()
    return shutil.ignore_patterns(*(line[3:] for line in lines if line.startswith("**/")))


def main(words: Sequence[str]) -> None:
    """Take every instruction of the Dockerfile, then start it once."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("dockerfile", type=Path)
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--base", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(words)
    if options.base is None:  # in a mount namespace of its own, so that nothing stays mounted
        own = ["unshare", "--mount", "--propagation", "private", sys.executable, __file__]
        with tempfile.TemporaryDirectory() as base:
            sys.exit(subprocess.run([*own, "--base", base, *words], check=False).returncode)
    arguments = pins((CONTEXT / "docker/versions.env").read_text(encoding="utf-8"))
    arguments |= dict(text.split("=", 1) for text in options.build_arg)
    image = Image(_root(options.base), arguments)
    for word, rest in instructions(options.dockerfile.read_text(encoding="utf-8")):
        image.take(word, rest)
    image.start()
    print(f"=== all {image.steps} steps of {options.dockerfile} went well", flush=True)


def _root(base: Path) -> Path:
    """An overlay over this machine's root, with a Python of its own in front."""
    _mount("-t", "tmpfs", "-o", f"size={_ROOM}", "tmpfs", str(base))
    over, work, root = (base / name for name in ("over", "work", "root"))
    for folder in (over, work, root):
        folder.mkdir()
    _mount(
        "-t", "overlay", "-o", f"lowerdir=/,upperdir={over},workdir={work}", "overlay", str(root)
    )
    for name in ("proc", "dev"):
        _mount("--rbind", f"/{name}", str(root / name))
    # Python may lie in a home that only its owner may look into.
    for parent in Path(sys.base_prefix).parents:
        (root / str(parent).lstrip("/")).chmod(0o755)
    python = os.path.join(sys.base_prefix, "bin", "python3")
    subprocess.run(["chroot", str(root), python, "-m", "venv", _PYTHON], check=True)
    return root


def _mount(*words: str) -> None:
    subprocess.run(["mount", *words], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
