"""What is read off a trace: parts of a step, collectives taken out of them, memory."""

from __future__ import annotations

import gzip
import json

import pytest

from vitscale.evaluate.trace import MARK, draw_memory, read_trace, split_rows, time_split


def event(name, begin, length, **more):
    return {"name": name, "ph": "X", "ts": begin, "dur": length, **more}


def memory(at, total, kind=0):
    return {
        "name": "[memory]",
        "ph": "i",
        "ts": at,
        "args": {"Device Type": kind, "Total Allocated": total},
    }


EVENTS = [
    event(MARK + "backward", 4000, 3000),
    event(MARK + "data wait", 0, 1000),
    event(MARK + "host to device", 1000, 500),
    event(MARK + "forward", 1500, 2500),
    event(MARK + "optimizer", 7000, 1000),
    event(MARK + "forward", 1500, 2500, cat="gpu_user_annotation"),  # the same once more
    # Two collectives that overlap by half, from the backward pass into the update; one in nobody's time.
    event("gloo:all_reduce", 6000, 1000),
    event("gloo:all_reduce", 6500, 1000),
    event("nccl:all_gather", 9000, 500),
    event("aten::mm", 1500, 2000, cat="cpu_op"),
    memory(5000, 300),
    memory(100, 100),
    memory(200, 2**21, kind=1),
]  # fmt: skip


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.json.gz"
    with gzip.open(path, "wt") as file:
        json.dump({"traceEvents": EVENTS}, file)
    return read_trace(path)


def test_parts_are_the_whole_step_and_collectives_are_counted_once(trace):
    split = time_split(trace, steps=2)
    assert {part: one["ms"] for part, one in split["parts"].items()} == pytest.approx(
        {
            "data wait": 0.5,
            "host to device": 0.25,
            "forward": 1.25,
            "backward": 1.0,
            "communication": 0.75,
            "optimizer": 0.25,
            "other": 0.0,
        }
    )
    assert split["step_ms"] == pytest.approx(4.0)
    assert sum(one["share"] for one in split["parts"].values()) == pytest.approx(1)
    assert split_rows(split)[-1] == ("step", "4.00", "100.0")


def test_memory_is_kept_by_device_in_the_order_of_time_and_drawn(trace, tmp_path):
    assert trace.memory == {"cpu": [(100.0, 100.0), (5000.0, 300.0)], "cuda": [(200.0, 2.0**21)]}
    assert draw_memory(trace, tmp_path / "a.png", "t").read_bytes().startswith(b"\x89PNG")


def test_a_trace_that_is_not_compressed_is_read_too(tmp_path, trace):
    plain = tmp_path / "trace.json"
    plain.write_text(json.dumps({"traceEvents": EVENTS}))
    assert read_trace(plain) == trace
