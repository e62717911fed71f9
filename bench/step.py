"""A training step of ViT-S/16 against timm's, Hugging Face's and plain torch's: CPU time, as ratios within one run.

    PYTHONPATH=. .venv-peers/bin/python -m bench.step [--variant S/16] [--batch 8] [--rounds 9]

"plain torch" is our model with torch's own ops in a loop of four lines. All have the same weights, images and labels,
GELU by erf, torch's fused AdamW, and clip to norm 1; one thread, steps in turn. Each peer runs in float32, under
autocast to bfloat16 (what their training scripts do) and in pure bfloat16, which keeps no float32 weights and so does
less than ours. Losses of the first step must agree.
"""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench import figures
from bench.contestants.operators import declare_missing
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.engine.local import LocalEngine
from vitscale.model.build import build_model
from vitscale.model.vit import ViT
from vitscale.objective import make_objective
from vitscale.ops.choice import PLAIN, choose_ops
from vitscale.weights.exporting import export_model
from vitscale.weights.model import Model

CPU = torch.device("cpu")
LR = 1e-3
FAR = {"fp32": 1e-5, "bf16": 2e-2}
"""How far the first losses may lie apart, relative."""

Step = Callable[[], float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=9)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    shape = ModelConfig(variant=arguments.variant, image_px=224).shape(1000)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (arguments.batch, 3, 224, 224), generator=generator)
    labels = torch.randint(0, 1000, (arguments.batch,), generator=generator)
    found = {}
    for precision in ("fp32", "bf16"):
        steps = contestants(shape, precision, images.to(torch.uint8), labels)
        insist_on_equal_losses({name: step() for name, step in steps.items()}, FAR[precision])
        name = f"step {arguments.variant} {precision} batch {arguments.batch}"
        found[name] = figures.in_turn(steps, arguments.rounds)
    figures.write("step", found)


def insist_on_equal_losses(losses: dict[str, float], far: float) -> None:
    """Contestants of other losses would not do the same work."""
    ours = losses["ours"]
    apart = {name: loss for name, loss in losses.items() if abs(loss - ours) > far * ours}
    if apart:
        raise SystemExit(f"losses of the first step lie apart: ours {ours}, {apart}")


def contestants(shape: Shape, precision: str, images: Tensor, labels: Tensor) -> dict[str, Step]:
    """A step of each, ours first; every one begins with the same weights."""
    model = randomised(shape)
    views = (images / 255 - 0.5) / 0.5
    steps = {"ours": our_step(model, shape, precision, images, labels)}
    for name, peer in peers(model, shape).items():
        if precision == "fp32":
            steps[name] = peer_step(peer, views, labels)
            continue
        steps[f"{name}, autocast"] = peer_step(peer, views, labels, autocast=True)
        steps[f"{name}, pure bf16"] = peer_step(peer, views, labels, dtype=torch.bfloat16)
    return steps


def randomised(shape: Shape) -> ViT:
    """A new model whose head is not zero, so that losses tell contestants apart."""
    model = build_model(shape)
    generator = torch.Generator().manual_seed(1)
    head = model.head.weight
    head.data = 0.02 * torch.randn(head.shape, generator=generator)
    return model


def our_step(model: ViT, shape: Shape, precision: str, images: Tensor, labels: Tensor) -> Step:
    """As a run takes it: from bytes to the update, with float32 masters in bfloat16."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    ops = choose_ops(OpsConfig(), shape, device=CPU, dtype=dtype)
    own = build_model(shape, ops, seed=0)
    own.load_state_dict(model.state_dict())
    engine = LocalEngine(
        own,
        make_objective("softmax", 0.0),
        OptimConfig(),
        device=CPU,
        dtype=dtype,
        accumulation=1,
        world=1,
    )

    def step() -> float:
        loss = engine.accumulate(images, labels, last=True)
        engine.step(LR)
        return float(loss)

    return step


def peers(model: ViT, shape: Shape) -> dict[str, Callable[[], nn.Module]]:
    """How each peer is made, with the weights of `model`."""
    declare_missing()
    folder = tempfile.TemporaryDirectory()  # lives as long as the functions below
    ours = Model(shape, {name: p.detach() for name, p in model.named_parameters()})
    for name in ("timm", "hf"):
        export_model(ours, Path(folder.name) / name, name, {})

    def of_timm() -> nn.Module:
        import timm  # pyright: ignore[reportMissingImports] of the peers' environment
        from safetensors.torch import load_file

        names = {384: "small", 192: "tiny", 768: "base"}
        made = timm.create_model(f"vit_{names[shape.width]}_patch16_224")
        made.load_state_dict(load_file(Path(folder.name) / "timm" / "model.safetensors"))
        return made

    def of_transformers() -> nn.Module:
        from transformers import ViTForImageClassification

        made = ViTForImageClassification.from_pretrained(Path(folder.name) / "hf")
        return Logits(made)

    def plain() -> nn.Module:
        made = build_model(shape, PLAIN)
        made.load_state_dict(model.state_dict())
        return made

    return {"timm": of_timm, "transformers": of_transformers, "plain torch": plain}


class Logits(nn.Module):
    """A model of transformers that answers with a tensor."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Tensor:
        return self.model(images).logits


def peer_step(
    make: Callable[[], nn.Module],
    views: Tensor,
    labels: Tensor,
    *,
    autocast: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Step:
    """The loop that peers' training scripts run, from normalised views to the update."""
    model = make().train().to(dtype)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1, fused=True)
    given = views.to(dtype)

    def step() -> float:
        cast = torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext()
        with cast:
            loss = F.cross_entropy(model(given).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss)

    return step


if __name__ == "__main__":
    main()
