"""A training step of ViT-S/16 against timm's, Hugging Face's and plain torch's: ratios within one run, and MFU.

    PYTHONPATH=. .venv-peers/bin/python -m bench.step [--variant S/16] [--batch 8] [--rounds 9]
    PYTHONPATH=. .venv-peers/bin/python -m bench.step --gpu [--batch 128]

"plain torch" is our model with torch's own ops in a loop of four lines. All have the same weights, images and labels,
GELU by erf, torch's fused AdamW, and clip to norm 1; one thread, steps in turn. Each peer runs in float32, under
autocast to bfloat16 (what their training scripts do) and in pure bfloat16, which keeps no float32 weights and so does
less than ours. Losses of the first step must agree.

On a GPU in bfloat16 only, from images that lie there, with timm and ours compiled beside them; all contestants are in
its memory at once. What MFU is and how its peak is measured: bench/device.py. Not run on a GPU yet.
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

from bench import device, figures
from bench.contestants.operators import declare_missing
from vitscale.config.model import ModelConfig, Shape
from vitscale.config.ops import OpsConfig
from vitscale.config.optim import OptimConfig
from vitscale.engine.allocator import keep_freed_memory
from vitscale.engine.local import LocalEngine
from vitscale.engine.precision import DTYPES
from vitscale.model.build import build_model
from vitscale.model.vit import ViT
from vitscale.objective import make_objective
from vitscale.ops.choice import PLAIN, choose_ops
from vitscale.planner.size import train_flops
from vitscale.weights.exporting import export_model
from vitscale.weights.model import Model

LR = 1e-3
FAR = {"fp32": 1e-5, "bf16": 2e-2}
"""How far the first losses may lie apart, relative."""

Step = Callable[[], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--variant", default="S/16")
    parser.add_argument("--batch", type=int, help="default: 8, or 128 on a GPU")
    parser.add_argument("--rounds", type=int, default=9)
    device.add_gpu(parser)
    given = parser.parse_args()
    torch.set_num_threads(1)
    where = device.where_of(given)
    batch = given.batch or (128 if where.is_gpu else 8)
    keep_freed_memory(where.device)  # as every run of ours does, here for all
    shape = ModelConfig(variant=given.variant, image_px=224).shape(1000)
    images, labels = made_batch(shape, batch, where.device)
    found, most = {}, {}
    for precision in ("bf16",) if where.is_gpu else ("fp32", "bf16"):
        steps = contestants(shape, precision, images, labels)
        insist_on_equal_losses(
            {name: float(step()) for name, step in steps.items()}, FAR[precision]
        )
        name = f"step {given.variant} {precision} batch {batch}"
        limits = device.limits(where.device, DTYPES[precision])
        times = figures.times_in_turn(steps | limits, given.rounds, where.timed)
        most[precision] = device.ceilings(times, where.device)
        shares = device.mfu(times, where.device, batch * train_flops(shape))
        found[name] = figures.figure({name: times[name] for name in steps}) | {"mfu": shares}
    where.write("step", found, ceilings=most)
    print("the most, FLOP/s of a matrix product and bytes/s of a copy:", most)


def made_batch(shape: Shape, batch: int, at: torch.device) -> tuple[Tensor, Tensor]:
    """Images uint8 [B, 3, H, W] and labels int64 [B], the same on every device."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (batch, 3, *shape.image), generator=generator)
    labels = torch.randint(0, shape.classes, (batch,), generator=generator)
    return images.to(at, torch.uint8), labels.to(at)


def insist_on_equal_losses(losses: dict[str, float], far: float) -> None:
    """Contestants of other losses, or of none that is a number, would not do the same work."""
    ours = losses["ours"]
    apart = {name: loss for name, loss in losses.items() if not abs(loss - ours) <= far * ours}
    if apart:
        raise SystemExit(f"losses of the first step lie apart: ours {ours}, {apart}")


def contestants(shape: Shape, precision: str, images: Tensor, labels: Tensor) -> dict[str, Step]:
    """A step of each, ours first; every one begins with the same weights."""
    model = randomised(shape)
    views = (images / 255 - 0.5) / 0.5
    on_gpu = images.device.type == "cuda"
    steps = {"ours": our_step(model, shape, precision, images, labels)}
    if on_gpu:
        compiled = OpsConfig(block="compile")
        steps["ours, compiled"] = our_step(model, shape, precision, images, labels, compiled)
    for name, peer in peers(model, shape).items():
        if precision == "fp32":
            steps[name] = peer_step(peer, views, labels)
            continue
        steps[f"{name}, autocast"] = peer_step(peer, views, labels, autocast=True)
        if on_gpu and name == "timm":
            steps["timm, compiled"] = peer_step(peer, views, labels, autocast=True, compiled=True)
        steps[f"{name}, pure bf16"] = peer_step(peer, views, labels, dtype=torch.bfloat16)
    return steps


def randomised(shape: Shape) -> ViT:
    """A new model whose head is not zero, so that losses tell contestants apart."""
    model = build_model(shape, seed=0)
    generator = torch.Generator().manual_seed(1)
    head = model.head.weight
    head.data = 0.02 * torch.randn(head.shape, generator=generator)
    return model


def our_step(
    model: ViT,
    shape: Shape,
    precision: str,
    images: Tensor,
    labels: Tensor,
    wanted: OpsConfig = OpsConfig(),  # noqa: B008 it is frozen
) -> Step:
    """As a run takes it: from bytes to the update, with float32 masters in bfloat16."""
    dtype, at = DTYPES[precision], images.device
    ops = choose_ops(wanted, shape, device=at, dtype=dtype)
    own = build_model(shape, ops, seed=0)
    own.load_state_dict(model.state_dict())
    engine = LocalEngine(
        own,
        make_objective("softmax", 0.0),
        OptimConfig(),
        device=at,
        dtype=dtype,
        accumulation=1,
        world=1,
    )

    def step() -> Tensor:
        loss = engine.accumulate(images, labels, last=True)
        engine.step(LR)
        return loss

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

        names = {192: "tiny", 384: "small", 768: "base", 1024: "large", 1280: "huge"}
        made = timm.create_model(f"vit_{names[shape.width]}_patch{shape.patch}_224")
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
    compiled: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Step:
    """The loop that peers' training scripts run, from normalised views to the update."""
    model: Any = make().train().to(views.device, dtype)
    model = torch.compile(model) if compiled else model
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1, fused=True)
    given = views.to(dtype)

    kind = views.device.type

    def step() -> Tensor:
        cast = torch.autocast(kind, torch.bfloat16) if autocast else contextlib.nullcontext()
        with cast:
            loss = F.cross_entropy(model(given).float(), labels)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


if __name__ == "__main__":
    main()
