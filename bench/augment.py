"""What RandAugment costs beside the decoding of a view, and what its ops look like.

    python -m bench.augment [--images 200] [--rounds 6]
    python -m bench.augment --sheet docs/pictures/randaugment.png

CPU time on one thread, the best round of each counts, so only ratios mean anything. The sheet shows each op at
magnitude 10 on the sample photograph of matplotlib (Grace Hopper; US Navy, public domain).
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import matplotlib.cbook
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from bench.photos import photos
from vitscale.data.augment import DRAWS, inception_boxes
from vitscale.data.pixels import choose_decoder
from vitscale.data.randaugment import DRAWS as OP_DRAWS
from vitscale.data.randaugment import NAMES, OPS, randaugment

VIEW_PX, TILE_PX, GAP_PX, LINE_PX, COLUMNS = 224, 128, 8, 16, 6
MAGNITUDE = 10
COLOURS = 256


def best_ms(jobs: dict[str, Callable[[], object]], rounds: int, images: int) -> dict[str, float]:
    """CPU milliseconds an image of each job, which does all images."""
    best = dict.fromkeys(jobs, float("inf"))
    for _ in range(rounds):
        for name, job in jobs.items():
            before = time.process_time()
            job()
            best[name] = min(best[name], time.process_time() - before)
    return {name: round(1e3 * seconds / images, 3) for name, seconds in best.items()}


def costs(images: int, rounds: int) -> dict[str, float]:
    """Of decoding a view, of two layers, and of each op."""
    rng = np.random.default_rng(0)
    decoder, files = choose_decoder("auto"), list(photos(images))
    sizes = np.array([Image.open(io.BytesIO(each)).size for each in files], np.int32)
    boxes = inception_boxes(sizes, rng.random((images, DRAWS - 1)), (0.05, 1.0))
    views = np.empty((images, VIEW_PX, VIEW_PX, 3), np.uint8)
    drawn = rng.random((images, 2, OP_DRAWS))

    def decode() -> None:
        for data, out, box in zip(files, views, boxes, strict=True):
            decoder.view(data, out, box, False, shrink=True)

    def two_layers() -> None:
        for view, numbers in zip(views, drawn, strict=True):
            randaugment(view, numbers, MAGNITUDE)

    def all_by(name: str) -> Callable[[], None]:
        def op() -> None:
            for view, numbers in zip(views, drawn, strict=True):
                OPS[name](view, MAGNITUDE / 10, numbers[0, 1:].tolist())

        return op

    jobs: dict[str, Callable[[], object]] = {"a view decoded": decode, "two layers": two_layers}
    return best_ms(jobs | {name: all_by(name) for name in NAMES}, rounds, images)


def sheet() -> Image.Image:
    """The photograph and what each op makes of it."""
    path = matplotlib.cbook.get_sample_data("grace_hopper.jpg", asfileobj=False)
    whole = Image.open(str(path)).convert("RGB")
    left = (whole.width - 480) // 2
    view = np.asarray(whole.crop((left, 20, left + 480, 500)).resize((VIEW_PX, VIEW_PX)))
    tiles = {"the view": view}
    for name in NAMES:
        tiles[name] = OPS[name](view, MAGNITUDE / 10, (0.75, 0.6, 0.35))
    rows = -(-len(tiles) // COLUMNS)
    cell = TILE_PX + GAP_PX, TILE_PX + LINE_PX + GAP_PX
    page = Image.new("RGB", (COLUMNS * cell[0] + GAP_PX, rows * cell[1] + GAP_PX), "white")
    pen, font = ImageDraw.Draw(page), ImageFont.load_default(11)
    for number, (name, pixels) in enumerate(tiles.items()):
        x, y = GAP_PX + number % COLUMNS * cell[0], GAP_PX + number // COLUMNS * cell[1]
        page.paste(Image.fromarray(pixels).resize((TILE_PX, TILE_PX)), (x, y))
        pen.text((x, y + TILE_PX + 1), name, "#1a1a1a", font)
    return page.quantize(COLOURS, dither=Image.Dither.NONE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--sheet", type=Path, metavar="FILE", help="draw the ops instead")
    arguments = parser.parse_args()
    if arguments.sheet is not None:
        sheet().save(arguments.sheet, optimize=True)
    else:
        print(json.dumps(costs(arguments.images, arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
