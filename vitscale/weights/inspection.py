"""What lies at a path: format, architecture, pixels, tensors; ours or another's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vitscale.checkpoint.weights import is_ours, load_weights
from vitscale.weights.importing import Wishes, read_foreign
from vitscale.weights.model import Model


def own_model(path: Path, which: str) -> tuple[Model, dict[str, Any]]:
    """The weights of a run, a step or a file of ours, and what is to be said of their origin.

    Raises:
        CheckpointError: nothing there verifies.
    """
    found = load_weights(path, which)
    model = Model(found.shape, found.tensors, found.preprocessing, found.headless)
    return model, {"weights": which, "step": found.step, "source": {"path": found.path.name}}


def inspect(path: Path, wishes: Wishes, which: str = "raw") -> dict[str, Any]:
    """Format, shape, parameters, preprocessing and tensors; plain JSON.

    Raises:
        CheckpointError: nothing readable is there.
    """
    if is_ours(path):
        model, origin = own_model(path, which)
        return _facts(path, "vitscale", model, pixels_known=True) | {"step": origin["step"]}
    found = read_foreign(path, wishes, need_pixels=False)
    facts = _facts(path, found.format.name, found.model, pixels_known=found.pixels_known)
    theirs = {name: list(tensor.shape) for name, tensor in found.source.tensors.items()}
    dtypes = sorted({str(t.dtype).removeprefix("torch.") for t in found.source.tensors.values()})
    return facts | {
        "told": vars(found.model.told),
        "dtypes": dtypes,
        "resampled as": found.format.resample,
        "tensors": theirs,
    }


def _facts(path: Path, name: str, model: Model, *, pixels_known: bool) -> dict[str, Any]:
    return {
        "path": str(path),
        "format": name,
        "parameters": model.parameters,
        "head": not model.headless,
        "shape": model.shape.as_json(),
        "preprocessing": model.preprocessing.as_json() if pixels_known else None,
        "tensors": {name: list(tensor.shape) for name, tensor in model.tensors.items()},
    }
