"""The demo's steps in order, its closing table and `summary.json`."""

from __future__ import annotations

import shutil
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vitscale.config.load import load_recipe
from vitscale.demo.commands import Shell, finish, percent, title
from vitscale.demo.sets import FULL, RECIPES, SMALL, Source, Story, insist_on_recipes, prepare
from vitscale.demo.watch import Watch
from vitscale.errors import ConfigError
from vitscale.evaluate.report import table, write_summary
from vitscale.tracking.journal import read_metrics
from vitscale.units import human_seconds

HOME = Path("runs/demo")
PRETRAINED = HOME / "pretrain"
FINETUNE = RECIPES / "finetune.toml"


@dataclass
class Results:
    """What the steps found, as it goes into the table and the summary."""

    facts: dict[str, Any] = field(default_factory=dict)
    transfer: list[dict[str, Any]] = field(default_factory=list)


def tell(size: str) -> dict[str, Any]:
    """Run the demo; `size` is "full" or "small". Returns what `summary.json` holds.

    Raises:
        ConfigError: the size is unknown, or the recipes are not in the working folder.
        CommandFailed: a command failed that should not have.
    """
    wanted = _wanted(size)
    results, shell = Results(), Shell(HOME / "logs")
    if HOME.exists():
        print(f"removing the demo of last time in {HOME}", flush=True)
        shutil.rmtree(HOME)
    title("1  Get real images and pack them into WebDataset shards")
    story = prepare(wanted, shell)
    title("2  What the pretraining comes to")
    plan = _show_plan(shell, story)
    title("3  Pretrain on two DeepSpeed ZeRO ranks under Ray; one is killed midway")
    _pretrain(shell, story, plan, results)
    title("4  Evaluate on images that were never trained on, and few-shot on other sets")
    _evaluate(shell, story, results)
    title("5  Fine-tune, and train the same model from scratch beside it")
    for source in story.downstream:
        results.transfer.append(_transfer(shell, source))
    summary = _summary(results, round(shell.seconds, 1))
    write_summary(HOME / "summary.json", summary)
    _close(summary)
    return summary


def _wanted(size: str) -> Story:
    stories = {"full": FULL, "small": SMALL}
    if size not in stories:
        raise ConfigError("no such demo", where="DEMO", given=size, do="Use full or small.")
    insist_on_recipes(FINETUNE)
    return stories[size]


def _show_plan(shell: Shell, story: Story) -> dict[str, Any]:
    answer = shell.ask("plan", str(story.recipe), "--world", "2")
    model, plan = answer["model"], answer["plan"]
    print(
        f"  ViT of {model['parameters']:,} parameters, {model['tokens']} tokens; "
        f"{plan['total_images']:,} images seen in {plan['total_steps']:,} steps of {plan['batch']}"
    )
    return plan


def _pretrain(shell: Shell, story: Story, plan: dict[str, Any], results: Results) -> None:
    config = load_recipe(story.recipe).config
    words = ("submit", str(story.recipe), "--on", "local")
    process, log = shell.start(*words)
    total = plan["total_steps"]
    watch = Watch(PRETRAINED, total, kill_at=total // 2)
    watch.until_end(process)
    finish(process, log, words)
    proof = shell.ask("shards", "audit", str(PRETRAINED))
    print(
        f"  each of the {proof['steps']:,} steps saw exactly its images, {proof['images']:,} in all, "
        "the kill notwithstanding"
    )
    speeds = [point.value for point in read_metrics(PRETRAINED)["speed/images_per_s"]]
    results.facts |= {
        "dataset": story.pretrain.name,
        "world_size": plan["world"],
        "zero_stage": config.engine.stage,
        "restarts": watch.restarts,
        "restart_seconds": watch.back_after_s,
        "images_seen": plan["total_images"],
        "images_per_s": round(statistics.median(speeds), 1),
    }


def _evaluate(shell: Shell, story: Story, results: Results) -> None:
    run = str(PRETRAINED)
    scores = shell.ask("evaluate", run, "--on", "held-out")["scores"]
    results.facts["pretrain"] = {"top1": scores["top1"], "top5": scores["top5"]}
    results.facts["fewshot"] = {
        source.name: shell.ask(
            "evaluate", run, "--on", "fewshot", "--train", source.train, "--data", source.held_out
        )["scores"]
        for source in story.downstream
    }


def _transfer(shell: Shell, source: Source) -> dict[str, Any]:
    """Fine-tuned and from scratch, side by side: the same recipe, the same steps, one core each."""
    data = (f"data.train={source.train}", f"data.held_out={source.held_out}")
    pair = (
        (
            "finetune",
            str(FINETUNE),
            "--from",
            str(PRETRAINED),
            f"run.name=finetune-{source.name}",
            *data,
        ),
        ("train", str(FINETUNE), f"run.name=scratch-{source.name}", *data),
    )
    shell.side_by_side(*pair, OMP_NUM_THREADS="1")
    return {
        "dataset": source.name,
        "finetune": _top1(HOME / f"finetune-{source.name}"),
        "scratch": _top1(HOME / f"scratch-{source.name}"),
    }


def _top1(run: Path) -> float:
    return read_metrics(run)["held_out/top1"][-1].value


def _summary(results: Results, seconds: float) -> dict[str, Any]:
    first = results.transfer[0]
    return {
        **results.facts,
        "finetune": {"dataset": first["dataset"], "top1": first["finetune"]},
        "scratch": {"dataset": first["dataset"], "top1": first["scratch"]},
        "transfer": results.transfer,
        "seconds": seconds,
    }


def _close(summary: dict[str, Any]) -> None:
    title("What came of it")
    print(table(("what", "result"), _rows(summary)))
    print(f"\n  checkpoint   {PRETRAINED}/checkpoints")
    print(f"  curves       {PRETRAINED}/report/curves.png")
    print(f"  summary      {HOME}/summary.json")
    print(f"  MLflow       {HOME}/mlflow.db   (make ui opens it)")


def _rows(summary: dict[str, Any]) -> list[tuple[str, str]]:
    pretrain = summary["pretrain"]
    rows = [
        (
            f"{summary['dataset']} held-out top-1 / top-5",
            percent(pretrain["top1"], pretrain["top5"]),
        )
    ]
    for name, scores in summary["fewshot"].items():
        shown = ", ".join(f"{shots} {percent(one['mean'])}" for shots, one in scores.items())
        rows.append((f"{name} few-shot", shown))
    for one in summary["transfer"]:
        shown = f"{percent(one['finetune'])} against {percent(one['scratch'])}"
        rows.append((f"{one['dataset']} fine-tuned against scratch", shown))
    rows += [
        ("restarts", f"{summary['restarts']} (a worker killed with SIGKILL)"),
        ("images seen", f"{summary['images_seen']:,}"),
        ("images/s", f"{summary['images_per_s']:.0f} on {summary['world_size']} ranks"),
        ("all in all", human_seconds(summary["seconds"])),
    ]
    return rows
