"""From a recipe to the collaborators of the loop, built once, in the order in which they can fail."""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from vitscale import __version__
from vitscale.checkpoint.layout import CHECKPOINTS, step_folders
from vitscale.checkpoint.lease import Lease
from vitscale.checkpoint.retention import Retention
from vitscale.checkpoint.weights import Weights, load_weights
from vitscale.config.load import Recipe
from vitscale.config.model import Shape
from vitscale.config.ops import idle_ops
from vitscale.config.plan import Plan, make_plan
from vitscale.config.redaction import redact_table
from vitscale.config.run import RunConfig
from vitscale.data.augment import View
from vitscale.data.corpus import Corpus, cache_of, open_corpus
from vitscale.data.device import normalise
from vitscale.data.loader import TrainLoader
from vitscale.engine.build import StepEngine, build_engine
from vitscale.engine.choice import insist_on_device
from vitscale.engine.collectives import Ranks, pick_device, set_timeouts
from vitscale.engine.precision import DTYPES
from vitscale.engine.recompute import set_recompute
from vitscale.errors import ConfigError
from vitscale.evaluate import held_out
from vitscale.model.build import Fitting, build_model, load_pretrained
from vitscale.model.vit import ViT
from vitscale.objective import Objective, make_objective
from vitscale.ops.apex import find_apex, refuse_wrong_apex
from vitscale.ops.choice import Ops, choose_ops
from vitscale.optim.schedule import make_schedule
from vitscale.place import Place
from vitscale.planner import size
from vitscale.tracking.build import Status, make_tracker
from vitscale.train.events import Events
from vitscale.train.guard import Guard
from vitscale.train.loop import Run
from vitscale.train.meters import Sensors, Window
from vitscale.train.profile import Profile
from vitscale.train.progress import Progress
from vitscale.train.protocols import Export
from vitscale.train.ranks import SideBySide
from vitscale.train.saving import Habits, RunCheckpoints, Start
from vitscale.train.sensors import forward_watch, memory_bytes
from vitscale.train.stop import StopRequest
from vitscale.train.teacher import distillation_by

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Attempt:
    """One start of a run on this rank."""

    recipe: Recipe
    place: Place
    device: torch.device
    ranks: Ranks
    number: int
    resume: str
    beat: Callable[[int, str], None]
    lease: Lease
    leaving: Callable[[], list[int]] | None = None
    profile: Profile | None = None
    export: Export | None = None

    @property
    def config(self) -> RunConfig:
        return self.recipe.config


def check_machine(config: RunConfig, place: Place) -> torch.device:
    """Refuse what this machine cannot run before anything is written; the device of this rank.

    Raises:
        ResourceError: no GPU where one was asked for, or PyPI's `apex` is installed.
        ConfigError: a setting has no effect on the device.
    """
    refuse_wrong_apex(find_apex())
    device = pick_device(config.engine.device, place)
    insist_on_device(config.engine, device)
    return device


@dataclass(frozen=True)
class Survey:
    """What recipe and data come to on this many ranks."""

    corpus: Corpus
    held_out: Corpus | None
    shape: Shape
    plan: Plan
    ops: Ops


def survey(config: RunConfig, place: Place, device: torch.device) -> Survey:
    """Open the data, work out shape and plan, choose the ops; writes nothing.

    Raises:
        ResourceError: an op was asked for that cannot run here.
        DataError: shards are missing or damaged.
        ConfigError: classes or batch do not fit.
    """
    cache = cache_of(config.data)
    corpus = open_corpus(config.data.train, config.data, cache=cache)
    held = config.data.held_out
    held_out = open_corpus([held], config.data, cache=cache) if held is not None else None
    shape = _shape(config, corpus, held_out)
    plan = make_plan(config, world=place.world, epoch_images=corpus.samples)
    dtype = DTYPES[config.engine.precision]
    idle = [key.removeprefix("ops.") for key, _ in idle_ops(config.train.objective, config.optim)]
    ops = choose_ops(config.ops, shape, device=device, dtype=dtype, idle=idle)
    return Survey(corpus, held_out, shape, plan, ops)


