"""Who may import whom: rooms on steps, packages with a home, and no circles."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass

from tests.house.tree import Module

NUMBERS = frozenset({"torch", "numpy"})


@dataclass(frozen=True)
class Room:
    """A step of the stairs, and the packages that may be imported there."""

    step: int
    packages: frozenset[str] = frozenset()


def _room(step: int, *packages: str) -> Room:
    return Room(step, frozenset(packages))


# The table of docs/architecture.md.
ROOMS = {
    "vitscale": _room(-1),  # the version, which everyone may read
    "vitscale.errors": _room(0),
    "vitscale.units": _room(0),
    "vitscale.place": _room(0),
    "vitscale.faults": _room(0),
    "vitscale.durable": _room(0),
    "vitscale.outcome": _room(0),
    "vitscale.attempts": _room(0),
    "vitscale.config": _room(1, "pydantic"),
    "vitscale.planner": _room(2),
    "vitscale.ops": _room(2, "torch", "apex", "triton", "torchao"),
    "vitscale.model": _room(3, *NUMBERS),
    "vitscale.data": _room(
        3,
        *NUMBERS,
        "PIL",
        "webdataset",
        "crc32c",
        "xxhash",
        "urllib3",
        "fsspec",
        "pyarrow",
        "matplotlib",
        "sklearn",
        "resvg_py",
    ),
    "vitscale.optim": _room(3, *NUMBERS),
    "vitscale.objective": _room(3, *NUMBERS),
    "vitscale.engine": _room(4, *NUMBERS, "deepspeed"),
    "vitscale.checkpoint": _room(4, *NUMBERS, "safetensors"),
    "vitscale.tracking": _room(4, *NUMBERS, "mlflow", "psutil"),
    "vitscale.weights": _room(5, *NUMBERS, "safetensors", "onnx", "onnxscript"),
    "vitscale.evaluate": _room(5, *NUMBERS, "matplotlib", "safetensors"),
    "vitscale.train": _room(6, "torch"),
    "vitscale_launch": _room(7, "ray"),
    "vitscale.demo": _room(7),
    "vitscale.cli": _room(8),
    "vitscale.__main__": _room(9),
}
# The step-0 files are one room: they may use each other.
_LOWEST = {name for name, room in ROOMS.items() if room.step == 0}
# Launching knows only the front door, the one function its workers call, how to count what is read, what fits,
# lease and marks.
_LAUNCH_MAY = ("vitscale.config", *_LOWEST, "vitscale")
_LAUNCH_MAY_INSIDE_FUNCTIONS = (
    "vitscale.train.worker",
    "vitscale.data.facts",
    "vitscale.planner.room",
    "vitscale.checkpoint.lease",
    "vitscale.checkpoint.following",
)


@dataclass(frozen=True)
class Import:
    """One imported module name, at a line, at the top or inside a function."""

    target: str
    line: int
    inside: bool


def imports_of(module: Module, known: set[str]) -> Iterator[Import]:
    """Every import anywhere in a module; `from a import b` names `a.b` where that is a module."""
    functions = [
        n for n in ast.walk(module.tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            targets = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            targets = [
                f"{base}.{a.name}" if f"{base}.{a.name}" in known else base for a in node.names
            ]
        else:
            continue
        for target in dict.fromkeys(targets):
            yield Import(target, node.lineno, id(node) in inside)


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    is_package = module.path.name == "__init__.py"
    parts = parts[: len(parts) - node.level + is_package]
    return ".".join([*parts, *([node.module] if node.module else [])])


def room_of(name: str) -> str:
    """The room a module stands in: the longest name of the table it begins with."""
    fits = [
        room
        for room in ROOMS
        if name == room or (room != "vitscale" and name.startswith(f"{room}."))
    ]
    if not fits:
        raise LookupError(
            f"{name} stands in no room of tests/house/stairs.py and docs/architecture.md"
        )
    return max(fits, key=len)


def violations(modules: list[Module]) -> list[str]:
    """A sentence for every import that goes up, sideways, or takes a package from another room."""
    known = {module.name for module in modules}
    found = []
    for module in modules:
        for one in imports_of(module, known):
            problem = _problem(module, one)
            if problem:
                found.append(f"{module.where}:{one.line}: {problem}")
    return found


def _problem(module: Module, one: Import) -> str:
    top = one.target.partition(".")[0]
    room = room_of(module.name)
    if top in ("vitscale", "vitscale_launch"):
        return _inward(room, one)
    if top in sys.stdlib_module_names or top in ROOMS[room].packages:
        return ""
    homes = [name for name, other in ROOMS.items() if top in other.packages]
    at_home = f"at home in {', '.join(homes)}" if homes else "in no room's list"
    return f"imports {top}, which is {at_home}"


def _inward(room: str, one: Import) -> str:
    target = room_of(one.target)
    if target == room or {room, target} <= _LOWEST:
        return ""
    if room == "vitscale_launch":
        if target in _LAUNCH_MAY or (one.inside and one.target in _LAUNCH_MAY_INSIDE_FUNCTIONS):
            return ""
        return f"launch may not import {one.target}"
    mine, theirs = ROOMS[room].step, ROOMS[target].step
    if theirs < mine:
        return ""
    return f"imports {one.target} {'upward' if theirs > mine else 'sideways'} (step {theirs} from {mine})"


def circles(modules: list[Module]) -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    known = {module.name for module in modules}
    edges = {
        m.name: {one.target for one in imports_of(m, known) if one.target in known} - {m.name}
        for m in modules
    }
    reached = {name: _reach(name, edges) for name in edges}
    groups = {
        tuple(sorted(other for other in reached[name] if name in reached[other]))
        for name in edges
        if name in reached[name]
    }
    return [list(group) for group in sorted(groups)]


def _reach(start: str, edges: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    waiting = list(edges[start])
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += edges[name]
    return seen
