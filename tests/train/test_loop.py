"""The loop against stand-ins: what is called, in which order, and without torch."""

from __future__ import annotations

import itertools
import subprocess
import sys
from types import SimpleNamespace

import pytest

from tests.ranks import ROOT
from vitscale.config.plan import Plan
from vitscale.config.train import GuardConfig
from vitscale.engine.loss_scale import LossScale
from vitscale.errors import NotFiniteError
from vitscale.train.guard import Guard
from vitscale.train.loop import Run, train
from vitscale.train.meters import Sensors, Window
from vitscale.train.progress import Progress
from vitscale.train.ranks import SideBySide


class Story:
    """All collaborators in one; writes down what happens."""

    bad_images = 0
    values = None
    work = SimpleNamespace(read_s=0.0, decode_s=0.0, lost=0)
    loss_scale = LossScale()

    def __init__(self, start=0, stop_at=None, bad=()):
        self.told, self.beats = [], []
        self.start, self.stop_at, self.bad = start, stop_at, list(bad)
        self.saved = None

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

    def losses(self):
        if self.now not in self.bad:
            return [1.0, 3.0]
        self.bad.remove(self.now)  # bad once for each time it is listed
        return [1.0, float("nan")]

    def discard(self):
        self.told.append("discard")

    def step(self, lr):
        self.told.append(f"update at {lr}")
        return 0.5

    def save(self, progress):
        self.told.append(f"save {progress.step}")
        self.saved = progress

    def rewind(self, past):
        self.guard.insist_on_rewinds_left(past)
        if self.saved is None:
            raise self.guard.given_up(past, "there is no commit to go back to")
        self.told.append(f"rewind {past.step} to {self.saved.step}")
        self.guard.rewound(None, self.saved, past)
        return Progress(6, self.saved.step, past.images)

    def finish(self, progress):
        self.told.append(f"finish {progress.step}")

    def asked(self, progress):
        return progress.step == self.stop_at

    def beat(self, step, phase):
        self.beats.append(f"{phase} {step}")

    def metrics(self, values, step):
        self.told.append(f"{'log' if 'train/lr' in values else 'score'} {step}")
        self.values = values if "train/lr" in values else self.values

    def __call__(self):
        self.told.append("evaluate")
        return {"held_out/top1": 0.5}


def tell(story, **guard):
    plan = Plan(1, 4, 2, 2, 12, 6, 0, 2, 3, None, 4)
    story.guard = Guard(GuardConfig(**guard), plan.batch)
    meters = Window(
        plan,
        gather=lambda v: [v],
        flops_per_image=1.0,
        loader=story,
        sensors=Sensors(float, float, float),
        side_by_side=SideBySide(["here"], lambda name, text: None, None),
    )
    run = Run(
        plan, story, story, story, float, story.guard, meters, story, story, story, story.beat
    )
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


def outline(story):
    return [line for line in story.told if not line.startswith(("step", "micro", "update"))]


def test_a_bad_step_is_discarded_counted_and_not_committed_and_the_save_waits():
    story = Story(bad=[2])  # the third step, after which a save and a log are due
    assert tell(story) == ("finished", Progress(6, 6, 24))
    assert outline(story)[:7] == [
        "restore",
        "feed from 0",
        "log 2",
        "discard",
        "log 4",
        "save 4",
        "evaluate",
    ]
    assert len([line for line in story.told if line.startswith("update")]) == 5
    assert (story.values["train/skipped_steps"], story.values["train/rewinds"]) == (1, 0)
    assert story.values["train/loss"] == 2.0


def test_a_last_step_that_was_skipped_leaves_the_weights_of_the_one_before_to_be_committed():
    story = Story(bad=[5])
    assert tell(story)[0] == "finished"
    assert story.told[-5:-1] == ["log 6", "save 6", "evaluate", "score 6"]


def test_a_stop_waits_for_an_applied_step():
    story = Story(stop_at=4, bad=[3])
    assert tell(story) == ("stopped", Progress(6, 5, 20))
    assert story.told[-3:] == ["log 5", "save 5", "finish 5"]


def test_a_row_of_bad_steps_rewinds_and_goes_on_behind_them():
    story = Story(bad=[3, 4])
    assert tell(story, skips=2) == ("finished", Progress(6, 6, 32))  # two steps more than 24
    assert outline(story)[3:11] == [
        "log 3",
        "save 3",
        "discard",
        "log 4",
        "evaluate",
        "score 4",
        "discard",
        "rewind 5 to 3",
    ]
    at = story.told.index("rewind 5 to 3")
    assert story.told[at + 1 : at + 4] == ["feed from 20", "step with labels [10, 11]", "micro 10"]
    assert (story.values["train/skipped_steps"], story.values["train/rewinds"]) == (2, 1)


def test_rewinds_come_to_an_end():
    story = Story(bad=[3, 4] * 5)
    with pytest.raises(NotFiniteError, match="all 2 rewinds are used up") as error:
        tell(story, skips=2, rewinds=2)
    assert error.value.exit_code == 4
    assert [line for line in story.told if line.startswith("feed")] == [
        "feed from 0",
        "feed from 20",
        "feed from 28",
    ]
    assert "save 5" not in story.told


def test_without_a_commit_there_is_nothing_to_go_back_to():
    story = Story(bad=[0, 1])
    with pytest.raises(NotFiniteError, match="no commit to go back to"):
        tell(story, skips=2)
    assert not any(line.startswith("save") for line in story.told)


def test_the_loop_and_its_collaborators_of_plain_python_load_no_torch():
    modules = "loop meters progress stop protocols guard events heartbeat restart life"
    code = (
        "import sys, importlib\n"
        f"for name in {modules.split()}: importlib.import_module('vitscale.train.' + name)\n"
        "heavy = {'torch', 'numpy', 'ray', 'deepspeed', 'mlflow'} & set(sys.modules)\n"
        "sys.exit(f'loaded: {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
