"""Which parameters decay; the decay of one step."""

import torch

from vitscale.config.model import ModelConfig
from vitscale.config.optim import OptimConfig
from vitscale.model.build import build_model
from vitscale.optim.groups import make_optimizer, parameter_groups


def test_kernels_decay_and_biases_norms_cls_and_positions_do_not():
    model = build_model(ModelConfig(variant="mu/8", image_px=16).shape(3), seed=0)
    decay, rest = parameter_groups(model, OptimConfig(weight_decay=0.1))
    names = {id(p): name for name, p in model.named_parameters()}
    assert {names[id(p)] for p in decay["params"]} == {
        "patch_embed.projection.weight",
        *(f"blocks.0.{name}.weight" for name in ("qkv", "out", "fc1", "fc2")),
        "head.weight",
    }
    assert (decay["weight_decay"], rest["weight_decay"]) == (0.1, 0.0)
    assert len(decay["params"]) + len(rest["params"]) == len(names)


def test_one_adamw_step_is_the_papers_formula():
    weight = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optim = OptimConfig(betas=(0.9, 0.99), eps=1e-8)
    adamw = make_optimizer(optim, [{"params": [weight], "weight_decay": 0.1}])
    adamw.param_groups[0]["lr"] = 0.01
    weight.grad = torch.tensor([0.5, -3.0])
    adamw.step()
    decayed = torch.tensor([1.0, -2.0]) * (1 - 0.01 * 0.1)
    torch.testing.assert_close(weight.data, decayed - 0.01 * torch.tensor([1.0, -1.0]))


def test_nothing_moves_before_a_rate_is_set():
    weight = torch.nn.Parameter(torch.ones(2))
    for name in ("adamw", "sgd"):
        optimizer = make_optimizer(
            OptimConfig(optimizer=name), [{"params": [weight], "weight_decay": 0.1}]
        )
        weight.grad = torch.ones(2)
        optimizer.step()
    assert torch.equal(weight.data, torch.ones(2))
