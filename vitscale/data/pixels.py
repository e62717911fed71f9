"""Image files of a tar become the views of a batch: read, checked, decoded, cropped, resized, perhaps mirrored.

A view takes the pixels of its box only, by the antialiased triangle filter ("bilinear" of Pillow, `antialias=True` of
torchvision). Two decoders do that by the same rules and differ by `TOLERANCE` levels at most: one in C, several
images a call with the interpreter free, its results the same bits on every machine; and one of Pillow and torch.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import crc32c
import numpy as np
import PIL
from PIL import Image

from vitscale.data.bad_images import BadImage
from vitscale.data.decode import Box, decode_around, decode_box
from vitscale.data.native import extension, is_built

TOLERANCE = 2
"""Levels of 255 by which the decoders may differ in a pixel."""
_SMALL_PIXELS = 64 * 64
"""Of box and view together, where calling torch takes longer than Pillow's filter."""


@dataclass(frozen=True)
class Files:
    """Image files inside tars, one row a slot."""

    handles: np.ndarray
    """[n] int32, open file descriptors; -1 where there is nothing to read, and the slot is bad."""
    offsets: np.ndarray
    """[n] int64, in bytes."""
    lengths: np.ndarray
    """[n] uint32, in bytes."""
    crcs: np.ndarray
    """[n] uint32, CRC-32C."""
    sizes: np.ndarray
    """[n, 2] int32, width and height as the index says; 0, 0 where it does not know."""


class Filled(NamedTuple):
    """What filling came to."""

    bad: list[tuple[int, str]]
    """Slots that were zeroed, with the reason, in order."""
    read_s: float
    """Seconds this thread spent reading and checking files."""
    decode_s: float
    """Seconds this thread spent on everything after that."""


class Decoder(Protocol):
    """What both decoders can do; safe to use from several threads at once."""

    @property
    def name(self) -> str:
        """What decodes, with versions, for the log."""
        ...

    def fill(
        self,
        out: np.ndarray,
        files: Files,
        boxes: np.ndarray,
        mirrored: np.ndarray,
        *,
        shrink: bool,
    ) -> Filled:
        """Fill the views of a batch; bad files are reported, never raised.

        Args:
            out: uint8 [n, H, W, 3], contiguous.
            files: n rows.
            boxes: int32 [n, 4], left, upper, right, lower.
            mirrored: bool [n], which views are swapped left to right.
            shrink: whether JPEGs may be decoded at a fraction of their size, see `decode.shrinkage`.
        """
        ...

    def view(
        self, data: bytes, out: np.ndarray, box: Sequence[int], mirrored: bool, *, shrink: bool
    ) -> None:
        """Fill one view, uint8 [H, W, 3], from an image file in memory.

        Raises:
            BadImage: it cannot be decoded, or the box is not inside it. The view is undefined.
        """
        ...


def choose_decoder(name: Literal["auto", "c", "pillow"]) -> Decoder:
    """The decoder of that name; "auto" takes the one in C where it was built.

    Raises:
        ResourceError: the one in C is wanted and was not built.
    """
    if name == "c" or (name == "auto" and is_built()):
        return CDecoder()
    return PillowDecoder()


class _Wanted(NamedTuple):
    box: Box
    known: tuple[int, int]
    mirrored: bool


def _wanted(files: Files, boxes: np.ndarray, mirrored: np.ndarray) -> list[_Wanted]:
    """What is wanted of each slot, as plain numbers."""
    columns = boxes.tolist(), files.sizes.tolist(), mirrored.tolist()
    return [
        _Wanted((left, upper, right, lower), (width, height), flip)
        for (left, upper, right, lower), (width, height), flip in zip(*columns, strict=True)
    ]


class CDecoder:
    """Grey and colour JPEGs in C; other files are decoded by Pillow and resized in C.

    Args:
        simd: whether vector instructions are used where the processor has them; the results are the same.
    """

    def __init__(self, *, simd: bool = True) -> None:
        self._native, self._simd = extension(), simd
        version, avx2 = self._native.describe()
        self.name = f"C, libjpeg-turbo {version}" + (", AVX2" if avx2 and simd else "")

    def fill(
        self,
        out: np.ndarray,
        files: Files,
        boxes: np.ndarray,
        mirrored: np.ndarray,
        *,
        shrink: bool,
    ) -> Filled:
        """As `Decoder.fill`."""
        columns = (
            np.ascontiguousarray(files.handles, np.int32),
            np.ascontiguousarray(files.offsets, np.int64),
            np.ascontiguousarray(files.lengths, np.uint32),
            np.ascontiguousarray(files.crcs, np.uint32),
            np.ascontiguousarray(files.sizes, np.int32),
            np.ascontiguousarray(boxes, np.int32),
            np.ascontiguousarray(mirrored, np.bool_),
        )
        bad: list[tuple[int, str]] = []
        read_s = decode_s = 0.0
        begin = 0
        while begin < len(out):
            begin, read, decoding, undone = self._native.fill(
                out, out.shape[:3], *columns, shrink, begin, self._simd
            )
            started = time.perf_counter()
            wanted = _wanted(files, boxes, mirrored) if undone else []
            for row, outcome in undone:
                if isinstance(outcome, bytes):
                    outcome = self._other(outcome, out[row], wanted[row], shrink)
                if outcome:
                    bad.append((row, outcome))
            read_s += read
            decode_s += decoding + time.perf_counter() - started
        return Filled(bad, read_s, decode_s)

    def view(
        self, data: bytes, out: np.ndarray, box: Sequence[int], mirrored: bool, *, shrink: bool
    ) -> None:
        """As `Decoder.view`."""
        reason = self._native.view(
            data, out, out.shape[:2], _box(box), mirrored, shrink, self._simd
        )
        if reason is None:
            self._resize(decode_box(data, _box(box), out.shape[:2], shrink=shrink), out, mirrored)
        elif reason:
            raise BadImage(reason)

    def _other(self, data: bytes, out: np.ndarray, wanted: _Wanted, shrink: bool) -> str:
        """Fill a slot from a file that C does not decode; why it stays empty, or ""."""
        try:
            image = decode_box(data, wanted.box, out.shape[:2], shrink=shrink, known=wanted.known)
        except BadImage as error:
            return error.what
        self._resize(image, out, wanted.mirrored)
        return ""

    def _resize(self, image: Image.Image, out: np.ndarray, mirrored: bool) -> None:
        whole = (0, 0, *image.size)
        self._native.resize(
            image.tobytes(), image.size, out, out.shape[:2], whole, mirrored, self._simd
        )


