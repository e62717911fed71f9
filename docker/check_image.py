"""What an image must be able to do: import what a job needs, and train a step, on a GPU with apex's fused kernels.

python check_image.py [--cuda]    where configs/ lies
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path

PACKAGES = ("torch", "deepspeed", "ray.train.torch", "mlflow", "webdataset", "vitscale_launch")
COMPILED = "vitscale.data.native._pixels"
EXTENSIONS = ("amp_C", "fused_layer_norm_cuda", "fused_dense_cuda", "xentropy_cuda")
OPS = ("fused_adam", "utils")
ON_A_GPU = ("engine.device=cuda", "engine.precision=bf16", "ops.norm=apex", "ops.optimizer=apex")


def main(words: list[str]) -> None:
    """Import everything, and train; raises where something is missing."""
    for name in (*PACKAGES, COMPILED):
        import_module(name)
        print(f"imported {name}", flush=True)
    has_cuda = "--cuda" in words
    if has_cuda:
        import_apex()
        insist_on_ops()
    import torch

    train(ON_A_GPU if has_cuda and torch.cuda.is_available() else ())


def import_apex() -> None:
    """NVIDIA's apex with every extension that vitscale looks for."""
    from vitscale.ops.apex import find_apex

    found = find_apex()
    if found.state != "nvidia":
        sys.exit(found.message)
    for name in ("torch", "apex", *EXTENSIONS):  # torch has the libraries that the others need
        import_module(name)
    print(found.message, flush=True)


def insist_on_ops() -> None:
    """DeepSpeed's ops that are to be compiled ahead."""
    from deepspeed.git_version_info import installed_ops

    missing = [name for name in OPS if not installed_ops.get(name)]
    if missing:
        sys.exit(f"DeepSpeed was installed without {', '.join(missing)}")


def train(overrides: tuple[str, ...]) -> None:
    """Pack a small data set and train one step on it, as a user would."""
    recipe = Path("configs/debug/tiny.toml").absolute()
    with tempfile.TemporaryDirectory() as folder:
        run(folder, "shards", "pack", "--from", "digits", "--to", "data/digits")
        run(
            folder,
            "train",
            str(recipe),
            "train.duration=1 steps",
            "optim.warmup=0 steps",
            *overrides,
        )


def run(folder: str, *words: str) -> None:
    """One command of vitscale."""
    subprocess.run([sys.executable, "-m", "vitscale", *words], cwd=folder, check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
