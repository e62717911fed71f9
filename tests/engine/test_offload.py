"""ZeRO-Offload against ZeRO: on a CPU both memories are one, so what is moved is copied within it. Not run on a GPU."""

from __future__ import annotations

import pytest
import torch

from tests.engine.scenarios import make_engine, train_steps
from tests.engine.test_engines import mean_of_ranks
from tests.ranks import run_ranks
from vitscale.engine.collectives import Ranks
from vitscale.place import place_of

pytestmark = pytest.mark.dist

WAYS = [
    *({"stage": stage, "offload": "optimizer"} for stage in (1, 2, 3)),
    {
        "stage": 3,
        "offload": "optimizer+parameters",
        # DeepSpeed moves matrices of more than 100,000 numbers only.
        "shape": {"width": 192, "mlp": 768, "heads": 3, "depth": 2},
    },
]
RANDOM = {"dropout": 0.1, "drop_path": 0.2, "mixup": 0.4, "ema": 0.9}
CASES = [
    {"kind": "deepspeed", **way, **RANDOM, "precision": precision, "accumulation": accumulation}
    for way in WAYS
    for precision, accumulation in (("fp32", 1), ("fp32", 2), ("bf16", 2))
]
NAN_ON_RANK_1 = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "engine.loss@1:3:nan"}
each_case = pytest.mark.parametrize("case", range(len(CASES)), ids=lambda c: str(CASES[c]))


def moved(cases: list[dict]) -> list[dict]:
    """For each case: the series of four steps with and without offload, and what DeepSpeed says of itself."""
    ranks, found = Ranks(place_of(), torch.device("cpu"), 60), []
    for case in cases:
        series = []
        for more in ({}, {"offload": "none"}):
            engine, plan = make_engine(case | more, ranks)
            series.append(train_steps(engine, plan, ranks.place.rank, range(4)))
            parameters = engine.engine.zero_offload_param()
            told = [engine.engine.zero_cpu_offload(), parameters is not None]
            engine.close()
            found.append({"series": series[-1], "offloads": told})
    ranks.close()
    return found


@pytest.fixture(scope="module")
def pairs():
    return run_ranks(2, "tests.engine.test_offload:moved", CASES)


@each_case
def test_deepspeed_takes_the_settings_for_what_they_are(pairs, case):
    both = CASES[case]["offload"] == "optimizer+parameters"
    for rank in pairs:
        assert rank[2 * case]["offloads"] == [True, both]
        assert rank[2 * case + 1]["offloads"][1] is False


@each_case
def test_offloading_changes_no_loss_and_no_norm(pairs, case):
    tolerance = 1e-5 if CASES[case]["precision"] == "fp32" else 3e-3
    per_rank = [[each["series"] for each in rank] for rank in pairs]
    moved_series, kept_series = (mean_of_ranks(per_rank, 2 * case + n) for n in (0, 1))
    for own, reference in zip(moved_series, kept_series, strict=True):
        assert own[0] == pytest.approx(reference[0], rel=tolerance)
        assert own[1] == pytest.approx(reference[1], rel=10 * tolerance)


@pytest.fixture(scope="module")
def resumes(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("resume"))
    return run_ranks(2, "tests.engine.scenarios:resumed", CASES, folder)


@pytest.mark.slow
@each_case
def test_an_offloaded_run_goes_on_bit_for_bit(resumes, case):
    for rank in resumes:
        assert rank[case]["resumed"] == rank[case]["straight"]
        assert rank[case]["unequal"] == []


@pytest.fixture(scope="module")
def discards(tmp_path_factory):
    folder = str(tmp_path_factory.mktemp("discard"))
    return run_ranks(2, "tests.engine.scenarios:discarded", CASES, folder, **NAN_ON_RANK_1)


@pytest.mark.slow
@pytest.mark.faults
@each_case
def test_a_discarded_step_leaves_no_trace_in_the_hosts_memory(discards, case):
    for rank in discards:
        assert rank[case]["kept"]
        assert rank[case]["seen"] == rank[case]["wanted"]
        assert rank[case]["again"] == rank[case]["first_time"]
