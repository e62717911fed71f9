"""The decision that all ranks share, by the memory of the devices they have."""

from __future__ import annotations

import logging

import psutil
import pytest
import torch

from tests.engine.scenarios import SHAPE
from tests.ranks import run_ranks
from vitscale.config.engine import EngineConfig
from vitscale.config.load import load_recipe
from vitscale.config.model import ModelConfig
from vitscale.config.plan import Plan
from vitscale.engine import choice
from vitscale.engine.collectives import Ranks
from vitscale.errors import ConfigError
from vitscale.place import Place, place_of

CPU = torch.device("cpu")
L16 = ModelConfig(variant="L/16").shape(1000)


class Told(Ranks):
    """Ranks of which this is one, with what each of them says."""

    def __init__(self, said):
        super().__init__(Place(), CPU, 60)
        self.said = said

    def gather(self, value):
        return self.said


def config_of(engine: EngineConfig, path):
    (path / "r.toml").write_text(
        '[run]\nname = "r"\n[data]\ntrain = "d"\n[train]\nduration = "1 epochs"\nbatch = 64\nmicro_batch = 8\n'
    )
    return load_recipe(path / "r.toml").config.model_copy(update={"engine": engine})


def plan_of(world, micro_batch):
    batch = world * micro_batch
    return Plan(world, batch, micro_batch, 1, 1000, 10, 0, 1, 1, None, None)


def settle(tmp_path, said, engine=None, device=CPU, shape=L16, micro_batch=64):
    config = config_of(engine or EngineConfig(recompute="auto"), tmp_path)
    plan = plan_of(len(said), micro_batch)
    return choice.settle(config, shape, plan, device=device, ranks=Told(said))


def test_ranks_of_a_machine_share_its_memory_and_the_smallest_share_decides(tmp_path):
    """64 images of L/16 hold 9.9 GB and their states 5.5 GB; two ranks on one machine have half of it each."""
    alone = [("a", 20e9), ("b", 20e9)]
    assert settle(tmp_path, alone).recompute == "none"
    assert settle(tmp_path, [("a", 40e9), ("a", 40e9)]) == settle(tmp_path, alone)
    together = settle(tmp_path, [("a", 20e9), ("a", 20e9)])
    assert together == settle(tmp_path, [("a", 10e9), ("b", 10e9)])
    assert together.recompute != "none"
    assert settle(tmp_path, [("a", 80e9), ("b", 10e9)]) == together


def test_every_gpu_has_its_own_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "device_memory", lambda device: 20e9)
    said = [("a", 20e9), ("a", 20e9)]
    assert settle(tmp_path, said, device=torch.device("cuda")).recompute == "none"
    assert settle(tmp_path, said).recompute != "none"


def test_the_decision_is_logged_and_too_little_memory_is_said_with_what_would_do(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        settle(tmp_path, [("a", 20e9)])
    assert "ZeRO stage 1, recompute none: at most" in caplog.text
    caplog.clear()
    settle(tmp_path, [("a", 12e9)], EngineConfig(zero_stage=1, recompute="none"))
    assert "may be too much: train.micro_batch=" in caplog.text
    settle(tmp_path, [("a", 1e9)])
    assert "more ranks would do" in caplog.text


def test_a_small_model_is_cut_at_stage_1_and_computes_nothing_again(tmp_path):
    engine = settle(tmp_path, [("a", 4e9), ("a", 4e9)], EngineConfig(), shape=SHAPE, micro_batch=8)
    assert (engine.stage, engine.recompute) == (1, "none")


def test_the_memory_of_a_cpu_is_the_machines_or_what_its_container_may_take(tmp_path, monkeypatch):
    monkeypatch.setattr(choice, "_CONTAINER_LIMITS", (str(tmp_path / "absent"),))
    assert choice.device_memory(CPU) == psutil.virtual_memory().total
    for text, limited in (("max\n", False), (f"{2**30}\n", True), (f"{2**63 - 4096}\n", False)):
        (tmp_path / "limit").write_text(text)
        monkeypatch.setattr(choice, "_CONTAINER_LIMITS", (str(tmp_path / "limit"),))
        assert (choice.device_memory(CPU) == 2**30) == limited


def test_offloading_from_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="no effect on a CPU"):
        choice.insist_on_device(EngineConfig(recompute="offload"), CPU)
    choice.insist_on_device(EngineConfig(recompute="offload"), torch.device("cuda"))
    with pytest.raises(ConfigError, match=r"set engine\.offload_folder, or train on a GPU"):
        choice.insist_on_device(EngineConfig(offload="optimizer"), CPU)
    choice.insist_on_device(EngineConfig(offload="optimizer", offload_folder="/disk"), CPU)
    choice.insist_on_device(EngineConfig(recompute="full"), CPU)


def test_hierarchical_partitioning_knows_machines_by_their_names(tmp_path):
    engine = EngineConfig(zero_stage=3, zero_hpz=2)
    two_by_two = [("a", 80e9), ("a", 80e9), ("b", 80e9), ("b", 80e9)]
    assert settle(tmp_path, two_by_two, engine).zero_hpz == 2
    with pytest.raises(ConfigError, match="must be the ranks of a machine, 1 here"):
        settle(tmp_path, [(name, 80e9) for name in "abcd"], engine)
    with pytest.raises(ConfigError, match="must be the ranks of a machine, 1 here"):
        settle(tmp_path, [*two_by_two[:3], ("c", 80e9)], engine)


def other_memory(path):
    """What a rank decides that believes its machine to be of 40 GB, or on rank 1 of 16."""
    place = place_of()
    choice.device_memory = lambda device: (40e9, 16e9)[place.rank]
    ranks = Ranks(place, CPU, 60)
    config = config_of(EngineConfig(recompute="auto"), path / str(place.rank))
    engine = choice.settle(config, L16, plan_of(2, 64), device=CPU, ranks=ranks)
    ranks.close()
    return engine.stage, engine.recompute


@pytest.mark.dist
def test_ranks_with_other_memories_decide_alike(tmp_path):
    for name in "01":
        (tmp_path / name).mkdir()
    one, two = run_ranks(2, "tests.engine.test_choice:other_memory", tmp_path)
    assert one == two
    assert one == tuple(
        getattr(settle(tmp_path, [("a", 16e9), ("a", 16e9)]), n) for n in ("stage", "recompute")
    )
