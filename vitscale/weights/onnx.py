"""A model as an ONNX graph: any number of images of one size in, logits out."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from vitscale.checkpoint.export import METADATA
from vitscale.errors import ResourceError
from vitscale.model.build import build_model
from vitscale.weights.model import Model

OPSET = 20
"""Of the ONNX operators; 20 is the first with an exact GELU."""


def write_onnx(model: Model, to: Path, record: dict[str, Any]) -> None:
    """Write the graph `images` [batch, 3, H, W] float32, normalised, to `logits` [batch, K] into `to`.

    The size of images is the model's; `record` goes into the file's metadata as JSON, under "vitscale".

    Raises:
        ResourceError: onnx or onnxscript is not installed.
    """
    absent = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if absent:
        raise ResourceError(
            f"{' and '.join(absent)} {'is' if len(absent) == 1 else 'are'} not installed",
            where="--format onnx",
            do="Install it with: pip install 'vitscale[onnx]'.",
        )
    vit = build_model(model.shape)
    vit.load_state_dict(model.tensors)
    vit.eval().requires_grad_(False)
    images = torch.zeros(2, 3, *model.shape.image)
    vit(images)  # fills the tables of positions, which would otherwise be traced
    program = torch.onnx.export(
        vit,
        (images,),
        input_names=["images"],
        output_names=["logits"],
        dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props[METADATA] = json.dumps(record)
    program.save(to)
