"""What `import apex` would bring, in plain torch: FusedAdam, from its source at the commit of docker/versions.env."""

from __future__ import annotations

import sys
from types import ModuleType

import torch


class FusedAdam(torch.optim.Optimizer):
    """`apex/optimizers/fused_adam.py` without `capturable`, and the arithmetic of `csrc/multi_tensor_adam.cu`.

    Its count of steps is the group's, and goes up with every call. Settings arrive in the kernel as float32.
    """

    def __init__(
        self,
        params,
        lr=1e-3,
        bias_correction=True,
        betas=(0.9, 0.999),
        eps=1e-8,
        adam_w_mode=True,
        weight_decay=0.0,
        set_grad_none=True,
    ):
        settings = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, {**settings, "bias_correction": bias_correction})
        self.adam_w_mode, self.set_grad_none = adam_w_mode, set_grad_none
        self.param_groups_master = [{"params": [None for _ in g["params"]]} for g in params]

    def step(self, closure=None, grads=None, output_params=None, scale=None, grad_norms=None):
        for group, masters in zip(self.param_groups, self.param_groups_master, strict=False):
            if len(group["params"]) == 0:
                continue
            if "step" in group:
                group["step"] += 1
            else:
                group["step"] = 1
            for p, _ in zip(group["params"], masters["params"], strict=False):
                if p.grad is None:
                    continue
                state = self.state[p]
                if len(state) == 0:
                    state["exp_avg"] = torch.zeros_like(p.data).float()
                    state["exp_avg_sq"] = torch.zeros_like(p.data).float()
                assert p.dtype == p.grad.dtype == torch.float32, "the kernel would misread it"
                self._kernel(group, p.data, p.grad.data, state["exp_avg"], state["exp_avg_sq"])

    def _kernel(self, group, p, g, m, v):
        lr, eps, decay, beta1, beta2 = torch.tensor(
            [group["lr"], group["eps"], group["weight_decay"], *group["betas"]]
        )
        corrections = [1.0, 1.0]
        if group["bias_correction"]:
            corrections = [1 - float(beta) ** group["step"] for beta in (beta1, beta2)]
        if not self.adam_w_mode:
            g = g + decay * p
        m.copy_(beta1 * m + (1 - beta1) * g)
        v.copy_(beta2 * v + (1 - beta2) * g * g)
        update = (m / corrections[0]) / ((v / corrections[1]).sqrt() + eps)
        if self.adam_w_mode:
            update = update + decay * p
        p.copy_(p - lr * update)


def modules() -> dict[str, ModuleType]:
    """The modules by name, to be put into `sys.modules`."""
    apex, optimizers = ModuleType("apex"), ModuleType("apex.optimizers")
    optimizers.FusedAdam = FusedAdam
    apex.optimizers = optimizers
    return {"apex": apex, "apex.optimizers": optimizers}


def install() -> None:
    """For a process that ends with the test."""
    sys.modules.update(modules())
