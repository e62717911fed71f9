"""What checkpoints cost: the stall of a save in the background against one that is waited for, restoring, size, export.

    python -m bench.checkpoint [--variant B/16] [--rounds 3]

One rank, one thread. Stalls are wall time of the training thread, medians of the rounds, over that of a save that is
waited for in the same process. An export is a process of its own, whose peak of memory is that beyond its imports.
Writes bench/results/checkpoint.json.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from vitscale.checkpoint.choose import problems_of
from vitscale.checkpoint.commit import Part, Terms, Writing, make_aside
from vitscale.checkpoint.snapshot import Snapshot
from vitscale.checkpoint.state import StateReader
from vitscale.config.engine import EngineConfig
from vitscale.config.model import ModelConfig
from vitscale.config.optim import OptimConfig
from vitscale.config.plan import Plan
from vitscale.engine.build import StepEngine
from vitscale.engine.collectives import Ranks
from vitscale.engine.local import LocalEngine
from vitscale.engine.zero import ZeroEngine
from vitscale.model.build import build_model
from vitscale.objective import make_objective
from vitscale.place import Place

CPU = torch.device("cpu")
ALONE = Ranks(Place(), CPU, 60)
OPTIM = OptimConfig(ema=0.999)
PLAN = Plan(1, 2, 2, 1, 100, 100, 0, 1, 1, None, None)
RESULTS = Path(__file__).parent / "results" / "checkpoint.json"
EXPORT = """
import json, re, sys
from pathlib import Path
import vitscale.checkpoint.weights as weights, torch
# ru_maxrss would be that of the parent, which it is born with.
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
torch.zeros(1).add(1)
before = peak()
weights.export_weights(Path(sys.argv[1]), Path(sys.argv[2]), "ema", "fp32")
print(json.dumps(peak() - before))
"""


def engine_of(
    stage: int | None, precision: str, variant: str
) -> tuple[StepEngine, dict[str, list[int]]]:
    """An engine after one update, so that moments and average are there; small images keep the step short."""
    shape = ModelConfig(variant=variant, image_px=32).shape(1000)
    model, objective = build_model(shape, seed=0), make_objective("softmax", 0.0)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    if stage is None:
        dtype = torch.bfloat16 if precision == "bf16" else torch.float32
        engine: StepEngine = LocalEngine(
            model, objective, OPTIM, device=CPU, dtype=dtype, accumulation=1, world=1
        )
    else:
        config = EngineConfig(zero_stage=stage, precision=precision)  # type: ignore[arg-type]
        engine = ZeroEngine(model, objective, config, OPTIM, PLAN, device=CPU)
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    engine.accumulate(images, torch.tensor([1, 2]), last=True)
    engine.step(1e-3)
    return engine, shapes


def facts_of(step: int, shapes: dict[str, list[int]]) -> dict[str, Any]:
    shape = ModelConfig(variant="Ti/16").shape(1000).as_json()
    return {"step": step, "images": 0, "world": 1, "run": "bench", "shape": shape, "shapes": shapes}


def save(
    engine: StepEngine, snapshot: Snapshot, folder: Path, facts: dict[str, Any]
) -> tuple[float, Writing]:
    """Begin a save as a run does; seconds until training could go on, and the writing thread."""
    began = time.perf_counter()
    aside = make_aside(folder, facts["step"], 1)
    assert aside is not None
    snapshot.begin(aside)
    stored = engine.save(snapshot, 0)
    part = Part(snapshot.finish(), stored, "" if engine.state.is_finite() else "not finite")
    writing = Writing(
        aside, Terms(folder, facts, 60.0), part, Place(), lambda folder, seconds: None
    )
    writing.start()
    return time.perf_counter() - began, writing


def measure(stage: int | None, precision: str, variant: str, rounds: int) -> dict[str, float]:
    engine, shapes = engine_of(stage, precision, variant)
    numbers = sum(map(math.prod, shapes.values()))
    snapshot = Snapshot()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(engine, snapshot, folder, facts_of(1, shapes))[1].join()  # the buffers are made here
        stalls, waits = [], []
        for step in range(2, 2 + rounds):
            began = time.perf_counter()
            stall, writing = save(engine, snapshot, folder, facts_of(step, shapes))
            writing.join()
            assert writing.error is None, writing.error
            stalls.append(stall)
            waits.append(time.perf_counter() - began)
        path = folder / f"step-{1 + rounds:08d}"
        began = time.perf_counter()
        assert not problems_of(path)
        verified = time.perf_counter()
        engine.load(StateReader(path), 1)
        restored = time.perf_counter()
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
        export = [sys.executable, "-c", EXPORT, str(path), str(folder / "out.safetensors")]
        peak = json.loads(subprocess.run(export, capture_output=True, check=True).stdout)
    sync = statistics.median(waits)
    engine.close()
    return {
        "stall_over_synchronous": round(statistics.median(stalls) / sync, 3),
        "verify_over_synchronous": round((verified - began) / sync, 3),
        "load_over_synchronous": round((restored - verified) / sync, 3),
        "bytes_per_parameter": round(size / numbers, 3),
        "theory": 4.0 * 4 + (0 if stage in (None, 3) else {"bf16": 2, "fp32": 4}[precision]),
        "export_peak_mib": round(peak, 1),
        "model_mib": round(4 * numbers / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="B/16")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results = {}
    for stage, precision in ((None, "fp32"), (1, "bf16"), (1, "fp32"), (2, "bf16"), (3, "bf16")):
        name = f"{'plain' if stage is None else f'ZeRO-{stage}'} {precision}"
        results[name] = measure(stage, precision, arguments.variant, arguments.rounds)
        print(f"{name:<12}", json.dumps(results[name]))
    RESULTS.parent.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
