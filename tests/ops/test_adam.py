"""apex's FusedAdam behind torch's AdamW: the same steps and state, whoever calls and how often."""

import sys

import pytest
import torch

from tests.ops import apex_in_torch
from vitscale.config.optim import OptimConfig
from vitscale.optim.groups import make_optimizer, set_rate
from vitscale.optim.moments import kept, make_state, slots_of
from vitscale.optim.spans import Partition

RATES = [3e-3 * min(1, (step + 1) / 4) / (1 + step / 9) for step in range(12)]
SHAPES = [(8, 5), (7,), (3, 4, 2), (9,)]
OPTIM = OptimConfig(betas=(0.9, 0.98), eps=1e-6, weight_decay=0.3)


@pytest.fixture(autouse=True)
def apex(monkeypatch):
    for name, module in apex_in_torch.modules().items():
        monkeypatch.setitem(sys.modules, name, module)


def numbers(seed, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator) for shape in SHAPES]


def grouped(weights, kernel):
    """Three groups that differ in decay and rate, and their optimizer."""
    settings = [(weights[:2], 0.3, 1.0), (weights[2:3], 0.0, 1.0), (weights[3:], 0.3, 0.25)]
    groups = [{"params": w, "weight_decay": d, "lr_scale": s} for w, d, s in settings]
    return make_optimizer(OPTIM, groups, kernel=kernel)


def go(optimizer, weights, steps):
    for step in steps:
        set_rate(optimizer, RATES[step])
        for weight, gradient in zip(weights, numbers(100 + step, 0.1**step), strict=True):
            weight.grad = gradient
        optimizer.step()


def resumed(old, weights, kernel, updates):
    """A copy of the weights, and an optimizer that has what a commit keeps of the `old` one."""
    copies = [weight.clone() for weight in weights]
    optimizer = grouped(copies, kernel)
    for weight, copy in zip(weights, copies, strict=True):
        former, partition = Partition(weight, (), ()), Partition(copy, (), ())
        make_state(optimizer, partition, updates)
        for slot in slots_of(old, former):
            kept(optimizer, partition, slot).copy_(kept(old, former, slot))
    return optimizer, copies


def after(kernels, steps=range(12), start=0):
    """The weights after all steps, with another kernel from every so-many-th step on."""
    weights = numbers(start)
    optimizer = grouped(weights, kernels[0])
    share = len(steps) // len(kernels)
    for index, kernel in enumerate(kernels):
        if index:
            optimizer, weights = resumed(optimizer, weights, kernel, index * share)
        go(optimizer, weights, steps[index * share : (index + 1) * share])
    return weights


def close(found, expected):
    for own, other in zip(found, expected, strict=True):
        torch.testing.assert_close(own, other, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("torchs", ["fused", "loop"])
def test_its_steps_are_torchs_with_groups_and_a_schedule(torchs):
    found, expected = after(["apex"]), after([torchs])
    close(found, expected)
    assert max(float((a - b).abs().max()) for a, b in zip(found, numbers(0), strict=True)) > 1e-2


def test_stopping_and_going_on_changes_no_bit():
    assert all(map(torch.equal, after(["apex"] * 3), after(["apex"])))


@pytest.mark.parametrize("torchs", ["fused", "loop"])
def test_a_run_may_change_to_apex_and_back(torchs):
    close(after([torchs, "apex", torchs]), after([torchs]))
    close(after(["apex", torchs, "apex"]), after(["apex"]))


def test_its_state_is_torchs():
    """Names, shapes, precision and counts, so that DeepSpeed's files and its tools see no difference."""
    states = []
    for kernel in ("apex", "loop"):
        weights = numbers(0)
        optimizer = grouped(weights, kernel)
        go(optimizer, weights, range(3))
        states.append([optimizer.state[weight] for weight in weights])
        assert not any("step" in group for group in optimizer.param_groups)
    for own, theirs in zip(*states, strict=True):
        assert own.keys() == theirs.keys()
        assert float(own["step"]) == float(theirs["step"]) == 3
        for kind, tensor in own.items():
            assert (tensor.shape, tensor.dtype) == (theirs[kind].shape, theirs[kind].dtype)


def test_a_group_that_is_stepped_in_parts_counts_its_steps_once():
    """As DeepSpeed does it: stage 1 and 2 show one group at a time, stage 3 a part of one."""
    weights = numbers(0)
    optimizer = grouped(weights, "apex")
    groups = optimizer.param_groups
    for step in range(12):
        set_rate(optimizer, RATES[step])
        for weight, gradient in zip(weights, numbers(100 + step, 0.1**step), strict=True):
            weight.grad = gradient
        wholes = [group["params"] for group in groups]
        for group, whole in zip(groups, wholes, strict=True):
            if step % 2:
                optimizer.param_groups = [group]
                optimizer.step()
                optimizer.param_groups = groups
                continue
            for each in groups:
                each["params"] = []
            for weight in whole:
                group["params"] = [weight]
                optimizer.step()
            for each, own in zip(groups, wholes, strict=True):
                each["params"] = own
    assert all(map(torch.equal, weights, after(["apex"])))


def test_a_step_back_to_the_beginning_counts_from_there():
    weights = numbers(0)
    optimizer = grouped(weights, "apex")
    go(optimizer, weights, range(5))
    optimizer.state.clear()
    for weight, start in zip(weights, numbers(0), strict=True):
        weight.copy_(start)
    go(optimizer, weights, range(12))
    assert all(map(torch.equal, weights, after(["apex"])))


def test_weights_of_a_group_that_differ_in_their_count_are_not_stepped():
    weights = numbers(0)
    optimizer = grouped(weights, "apex")
    go(optimizer, weights, range(1))
    optimizer.state[weights[0]]["step"] += 1
    with pytest.raises(AssertionError, match="its weights differ"):
        go(optimizer, weights, range(1, 2))


@pytest.mark.parametrize("kernel", ["fused", "loop"])
def test_apex_is_imported_where_it_is_asked_for_only(monkeypatch, kernel):
    monkeypatch.setitem(sys.modules, "apex.optimizers", None)  # importing it raises
    grouped(numbers(0), kernel)
    with pytest.raises(ImportError):
        grouped(numbers(0), "apex")
