"""`vitscale weights import|export|inspect`: weights of other projects in and out."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vitscale.cli.arguments import add_json, add_pixels, pixels_of, print_json

_IN = ("auto", "npz", "timm", "hf")
_OUT = ("npz", "npz-scan", "npz-old", "timm", "hf", "safetensors", "onnx")
_MODES = ("bv-linear", "timm-bicubic", "hf-bicubic")
_ACTIVATIONS = ("gelu", "gelu-tanh")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """`import SOURCE --to FILE`, `export WEIGHTS --to X --format F` and `inspect ANY`."""
    actions = parser.add_subparsers(dest="action", metavar="import|export|inspect", required=True)
    text = "weights of big_vision, timm, DeiT, DINO or Hugging Face as one safetensors file of ours"
    action = actions.add_parser("import", help=text, description=f"{text}.")
    _add_source(action)
    action.add_argument("--to", metavar="FILE", required=True, help="a new .safetensors file")
    _add_size(action)
    action.add_argument("--drop-head", action="store_true", help="leave the classifier out")
    action.add_argument(
        "--classes", type=int, metavar="N", help="outputs of the zero head of a bare backbone"
    )
    add_json(action)
    text = "weights of ours as others read them"
    action = actions.add_parser("export", help=text, description=f"{text}.")
    action.add_argument(
        "weights_of", metavar="WEIGHTS", help="a run folder, a step folder or a file of ours"
    )
    action.add_argument(
        "--to", metavar="PATH", required=True, help="a new file; a new folder for timm and hf"
    )
    action.add_argument("--format", choices=_OUT, required=True)
    action.add_argument(
        "--weights", choices=("raw", "ema"), default="raw", help="as trained, or their average"
    )
    _add_size(action)
    action.add_argument("--drop-head", action="store_true", help="write the backbone alone")
    add_json(action)
    text = "format, architecture, pixels and tensors of any weights"
    action = actions.add_parser("inspect", help=text, description=f"{text}.")
    _add_source(action)
    action.add_argument("--tensors", action="store_true", help="list every tensor")
    add_json(action)


def _add_source(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "source", metavar="SOURCE", help=".npz, .safetensors, .pth, or a folder with a config.json"
    )
    action.add_argument("--format", choices=_IN, default="auto")
    action.add_argument(
        "--source-px", type=_size, metavar="N|HxW", help="image size the weights were made for"
    )
    action.add_argument("--heads", type=int, metavar="N", help="attention heads")
    action.add_argument("--activation", choices=_ACTIVATIONS)
    action.add_argument("--positions", choices=("sincos2d", "rope", "none"))
    action.add_argument("--pooling", choices=("cls", "gap"))
    action.add_argument("--norm-eps", type=float, metavar="X", help="added to a norm's variance")
    action.add_argument("--rope-base", type=float, metavar="X")
    add_pixels(action)
    action.add_argument(
        "--allow-unexpected", action="store_true", help="list unknown tensors, go on without them"
    )


def _add_size(action: argparse.ArgumentParser) -> None:
    action.add_argument(
        "--image-px", type=_size, metavar="N|HxW", help="resample positions to this image size"
    )
    action.add_argument("--stride", type=int, metavar="N", help="and to this stride of patches")
    action.add_argument("--patch", type=int, metavar="N", help="resample the patch projection")
    action.add_argument("--resample", choices=_MODES, help="how; the format's own way by default")


def _size(text: str) -> tuple[int, int]:
    height, _, width = text.partition("x")
    try:
        return int(height), int(width or height)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not N or HEIGHTxWIDTH") from None


def run(arguments: argparse.Namespace) -> int:
    """Do what was asked for and print what became of every tensor."""
    facts = {"import": _import, "export": _export, "inspect": _inspect}[arguments.action](arguments)
    if arguments.json:
        print_json({name: value for name, value in facts.items() if name != "lines"})
    else:
        print("\n".join(_lines(facts)))
    return 0


def _import(arguments: argparse.Namespace) -> dict[str, Any]:
    from vitscale.weights.importing import import_weights

    return import_weights(
        Path(arguments.source), Path(arguments.to), _wishes(arguments), _target(arguments)
    )


def _export(arguments: argparse.Namespace) -> dict[str, Any]:
    from vitscale.weights.exporting import export_model
    from vitscale.weights.inspection import own_model
    from vitscale.weights.model import fitted, without_head

    model, origin = own_model(Path(arguments.weights_of), arguments.weights)
    model = fitted(model, _target(arguments), "bv-linear")
    if arguments.drop_head:
        model = without_head(model)
    export_model(model, Path(arguments.to), arguments.format, origin)
    return {
        "from": arguments.weights_of,
        "to": arguments.to,
        "format": arguments.format,
        "weights": arguments.weights,
        "parameters": model.parameters,
        "shape": model.shape.as_json(),
        "preprocessing": model.preprocessing.as_json(),
        "lines": model.told.lines()[1:],
    }


def _inspect(arguments: argparse.Namespace) -> dict[str, Any]:
    from vitscale.weights.inspection import inspect

    facts = inspect(Path(arguments.source), _wishes(arguments))
    if not arguments.tensors:
        facts["tensors"] = len(facts["tensors"])
    return facts


def _wishes(arguments: argparse.Namespace) -> Any:
    from vitscale.weights.importing import Wishes

    names = ("heads", "activation", "positions", "pooling", "norm_eps", "rope_base")
    hints = {name: getattr(arguments, name) for name in names}
    hints["preprocessing"] = pixels_of(arguments.pixels)
    return Wishes(
        format=arguments.format,
        source_px=arguments.source_px,
        hints={name: value for name, value in hints.items() if value is not None},
        drop_head=getattr(arguments, "drop_head", False),
        classes=getattr(arguments, "classes", None),
        allow_unexpected=arguments.allow_unexpected,
    )


def _target(arguments: argparse.Namespace) -> Any:
    from vitscale.weights.model import Target

    return Target(
        image=arguments.image_px,
        stride=arguments.stride,
        patch=arguments.patch,
        resample=arguments.resample,
    )


def _lines(facts: dict[str, Any]) -> list[str]:
    """Facts as text: a shape and pixels in a line each, then what became of the tensors."""
    shown = {
        name: value for name, value in facts.items() if name not in ("lines", "told", "tensors")
    }
    lines = []
    for name, value in shown.items():
        if isinstance(value, dict):
            value = "  ".join(f"{key} {each}" for key, each in value.items())
        lines.append(f"{name:<14} {value if value is not None else 'not stated'}")
    tensors = facts.get("tensors", {})
    if isinstance(tensors, int):
        lines.append(f"{'tensors':<14} {tensors}")
    else:
        lines += [f"  {name} {shape}" for name, shape in tensors.items()]
    return [*lines, *facts.get("lines", [])]
