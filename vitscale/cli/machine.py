"""What this machine has for a run, as findings; heavy packages are asked in a process of their own."""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from vitscale.ops.apex import ApexState, find_apex
from vitscale.units import human_bytes

PACKAGES = ("torch", "deepspeed", "ray", "mlflow", "webdataset")
OPTIONAL = {"torchao": "only products in fp8 (ops.linear) need it"}
PORTS = {6379: "Ray", 8265: "Ray's dashboard", 29500: "torchrun", 5000: "the MLflow page"}
LEAST_SPACE = 5 * 2**30
_LEAST = re.compile(r"^([A-Za-z0-9_.-]+)(?:\[[^]]*\])?\s*>=\s*([0-9.]+)")
_ASK_TORCH = """
import json, torch
gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
print(json.dumps({
    "cuda": torch.version.cuda,
    "usable": torch.cuda.is_available(),
    "gpus": [[gpu.name, gpu.total_memory] for gpu in gpus],
}))
"""


@dataclass(frozen=True)
class Finding:
    """One fact about the machine; `remedy` says what to do where it is wrong."""

    name: str
    state: Literal["ok", "note", "wrong"]
    text: str
    remedy: str = ""


def examine(folder: Path) -> list[Finding]:
    """Everything a run needs of this machine; `folder` is where runs are kept."""
    return [
        _python(),
        *packages(_installed(), _least_versions()),
        *gpus(_ask_torch(), _driver_sees()),
        apex(find_apex()),
        space(folder, shutil.disk_usage(folder).free),
        *(port(number, use) for number, use in PORTS.items()),
    ]


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("python", "ok", f"{version} at {sys.executable}")


def packages(installed: Mapping[str, str], least: Mapping[str, str]) -> Iterator[Finding]:
    """A finding for each package: absent, older than what vitscale asks for, or fine."""
    for name in (*PACKAGES, *OPTIONAL):
        needed, version = least.get(name, ""), installed.get(name)
        remedy = f"pip install '{name}>={needed}'" if needed else f"pip install {name}"
        if version is None and name in OPTIONAL:
            yield Finding(name, "note", f"is not installed; {OPTIONAL[name]}")
        elif version is None:
            yield Finding(name, "wrong", "is not installed", remedy)
        elif needed and _numbers(version) < _numbers(needed):
            yield Finding(name, "wrong", f"{version} is older than {needed}", remedy)
        else:
            yield Finding(name, "ok", version)


def _installed() -> dict[str, str]:
    found: dict[str, str] = {}
    for name in (*PACKAGES, *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _least_versions() -> dict[str, str]:
    """The lower bounds that vitscale's own metadata states, extras included."""
    try:
        lines = metadata.requires("vitscale") or []
    except metadata.PackageNotFoundError:
        lines = []
    return {found[1]: found[2] for line in lines if (found := _LEAST.match(line))}


def _numbers(version: str) -> tuple[int, ...]:
    """`2.13.0+cpu` to (2, 13, 0), so that 2.13 counts as newer than 2.6."""
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def gpus(torch: Mapping[str, Any], driver: Iterable[str]) -> Iterator[Finding]:
    """What torch says about GPUs, held against what the driver lists."""
    listed = list(driver)
    if "error" in torch:
        yield Finding(
            "gpus", "wrong", f"torch cannot be asked: {torch['error']}", "Reinstall torch."
        )
    elif torch["usable"]:
        for index, (name, memory) in enumerate(torch["gpus"]):
            yield Finding(
                f"gpu {index}", "ok", f"{name}, {human_bytes(memory)}, CUDA {torch['cuda']}"
            )
    elif listed:
        build = f"for CUDA {torch['cuda']}" if torch["cuda"] else "without CUDA"
        yield Finding(
            "gpus",
            "wrong",
            f"the driver lists {', '.join(listed)}, but torch (built {build}) cannot use them",
            "Install the torch build for the driver's CUDA version.",
        )
    else:
        yield Finding("gpus", "note", "none; runs use the CPU")


def _ask_torch() -> dict[str, Any]:
    """torch's view of the GPUs; a torch that crashes takes only its own process with it."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", _ASK_TORCH],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": str(error)}
    if answer.returncode:
        return {"error": (answer.stderr.strip().splitlines() or ["no message"])[-1]}
    return json.loads(answer.stdout.splitlines()[-1])


def _driver_sees() -> list[str]:
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    return answer.stdout.splitlines() if answer.returncode == 0 else []


def apex(found: ApexState) -> Finding:
    """Which `apex` an import would find."""
    if found.state in ("wrong-package", "nvidia-python-only"):
        return Finding("apex", "wrong", found.state, found.message)
    return Finding("apex", "ok" if found.state == "nvidia" else "note", found.message)


def space(folder: Path, free: int) -> Finding:
    """Room for checkpoints."""
    text = f"{human_bytes(free)} free at {folder}"
    if free < LEAST_SPACE:
        return Finding("space", "wrong", text, f"Free at least {human_bytes(LEAST_SPACE)}.")
    return Finding("space", "ok", text)


def port(number: int, use: str) -> Finding:
    """Whether a port that vitscale's defaults use is free; in use is no fault, it may be ours."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        taken = probe.connect_ex(("127.0.0.1", number)) == 0
    if taken:
        return Finding(f"port {number}", "note", f"in use; {use} would want it")
    return Finding(f"port {number}", "ok", f"free for {use}")
