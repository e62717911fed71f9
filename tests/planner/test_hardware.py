"""Names of accelerators: those of Ray, its constants and Slurm's spellings."""

from __future__ import annotations

import pytest

from vitscale.errors import ConfigError
from vitscale.planner.hardware import ACCELERATORS, GB, accelerator, kinds_of


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *((kind, kind) for kind in ACCELERATORS),
        ("NVIDIA_A100_80G", "A100-80G"),
        ("NVIDIA_A100_40G", "A100-40G"),
        ("NVIDIA_TESLA_A10G", "A10G"),
        ("a100_80gb", "A100-80G"),
        ("h100", "H100"),
        ("NVIDIA GeForce RTX 3090", "RTX3090"),
    ],
)
def test_a_kind_is_known_by_all_its_spellings(name, kind):
    assert kinds_of(name) == (kind,)
    assert accelerator(name) is ACCELERATORS[kind]


@pytest.mark.parametrize("name", ["A100", "a100", "NVIDIA_A100"])
def test_a_name_of_several_kinds_is_the_largest_of_them(name):
    kinds = kinds_of(name)
    assert kinds == ("A100-80G", "A100-40G")
    assert accelerator(name).memory == 80 * GB == max(ACCELERATORS[k].memory for k in kinds)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("V100", "has no bf16"),
        ("NVIDIA_TESLA_T4", "has no bf16"),
        ("GB200", "knows nothing of this accelerator"),
        ("abacus", "knows nothing of this accelerator"),
        ("", "knows nothing of this accelerator"),
    ],
)
def test_what_is_not_known_is_refused_with_what_is(name, problem):
    assert kinds_of(name) == ()
    with pytest.raises(ConfigError, match=problem) as caught:
        accelerator(name)
    assert "A100-40G, A100-80G, H100" in caught.value.do


def test_every_name_that_ray_has_for_a_known_gpu_leads_to_it():
    """Ray's own table: the label of a node, and the constant in Python that holds it, mean one kind."""
    table = vars(pytest.importorskip("ray.util.accelerators.accelerators"))
    constants = {name: value for name, value in table.items() if name.startswith("NVIDIA_")}
    assert {"A100", "A100-80G", "H100", "V100"} <= set(constants.values())
    for constant, label in constants.items():
        assert kinds_of(constant) == kinds_of(label), constant
    known = {kind for label in constants.values() for kind in kinds_of(label)}
    assert {"A100-40G", "A100-80G", "H100", "H200", "B200", "L40S", "L4", "A10G"} == known
