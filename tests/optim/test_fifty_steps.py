"""Fifty steps of every optimizer, in float64, against formulas written down once more and against torch's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.optim import references
from tests.optim.small_model import (
    DECAY,
    GRADIENTS,
    HEADS,
    RATES,
    SHAPES,
    START,
    WIDTH,
    after_50_steps,
)

CUTS = [None, 37, 1000]  # whole weights; stretches shorter than a row; some rows and parts of rows


def insist_equal(seen, truth, rel=1e-10):
    assert seen.keys() == truth.keys()
    for name, values in truth.items():
        difference = np.abs(seen[name] - values).max() / np.abs(values).max()
        assert difference < rel, (name, difference)


def by_hand(reference, **more):
    return {n: reference(START[n], GRADIENTS[n], RATES, DECAY, **more) for n in SHAPES}


def by_torch(kind, names=tuple(SHAPES), **more):
    found = {}
    for name in names:
        weight = torch.nn.Parameter(torch.from_numpy(START[name].copy()))
        optimizer = kind([weight], lr=0.0, weight_decay=DECAY, **more)
        for gradient, rate in zip(GRADIENTS[name], RATES, strict=True):
            optimizer.param_groups[0]["lr"] = rate
            weight.grad = torch.from_numpy(gradient.copy())
            optimizer.step()
        found[name] = weight.detach().numpy()
    return found


def test_adamw_is_torchs_plain_loop_and_the_papers_formula():
    seen = after_50_steps()
    insist_equal(seen, by_torch(torch.optim.AdamW, foreach=False, fused=False))
    insist_equal(seen, by_hand(references.adamw))


def test_sgd_is_torchs():
    seen = after_50_steps(optimizer="sgd", momentum=0.8)
    insist_equal(seen, by_torch(torch.optim.SGD, momentum=0.8, foreach=False))
    insist_equal(seen, by_hand(references.momentum, mu=0.8, decoupled=False))


@pytest.mark.parametrize("cut", CUTS)
def test_a_bf16_first_moment_is_rounded_only_where_it_is_kept(cut):
    seen = after_50_steps(cut, moment_dtype="bf16")
    insist_equal(seen, by_hand(references.adamw, keep=references.bf16))
    exact = by_hand(references.adamw)
    assert max(np.abs(seen[n] - exact[n]).max() for n in SHAPES) > 1e-5


@pytest.mark.parametrize("decoupled", [False, True])
def test_the_bf16_accumulator_of_sgd_is_big_visions(decoupled):
    decay = "absolute" if decoupled else "coupled-to-lr"
    seen = after_50_steps(optimizer="sgd", moment_dtype="bf16", decay=decay)
    truth = by_hand(references.momentum, mu=0.9, decoupled=decoupled, keep=references.bf16)
    insist_equal(seen, truth)


@pytest.mark.parametrize("cut", [None, 1000])
def test_sgd_without_momentum_keeps_nothing_and_goes_along_the_gradient(cut):
    seen = after_50_steps(cut, optimizer="sgd", momentum=0.0, decay="absolute")
    insist_equal(seen, by_hand(references.momentum, mu=0.0, decoupled=True))


@pytest.mark.parametrize("cut", CUTS)
def test_lamb_is_algorithm_2_of_its_paper_with_the_norms_of_whole_weights(cut):
    names = tuple(name for name in SHAPES if name != "cls")
    seen = after_50_steps(cut, names=names, optimizer="lamb", betas=(0.9, 0.99), eps=1e-6)
    truth = by_hand(references.lamb, betas=(0.9, 0.99), eps=1e-6)
    insist_equal(seen, {name: truth[name] for name in names})


def test_lamb_takes_adams_step_where_nothing_is_adapted():
    seen = after_50_steps(names=("cls",), optimizer="lamb")
    insist_equal(seen, {"cls": by_hand(references.lamb, adapt=False)["cls"]})


def test_lamb_moves_a_weight_that_starts_at_zero(monkeypatch):
    monkeypatch.setitem(START, "head.weight", np.zeros(SHAPES["head.weight"]))
    seen = after_50_steps(names=("head.weight",), optimizer="lamb")
    truth = by_hand(references.lamb)["head.weight"]
    assert np.abs(truth).max() > 0
    insist_equal(seen, {"head.weight": truth})


def flax_kernels(name, values):
    """The kernels that big_vision has in the place of one of our weights, as it shapes them."""
    if name.endswith(".qkv.weight"):
        return [w.reshape(HEADS, -1, WIDTH).transpose(2, 0, 1) for w in np.split(values, 3)]
    if name.endswith(".out.weight"):
        return [values.T.reshape(HEADS, -1, WIDTH)]
    return [values.transpose() if values.ndim != 3 else values]


def back(name, kernels):
    if name.endswith(".qkv.weight"):
        return np.concatenate([k.transpose(1, 2, 0).reshape(WIDTH, WIDTH) for k in kernels])
    if name.endswith(".out.weight"):
        return kernels[0].reshape(WIDTH, WIDTH).T
    return kernels[0].transpose() if kernels[0].ndim != 3 else kernels[0]


def adafactor_by_hand(**more):
    found = {}
    for name in SHAPES:
        starts = flax_kernels(name, START[name])
        gradients = zip(*(flax_kernels(name, g) for g in GRADIENTS[name]), strict=True)
        found[name] = back(
            name,
            [
                references.big_vision_adafactor(w, list(g), RATES, DECAY, **more)
                for w, g in zip(starts, gradients, strict=True)
            ],
        )
    return found


@pytest.mark.parametrize("cut", CUTS)
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_adafactor_is_big_visions_kernel_by_kernel_and_head_by_head(cut, dtype):
    keep = {"fp32": references.exactly, "bf16": references.bf16}[dtype]
    seen = after_50_steps(cut, optimizer="adafactor", moment_dtype=dtype)
    insist_equal(seen, adafactor_by_hand(keep=keep))


def test_adafactor_without_momentum():
    seen = after_50_steps(optimizer="adafactor", momentum=0.0)
    insist_equal(seen, adafactor_by_hand(mu=0.0))


MATRICES = tuple(n for n in SHAPES if n.startswith("blocks.") and len(SHAPES[n]) == 2)


@pytest.mark.parametrize("cut", CUTS)
def test_muon_is_torchs_on_every_matrix_of_the_blocks_with_q_k_and_v_apart(cut, monkeypatch):
    name = "blocks.0.qkv.weight"
    seen = after_50_steps(cut, names=MATRICES, optimizer="muon")
    torchs = {"momentum": 0.95, "adjust_lr_fn": "match_rms_adamw"}
    truth = by_torch(torch.optim.Muon, MATRICES, **torchs)
    start, gradients = START[name], GRADIENTS[name]
    parts = []
    for third in range(3):
        monkeypatch.setitem(START, name, np.split(start, 3)[third])
        monkeypatch.setitem(GRADIENTS, name, [np.split(g, 3)[third] for g in gradients])
        parts.append(by_torch(torch.optim.Muon, (name,), **torchs)[name])
    insist_equal(seen, truth | {name: np.concatenate(parts)})


def test_beside_muon_goes_adamw():
    names = tuple(name for name in SHAPES if name not in MATRICES)
    seen = after_50_steps(names=names, optimizer="muon")
    truth = by_hand(references.adamw)
    insist_equal(seen, {name: truth[name] for name in names})


@pytest.mark.parametrize(
    ("optim", "truth"),
    [
        ({"moment_dtype": "bf16"}, lambda: by_hand(references.adamw, keep=references.bf16)),
        ({"optimizer": "lamb"}, lambda: by_hand(references.lamb)),
        ({"optimizer": "adafactor"}, adafactor_by_hand),
    ],
    ids=lambda each: str(each) if isinstance(each, dict) else "",
)
def test_in_float32_the_same_within_its_rounding(optim, truth):
    names = tuple(name for name in SHAPES if name != "cls")
    seen = after_50_steps(1000, names=names, dtype=torch.float32, **optim)
    # Of numbers of size 1, after 50 steps that round by 6e-8 each; a bf16 moment may round the other way now and then.
    bound = 1e-4 if "moment_dtype" in optim else 2e-6
    found = truth()
    insist_equal(seen, {name: found[name] for name in names}, rel=bound)
