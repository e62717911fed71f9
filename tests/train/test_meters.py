"""What the meters make of losses, norms and ranks."""

from types import SimpleNamespace

import pytest

from vitscale.config.plan import Plan
from vitscale.train.meters import Sensors, Window
from vitscale.train.progress import Progress
from vitscale.train.ranks import SideBySide

PLAN = Plan(2, 8, 2, 2, 40, 10, 0, 1, 1, None, None)


class Feed:
    """A loader that has worked for a second more at every look."""

    bad_images = 3

    def __init__(self):
        self.looks = 0

    @property
    def work(self):
        self.looks += 1
        return SimpleNamespace(read_s=self.looks, decode_s=10 * self.looks, lost=2)


def window(others=(), export=None):
    return Window(
        PLAN,
        gather=lambda own: [own, *({**own, **other} for other in others)],
        flops_per_image=1e9,
        loader=Feed(),
        sensors=Sensors(lambda: 0.5, lambda: 0.25, lambda: 3 * 2**30),
        side_by_side=SideBySide(["a", "b"], lambda name, text: None, None),
        export=export,
    )


def test_losses_are_averaged_over_steps_and_work_over_ranks():
    meters = window(others=[{"bad": 4.0, "decode_s": 30.0}])
    meters.add(1.0, 0.5, 0.1)
    meters.add(3.0, 0.7, 0.2)
    values = meters.read(Progress(10, 5, 40))
    assert (values["train/loss"], values["train/grad_norm"]) == (2.0, 0.7)
    assert (values["train/lr"], values["train/epoch"]) == (0.2, 1.0)
    assert (values["data/bad_images"], values["data/lost_images"]) == (7, 4)
    assert values["speed/data_read_ms"] == 500  # one second in two steps
    assert values["speed/data_decode_ms"] == (10 + 30) / 2 / 2 * 1e3
    assert values["speed/data_copy_ms"] == 250
    images_per_s = values["speed/images_per_s"]
    assert images_per_s == pytest.approx(8 / values["speed/step_ms"] * 1e3)
    assert values["speed/tflops_per_s"] == pytest.approx(images_per_s * 1e-3)


def test_a_reading_begins_a_new_window():
    meters = window()
    meters.add(5.0, 1.0, 0.1)
    meters.read(Progress(10, 1, 8))
    meters.add(1.0, 1.0, 0.1)
    assert meters.read(Progress(10, 2, 16))["train/loss"] == 1.0


def test_skipped_steps_take_time_and_have_no_loss():
    meters = window()
    meters.add(2.0, 0.5, 0.1)
    meters.add(None, None, 0.2)
    meters.add(None, float("nan"), 0.3)
    values = meters.read(Progress(10, 3, 24))
    assert (values["train/loss"], values["train/grad_norm"], values["train/lr"]) == (2.0, 0.5, 0.3)
    assert values["speed/images_per_s"] == pytest.approx(8 / values["speed/step_ms"] * 1e3)


def test_a_window_without_an_applied_step_has_neither_loss_nor_norm():
    meters = window()
    meters.add(None, None, 0.1)
    assert not {"train/loss", "train/grad_norm"} & meters.read(Progress(10, 1, 8)).keys()


def test_after_a_restart_the_steps_before_are_forgotten():
    meters = window()
    meters.add(9.0, 1.0, 0.1)
    meters.restart()
    meters.add(1.0, 1.0, 0.1)
    assert meters.read(Progress(10, 2, 16))["train/loss"] == 1.0


def test_ranks_are_logged_side_by_side_by_what_each_measured():
    meters = window(others=[{"own_s": 0.5, "memory_bytes": 2**30}])
    for _ in range(2):
        meters.add(1.0, 0.5, 0.1)
    values = meters.read(Progress(10, 2, 16))
    assert values["ranks/slowest"] == 1
    # Half of a quarter of a second of forward passes: one step of rank 0, which waited for no data.
    assert values["ranks/own_ms_min"] == pytest.approx(125)
    assert values["ranks/own_ms_max"] == pytest.approx(500)
    assert values["ranks/memory_gib_mean"] == pytest.approx(2)
    assert values["ranks/images_per_s_mean"] * 2 == pytest.approx(values["speed/images_per_s"])


def test_a_single_rank_is_not_compared_with_itself():
    meters = window()
    meters.add(1.0, 0.5, 0.1)
    assert not [key for key in meters.read(Progress(10, 1, 8)) if key.startswith("ranks/")]


def test_each_rank_tells_who_watches_its_own_numbers_and_no_loss_where_there_is_none():
    told = []
    meters = window(others=[{"memory_bytes": 1.0}], export=told.append)
    meters.add(1.5, 0.5, 0.1)
    meters.read(Progress(10, 1, 8))
    meters.add(None, None, 0.1)
    meters.read(Progress(10, 2, 16))
    assert [(each["step"], each.get("loss")) for each in told] == [(1, 1.5), (2, None)]
    assert told[0]["memory_bytes"] == 3 * 2**30
    assert told[0]["data_wait_ratio"] == 0
