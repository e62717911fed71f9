"""`vitscale plan`: what a model or a recipe comes to on a number of ranks, before any GPU is asked for."""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterable
from dataclasses import asdict

from vitscale.cli.arguments import add_json, add_recipe, print_json
from vitscale.cli.plan_text import (
    job_lines,
    job_record,
    model_record,
    model_text,
    needs_lines,
    needs_record,
)
from vitscale.cli.plan_where import Where, insist_on_effect, where_of
from vitscale.config.cluster import split_overrides
from vitscale.config.data import DataConfig
from vitscale.config.dataset import DatasetFacts
from vitscale.config.load import load_recipe
from vitscale.config.model import Shape
from vitscale.config.ops import on_device
from vitscale.config.plan import Plan, make_plan
from vitscale.config.run import RunConfig
from vitscale.errors import ConfigError
from vitscale.planner.choice import chosen
from vitscale.planner.forecast import Job, Needs, calibrated
from vitscale.planner.room import insist_on_room, job_on
from vitscale.planner.size import forward_flops, parameters, train_flops
from vitscale.units import human_bytes, human_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, --on or --world and --gpu, overrides; or --model and --image alone."""
    add_recipe(parser, optional=True)
    parser.add_argument(
        "--on",
        metavar="PROFILE",
        help="a profile of configs/cluster, or a path to one: its workers are the ranks, its "
        "accelerator the GPU; overrides such as cluster.workers=128 change it",
    )
    parser.add_argument(
        "--world", type=int, metavar="N", help="ranks (GPUs) of the job (default: 1)"
    )
    parser.add_argument(
        "--gpu",
        metavar="NAME",
        help="forecast memory and time on GPUs of this kind, such as H100; refuse what does not fit",
    )
    parser.add_argument(
        "--per-node", type=int, metavar="N", help="GPUs of a machine, where it is not the usual one"
    )
    parser.add_argument(
        "--measured",
        type=float,
        metavar="IMAGES_PER_S",
        help="what one machine of these GPUs was seen to reach with this recipe; scales the forecast",
    )
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="take this many images instead of reading data.train",
    )
    parser.add_argument("--classes", type=int, metavar="K", help="and this many classes")
    parser.add_argument(
        "--model", metavar="VARIANT", help="a preset such as B/16, without a recipe"
    )
    parser.add_argument("--image", type=int, metavar="PX", help="its image size (default: 224)")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the model, the data and the plan; fails like the run itself would."""
    if (arguments.model is None) == (arguments.recipe is None):
        raise ConfigError(
            "takes either a recipe or --model",
            where="plan",
            do="Give one of them: plan --model B/16.",
        )
    if arguments.model is not None:
        return _run_model(arguments)
    insist_on_effect(arguments, ("image",), "without --model")
    for_recipe, for_profile = arguments.overrides, []
    if arguments.on is not None:
        for_recipe, for_profile = split_overrides(arguments.overrides)
    config = load_recipe(arguments.recipe, for_recipe).config
    where = where_of(arguments, for_profile)
    facts = _facts(arguments, config.data)
    shape = config.model.shape(config.model.classes or len(facts.classes))
    plan = make_plan(config, world=where.world, epoch_images=facts.samples)
    needs = _needs(where, config, shape, plan)
    if arguments.json:
        print_json(record_of(shape, facts, plan) | _forecast_record(needs, facts, where))
    else:
        print(text_of(config.model.variant, shape, facts, plan))
        if isinstance(needs, Job):
            print(aligned([("gpu", _gpu_text(where)), *job_lines(needs, facts)]))
        elif needs is not None:
            print(aligned(needs_lines(needs)))
    return 0


def _run_model(arguments: argparse.Namespace) -> int:
    idle = ("on", "world", "gpu", "per_node", "measured", "images", "classes")
    insist_on_effect(arguments, idle, "with --model")
    record = model_record(arguments.model, 224 if arguments.image is None else arguments.image)
    if arguments.json:
        print_json(record)
    else:
        print(model_text(record))
    return 0


