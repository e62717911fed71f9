"""What the meters make of losses, norms and ranks."""

from types import SimpleNamespace

import pytest

from vitscale.config.plan import Plan
from vitscale.errors import NotFiniteError
from vitscale.train.meters import Window
from vitscale.train.progress import Progress

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


def window(others=()):
    return Window(
        PLAN,
        gather=lambda own: [own, *({**own, **other} for other in others)],
        flops_per_image=1e9,
        loader=Feed(),
        copied_s=lambda: 0.5,
    )


def test_losses_are_averaged_over_micro_batches_steps_and_ranks():
    other = {"loss": 2.0, "last_norm": 0.5, "norm": 0.5, "bad": 4.0, "decode_s": 30.0}
    meters = window(others=[other])
    meters.add([1.0, 2.0], 0.5, 0.1)
    meters.add([3.0, 6.0], 0.7, 0.2)
    values = meters.read(Progress(10, 5, 40))
    assert values["train/loss"] == pytest.approx((3.0 + 2.0) / 2)
    assert values["train/grad_norm"] == pytest.approx((0.7 + 0.5) / 2)
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
    meters.add([5.0], 1.0, 0.1)
    meters.read(Progress(10, 1, 8))
    meters.add([1.0], 1.0, 0.1)
    assert meters.read(Progress(10, 2, 16))["train/loss"] == 1.0


def test_another_ranks_bad_number_is_an_error_here_too_and_names_it():
    meters = window(others=[{"loss": float("nan"), "finite": 0.0}])
    meters.add([1.0], 1.0, 0.1)
    with pytest.raises(NotFiniteError, match="rank 1, steps 5 to 5"):
        meters.read(Progress(10, 5, 40))
