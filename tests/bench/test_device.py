"""Benches on a GPU, on a machine without one: how events are read, what the most is, what MFU is, what is refused."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from dataclasses import dataclass, field

import pytest
import torch

from bench import device, figures

CPU = torch.device("cpu")


@dataclass
class Gpu:
    """A device whose works take what they are told, in ms, and that has not done them when the host goes on."""

    now: float = 0.0
    waiting: list[tuple[str, object]] = field(default_factory=list)

    def launch(self, ms: float) -> None:
        self.waiting.append(("work", ms))

    def event(self):
        return Event(self)


@dataclass
class Event:
    gpu: Gpu
    at: float | None = None

    def record(self) -> None:
        self.gpu.waiting.append(("event", self))

    def synchronize(self) -> None:
        for kind, what in self.gpu.waiting:
            if kind == "work":
                self.gpu.now += what
            else:
                what.at = self.gpu.now
        self.gpu.waiting.clear()

    def elapsed_time(self, end: Event) -> float:
        return end.at - self.at


def test_events_give_the_time_of_one_work_out_of_a_row():
    gpu = Gpu()
    timed = device.by_events(gpu.event, 4)
    assert timed(lambda: gpu.launch(8.0)) == pytest.approx(8e-3)
    assert gpu.now == 32.0


def test_events_go_through_the_same_loop_as_clocks_and_warm_up_is_not_counted():
    gpu, durations = Gpu(), {"ours": iter([99, 2, 4, 3]), "peer": iter([99, 4, 4, 9])}
    works = {name: lambda each=each: gpu.launch(next(each)) for name, each in durations.items()}
    times = figures.times_in_turn(works, 3, device.by_events(gpu.event, 1))
    assert times == {"ours": [2, 4, 3], "peer": [4, 4, 9]}
    assert figures.figure(times)["ratio"]["peer"] == 2.0


def test_a_clock_sees_what_passes_within_the_work():
    ticks = iter([10.0, 12.5])
    assert figures.by_clock(lambda: next(ticks))(lambda: None) == 2.5


def test_the_most_and_mfu_are_what_can_be_reckoned_by_hand(monkeypatch):
    """A product of side 100 is 2e6 FLOPs: in 1 ms 2 GFLOP/s. 1e6 model FLOPs in 2 ms are a quarter of that."""
    monkeypatch.setitem(device.SIDE, "cpu", 100)
    monkeypatch.setitem(device.COPIED, "cpu", 3000)
    times = {
        device.PRODUCT: [1.0, 2.0, 1.0],
        device.COPY: [3.0, 3.0, 6.0],
        "ours": [2.0, 4.0, 8.0],
        "peer": [4.0, 4.0, 4.0],
    }
    assert device.ceilings(times, CPU) == pytest.approx({"matmul": 2e9, "bandwidth": 2e6})
    assert device.mfu(times, CPU, 1e6) == {"ours": 0.25, "peer": 0.125}


def test_what_shows_the_most_does_the_product_and_the_copy(monkeypatch):
    monkeypatch.setitem(device.SIDE, "cpu", 16)
    monkeypatch.setitem(device.COPIED, "cpu", 64)
    for dtype in (torch.float32, torch.bfloat16):
        works = device.limits(CPU, dtype)
        product, copied = (works[name]() for name in (device.PRODUCT, device.COPY))
        assert (product.shape, product.dtype) == ((16, 16), dtype)
        assert copied.nbytes == 64
        times = figures.times_in_turn(works, 3, figures.WALL_TIME)
        assert all(value > 0 for value in device.ceilings(times, CPU).values())


def test_a_machine_that_grows_slower_all_the_time_favours_nobody():
    now = [0.0, 1.0]

    def work():
        now[0] += now[1]
        now[1] *= 1.1

    works = {"ours": work, "first": work, "last": work}
    times = figures.times_in_turn(works, 4, figures.by_clock(lambda: now[0]))
    assert figures.figure(times)["ratio"] == pytest.approx({"first": 1, "last": 1}, abs=0.03)


def test_figures_with_mfu_show_it_in_the_table():
    found = figures.figure({"ours": [1.0, 1.0], "peer": [2.0, 2.0]}) | {
        "mfu": {"ours": 0.5, "peer": 0.25}
    }
    assert figures.rows("step", {"s": found}) == [
        "| step | s | 1 ± 0 (MFU 50.0%) | 2 ± 0 (MFU 25.0%) | peer | 2.00 |"
    ]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("name", ["step", "kernels", "engines", "recompute"])
def test_without_a_gpu_every_bench_says_so_before_it_starts(name, monkeypatch):
    bench = importlib.import_module(f"bench.{name}")
    monkeypatch.setattr(sys, "argv", [name, "--gpu"])
    with pytest.raises(SystemExit, match="--gpu: a GPU was asked for and is absent"):
        bench.main()


def test_results_of_a_gpu_have_a_file_of_their_own_and_its_name(tmp_path, monkeypatch):
    monkeypatch.setattr(figures, "RESULTS", tmp_path)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda at: "NVIDIA H100 80GB HBM3")
    found = {"s": figures.figure({"ours": [1.0, 1.0], "peer": [2.0, 2.0]})}
    for kind in ("cpu", "cuda"):
        device.Where(torch.device(kind), figures.CPU_TIME).write("step", found, ceilings={})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step.json", "step_gpu.json"]
    record = json.loads((tmp_path / "step_gpu.json").read_text())
    assert record["machine"] == "NVIDIA H100 80GB HBM3" and record["figures"] == found


def test_without_the_option_a_bench_runs_on_the_cpu():
    parser = argparse.ArgumentParser()
    device.add_gpu(parser)
    assert device.where_of(parser.parse_args([])).device == CPU
