"""Offloading to a disk against offloading to memory: the same bits, and no file is left. Not run on a GPU."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.engine.elastic import matrix
from tests.engine.scenarios import (
    committed,
    discarded,
    make_engine,
    resumed,
    shape_with,
    train_steps,
)
from tests.engine.test_elastic import insist
from tests.ranks import run_ranks
from tests.train.recipes import exact_losses, make_data, make_recipe
from tests.train.test_saving import small_disk
from vitscale.checkpoint import snapshot
from vitscale.checkpoint.layout import step_folders
from vitscale.checkpoint.state import StateReader
from vitscale.checkpoint.weights import load_weights
from vitscale.config.engine import EngineConfig
from vitscale.config.optim import OptimConfig
from vitscale.engine import choice, zero_settings
from vitscale.engine.collectives import Ranks
from vitscale.engine.disk import Disk
from vitscale.errors import ResourceError
from vitscale.place import place_of
from vitscale.planner.memory import disk_bytes
from vitscale.train.worker import run

CPU = torch.device("cpu")
WIDE = {"width": 192, "mlp": 768, "heads": 3, "depth": 2}  # DeepSpeed moves large matrices only
WAYS = {
    "optimizer": {"offload": "optimizer"},
    "weights": {"offload": "optimizer+parameters", "shape": WIDE},
    "sgd": {"offload": "optimizer", "optim": {"optimizer": "sgd"}},
    "bf16-moments": {"offload": "optimizer", "optim": {"moment_dtype": "bf16"}},
}
RANDOM = {"dropout": 0.1, "drop_path": 0.2, "mixup": 0.4, "ema": 0.9}
COMMON = {"kind": "deepspeed", "stage": 3, "precision": "bf16", "accumulation": 2, **RANDOM}
CASES = [COMMON | way for way in WAYS.values()]
NAN_ON_RANK_1 = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "engine.loss@1:3:nan"}
each_case = pytest.mark.parametrize("case", range(len(CASES)), ids=lambda n: list(WAYS)[n])


def on_disk(folder) -> list[dict]:
    return [case | {"folder": str(folder)} for case in CASES]


def mapped(tensor: torch.Tensor, folder: str) -> bool:
    """Whether the kernel says that a tensor lies in a file of the folder."""
    first, last = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(at, 16) for at in line.split()[0].split("-"))
        if start <= first and last <= end and folder in line:
            return True
    return False


def tensors_of(engine) -> list[torch.Tensor]:
    """All that is to lie on the disk."""
    zero, state = engine.engine.optimizer, engine.state
    masters = zero.fp32_partitioned_groups_flat
    found = [*masters, *(master.grad for master in masters), *state.average]
    for entry in state.optimizer.state.values():
        found += [value for value in entry.values() if value.ndim]
    if zero.offload_param:
        found += [p.ds_tensor for p in engine.model.parameters()]
    return found


def compared(cases: list[dict], folder: str) -> list[dict]:
    """For each case: four steps on the disk and in memory; where all lay before and after them, and once loaded."""
    zero_settings.SUB_GROUP = 10**9  # as in memory: norms are summed by sub-groups
    ranks, found = Ranks(place_of(), CPU, 60), []
    for number, case in enumerate(cases):
        engine, plan = make_engine(case, ranks)
        lay = [mapped(each, case["folder"]) for each in tensors_of(engine)]
        series = train_steps(engine, plan, ranks.place.rank, range(4))
        lie = [mapped(each, case["folder"]) for each in tensors_of(engine)]
        used, files = engine.state.disk.used, os.listdir(case["folder"])
        path = committed(engine, ranks, Path(folder) / str(number), **case.get("shape", {}))
        engine.load(StateReader(path), 4)
        loaded = [mapped(each, case["folder"]) for each in tensors_of(engine)]
        told = {"series": series, "mapped": [lay, lie, loaded], "used": used, "files": files}
        engine.close()
        engine, plan = make_engine(case | {"folder": None}, ranks)
        told["in memory"] = train_steps(engine, plan, ranks.place.rank, range(4))
        engine.close()
        found.append(told)
    ranks.close()
    return found


def resumed_in_pieces(cases: list[dict], folder: str) -> list[dict]:
    zero_settings.SUB_GROUP = 3000  # several of them in each group of weights
    return resumed(cases, folder)


def discarded_in_pieces(cases: list[dict], folder: str) -> list[dict]:
    zero_settings.SUB_GROUP = 3000
    return discarded(cases, folder)


def ranks_on_disk(factory: pytest.TempPathFactory, function: str, **env: str) -> list:
    """What two ranks answer that run all cases, with a folder for their state and one for commits."""
    cases, commits = on_disk(factory.mktemp("disk")), str(factory.mktemp("commits"))
    return run_ranks(2, f"{__name__}:{function}", cases, commits, **env)


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    return ranks_on_disk(tmp_path_factory, "compared")


@pytest.mark.dist
@each_case
def test_a_disk_changes_no_bit(both, case):
    for rank in both:
        assert rank[case]["series"] == rank[case]["in memory"]


@pytest.mark.dist
@each_case
def test_all_state_lies_in_files_without_a_name(both, case):
    for rank in both:
        assert len(rank[case]["mapped"]) == 3
        for lies in rank[case]["mapped"]:
            assert len(lies) >= 8 and all(lies)
        assert rank[case]["files"] == []


@pytest.mark.dist
@each_case
def test_the_planner_knows_how_much_lies_there(both, case):
    settings, shape = CASES[case], shape_with(**CASES[case].get("shape", {}))
    engine = EngineConfig(zero_stage=3, offload=settings["offload"], offload_folder="/disk")
    optim = OptimConfig(lr=1e-3, ema=0.9, **settings.get("optim", {}))
    for rank in both:
        foreseen = disk_bytes(shape, engine, optim, world=2)
        assert foreseen == pytest.approx(2 * rank[case]["used"], rel=0.01)


@pytest.fixture(scope="module")
def resumes(tmp_path_factory):
    return ranks_on_disk(tmp_path_factory, "resumed_in_pieces")


@pytest.mark.dist
@pytest.mark.slow
@each_case
def test_a_run_on_a_disk_goes_on_bit_for_bit(resumes, case):
    for rank in resumes:
        assert rank[case]["resumed"] == rank[case]["straight"]
        assert rank[case]["unequal"] == []


@pytest.fixture(scope="module")
def discards(tmp_path_factory):
    return ranks_on_disk(tmp_path_factory, "discarded_in_pieces", **NAN_ON_RANK_1)


@pytest.mark.dist
@pytest.mark.slow
@pytest.mark.faults
@each_case
def test_a_discarded_step_leaves_no_trace_on_a_disk(discards, case):
    for rank in discards:
        assert rank[case]["kept"]
        assert rank[case]["seen"] == rank[case]["wanted"]
        assert rank[case]["again"] == rank[case]["first_time"]


@pytest.mark.dist
@pytest.mark.slow
def test_a_commit_from_a_disk_goes_on_with_other_ranks(tmp_path):
    (tmp_path / "disk").mkdir()
    variant = {"offload": "optimizer", "folder": str(tmp_path / "disk")}
    outcomes = matrix(tmp_path, "fp32", [3], (2,), (1, 3), {"": variant})
    insist(outcomes, 2)


def run_of(home: str, data: str, settings: list[str], disk: str) -> dict:
    """A run from its recipe: its losses, its last weights, and whether the copies for its commits lay on the disk."""
    rooms, room = [], snapshot._Copy._room
    snapshot._Copy._room = lambda *given: rooms.append(room(*given)) or rooms[-1]
    choice.idle_on_cpu = lambda engine: ()  # or a run on a CPU could not offload to memory
    common = ("engine.device=auto", "engine.zero_stage=3", "engine.offload=optimizer")
    recipe = make_recipe(Path(home), Path(data), *common, *settings)
    assert run({"recipe": recipe.to_json(), "resume": "auto"})["status"] == "finished"
    _, newest = step_folders(recipe.config.folder / "checkpoints")[0]
    return {
        "losses": exact_losses(recipe.config.folder),
        "weights": load_weights(newest).tensors,
        "mapped": {mapped(each, disk) for each in rooms if each.numel()},
    }


@pytest.mark.dist
def test_a_run_commits_from_a_disk_what_it_commits_from_memory(tmp_path):
    data, disk = make_data(tmp_path / "data"), tmp_path / "disk"
    disk.mkdir()
    plain, offloaded = (
        run_ranks(
            1, "tests.engine.test_disk:run_of", str(tmp_path / name), str(data), more, str(disk)
        )[0]
        for name, more in (("memory", []), ("disk", [f"engine.offload_folder={disk}"]))
    )
    assert (plain["mapped"], offloaded["mapped"]) == ({False}, {True})
    assert plain["losses"] == offloaded["losses"]
    assert plain["weights"].keys() == offloaded["weights"].keys()
    assert all(torch.equal(plain["weights"][n], t) for n, t in offloaded["weights"].items())


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ResourceError, match="No such file") as caught:
        Disk(tmp_path / "gone")
    assert caught.value.where == "engine.offload_folder"


def test_a_full_disk_shows_at_once_and_a_reserve_is_kept_from_others(tmp_path):
    with small_disk(tmp_path / "disk", "1m") as folder:
        disk = Disk(folder)
        first = disk.zeros((100_000,), dtype=torch.float32, device=CPU)
        first.fill_(1.0)
        disk.reserve(disk.used)
        with pytest.raises(ResourceError, match="can be made there: No space left"):
            disk.zeros((100_000,), dtype=torch.float32, device=CPU)
        second = disk.zeros_of_reserve((100_000,), dtype=torch.float32, device=CPU)
        assert torch.equal(first, torch.ones(100_000))
        assert torch.equal(second, torch.zeros(100_000))
        del first, second  # their room is free again
        Disk(folder).zeros((200_000,), dtype=torch.float32, device=CPU)
