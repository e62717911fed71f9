"""`vitscale evaluate CHECKPOINT --suite NAME`: all tasks of a suite, one table."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vitscale.cli.arguments import add_pixels, pixels_of, print_json
from vitscale.config.cluster import load_profile
from vitscale.config.suite import load_suite
from vitscale.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from vitscale.data.pieces import Pieces
    from vitscale.evaluate.subject import Subject
    from vitscale.evaluate.suite import Scored, Setting

_OWN = ("against", "patience", "folder", "workers", "task_cpus", "task_gpus", "pixels")
_ONCE = ("checkpoint", "against", "folder", "out", "pixels")
_PATIENCE_S = 600.0
_OTHERS = ("data", "train")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--suite and what goes with it."""
    group = parser.add_argument_group("a suite of transfer tasks (docs/transfer.md)")
    group.add_argument(
        "--suite", metavar="NAME|FILE", help="a suite of configs/transfer, or a TOML file"
    )
    group.add_argument(
        "--against",
        metavar="CHECKPOINT",
        help="score these weights too, and compare image by image",
    )
    group.add_argument(
        "--follow",
        nargs="+",
        metavar="RUN",
        help="score every commit of these runs once, while they train; safe to kill and start again",
    )
    group.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        help="with --follow: end when no run has been at work for so long (default 600)",
    )
    group.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keeps results and tables (default: transfer/ in the run, or beside the file)",
    )
    group.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes of this machine, a task each at a time (default: one a GPU, or one a core)",
    )
    add_pixels(group)
    for name, of in (("cpus", "cores"), ("gpus", "GPUs")):
        group.add_argument(
            f"--task-{name}",
            type=float,
            metavar="F",
            help=f"{of} of each task with --on PROFILE, also a share of one (default: the profile's)",
        )


def given(arguments: argparse.Namespace) -> list[str]:
    """Options of a suite that were given."""
    return _given(arguments, _OWN)


def run(arguments: argparse.Namespace) -> int:
    """Score, print the table or JSON; the exit code of the first task that failed, else 0."""
    _check(arguments)
    suite = load_suite(arguments.suite)
    from vitscale.evaluate.from_checkpoint import insist_on_one_process
    from vitscale.evaluate.report import write_summary
    from vitscale.evaluate.results import Results
    from vitscale.evaluate.suite import score_suite
    from vitscale.evaluate.tables import contrast, contrast_text, text_of
    from vitscale.evaluate.tell_run import publish_in_run

    insist_on_one_process()
    wanted = [path for path in (arguments.checkpoint, arguments.against) if path is not None]
    _insist_on_use_of_pixels(arguments, wanted)
    scored: list[tuple[Scored, Results]] = []
    records: list[dict[str, Any]] = []
    for path in wanted:
        subject = _subject(arguments, Path(path))
        setting = _setting(arguments, subject)
        found = score_suite(subject, suite, setting)
        results = Results(setting.folder)
        record, _ = publish_in_run(found, results)
        scored.append((found, results))
        records.append(record)
        if not arguments.json:
            print(text_of(record))
    answer: dict[str, Any] = records[0]
    if len(scored) == 2:
        (a, of_a), (b, of_b) = scored
        rows = contrast(a, b, of_a, of_b)
        answer = {"a": records[0], "b": records[1], "contrast": rows}
        if not arguments.json:
            print(contrast_text(rows, a.subject.name, b.subject.name))
    if arguments.out:
        write_summary(Path(arguments.out), answer)
    if arguments.json:
        print_json(answer)
    errors = [error for one, _ in scored for error in one.failed.values()]
    return errors[0].exit_code if errors else 0


def follow_runs(arguments: argparse.Namespace) -> int:
    """Score the commits of runs while they train, until they are over."""
    if arguments.suite is None:
        raise ConfigError(
            "--follow needs --suite NAME", where="evaluate", do="Name one, such as --suite demo."
        )
    if idle := _given(arguments, _ONCE):
        names = ", ".join("CHECKPOINT" if name == "--checkpoint" else name for name in idle)
        raise ConfigError(
            f"{names} has no effect with --follow", where="evaluate", do="Leave it out."
        )
    _check(arguments)
    suite = load_suite(arguments.suite)
    from vitscale.evaluate.follow import follow, scorer
    from vitscale.evaluate.tables import text_of

    def told(record: dict[str, Any]) -> None:
        print(json.dumps(record) if arguments.json else text_of(record), flush=True)

    score = scorer(suite, lambda subject: _setting(arguments, subject), told)
    runs = [Path(run).absolute() for run in arguments.follow]
    patience_s = _PATIENCE_S if arguments.patience is None else arguments.patience
    follow(runs, suite.name, arguments.weights, score, patience_s=patience_s, say=_say)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    if idle := _given(arguments, _OTHERS):
        raise ConfigError(
            f"{', '.join(idle)} has no effect with --suite",
            where="evaluate",
            do="A suite names its own data.",
        )
    if arguments.follow is None:
        if arguments.checkpoint is None:
            raise no_checkpoint()
        if arguments.patience is not None:
            raise ConfigError(
                "--patience has no effect without --follow", where="evaluate", do="Leave it out."
            )
    if arguments.on is None and (idle := _given(arguments, ("task_cpus", "task_gpus"))):
        raise ConfigError(
            f"{', '.join(idle)} has no effect without --on PROFILE",
            where="evaluate",
            do="Name a cluster profile, such as --on local, or leave it out.",
        )
    if arguments.on is not None and arguments.workers is not None:
        raise ConfigError(
            "--workers has no effect with --on PROFILE",
            where="evaluate",
            do="Ray runs as many tasks as the cluster has room for.",
        )


