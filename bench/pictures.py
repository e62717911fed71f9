"""Make the pictures of docs/vit.md: `python -m bench.pictures [RUN]`, RUN as `make demo-ablation` leaves it."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from PIL import Image

from vitscale.evaluate.from_checkpoint import model_of
from vitscale.evaluate.pictures import draw_patches, look, view_of

PICTURES = Path("docs/pictures")
RUN = Path("runs/ablation")


def main(run: Path) -> None:
    """The patches of a photo at two strides, and the positions and rollout of the ablation's learned model."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        photo = view_of(_photo(Path(folder)), (224, 224))
    for stride in (32, 16):
        _shrink(draw_patches(photo, 32, stride, PICTURES / f"patches-stride-{stride}.png"))
    images = sorted((run / "pictures").glob("test-*.png"))
    for made in look(model_of(run / "learned-0")[0], images, run / "pictures"):
        if made.name != "patches.png":
            _shrink(made.rename(PICTURES / made.name))


def _photo(folder: Path) -> Path:
    """A real photo that scikit-learn brings along."""
    from sklearn.datasets import load_sample_image

    path = folder / "china.png"
    Image.fromarray(load_sample_image("china.jpg")).save(path)
    return path


def _shrink(picture: Path) -> None:
    """256 colours are enough for a page."""
    Image.open(picture).convert("RGB").quantize(256).save(picture, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else RUN)
