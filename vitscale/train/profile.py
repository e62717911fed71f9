"""`vitscale train --profile`: a trace of a few steps, where their time goes, and their memory.

The loop stays as it is: the collaborators that it calls are wrapped, and a run without a profile has none of this.
"""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function

from vitscale.durable import write_text_atomically
from vitscale.errors import ConfigError
from vitscale.evaluate.report import table
from vitscale.evaluate.trace import (
    BACKWARD,
    COPY,
    DATA,
    FORWARD,
    MARK,
    OPTIMIZER,
    OTHER,
    draw_memory,
    read_trace,
    split_rows,
    time_split,
)
from vitscale.objective import Objective
from vitscale.train.loop import Run

log = logging.getLogger(__name__)

WARM_UP = 3
"""Steps of this start that are not traced: the first ones allot memory and choose kernels."""
STEPS = 3
"""Steps that are traced after them."""
FOLDER = "profile"


class Profile:
    """Traces rank 0 of a run and leaves `trace.json.gz`, `times.json` and `memory.png` in its folder.

    On a GPU every mark waits for the device, so that time is counted where it is spent; what overlaps within a part
    still does.
    """

    def __init__(self, run_folder: Path, device: torch.device) -> None:
        self._folder, self._device = run_folder / FOLDER, device
        self._marks = _Marks(device)
        self._profiler: profile | None = None
        self._begun = 0
        self._first = 0
        self._hook: Any = None
        self._run: Run | None = None

    def objective(self, objective: Objective) -> Objective:
        """The same objective; with its end the forward pass is over."""

        def marked(*arguments: Any) -> torch.Tensor:
            loss = objective(*arguments)
            self._marks.after(FORWARD, BACKWARD)
            return loss

        return marked

    def around(self, run: Run) -> Run:
        """The same run, watched.

        Raises:
            ConfigError: it is over before the first step that would be traced.
        """
        if run.plan.total_steps <= WARM_UP:
            raise ConfigError(
                f"nothing would be traced: the run ends within the {WARM_UP} steps that are left out",
                where="--profile",
                given=f"{run.plan.total_steps} steps",
                do="Train longer, or leave --profile out.",
            )
        self._run = run
        return replace(run, beat=self._beat, engine=_MarkedEngine(run.engine, self._marks))

    def close(self) -> None:
        """Write what was traced, if the run was stopped within the steps; say so if nothing was."""
        if self._profiler is not None:
            self._end(self._begun - WARM_UP)
        elif self._begun <= WARM_UP:
            log.warning("nothing was traced: this start made %d steps", self._begun)

    def _beat(self, step: int, phase: str) -> None:
        assert self._run is not None
        self._run.beat(step, phase)
        if phase == "step":
            self._marks.to(OTHER)
            return
        last = self._begun == WARM_UP + STEPS or step == self._run.plan.total_steps
        if self._profiler is not None and last:
            self._end(self._begun - WARM_UP)
        if phase != "data":
            self._marks.to(OTHER)
            return
        self._begun += 1
        if self._begun == WARM_UP + 1:
            self._begin(step)
        self._marks.to(DATA)

    def _begin(self, step: int) -> None:
        assert self._run is not None
        self._first = step + 1
        activities = [ProfilerActivity.CPU]
        if self._device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        engine: Any = self._run.engine
        self._hook = engine.model.register_forward_pre_hook(
            lambda *_: self._marks.after(COPY, FORWARD)
        )
        self._profiler = profile(activities=activities, profile_memory=True)
        self._profiler.start()
        self._marks.begin()

    def _end(self, steps: int) -> None:
        """Stop tracing after `steps` steps and write the files."""
        assert self._profiler is not None and self._run is not None
        profiler, self._profiler = self._profiler, None
        self._marks.end()
        profiler.stop()
        self._hook.remove()
        path = self._folder / "trace.json.gz"
        facts = {"first_step": self._first, "steps": steps, "device": str(self._device)}
        try:
            self._folder.mkdir(exist_ok=True)
            profiler.export_chrome_trace(str(path))
            files = _files(path, facts | {"world": self._run.plan.world})
        except OSError as error:  # training matters more
            log.warning("the profile cannot be written: %s", error)
            return
        for file in files:
            self._run.tracker.artifact(file, FOLDER)


def _files(trace_file: Path, facts: dict[str, Any]) -> list[Path]:
    """Write what is read off the trace beside it, and print the table; the trace and these."""
    trace = read_trace(trace_file)
    split = time_split(trace, facts["steps"])
    times, memory = trace_file.with_name("times.json"), trace_file.with_name("memory.png")
    write_text_atomically(times, json.dumps(facts | split, indent=2) + "\n")
    steps = f"steps {facts['first_step']} to {facts['first_step'] + facts['steps'] - 1}"
    for line in table(("part", "ms a step", "%"), split_rows(split)).splitlines():
        log.info("%s", line)
    log.info("%s traced on rank 0: %s", steps, trace_file)
    try:
        return [trace_file, times, draw_memory(trace, memory, f"{steps}, rank 0")]
    except ImportError as error:
        log.warning("no %s: %s is not installed", memory.name, error.name)
        return [trace_file, times]


class _Marks:
    """Names the part of a step that is under way, in the trace; outside of one it does nothing."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._part = ""
        self._mark: record_function | None = None

    def begin(self) -> None:
        """A trace has begun."""
        self._enter(OTHER)

    def to(self, part: str) -> None:
        """`part` begins here, and what went on before ends."""
        if self._mark is not None:
            self._leave()
            self._enter(part)

    def after(self, before: str, part: str) -> None:
        """As `to`, where `before` is under way."""
        if self._part == before:
            self.to(part)

    def end(self) -> None:
        """The trace ends."""
        self._leave()
        self._mark, self._part = None, ""

    def _enter(self, part: str) -> None:
        self._part, self._mark = part, record_function(MARK + part)
        self._mark.__enter__()

    def _leave(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        assert self._mark is not None
        self._mark.__exit__(None, None, None)


class _MarkedEngine:
    """An engine whose calls are marked; all else is the engine's own."""

    def __init__(self, engine: Any, marks: _Marks) -> None:
        self._engine, self._marks = engine, marks

    def accumulate(self, images: Any, labels: Any, *, last: bool) -> Any:
        """The forward pass begins where the model is called, the backward pass where the objective has returned."""
        self._marks.to(COPY)
        loss = self._engine.accumulate(images, labels, last=last)
        self._marks.to(OTHER)
        return loss

    def step(self, lr: float) -> Any:
        """The update, with what is communicated for it."""
        self._marks.to(OPTIMIZER)
        norm = self._engine.step(lr)
        self._marks.to(OTHER)
        return norm

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)