def build_run(attempt: Attempt, found: Survey) -> tuple[Run, Callable[[Status], None]]:
    """The run, and a function that closes it with an MLflow status.

    Raises:
        VitscaleError: anything in recipe or checkpoint that cannot work.
    """
    config, ranks = attempt.config, attempt.ranks
    shape, plan = found.shape, found.plan
    model = _model(attempt, found)
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    loader = _loader(attempt, found)
    _say(attempt, [f"JPEGs are decoded by {loader.decoder}"])
    objective = _objective(attempt, found)
    engine = build_engine(
        model,
        attempt.profile.objective(objective) if attempt.profile else objective,
        config,
        plan,
        place=attempt.place,
        device=attempt.device,
    )
    set_timeouts(config.engine.timeout_s)
    tracker = _tracker(attempt, plan, shape)
    guard = Guard(config.guard, plan.batch)
    checkpoints = _checkpoints(attempt, found, engine, loader, guard, shapes)
    checkpoints.on_commit = lambda manifest: tracker.artifact(manifest, "manifests")
    events = None
    if attempt.place.is_first:
        guard.on_event = events = Events(checkpoints.ledger.event, loader.samples, tracker.rewound)
    stop = StopRequest(config.folder, ranks.gather, attempt.leaving)
    hosts = ranks.gather(socket.gethostname())
    run = Run(
        plan=plan,
        checkpoints=checkpoints,
        loader=loader,
        engine=engine,
        schedule=make_schedule(config.optim, plan),
        guard=guard,
        meters=_meters(attempt, found, loader, engine, SideBySide(hosts, tracker.tag, events)),
        tracker=tracker,
        evaluate=_evaluator(attempt, engine, found.held_out, shape),
        stop=stop,
        beat=attempt.beat,
    )

    def close(status: Status) -> None:
        stop.close()
        loader.close()
        tracker.close(status)
        engine.close()

    return run, close


def _start(attempt: Attempt, plan: Plan) -> Start:
    named = attempt.config.init.checkpoint if attempt.config.init else None
    return Start(Progress(plan.total_steps), attempt.resume, attempt.number, named)


def _habits(attempt: Attempt, plan: Plan) -> Habits:
    config = attempt.config
    return Habits(
        Retention(config.checkpoint.keep, plan.keep_every),
        background=config.checkpoint.background,
        timeout_s=config.engine.timeout_s,
        insist=attempt.lease.insist,
    )


def _shape(config: RunConfig, corpus: Corpus, held: Corpus | None) -> Shape:
    """The model's shape, with as many classes as the data have."""
    found, asked = len(corpus.classes), config.model.classes
    if asked is not None and asked != found:
        raise ConfigError(
            f"the training set has {found} classes",
            where="model.classes",
            given=asked,
            do="Remove the key to take the number from the data, or use another set.",
        )
    if held is not None and held.classes != corpus.classes:
        raise ConfigError(
            "the held-out set has other classes than the training set",
            where="data.held_out",
            given=f"{len(held.classes)} classes against {found}, or another order",
            do="Pack both from one source, or give both the same --classes file.",
        )
    several = max(each.most_labels for each in (corpus, held) if each is not None)
    if several > 1 and config.train.objective == "softmax":
        raise ConfigError(
            f"softmax takes one label an image, and the data have up to {several}",
            where="train.objective",
            do='Use "sigmoid", or index the shards with one label each.',
        )
    return config.model.shape(found)


def _model(attempt: Attempt, found: Survey) -> ViT:
    """A new model, on top of it pretrained weights where the recipe names some.

    A run that has commits of its own goes on from them or not at all, so the weights it began with are not read again
    and may be gone.
    """
    config = attempt.config
    _say(attempt, found.ops.reasons)
    model = build_model(found.shape, found.ops, seed=config.run.seed)
    set_recompute(model, config.engine.recompute)
    begun = attempt.ranks.first(lambda: bool(step_folders(config.folder / CHECKPOINTS)))
    if config.init is not None and config.init.weights is not None and not begun:
        weights = load_weights(config.init.weights, config.init.which)
        init = config.init
        fitting = Fitting(init.head, init.resample, init.patches)
        _insist_on_same_pixels(config, weights)
        report = load_pretrained(model, weights.tensors, weights.shape, fitting)
        _say(attempt, [f"weights from {weights.path}", *report.lines()])
    return model


def _objective(attempt: Attempt, found: Survey) -> Objective:
    """The loss, with its teacher where the recipe names one; that is read anew at every start."""
    config, how = attempt.config, attempt.config.distill
    name, smoothing = config.train.objective, config.train.label_smoothing
    sigmoid = found.ops.loss
    if how is None:
        return make_objective(name, smoothing, sigmoid=sigmoid)
    weights = load_weights(how.weights, how.which)
    _insist_on_same_pixels(config, weights)
    device, dtype = attempt.device, DTYPES[config.engine.precision]
    teacher = distillation_by(weights, how, found.shape, found.ops, device=device, dtype=dtype)
    _say(attempt, [f"taught by {weights.path}, step {weights.step}"])
    return make_objective(name, smoothing, teacher, sigmoid)


