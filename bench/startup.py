"""How long commands take to begin: CPU time of whole processes against what they cannot do without.

    python -m bench.startup [--rounds 7]

`vitscale plan` answers without torch, so importing torch is its peer. A run of one step, from its recipe to its commit,
on plain torch and under ZeRO-1, has a loop as its peer that does the same with less around it: scikit-learn's digits
from the same tar by webdataset, a model of the same size, AdamW, weights and moments saved (contestants/one_step.py).
What a run has around it is MLflow, to load which takes most, and the drawing of its curves.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import count
from pathlib import Path

from bench import figures

ROOT = Path(__file__).parents[1]
RECIPE = """
[model]
variant = "mu/8"
image_px = 32
[data]
crop = "none"
flip = false
[train]
duration = "1 step"
batch = 64
micro_batch = 64
[optim]
warmup = "0 steps"
[engine]
precision = "fp32"
device = "cpu"
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    timed = figures.by_clock(cpu_seconds_of_children)
    with tempfile.TemporaryDirectory() as folder:
        found = {
            name: figures.figure(figures.times_in_turn(works, given.rounds, timed))
            for name, works in contests(Path(folder)).items()
        }
    figures.write("startup", found)


def cpu_seconds_of_children() -> float:
    """Of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def contests(folder: Path) -> dict[str, dict[str, Callable[[], None]]]:
    """Commands and their peers; data and runs lie in `folder`."""
    vitscale("shards", "pack", "--from", "digits", "--to", f"{folder}/digits")
    train = f"{folder}/digits/train"
    (tar,) = Path(train).glob("*.tar")
    recipe, numbers = folder / "one_step.toml", count()
    recipe.write_text(RECIPE)

    def run(kind: str) -> None:
        own = f"run.home={folder}", f"run.name=run-{next(numbers)}", f"engine.kind={kind}"
        vitscale("train", str(recipe), f"data.train={train}", *own)

    one_step = partial(python, "-m", "bench.contestants.one_step", str(tar), str(folder))
    return {
        "plan": {
            "ours": lambda: vitscale("plan", "--model", "B/16"),
            "import torch": lambda: python("-c", "import torch"),
        },
        "a run of one step": {"ours": lambda: run("local"), "a bare loop": one_step},
        "the same under ZeRO-1": {
            "ours": lambda: run("deepspeed"),
            "a bare loop": lambda: one_step("--deepspeed"),
        },
    }


def vitscale(*words: str) -> None:
    """A command of ours."""
    python("-m", "vitscale", *words)


def python(*words: str) -> None:
    """This interpreter, from the root of the repository; ends the bench with what it said if it fails."""
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        )


if __name__ == "__main__":
    main()
