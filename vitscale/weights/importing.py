"""Weights of others to ours: find the format, translate every name, work out the shape, account for every tensor."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vitscale.checkpoint.export import write_tensors
from vitscale.checkpoint.weights import insist_on_new
from vitscale.config.model import Shape
from vitscale.config.preprocessing import Preprocessing
from vitscale.errors import CheckpointError, ConfigError
from vitscale.model.build import PRETRAINING_ONLY, LoadReport
from vitscale.model.position import rotation_periods
from vitscale.model.vit import ViT
from vitscale.weights import huggingface, npz, timm
from vitscale.weights.architecture import shape_of
from vitscale.weights.format import Format, Hints
from vitscale.weights.model import Model, Target, fitted, head_of, record_of
from vitscale.weights.source import Source, open_source
from vitscale.weights.table import names_of, read
from vitscale.weights.tokens import as_ours


@dataclass(frozen=True)
class Wishes:
    """What a caller knows better than the file; None where the file is to decide."""

    format: str = "auto"
    source_px: tuple[int, int] | None = None
    """Height and width the weights were made for."""
    hints: Mapping[str, Any] = field(default_factory=dict)
    """Fields of `Hints` that are given."""
    drop_head: bool = False
    classes: int | None = None
    """Outputs of the zero head of a backbone that has none."""
    allow_unexpected: bool = False


@dataclass(frozen=True)
class Imported:
    """A model of ours and where it came from."""

    model: Model
    format: Format
    source: Source
    pixels_known: bool = True


def import_weights(path: Path, to: Path, wishes: Wishes, target: Target) -> dict[str, Any]:
    """Translate the weights at `path` into the new safetensors file `to`, which `init.weights` and `evaluate` read.

    Returns:
        What was made of what, for people and programs.

    Raises:
        CheckpointError: a tensor is missing, has another size, or has no place here; the file is damaged.
        ConfigError: something the file does not tell was not given, or `to` exists.
    """
    insist_on_new(to)
    found = read_foreign(path, wishes)
    model = fitted(found.model, target, found.format.resample)
    digests = found.source.digests()
    record = record_of(model) | {
        "weights": "raw",
        "step": 0,
        "source": {"path": path.name, "format": found.format.name, "sha256": digests},
    }
    try:
        write_tensors(model.tensors, record, to)
    except OSError as error:
        raise ConfigError(
            f"the file cannot be written: {error.strerror or error}", where="--to", given=to
        ) from error
    return {
        "from": str(path),
        "to": str(to),
        "format": found.format.name,
        "sha256": digests,
        "parameters": model.parameters,
        "shape": model.shape.as_json(),
        "preprocessing": model.preprocessing.as_json(),
        "told": vars(model.told),
        "lines": model.told.lines(),
    }


def read_foreign(path: Path, wishes: Wishes, *, need_pixels: bool = True) -> Imported:
    """The weights of a file or folder of others as ours, each tensor accounted for.

    Without `need_pixels` weights that do not say what pixels they take are read all the same.

    Raises:
        CheckpointError: as `import_weights`.
        ConfigError: likewise.
    """
    source = open_source(path)
    tensors, known, told = _translated(source, wishes)
    hints = replace(told, **wishes.hints)
    known_pixels = hints.preprocessing is not None
    if not known_pixels and need_pixels:
        raise ConfigError(
            "these weights do not say with which mean and spread of the pixels they were trained",
            where=str(path),
            do="Give --pixels half ([-1, 1]), imagenet, or six numbers: mean and spread of red, green, blue.",
        )
    try:
        model = _model(tensors, known, hints, wishes)
    except CheckpointError as error:
        where = error.where or str(path)
        raise CheckpointError(error.what, where=where, given=error.given, do=error.do) from None
    return Imported(model, known, source, known_pixels)


def _translated(source: Source, wishes: Wishes) -> tuple[dict[str, Tensor], Format, Hints]:
    """Tensors under the names of a table, the table, and what the format itself tells."""
    name = wishes.format if wishes.format != "auto" else _recognised(source)
    if name == "hf":
        return huggingface.read(source.tensors, source.config, source.preprocessor)
    if name == "npz":
        tensors, hints = npz.read(source.tensors)
        return tensors, npz.NPZ, hints
    tensors, hints = timm.read(source.tensors, source.config)
    return tensors, timm.DINO if timm.is_dino(tensors) else timm.TIMM, hints


def _recognised(source: Source) -> str:
    if "model_type" in source.config:
        return "hf"
    if npz.looks_like(source.tensors):
        return "npz"
    if timm.looks_like(source.tensors):
        return "timm"
    if any(name.endswith("ln_pre.weight") for name in source.tensors):
        raise CheckpointError(
            "these are weights of CLIP's own ViT, which has a norm in front of its blocks; ours has none",
            where=str(source.path),
            do="Take a tower of timm's kind (SigLIP in open_clip), or a ViT that timm can load.",
        )
    some = ", ".join(sorted(source.tensors)[:5])
    raise CheckpointError(
        "these are no weights of a format known here",
        where=str(source.path),
        given=f"tensors such as {some}" if some else "no tensors",
        do="Known are big_vision .npz, timm, DeiT, DINOv2/v3, open_clip's SigLIP, and folders of transformers.",
    )


def _model(theirs: Mapping[str, Tensor], known: Format, hints: Hints, wishes: Wishes) -> Model:
    reading = read(known.rules, theirs)
    if reading.missing:
        raise _lacking(reading.missing)
    told = _accounted(theirs.keys() - reading.used, known, wishes)
    ours = {n: t.float().contiguous() for n, t in reading.tensors.items() if t.numel()}
    if wishes.drop_head:
        told = replace(
            told, dropped=tuple(sorted(n for n in ours if n.startswith(PRETRAINING_ONLY)))
        )
        ours = {n: t for n, t in ours.items() if not n.startswith(PRETRAINING_ONLY)}
    width, patch = _width_and_patch(ours)
    ours, image = as_ours(ours, wishes.source_px or hints.image, patch)
    headless = "head.weight" not in ours and "head.bias" not in ours
    if headless:
        ours |= head_of(width, wishes.classes or 1)
    elif wishes.classes is not None:
        raise ConfigError(
            "has no effect: these weights have a head of their own",
            where="--classes",
            given=wishes.classes,
            do="Remove it, or give --drop-head.",
        )
    shape = shape_of(ours, hints, image or wishes.source_px or hints.image or _unknown_image())
    _insist_on_whole(ours, shape, known)
    _check_periods(theirs, shape)
    new = tuple(f"{n} {list(ours[n].shape)}, zero" for n in ("head.weight", "head.bias"))
    told = replace(told, loaded=len(ours) - 2 * headless, new=new if headless else ())
    return Model(shape, ours, hints.preprocessing or Preprocessing(), headless, told)


def _width_and_patch(ours: Mapping[str, Tensor]) -> tuple[int, int]:
    """1 and 1 without a patch projection, which `shape_of` refuses."""
    kernel = ours.get("patch_embed.projection.weight")
    return (1, 1) if kernel is None else (kernel.shape[0], kernel.shape[-1])


def _unknown_image() -> tuple[int, int]:
    raise CheckpointError(
        "without learned positions the size of images is not written in weights",
        do="Give it with --source-px.",
    )


def _lacking(names: Iterable[str]) -> CheckpointError:
    return CheckpointError(f"lacks {', '.join(sorted(names))}", do="The file is not complete.")


def _accounted(left: Iterable[str], known: Format, wishes: Wishes) -> LoadReport:
    """Sort what no rule read.

    Raises:
        CheckpointError: something has no place here and was not allowed.
    """
    ignored = [n for n in left if any(re.fullmatch(p, n) for p in known.ignored)]
    unexpected = sorted({*left} - {*ignored})
    if unexpected and not wishes.allow_unexpected:
        reasons = {
            words
            for name in unexpected
            for pattern, words in known.foreign.items()
            if re.fullmatch(pattern, name)
        }
        raise CheckpointError(
            f"has tensors that {known.name} weights of ours do not have: {_some(unexpected)}",
            given="; ".join(sorted(reasons)) or None,
            do="If the model may do without them, give --allow-unexpected; they are listed then.",
        )
    return LoadReport(ignored=tuple(sorted(ignored)), unexpected=tuple(unexpected))


def _some(names: list[str]) -> str:
    rest = len(names) - 12
    return ", ".join(names[:12]) + (f" and {rest} more" if rest > 0 else "")


def _insist_on_whole(ours: Mapping[str, Tensor], shape: Shape, known: Format) -> None:
    """Every parameter of the model is there and has its size."""
    with torch.device("meta"):
        wanted = {name: value.shape for name, value in ViT(shape).named_parameters()}
    lacking = [names_of(known.rules, n, shape.depth) for n in wanted if n not in ours]
    if lacking:
        raise _lacking(lacking)
    for name, size in wanted.items():
        if ours[name].shape != size:
            raise CheckpointError(
                f"{names_of(known.rules, name, shape.depth)} makes a {name} of another size than the model's",
                given=f"{list(ours[name].shape)} for {list(size)}",
                do="Compare the architecture that was taken from the file: vitscale weights inspect.",
            )
    strangers = sorted(ours.keys() - wanted.keys())
    if strangers:
        raise CheckpointError(
            f"holds parts that do not go together: {_some(strangers)} beside the others",
            do="Give the weights of one model alone.",
        )


def _check_periods(theirs: Mapping[str, Tensor], shape: Shape) -> None:
    """DINOv3 stores the periods of its rotations; ours follow from the base and must be these.

    Raises:
        CheckpointError: they differ by more than bf16 rounds.
    """
    stored = theirs.get("rope_embed.periods")
    if stored is None:
        return
    ours = rotation_periods(shape.width // shape.heads, shape.rope_base).float()
    if stored.shape != ours.shape or not torch.allclose(stored.float(), ours, rtol=2**-8):
        raise CheckpointError(
            "the periods of its rotations are not those of the base",
            where="rope_embed.periods",
            given=f"base {shape.rope_base}, heads {shape.heads}",
            do="Give --rope-base, or --heads.",
        )
