"""`vitscale plan RECIPE`: what a recipe comes to on a number of ranks, before any GPU is asked for."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from vitscale.cli.arguments import add_json, add_recipe, print_json
from vitscale.config.data import DataConfig
from vitscale.config.dataset import DatasetFacts
from vitscale.config.load import load_recipe
from vitscale.config.model import Shape
from vitscale.config.plan import Plan, make_plan
from vitscale.errors import ConfigError
from vitscale.model.size import forward_flops, parameters, train_flops
from vitscale.units import human_bytes, human_count


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """RECIPE, --world, overrides."""
    add_recipe(parser)
    parser.add_argument("--world", type=int, default=1, metavar="N", help="ranks (GPUs) of the job")
    parser.add_argument(
        "--images",
        type=int,
        metavar="N",
        help="take this many images instead of reading data.train",
    )
    parser.add_argument("--classes", type=int, metavar="K", help="and this many classes")
    add_json(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the model, the data and the plan; fails like the run itself would."""
    config = load_recipe(arguments.recipe, arguments.overrides).config
    facts = _facts(arguments, config.data)
    shape = config.model.shape(config.model.classes or len(facts.classes))
    if arguments.world < 1:
        raise ConfigError("a job has at least one rank", where="--world", given=arguments.world)
    plan = make_plan(config, world=arguments.world, epoch_images=facts.samples)
    if arguments.json:
        print_json(record_of(shape, facts, plan))
    else:
        print(text_of(config.model.variant, shape, facts, plan))
    return 0


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
    return "\n".join(f"{name:<11} {text}" for name, text in lines)