def _insist_on_same_pixels(config: RunConfig, weights: Weights) -> None:
    """Weights see the mean and spread they were trained with, or they are other weights."""
    own = weights.preprocessing
    if not own.fits(config.data.mean, config.data.std):
        raise ConfigError(
            f"the weights of {weights.path} were trained with other pixels",
            where="data.mean, data.std",
            given=f"mean {list(config.data.mean)}, std {list(config.data.std)}",
            do=f"Set data.mean = {list(own.mean)} and data.std = {list(own.std)}.",
        )


def _say(attempt: Attempt, lines) -> None:
    if attempt.place.is_first:
        for line in lines:
            log.info("%s", line)


def _loader(attempt: Attempt, found: Survey) -> TrainLoader:
    config, place = attempt.config, attempt.place
    return TrainLoader(
        found.corpus,
        config.data,
        image=found.shape.image,
        batch=found.plan.batch,
        micro_batch=found.plan.micro_batch,
        seed=config.run.seed,
        place=place,
        quarantine=config.folder / "quarantine" / f"rank-{place.rank:05d}.jsonl",
    )


def _checkpoints(
    attempt: Attempt,
    found: Survey,
    engine: StepEngine,
    loader: TrainLoader,
    guard: Guard,
    shapes: dict[str, list[int]],
) -> RunCheckpoints:
    config, plan = attempt.config, found.plan
    return RunCheckpoints(
        config.folder,
        engine=engine,
        loader=loader,
        ranks=attempt.ranks,
        facts=_facts(config, plan, found.shape, shapes),
        habits=_habits(attempt, plan),
        start=_start(attempt, plan),
        guard=guard,
    )


def _meters(
    attempt: Attempt,
    found: Survey,
    loader: TrainLoader,
    engine: StepEngine,
    side_by_side: SideBySide,
) -> Window:
    forward = forward_watch(engine.model, attempt.device)
    return Window(
        found.plan,
        gather=attempt.ranks.gather,
        flops_per_image=size.train_flops(found.shape),
        loader=loader,
        sensors=Sensors(
            engine.normalise.take_seconds,
            forward.take_seconds,
            partial(memory_bytes, attempt.device),
        ),
        side_by_side=side_by_side,
        export=attempt.export,
    )


def _tracker(attempt: Attempt, plan: Plan, shape: Shape):
    config = attempt.config
    return make_tracker(
        config.tracking,
        folder=config.folder,
        name=config.run.name,
        params={
            **config.model_dump(mode="json"),
            "plan": {**vars(plan)},
            "parameters": size.parameters(shape),
        },
        place=attempt.place,
        attempt=attempt.number,
        total_steps=plan.total_steps,
    )


def _facts(
    config: RunConfig, plan: Plan, shape: Shape, shapes: dict[str, list[int]]
) -> dict[str, Any]:
    """What a manifest says of the run besides its position."""
    engine = config.engine
    return {
        "run": config.run.name,
        "world": plan.world,
        "engine": {"kind": engine.kind, "stage": engine.stage, "recompute": engine.recompute},
        "precision": engine.precision,
        "optimizer": config.optim.optimizer,
        "shape": shape.as_json(),
        "shapes": shapes,
        "config": redact_table(config.model_dump(mode="json")),
        "versions": {"vitscale": __version__, "torch": torch.__version__},
    }


def _evaluator(
    attempt: Attempt, engine: StepEngine, held: Corpus | None, shape: Shape
) -> Callable[[], dict[str, float]]:
    config = attempt.config
    dtype, data = DTYPES[config.engine.precision], config.data
    prepare = partial(normalise, device=attempt.device, dtype=dtype, mean=data.mean, std=data.std)

    def score(prefix: str) -> dict[str, float]:
        assert held is not None
        scores = held_out.score(
            engine.model,
            held,
            image=shape.image,
            batch=config.evaluate.batch,
            place=attempt.place,
            prepare=prepare,
            objective=config.train.objective,
            view=View(config.evaluate.crop, config.evaluate.resize_px),
        )
        return {f"{prefix}/{name}": float(value) for name, value in scores.items()}

    def evaluate() -> dict[str, float]:
        if held is None:
            return {}
        scores = score("held_out")
        if config.optim.ema_decay is not None:
            with engine.state.averaged():
                scores |= score("held_out_ema")
        return scores

    return evaluate