def no_checkpoint() -> ConfigError:
    """The error of a command that does not say what to score."""
    return ConfigError(
        "no CHECKPOINT was given",
        where="evaluate",
        do="Name a run folder, a step folder, or an exported file.",
    )


def _given(arguments: argparse.Namespace, names: tuple[str, ...]) -> list[str]:
    return [f"--{name.replace('_', '-')}" for name in names if getattr(arguments, name) is not None]


def _subject(arguments: argparse.Namespace, path: Path) -> Subject:
    """The weights, ours as they are; those of others are imported first, once for each content."""
    from vitscale.evaluate.subject import subject_of

    if not _is_foreign(path):
        return subject_of(path, arguments.weights, arguments.folder)
    folder = arguments.folder or path.with_name(f"{path.name}.transfer")
    file = _imported(path, folder, arguments.pixels)
    return replace(subject_of(file, arguments.weights, folder), name=path.name)


def _insist_on_use_of_pixels(arguments: argparse.Namespace, paths: Sequence[str]) -> None:
    if arguments.pixels is not None and not any(_is_foreign(Path(path)) for path in paths):
        raise ConfigError(
            "--pixels has no effect: weights of ours say what pixels they take",
            where="evaluate",
            do="Leave it out.",
        )


def _is_foreign(path: Path) -> bool:
    from vitscale.checkpoint.weights import is_ours

    if path.is_dir():
        files = [file for ending in (".safetensors", ".bin") for file in path.glob(f"*{ending}")]
        return (path / "config.json").is_file() and bool(files) and not is_ours(path)
    return path.is_file() and not is_ours(path)


def _imported(path: Path, folder: Path, pixels: str | tuple[float, ...] | None) -> Path:
    """The weights of others as a file of ours, named by their content and what was said of it."""
    from vitscale.weights.importing import Wishes, import_weights
    from vitscale.weights.model import Target

    to = folder / f"imported-{_content_of(path, pixels)}.safetensors"
    if to.exists():
        return to
    hints = {} if pixels is None else {"preprocessing": pixels_of(pixels)}
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import_weights(path, to, Wishes(hints=hints), Target())
    except (CheckpointError, ConfigError) as error:
        with contextlib.suppress(OSError):  # other results may be there
            folder.rmdir()
        if "--" not in error.do or "--pixels" in error.do:
            raise
        do = f"{error.do} `vitscale weights import` takes it; evaluate the file that it writes."
        raise type(error)(
            error.what, where=error.where or str(path), given=error.given, do=do
        ) from None
    return to


def _content_of(path: Path, pixels: object) -> str:
    from vitscale.checkpoint.layout import sha256_of

    files = sorted(file for file in path.iterdir() if file.is_file()) if path.is_dir() else [path]
    joined = " ".join(f"{file.name} {sha256_of(file)}" for file in files)
    if pixels is not None:
        joined += f" {pixels}"
    return hashlib.sha256(joined.encode()).hexdigest()[:16]


def _setting(arguments: argparse.Namespace, subject: Subject) -> Setting:
    from vitscale.evaluate.subject import Machine
    from vitscale.evaluate.suite import Setting
    from vitscale.train import worker

    pieces, threads = _pieces(arguments)
    machine = Machine(arguments.batch, arguments.precision, arguments.device, threads)
    return Setting(machine, pieces, worker.run, subject.home, _say)


def _pieces(arguments: argparse.Namespace) -> tuple[Pieces, int]:
    """Who runs the tasks, and how many threads each process has."""
    if arguments.on is not None:
        from vitscale_launch.tasks import RayTasks

        profile = load_profile(arguments.on)
        return (
            RayTasks(profile, cpus=arguments.task_cpus, gpus=arguments.task_gpus),
            profile.threads,
        )
    from vitscale.data.pieces import local_pieces
    from vitscale.evaluate.subject import gpus_here

    cores = len(os.sched_getaffinity(0))
    gpus = gpus_here() if arguments.device != "cpu" else 0
    workers = arguments.workers if arguments.workers is not None else gpus or cores
    return local_pieces(workers), max(1, cores // max(1, workers))


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
