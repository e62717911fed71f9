"""Files that others wrote: every tensor of one, its configs, and the hash of its bytes. No code in them is run."""

from __future__ import annotations

import hashlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from vitscale.errors import CheckpointError

_NESTS = ("state_dict", "model", "teacher", "params", "model_state_dict")
_WRAPPERS = ("module.", "backbone.", "_orig_mod.")
_TOWER = "visual.trunk."
"""Where open_clip keeps a ViT of timm's, beside the text tower."""
_WHOLE = ("model.safetensors", "pytorch_model.bin")
_CHUNK = 1 << 24


@dataclass(frozen=True)
class Source:
    """What lies at a path."""

    path: Path
    tensors: dict[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()

    def digests(self) -> dict[str, str]:
        """SHA-256 of each file of weights, by its name."""
        return {file.name: _sha256(file) for file in self.files}


def open_source(path: Path) -> Source:
    """Read a file or a folder of weights; tensors keep their dtype.

    Raises:
        CheckpointError: there is nothing there, it is damaged, or it is a pickle that holds more than tensors.
    """
    if path.is_dir():
        return _folder(path)
    if not path.is_file():
        raise CheckpointError("there is no such file or folder", where=str(path))
    return Source(path, _unwrapped(_tensors(path)), files=(path,))


def _folder(path: Path) -> Source:
    config = _json(path / "config.json")
    if not config:
        raise CheckpointError(
            "the folder has no config.json",
            where=str(path),
            do="Give a folder that transformers or timm saved, or a file of weights.",
        )
    files = _files(path)
    tensors: dict[str, Tensor] = {}
    for file in files:
        tensors |= _tensors(file)
    return Source(
        path, _unwrapped(tensors), config, _json(path / "preprocessor_config.json"), files
    )


def _files(folder: Path) -> tuple[Path, ...]:
    for name in _WHOLE:
        if (folder / name).is_file():
            return (folder / name,)
        index = _json(folder / f"{name}.index.json")
        if index:
            files = tuple(folder / part for part in sorted({*index["weight_map"].values()}))
            absent = [file.name for file in files if not file.is_file()]
            if absent:
                raise CheckpointError(f"lacks {', '.join(absent)}", where=str(folder))
            return files
    raise CheckpointError(f"holds none of {', '.join(_WHOLE)}", where=str(folder))


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"is no JSON: {error}", where=str(file)) from error


_PICKLES = (".bin", ".pth", ".pt", ".ckpt")


def _tensors(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".npz":
            return _npz(file)
        if file.suffix == ".safetensors":
            return _safetensors(file)
        if file.suffix in _PICKLES:
            return _pickle(file)
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            "holds more than tensors, and to read that would run code of its own",
            where=str(file),
            do="Ask its author for safetensors, or save its state_dict alone.",
        ) from error
    except (OSError, ValueError, RuntimeError, EOFError, KeyError, SafetensorError) as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(file)) from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"is damaged: {error}", where=str(file)) from error
    raise CheckpointError(
        "files of this kind are not read",
        where=str(file),
        do=f"Known endings: .npz .safetensors {' '.join(_PICKLES)}.",
    )


def _npz(file: Path) -> dict[str, Tensor]:
    with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
        return {name: _from_numpy(archive[name]) for name in archive.files}


def _from_numpy(array: np.ndarray) -> Tensor:
    if array.dtype.kind == "V" and array.dtype.itemsize == 2:  # numpy has no name for bfloat16
        return torch.from_numpy(array.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def _safetensors(file: Path) -> dict[str, Tensor]:
    with safe_open(file, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118


def _pickle(file: Path) -> dict[str, Tensor]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected pickle protocol")  # what it holds decides
        state = torch.load(file, map_location="cpu", weights_only=True)
    for _ in range(2):
        nest = next((key for key in _NESTS if isinstance(state, dict) and key in state), None)
        if nest is None or isinstance(state[nest], Tensor):
            break
        state = state[nest]
    if not isinstance(state, Mapping):
        raise CheckpointError("holds no table of tensors", where=str(file))
    return {str(name): value for name, value in state.items() if isinstance(value, Tensor)}


def _unwrapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Names without what wrappers put before them, and of a picture and a text tower the former."""
    if any(name.startswith(_TOWER) for name in tensors):
        tower = {name: tensor for name, tensor in tensors.items() if name.startswith(_TOWER)}
        return {name.removeprefix(_TOWER): tensor for name, tensor in tower.items()}
    for prefix in _WRAPPERS:
        if any(name.startswith(prefix) for name in tensors):
            tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items()}
    return tensors


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while chunk := opened.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
