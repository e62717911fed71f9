"""What position encodings are worth: one small ViT with each kind of them, some seeds each (paper, table 8)."""

from __future__ import annotations

import shutil
import statistics
from pathlib import Path
from typing import Any

from vitscale.demo.commands import Shell, percent, title
from vitscale.demo.sets import DIGITS, FASHION, RECIPES, Source, first_packed, insist_on_recipes
from vitscale.evaluate.report import table, write_summary
from vitscale.tracking.journal import read_metrics
from vitscale.units import human_seconds

HOME = Path("runs/ablation")
RECIPE = RECIPES / "ablation.toml"
SEEDS = (0, 1)
SAMPLES = (3, 11, 18, 23, 42, 61)
"""Test images that the picture of attention shows."""
# ImageNet 5-shot linear accuracy of ViT-B/16 pretrained on JFT: arXiv 2010.11929, table 8, first column.
PAPER = {"none": 0.61382, "learned": 0.64206, "learned-2d": 0.64001, "relative": 0.64032}


def compare() -> dict[str, Any]:
    """Train each kind with each seed, two at a time, and print a table. Returns what `summary.json` holds.

    Raises:
        ConfigError: the recipes are not in the working folder.
        CommandFailed: a training failed.
        DataError: no data set can be had.
    """
    insist_on_recipes(RECIPE)
    shell = Shell(HOME / "logs")
    shutil.rmtree(HOME, ignore_errors=True)
    title("1  Get real images and pack them into WebDataset shards")
    source = first_packed((FASHION, DIGITS), shell)
    title("2  Train the same model with each kind of position encoding")
    found = {kind: _train(shell, source, kind) for kind in PAPER}
    title("3  Draw what the positions have learned, and where the model looks")
    _draw(shell, source)
    summary = {
        "dataset": source.name,
        "top1": found,
        "paper": PAPER,
        "seconds": round(shell.seconds, 1),
    }
    write_summary(HOME / "summary.json", summary)
    _close(source, summary)
    return summary


def _train(shell: Shell, source: Source, kind: str) -> list[float]:
    """Held-out top-1 of each seed, one core each."""
    shell.side_by_side(
        *(
            (
                "train",
                str(RECIPE),
                f"run.name={_run(kind, seed).name}",
                f"run.seed={seed}",
                f"model.positions={kind}",
                f"data.train={source.train}",
                f"data.held_out={source.held_out}",
            )
            for seed in SEEDS
        ),
        OMP_NUM_THREADS="1",
    )
    return [read_metrics(_run(kind, seed))["held_out/top1"][-1].value for seed in SEEDS]


def _run(kind: str, seed: int) -> Path:
    return HOME / f"{kind}-{seed}"


def _draw(shell: Shell, source: Source) -> None:
    pictures = HOME / "pictures"
    pictures.mkdir(parents=True)
    images = [str(pictures / f"test-{sample}.png") for sample in SAMPLES]
    for sample, image in zip(SAMPLES, images, strict=True):
        shell.run("shards", "show", source.held_out, "--id", str(sample), "--to", image)
    model = str(_run("learned", SEEDS[0]))
    shell.run("report", "look", model, *images, "--to", str(pictures))


def _close(source: Source, summary: dict[str, Any]) -> None:
    title(f"Top-1 accuracy on the test images of {source.title}, {len(SEEDS)} seeds each")
    rows = [
        (kind, percent(statistics.mean(scores)), _spread(scores), percent(PAPER[kind]))
        for kind, scores in summary["top1"].items()
    ]
    print(table(("positions", "mean", "of each seed", "paper, table 8"), rows))
    print("\n  The paper's figures are 5-shot accuracies on ImageNet after pretraining on JFT.")
    print(f"  pictures     {HOME}/pictures")
    print(f"  summary      {HOME}/summary.json")
    print(f"  all in all   {human_seconds(summary['seconds'])}")


def _spread(scores: list[float]) -> str:
    return ", ".join(percent(score) for score in scores)
