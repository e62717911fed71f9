"""The loop against stand-ins: what is called, in which order, and without torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.ranks import ROOT
from vitscale.config.plan import Plan
from vitscale.errors import NotFiniteError
from vitscale.train.loop import Run, train
from vitscale.train.meters import Window
from vitscale.train.progress import Progress


class Story:
    """All collaborators in one; writes down what happens."""

    bad_images = 0
    work = SimpleNamespace(read_s=0.0, decode_s=0.0, lost=0)

    def __init__(self, start=0, stop_at=None, bad_step=None):
        self.told, self.beats = [], []
        self.start, self.stop_at, self.bad_step = start, stop_at, bad_step

    def restore(self):
        self.told.append("restore")
        return Progress(6, self.start, self.start * 4)

    def batches(self, position):
        self.told.append(f"feed from {position}")
        return (SimpleNamespace(images=i, labels=i) for i in itertools.count(position // 2))

    def begin(self, step, labels):
        self.now = step
        self.told.append(f"step with labels {labels}")

    def accumulate(self, images, labels, *, last):
        self.told.append(f"micro {images}{' last' if last else ''}")
        return float("nan") if self.now == self.bad_step else 1.0

    def step(self, lr):
        self.told.append(f"update at {lr}")
        return 0.5

    def save(self, progress):
        self.told.append(f"save {progress.step}")

    def finish(self, progress):
        self.told.append(f"finish {progress.step}")

    def asked(self, progress):
        return progress.step == self.stop_at

    def beat(self, step, phase):
        self.beats.append(f"{phase} {step}")

    def metrics(self, values, step):
        self.told.append(f"{'log' if 'train/loss' in values else 'score'} {step}")

    def __call__(self):
        self.told.append("evaluate")
        return {"held_out/top1": 0.5}


def tell(story):
    plan = Plan(1, 4, 2, 2, 12, 6, 0, 2, 3, None, 4)
    meters = Window(plan, gather=lambda v: [v], flops_per_image=1.0, loader=story, copied_s=float)
    run = Run(plan, story, story, story, float, meters, story, story, story, story.beat)
    return train(run)


def test_a_run_from_the_start_logs_saves_and_evaluates_when_due():
    story = Story()
    assert tell(story) == ("finished", Progress(6, 6, 24))
    kept = [line for line in story.told if not line.startswith(("step", "micro", "update"))]
    assert kept == [
        "restore",
        "feed from 0",
        "log 2",
        "log 3",
        "save 3",
        "log 4",
        "evaluate",
        "score 4",
        "log 6",
        "save 6",
        "evaluate",
        "score 6",
        "finish 6",
    ]
    updates = [line for line in story.told if line.startswith("update")]
    assert updates == [f"update at {float(step)}" for step in range(6)]
    first = ["step with labels [0, 1]", "micro 0", "micro 1 last", "update at 0.0"]
    assert story.told[2:6] == first


def test_every_wait_begins_with_a_beat_that_says_where():
    story = Story(start=2)
    tell(story)
    beats = [beat for beat, _ in itertools.groupby(story.beats)]
    assert beats[:6] == ["data 2", "step 2", "save 3", "data 3", "step 3", "step 4"]
    assert beats[6:10] == ["evaluate 4", "data 4", "step 4", "step 5"]
    assert beats[10:] == ["data 5", "step 5", "save 6", "evaluate 6"]
    assert story.beats.count("step 2") > 2  # one a micro-batch: a step may be long


def test_a_resumed_run_feeds_from_where_it_was():
    story = Story(start=4)
    tell(story)
    assert story.told[:4] == ["restore", "feed from 16", "step with labels [8, 9]", "micro 8"]
    assert len([line for line in story.told if line.startswith("update")]) == 2


def test_a_stop_commits_the_step_it_was_asked_at():
    story = Story(stop_at=5)
    assert tell(story) == ("stopped", Progress(6, 5, 20))
    assert story.told[-3:] == ["log 5", "save 5", "finish 5"]


def test_a_finished_run_is_evaluated_again_and_trains_nothing():
    story = Story(start=6)
    assert tell(story)[0] == "finished"
    assert story.told == ["restore", "feed from 24", "evaluate", "score 6", "finish 6"]


def test_a_loss_that_is_not_finite_is_never_committed():
    story = Story(bad_step=2)
    with pytest.raises(NotFiniteError, match="steps 3 to 3") as error:
        tell(story)
    assert error.value.exit_code == 4
    assert "save 3" not in story.told


def test_the_loop_and_its_collaborators_of_plain_python_load_no_torch():
    modules = "loop meters progress stop protocols heartbeat restart life"
    code = (
        "import sys, importlib\n"
        f"for name in {modules.split()}: importlib.import_module('vitscale.train.' + name)\n"
        "heavy = {'torch', 'numpy', 'ray', 'deepspeed', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
