"""The weights under evaluation: which they are, and a copy of them that nobody deletes while tasks read it."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch

from vitscale.checkpoint.choose import found_commit
from vitscale.checkpoint.export import SUFFIX
from vitscale.checkpoint.layout import CHECKPOINTS, Manifest, read_manifest, sha256_of
from vitscale.checkpoint.weights import Weights, export_weights, load_weights
from vitscale.config.model import Shape
from vitscale.data.device import normalise
from vitscale.engine.precision import DTYPES
from vitscale.errors import CheckpointError, ConfigError, ResourceError
from vitscale.evaluate.inference import Prepare
from vitscale.model.build import Fitting, build_model, load_pretrained
from vitscale.model.vit import ViT


@dataclass(frozen=True)
class Subject:
    """Weights by content. `digest` is of commit or file; `name` for people; `run` the folder they come from, if any."""

    identity: str
    digest: str
    name: str
    path: Path
    which: str
    step: int
    run: Path | None
    home: Path
    """Where results go unless somebody says otherwise."""
    copy: Path
    """Where the copy of the weights lies once `retain` made it."""


def subject_of(path: Path, which: str, folder: Path | None, *, keeper: str = "shared") -> Subject:
    """Tell weights apart without reading them all: by the manifest of a commit, or by the hash of an exported file.

    Args:
        path: a run folder (its newest good commit), a step folder, or an exported file.
        which: "raw" or "ema".
        folder: for results and copies; by default `transfer/` of the run, or `FILE.transfer/`.
        keeper: whose copy of the weights it is; nobody else deletes it.

    Raises:
        CheckpointError: there is nothing to evaluate.
    """
    if path.suffix == SUFFIX and path.is_file():
        weights = load_weights(path, which)
        own = folder or path.with_name(f"{path.name}.transfer")
        subject = _subject(sha256_of(path), path.stem, path, which, weights.step, own)
        return replace(subject, copy=path.absolute())
    if (path / CHECKPOINTS).is_dir():
        with found_commit(path) as found:
            path = found.folder
    run = path.parent.parent if path.parent.name == CHECKPOINTS else None
    manifest = _manifest_of(path, run)
    own = folder or (run or path) / "transfer"
    name = f"{manifest.facts['run']} step {manifest.step}"
    subject = _subject(manifest.digest, name, path, which, manifest.step, own)
    copy = subject.home / "weights" / f"{subject.identity}-{keeper}{SUFFIX}"
    return replace(subject, run=run, copy=copy)


def _manifest_of(path: Path, run: Path | None) -> Manifest:
    """Of a commit; where that was deleted, the copy the run kept: its results may be there."""
    try:
        return read_manifest(path)
    except ValueError as error:
        if run is not None and (record := run / "manifests" / f"{path.name}.json").is_file():
            return Manifest.from_json(record.read_text(encoding="utf-8"))
        why = str(error) if path.exists() else "there is no such file or folder"
        raise CheckpointError(
            f"no usable checkpoint: {why}",
            where=str(path),
            do="Give a run folder, a step folder, or an exported file.",
        ) from None


def _subject(digest: str, name: str, path: Path, which: str, step: int, folder: Path) -> Subject:
    identity = hashlib.blake2b(f"{digest} {which}".encode(), digest_size=8).hexdigest()
    name = name if which == "raw" else f"{name} ({which})"
    home, path = folder.absolute(), path.absolute()
    return Subject(identity, digest, name, path, which, step, None, home, path)


def retain(subject: Subject) -> None:
    """Copy the weights out of their commit, once; from then on the commit may go.

    Raises:
        CheckpointError: the commit is damaged or gone, or holds no such weights.
    """
    if subject.copy.exists():
        return
    subject.copy.parent.mkdir(parents=True, exist_ok=True)
    export_weights(subject.path, subject.copy, subject.which, "fp32")


@contextmanager
def alone_with(subject: Subject, folder: Path, say: Callable[[str], None]) -> Generator[None]:
    """Wait until no other suite works on these weights in this folder: they would delete each other's features.

    Raises:
        ConfigError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        opened = (folder / f".lock-{subject.identity}").open("a")
    except OSError as error:
        raise ConfigError(
            f"results cannot be written there: {error.strerror}",
            where="--folder",
            given=folder,
            do="Give --folder DIR with a folder that can be written.",
        ) from error
    with opened as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say(
                f"{subject.name}: waiting for another suite that works on these weights in {folder}"
            )
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def let_go(subject: Subject) -> None:
    """Delete the copy, and what a kill left of one; an exported file that was evaluated itself stays."""
    if subject.copy == subject.path:
        return
    subject.copy.unlink(missing_ok=True)
    for torn in subject.copy.parent.glob(f".{subject.copy.name}.*.tmp"):
        torn.unlink(missing_ok=True)


@dataclass(frozen=True)
class Machine:
    """How models run: images a forward pass, number format, device, and threads of a process (0: as torch has it)."""

    batch: int = 256
    precision: str = "fp32"
    device: str = "auto"
    threads: int = 0

    def use(self) -> torch.device:
        """Apply the threads; the device of this process, which is one GPU where there are several."""
        if self.threads:
            torch.set_num_threads(self.threads)
        if self.device != "cpu" and not torch.cuda.is_initialized():
            _see_one_gpu()
        return device_of(self.device)


def shape_of(subject: Subject) -> Shape:
    """The architecture of the retained weights."""
    return load_weights(subject.copy, subject.which).shape


def model_at(subject: Subject, image_px: int | None, machine: Machine) -> tuple[ViT, Prepare]:
    """The model with its own head, at another image size where one is given, and what prepares its pixels."""
    weights = load_weights(subject.copy, subject.which)
    device, dtype = machine.use(), DTYPES[machine.precision]
    return sized(weights, image_px).to(device, dtype).eval(), preparation(weights, device, dtype)


def sized(weights: Weights, image_px: int | None) -> ViT:
    """The model of these weights, positions resampled where the size differs."""
    if image_px is None or (image_px, image_px) == weights.shape.image:
        model = build_model(weights.shape)
        model.load_state_dict(weights.tensors)
        return model
    shape = Shape.from_json(weights.shape.as_json() | {"image": (image_px, image_px)})
    model = build_model(shape, seed=0)
    load_pretrained(model, weights.tensors, weights.shape, Fitting(head="keep"))
    return model


def preparation(weights: Weights, device: torch.device, dtype: torch.dtype) -> Prepare:
    """With the mean and spread that belong to the weights."""
    mean, std = weights.preprocessing.mean, weights.preprocessing.std
    return partial(normalise, device=device, dtype=dtype, mean=mean, std=std)


def device_of(name: str) -> torch.device:
    """The device called "cpu", "cuda", or "auto": a GPU where there is one.

    Raises:
        ResourceError: there is no GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("there is no CUDA GPU", where="--device", do="Use --device cpu.")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def gpus_here() -> int:
    """GPUs that this process sees."""
    return torch.cuda.device_count()


def _see_one_gpu() -> None:
    """Processes of a machine take its GPUs in turn; what Ray or the user chose for this one stays."""
    count = torch.cuda.device_count()
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", ",".join(map(str, range(count)))).split(",")
    if len(visible) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[os.getpid() % len(visible)]
