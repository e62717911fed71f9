"""What one commit holds, in words and numbers; never imports torch."""

from __future__ import annotations

import json
import math
from collections import Counter
from typing import Any

from vitscale.checkpoint.choose import Found
from vitscale.checkpoint.layout import STATE
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
