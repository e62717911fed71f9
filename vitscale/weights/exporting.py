"""Weights of ours as others read them: refuse what a format cannot say, lay out, name, write all or nothing."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from vitscale.checkpoint.export import write_tensors
from vitscale.durable import sync_folder
from vitscale.errors import ConfigError
from vitscale.weights import huggingface, npz, timm
from vitscale.weights.format import Format, Layout, insist_on
from vitscale.weights.model import Model, record_of
from vitscale.weights.onnx import write_onnx
from vitscale.weights.table import write
from vitscale.weights.tokens import laid_out, written_down

FORMATS = ("npz", "npz-scan", "npz-old", "timm", "hf", "safetensors", "onnx")
_ENDINGS = {"npz": ".npz", "npz-scan": ".npz", "npz-old": ".npz"}
_ENDINGS |= {"safetensors": ".safetensors", "onnx": ".onnx"}


def export_model(model: Model, to: Path, name: str, origin: dict[str, Any]) -> None:
    """Write `model` as format `name`: a file, or for timm and hf a folder, that does not exist yet.

    Args:
        model: what is written, all of it.
        to: where.
        name: one of `FORMATS`.
        origin: where the weights came from, for the metadata of the formats that have some.

    Raises:
        ConfigError: the format cannot express the model; `to` exists, has another ending or cannot be written.
        ResourceError: onnx is not installed.
    """
    ending = _ENDINGS.get(name, "")
    if to.suffix != ending and ending:
        raise ConfigError(
            f"{name} is a file ending in {ending}",
            where="--to",
            given=to,
            do=f"End it in {ending}.",
        )
    if to.exists():
        raise ConfigError("exists already", where="--to", given=to, do="Choose another name.")
    writers: dict[str, Callable[[Model, Path], None]] = {
        "timm": _timm,
        "hf": _hf,
        "safetensors": lambda model, aside: write_tensors(
            model.tensors, record_of(model) | origin, aside
        ),
        "onnx": lambda model, aside: write_onnx(model, aside, record_of(model) | origin),
    }
    writer = writers.get(name) or (lambda model, aside: _npz(model, aside, name))
    aside = to.with_name(f".{os.getpid()}.{to.name}")
    try:
        aside.mkdir()
        writer(model, aside / to.name)
        for made in aside.iterdir():  # one; of a large ONNX graph its data beside it
            made.rename(to.parent / made.name)
        sync_folder(to.parent)
    except OSError as error:
        raise ConfigError(
            f"cannot be written: {error.strerror or error}", where="--to", given=to
        ) from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _translated(model: Model, known: Format, layout: Layout) -> dict[str, Tensor]:
    """Tensors by the names of a table, without a head that is none."""
    shape = model.shape
    insist_on(shape, known.name, known.limits)
    tensors = model.tensors
    if model.headless:
        tensors = {n: t for n, t in tensors.items() if not n.startswith("head.")}
    if not (known.name == "npz" and shape.positions == "sincos2d"):
        tensors = written_down(dict(tensors), shape)
    written, left = write(known.rules, laid_out(dict(tensors), layout), shape.depth, shape.heads)
    if left:
        raise ConfigError(
            f"{known.name} has no word for {', '.join(left)}",
            where="--format",
            do="Export as safetensors or onnx, which take every model.",
        )
    return written


def _npz(model: Model, to: Path, name: str) -> None:
    known = npz.OLD if name == "npz-old" else npz.NPZ
    tensors = npz.laid_out(_translated(model, known, known.layout), name)
    with to.open("xb") as file:
        np.savez(file, **{key: tensor.numpy() for key, tensor in tensors.items()})  # pyright: ignore[reportArgumentType]


def _timm(model: Model, to: Path) -> None:
    tensors = _translated(model, timm.TIMM, timm.layout_of(model.shape))
    config = timm.config_of(model.shape, model.preprocessing, headless=model.headless)
    _write_folder(to, tensors, {"config.json": config})


def _hf(model: Model, to: Path) -> None:
    kind = huggingface.KINDS[huggingface.kind_for(model.shape)]
    known = kind.format(model.shape.activation)
    config = huggingface.config_of(model.shape, headless=model.headless)
    tensors = _translated(model, known, known.layout) | huggingface.constants_of(model.shape)
    head = "classifier."
    named = {
        name if model.headless or name.startswith(head) else kind.prefix + name: tensor
        for name, tensor in tensors.items()
    }
    preprocessor = huggingface.preprocessor_of(model.shape, model.preprocessing)
    _write_folder(to, named, {"config.json": config, "preprocessor_config.json": preprocessor})


def _write_folder(
    to: Path, tensors: Mapping[str, Tensor], texts: Mapping[str, dict[str, Any]]
) -> None:
    to.mkdir()
    whole = {name: tensor.contiguous().to(torch.float32) for name, tensor in tensors.items()}
    save_file(whole, to / "model.safetensors", {"format": "pt"})
    for name, record in texts.items():
        (to / name).write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