class PillowDecoder:
    """Decodes by Pillow, resizes by torch, whose filter takes a third of the time of Pillow's."""

    def __init__(self) -> None:
        import torch

        self._torch = torch
        self.name = f"Pillow {PIL.__version__}"

    def fill(
        self,
        out: np.ndarray,
        files: Files,
        boxes: np.ndarray,
        mirrored: np.ndarray,
        *,
        shrink: bool,
    ) -> Filled:
        """As `Decoder.fill`."""
        bad: list[tuple[int, str]] = []
        read_s = decode_s = 0.0
        for row, wanted in enumerate(_wanted(files, boxes, mirrored)):
            slot = out[row]
            started = middle = time.perf_counter()
            try:
                data = _read(files, row)
                middle = time.perf_counter()
                image, box = decode_around(
                    data, wanted.box, slot.shape[:2], shrink=shrink, known=wanted.known
                )
                self._resize(image, box, slot, wanted.mirrored)
            except BadImage as error:
                slot[:] = 0
                bad.append((row, error.what))
            read_s += middle - started
            decode_s += time.perf_counter() - middle
        return Filled(bad, read_s, decode_s)

    def view(
        self, data: bytes, out: np.ndarray, box: Sequence[int], mirrored: bool, *, shrink: bool
    ) -> None:
        """As `Decoder.view`."""
        image, part = decode_around(data, _box(box), out.shape[:2], shrink=shrink)
        self._resize(image, part, out, mirrored)

    def _resize(self, image: Image.Image, box: Box, out: np.ndarray, mirrored: bool) -> None:
        size = out.shape[:2]
        if (box[2] - box[0]) * (box[3] - box[1]) + size[0] * size[1] <= 2 * _SMALL_PIXELS:
            small = image.crop(box).resize(size[::-1], Image.Resampling.BILINEAR)
            pixels = np.asarray(small)
        else:
            pixels = self._resized(image, box, size)
        if mirrored:  # numpy takes three times as long for whole pixels, and nine for all at once
            for channel in range(3):
                out[..., channel] = pixels[:, ::-1, channel]
        else:
            out[:] = pixels

    def _resized(self, image: Image.Image, box: Box, size: tuple[int, ...]) -> np.ndarray:
        torch = self._torch
        flat = torch.frombuffer(_bytes_of(image, box), dtype=torch.uint8)
        planes = flat.view(1, box[3] - box[1], box[2] - box[0], 3).permute(0, 3, 1, 2)
        resized = torch.nn.functional.interpolate(
            planes, size=size, mode="bilinear", antialias=True
        )
        return resized[0].permute(1, 2, 0).numpy()


def _bytes_of(image: Image.Image, box: Box) -> bytearray:
    """`image.crop(box).tobytes()` of an RGB image, with one copy instead of four."""
    encoder = Image._getencoder("RGB", "raw", ("RGB",))
    encoder.setimage(image.im, box)
    return bytearray(encoder.encode((box[2] - box[0]) * (box[3] - box[1]) * 3)[2])


def _read(files: Files, row: int) -> bytes:
    """An image file, complete and as its checksum says."""
    handle, offset, length = (
        int(each[row]) for each in (files.handles, files.offsets, files.lengths)
    )
    if handle < 0:
        raise BadImage("its file is not open")
    data = b""
    try:
        while len(data) < length:
            more = os.pread(handle, length - len(data), offset + len(data))
            if not more:
                raise BadImage(f"its file ends after {len(data)} of {length} bytes")
            data = data + more if data else more
    except OSError as error:
        raise BadImage(f"cannot be read: {error.strerror}") from error
    crc, wanted = crc32c.crc32c(data), int(files.crcs[row])
    if length and crc != wanted:
        raise BadImage(f"checksum mismatch: CRC-32C {crc:08x}, the index says {wanted:08x}")
    return data


def _box(box: Sequence[int] | np.ndarray) -> Box:
    left, upper, right, lower = (int(side) for side in box)
    return left, upper, right, lower
