"""What one commit holds, in words and numbers; never imports torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

from vitscale.checkpoint.choose import Found
from vitscale.checkpoint.layout import STATE, Manifest
from vitscale.errors import CheckpointError
from vitscale.units import human_bytes


def inspect(found: Found) -> dict[str, Any]:
    """Position, writer, contents and sizes of a verified commit; plain JSON."""
    facts = found.manifest.facts
    parameters = sum(map(math.prod, facts["shapes"].values()))
    stage = facts["engine"]["stage"]
    eras = facts["data"]["eras"]
    return {
        "folder": str(found.folder),
        "run": facts["run"],
        "step": facts["step"],
        "updates": facts["updates"],
        "images": facts["images"],
        "ranks": facts["world"],
        "engine": "plain torch" if stage is None else f"ZeRO-{stage}",
        "precision": facts["precision"],
        "optimizer": facts["optimizer"],
        "parameters": parameters,
        "tensors": ", ".join(f"{kind} {count}" for kind, count in _numbers(found).items()),
        "files": len(found.manifest.files),
        "size": human_bytes(found.manifest.size),
        "bytes a parameter": round(found.manifest.size / parameters, 2),
        "data": ", ".join(eras[-1]["fingerprints"]),
        "versions": ", ".join(f"{name} {version}" for name, version in facts["versions"].items()),
        "sha256": found.manifest.digest,
    }


def _numbers(found: Found) -> Counter[str]:
    """Numbers of each kind of tensor, as `state.json` maps them."""
    numbers: Counter[str] = Counter()
    for spans, tensors in json.loads((found.folder / STATE).read_text(encoding="utf-8")):
        for kind in tensors:
            numbers[kind] += sum(length for _, _, _, length in spans)
    return numbers


def last_commit(folder: Path) -> tuple[int, dict[str, Any]]:
    """Step and loader state of a run's newest commit, from the copy of its manifest that outlives it.

    Raises:
        CheckpointError: there is none, or it is damaged.
    """
    copies = sorted((folder / "manifests").glob("step-*.json"))
    if not copies:
        raise CheckpointError(
            "the run has committed nothing yet",
            where=str(folder),
            do="Name a run folder such as runs/NAME, after its first commit.",
        )
    try:
        manifest = Manifest.from_json(copies[-1].read_text(encoding="utf-8"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"the manifest cannot be read: {error}",
            where=str(copies[-1]),
            do="Restore the file, or audit a copy of the run.",
        ) from error
    return manifest.step, manifest.facts["data"]