def _needs(where: Where, config: RunConfig, shape: Shape, plan: Plan) -> Needs | None:
    """The job on its GPUs, if they can hold it; what it needs of any on a profile without; None where nothing is said.

    Raises:
        ConfigError: the GPUs cannot hold it, or are not as fast as was measured.
    """
    if where.cluster is None:
        if not where.of_profile:
            return None
        ops = on_device(config.ops, where.device, config.engine.precision)
        return chosen(config.engine, shape, config.optim, plan, math.inf, ops)
    job = job_on(where.cluster, config, shape, plan)
    if where.measured is not None:
        job = calibrated(job, where.measured)
    insist_on_room(job)
    return job


def _forecast_record(needs: Needs | None, facts: DatasetFacts, where: Where) -> dict[str, object]:
    if needs is None:
        return {}
    if not isinstance(needs, Job):
        return {"forecast": needs_record(needs)}
    return {"forecast": {"gpu": where.kinds[0]} | job_record(needs, facts)}


def _gpu_text(where: Where) -> str:
    """The kind that is reckoned with, and those that have the same name."""
    kind, *others = where.kinds
    if not others:
        return kind
    return f"{kind}, one of several of that name: for another --gpu {' or '.join(others)}"


def _facts(arguments: argparse.Namespace, config: DataConfig) -> DatasetFacts:
    """Of the data set, or of one that is not on this machine and only counted."""
    if arguments.images is None and arguments.classes is None:
        from vitscale.data.facts import facts_of

        return facts_of(config)
    if not arguments.images or not arguments.classes:
        raise ConfigError(
            "--images and --classes must be given together, both above zero",
            where="plan",
            given=f"--images {arguments.images}, --classes {arguments.classes}",
        )
    return DatasetFacts(arguments.images, ("",) * arguments.classes, "", 0, 0)


def record_of(shape: Shape, facts: DatasetFacts, plan: Plan) -> dict[str, object]:
    """The same facts as JSON-like values."""
    model = shape.as_json() | {
        "tokens": shape.tokens,
        "parameters": parameters(shape),
        "forward_gflops_per_image": forward_flops(shape) / 1e9,
    }
    derived = {"total_images": plan.total_images, "epochs": plan.epochs}
    work = {"train_flops": train_flops(shape) * plan.total_images}
    data = asdict(facts) | {"classes": len(facts.classes)}
    return {"model": model, "data": data, "plan": asdict(plan) | derived | work}


def text_of(variant: str, shape: Shape, facts: DatasetFacts, plan: Plan) -> str:
    """A few aligned lines for people."""
    height, width = shape.image
    rows, columns = shape.grid
    often = plan.evaluate_every
    lines = (
        (
            "model",
            f"ViT-{variant}: width {shape.width}, depth {shape.depth}, MLP {shape.mlp}, "
            f"{shape.heads} heads, {shape.classes} classes",
        ),
        (
            "image",
            f"{height} x {width} px, {rows} x {columns} patches of {shape.patch} px "
            f"every {shape.stride} px, {shape.tokens} tokens",
        ),
        ("parameters", human_count(parameters(shape))),
        ("one image", f"{forward_flops(shape) / 1e9:.4g} GFLOPs forward"),
        (
            "data",
            f"{facts.samples:,} images of {len(facts.classes):,} classes"
            + (f" in {facts.shards} shards, {human_bytes(facts.bytes)}" if facts.shards else ""),
        ),
        (
            "batch",
            f"{plan.batch} = {plan.micro_batch} a forward pass x {plan.accumulation} "
            f"accumulated x {plan.world} ranks",
        ),
        (
            "length",
            f"{plan.total_steps:,} steps, {plan.total_images:,} images, {plan.epochs:.4g} epochs",
        ),
        ("warmup", f"{plan.warmup_steps:,} steps"),
        *([("cooldown", f"{plan.cooldown_steps:,} steps")] if plan.cooldown_steps else []),
        ("save every", f"{plan.save_every:,} steps"),
        ("evaluate", f"every {often:,} steps and at the end" if often else "at the end"),
        ("work", f"{train_flops(shape) * plan.total_images:.3g} FLOPs, forward and backward"),
    )
    return aligned(lines)


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """A line for each, the names in a column."""
    return "\n".join(f"{name:<11} {text}" for name, text in lines)
