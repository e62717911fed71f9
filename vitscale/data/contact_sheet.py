"""A contact sheet: some images of a data set with their labels under them, as one picture to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitscale.config.dataset import Manifest, read_manifest
from vitscale.data.bad_images import BadImage
from vitscale.data.decode import decode
from vitscale.data.random_keys import generator
from vitscale.data.shard_files import index_of, place_of_id, read_rows
from vitscale.errors import ConfigError, DataError

TILE_PX = 160
_GAP, _LINE, _FONT = 12, 18, 13
_PAPER, _INK, _FAINT, _BAD = "#ffffff", "#1a1a1a", "#6b6b6b", "#b3261e"
_MOST = 400


class Picture(NamedTuple):
    """One image of the sheet; None where it cannot be decoded."""

    sample: int
    image: Image.Image | None
    labels: tuple[str, ...]
    size: tuple[int, int]


def sheet_of(
    folder: str | Path, *, count: int = 24, labels: Sequence[str] = (), seed: int = 0
) -> Image.Image:
    """`count` samples drawn by `seed`, in the order of their ids, on one sheet.

    Args:
        folder: the data set.
        count: at most so many images.
        labels: only samples with one of these, as class names or numbers; none means any.
        seed: of the draw.

    Raises:
        ConfigError: a count out of range, or a label that is no class.
        DataError: the data set is unusable, or no sample has one of the labels.
    """
    if not 1 <= count <= _MOST:
        raise ConfigError(f"must be from 1 to {_MOST}", where="--count", given=count)
    folder = Path(folder)
    manifest = read_manifest(folder)
    ids = _samples_with(folder, manifest, [_label(manifest, text) for text in labels])
    if not len(ids):
        raise DataError(
            "no sample has one of the labels", where=str(folder), given=", ".join(labels)
        )
    drawn = np.sort(generator("contact sheet", seed).permutation(ids)[:count])
    return draw([_picture(folder, manifest, int(sample)) for sample in drawn])


def _label(manifest: Manifest, text: str) -> int:
    if text in manifest.classes:
        return manifest.classes.index(text)
    if text.isascii() and text.isdigit() and int(text) < len(manifest.classes):
        return int(text)
    what = f"no such class; the {len(manifest.classes)} classes have names, and numbers from 0"
    raise ConfigError(what, where="--labels", given=text)


def _samples_with(folder: Path, manifest: Manifest, labels: list[int]) -> np.ndarray:
    """Ids of the samples with any of the labels, [n] int64."""
    if not labels:
        return np.arange(manifest.samples)
    found, first = [], 0
    for record in manifest.shards:
        index = index_of(folder, record)
        rows = np.repeat(np.arange(len(index)), index.label_counts)
        found.append(first + np.unique(rows[np.isin(index.labels, labels)]))
        first += record.samples
    return np.concatenate(found)


def _picture(folder: Path, manifest: Manifest, sample: int) -> Picture:
    record, row = place_of_id(manifest, sample)
    index = index_of(folder, record)
    labels = tuple(manifest.classes[label] for label in index.labels_of(row))
    size = int(index.widths[row]), int(index.heights[row])
    (data,) = read_rows(folder / record.name, index, [row])
    try:
        return Picture(sample, decode(data), labels, size)
    except BadImage:
        return Picture(sample, None, labels, size)


def draw(pictures: Sequence[Picture]) -> Image.Image:
    """The sheet, about as wide as high, each picture whole and never enlarged beyond four times."""
    columns = max(1, math.ceil(math.sqrt(len(pictures) * 1.4)))
    rows = math.ceil(len(pictures) / columns)
    cell = TILE_PX + _GAP, TILE_PX + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * cell[0] + _GAP, rows * cell[1] + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(_FONT)
    for number, picture in enumerate(pictures):
        x, y = _GAP + number % columns * cell[0], _GAP + number // columns * cell[1]
        _draw_image(sheet, pen, picture, (x, y))
        below = y + TILE_PX + 3
        text = ", ".join(picture.labels) or "no label"
        colour = _INK if picture.labels else _BAD
        pen.text((x, below), _fitted(text, pen, font), colour, font)
        width, height = picture.size
        pen.text((x, below + _LINE), f"#{picture.sample}  {width} x {height}", _FAINT, font)
    return sheet


def _draw_image(
    sheet: Image.Image, pen: ImageDraw.ImageDraw, picture: Picture, at: tuple[int, int]
) -> None:
    x, y = at
    if picture.image is None:
        pen.rectangle((x, y, x + TILE_PX - 1, y + TILE_PX - 1), outline=_BAD)
        pen.text((x + 10, y + TILE_PX // 2 - 8), "cannot be decoded", _BAD)
        return
    pen.rectangle((x, y, x + TILE_PX - 1, y + TILE_PX - 1), fill="#f1f1f1")
    width, height = picture.image.size
    scale = min(TILE_PX / width, TILE_PX / height, 4.0)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    how = Image.Resampling.NEAREST if scale > 1 else Image.Resampling.LANCZOS
    image = picture.image.resize(size, how)
    sheet.paste(image, (x + (TILE_PX - size[0]) // 2, y + (TILE_PX - size[1]) // 2))


def _fitted(
    text: str, pen: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont
) -> str:
    """The text, cut to the width of a tile."""
    if pen.textlength(text, font) <= TILE_PX:
        return text
    while text and pen.textlength(text + "...", font) > TILE_PX:
        text = text[:-1]
    return text + "..."
