"""What a pretraining is worth: fine-tuned from it, and from the same model's first weights, on real images.

    python -m bench.transfer [--images 250000] [--out bench/results/transfer.json]

Pretrains the demo's ViT on icons, without the nine sets of emoji; then scores it and an untrained model on the suite
`configs/transfer/icons.toml`: the same recipe, steps and rates to choose from. Differences are of the same test images,
with 95 % intervals of the paired bootstrap. About a quarter of an hour on two cores. It also times the ridge of the
few-shot protocol at ImageNet's size.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

from vitscale.config.dataset import dataset_facts
from vitscale.data.sources import emoji, icons
from vitscale.data.sources.choose import CACHE
from vitscale.demo.commands import Shell, title
from vitscale.errors import DataError
from vitscale.evaluate.report import write_summary
from vitscale.evaluate.ridge import fit_ridge
from vitscale.evaluate.tables import contrast_text

HOME = Path("runs/bench-transfer")
PRETRAIN = "configs/demo/pretrain.toml"
SETS = ("icons", "digits", "fashion-mnist", "emoji")
CLASSES, SHOTS, WIDTH = 1000, 10, 768


def ridge_seconds() -> float:
    """One fit of 1000 classes by 10 shots at the width of ViT-B, wall time on the threads torch has."""
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(CLASSES).repeat_interleave(SHOTS)
    features = torch.randn(len(labels), WIDTH, generator=draws)
    began = time.perf_counter()
    fit_ridge(features, labels, CLASSES)
    return round(time.perf_counter() - began, 2)


def pack(shell: Shell) -> None:
    """Every set that is not there yet."""
    for name in SETS:
        try:
            dataset_facts(Path("data") / name / "train")
        except DataError:
            shell.run("shards", "pack", "--from", name, "--to", f"data/{name}")


def list_emoji() -> Path:
    """The keys of the training icons that are emoji: the pretraining is to see none of them."""
    tarball = icons.package(CACHE)
    plan = icons.make_plan(tarball, icons.MIN_SETS, icons.HELD_OUT_SETS, 0)
    _, names = icons.names_by_set(tarball)
    vendors = [vendor for vendor in emoji.VENDORS if vendor not in plan.held_out]
    keys = [f"{v}/{name}" for v in vendors for name in names.get(v, []) if name in plan.labels]
    path = HOME / "emoji.txt"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(keys) + "\n", encoding="utf-8")
    return path


def pretrain(shell: Shell, images: int) -> None:
    """The pretrained model, on two ranks, and the untrained one: a step at a rate that moves nothing."""
    source = f'{{shards = "data/icons/train", without = "{list_emoji()}"}}'
    words = (PRETRAIN, f"run.home={HOME}", f"data.train={source}", "evaluate.every=null")
    shell.run(
        "submit", *words, "--on", "local", "run.name=icons", f"train.duration={images} images"
    )
    still = ("train.duration=1 steps", "optim.lr=1e-12", "optim.warmup=0 steps")
    shell.run("submit", *words, "--on", "local", "run.name=untrained", *still)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=250_000, help="seen in pretraining")
    parser.add_argument("--out", type=Path, default=Path("bench/results/transfer.json"))
    arguments = parser.parse_args()
    shell, facts = Shell(HOME / "logs"), {"ridge_seconds": ridge_seconds()}
    title("1  Pack icons, digits, Fashion-MNIST and emoji")
    pack(shell)
    title("2  Pretrain on icons")
    pretrain(shell, arguments.images)
    title("3  Score both on the suite")
    answer: dict[str, Any] = shell.ask(
        "evaluate",
        str(HOME / "icons"),
        "--against",
        str(HOME / "untrained"),
        "--suite",
        "icons",
        "--device",
        "cpu",
    )
    facts |= {"images": arguments.images, "seconds": round(shell.seconds), **answer}
    write_summary(arguments.out, facts)
    print(contrast_text(answer["contrast"], "pretrained on icons", "from scratch"))
    told = {name: facts[name] for name in ("images", "seconds", "ridge_seconds")}
    print(json.dumps(told))


if __name__ == "__main__":
    main()
