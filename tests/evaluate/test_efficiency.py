"""MFU on the page of a run: the closed form where the peak is known, words where it is not."""

from __future__ import annotations

import json

import pytest

from tests.evaluate.made_runs import make_run, train
from vitscale.evaluate.efficiency import efficiency_of
from vitscale.evaluate.page import write_page
from vitscale.tracking.journal import Journal, read_metrics


def made(folder, *attempts):
    """A run whose starts had (world, device) each, and logged TFLOP/s at (step, value)."""
    for number, (world, device, points) in enumerate(attempts, 1):
        own = folder / "attempts" / f"{number:04d}"
        own.mkdir(parents=True)
        (own / "start.json").write_text(json.dumps({"world": world}))
        (own / "rank-00000.json").write_text(json.dumps({"rank": 0, "device": device}))
        journal = Journal(folder, number)
        for step, value in points:
            journal.append({"speed/tflops_per_s": value, "train/loss": 1.0}, step)
        journal.close()
    return folder


H100, A100 = "NVIDIA H100 80GB HBM3", "NVIDIA A100-SXM4-80GB"


def test_mfu_is_a_share_of_the_peak_of_the_ranks_that_ran_the_step(tmp_path):
    """989 and 312 TFLOP/s are the makers' figures; step 20 was run again on the second machine."""
    run = made(tmp_path, (8, H100, [(10, 8 * 98.9), (20, 8 * 197.8)]), (4, A100, [(20, 4 * 156.0)]))
    found = efficiency_of(run, "bf16")
    assert found.label.startswith("MFU") and found.note == ""
    assert [step for step, _ in found.points] == [10, 20]
    assert [value for _, value in found.points] == pytest.approx([10.0, 50.0])
    page = write_page(run).read_text()
    assert (
        "model TFLOP/s" in page
    )  # this run has no config, so nothing says that it computes in bf16


@pytest.mark.parametrize(
    ("device", "precision", "note"),
    [
        ("NVIDIA H100 PCIe", "bf16", "the peak of NVIDIA H100 PCIe is not in the planner's table"),
        (H100, "fp32", "peaks in bf16 and fp16, and the run computes in fp32"),
        ("", "bf16", "an unknown device"),
    ],
)
def test_what_is_missing_is_said_and_operations_are_shown(tmp_path, device, precision, note):
    found = efficiency_of(made(tmp_path, (2, device, [(5, 7.0)])), precision)
    assert found.points == [(5, 7.0)] and found.label == "model TFLOP/s, all ranks"
    assert note in found.note


def test_a_run_on_the_cpu_shows_what_it_reached(tmp_path):
    run = train(make_run(tmp_path))
    found = efficiency_of(run, "fp32")
    logged = read_metrics(run)["speed/tflops_per_s"]
    assert found.points == [(point.step, pytest.approx(1e3 * point.value)) for point in logged]
    assert found.label == "model GFLOP/s, all ranks" and "peak of a CPU" in found.note
    page = write_page(run).read_text()
    assert "model GFLOP/s, all ranks" in page and "No MFU" in page
