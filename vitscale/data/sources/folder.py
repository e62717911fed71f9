"""An image folder: a sub-folder a class, images anywhere below it; hidden files are skipped.

Classes and files are in natural order (`n2` before `n10`). The kind of a file follows from its
content, since file names lie (ImageNet has a PNG named .JPEG).
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

from vitscale.data.samples import IMAGE_EXTENSIONS, Sample, Split, Splits
from vitscale.data.sources.files import Keys, hold_out, look, refuse
from vitscale.errors import DataError

_log = logging.getLogger(__name__)
_UNSUPPORTED = ("avif", "bmp", "gif", "heic", "jp2", "jxl", "pgm", "ppm", "tif", "tiff")


def folder_splits(folder: str | Path, *, held_out_share: float = 0.0, seed: int = 0) -> Splits:
    """The images below `folder`; of every class a share is held out, drawn by `seed`.

    Raises:
        DataError: no classes, or files that cannot be used; all are listed at once.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError("no such image folder", where=str(folder), do="Check the path.")
    classes = [entry.name for entry in _visible(folder) if entry.is_dir()]
    if not classes:
        what = "no class folders inside: one sub-folder a class is needed"
        raise DataError(what, where=str(folder), do="Sort the images into folders.")
    problems: list[str] = []
    by_class = [_samples_of(folder, name, number, problems) for number, name in enumerate(classes)]
    refuse(problems, "the image folder", folder)
    samples = [sample for of_class in by_class for sample in of_class]
    return hold_out(Split(tuple(classes), samples), held_out_share, seed)


def natural(text: str) -> tuple[tuple[int, int, str], ...]:
    """Sorting key that compares runs of digits as numbers."""
    parts = re.findall(r"[0-9]+|[^0-9]+", text)
    return tuple((0, int(p), p) if p[0] in "0123456789" else (1, 0, p) for p in parts)


def _visible(folder: Path) -> list[Path]:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return sorted(entries, key=lambda entry: natural(entry.name))


def _samples_of(folder: Path, name: str, label: int, problems: list[str]) -> list[Sample]:
    """The images of one class; what is wrong with any file goes to `problems`."""
    samples: list[Sample] = []
    keys = Keys()
    for path in _files_below(folder / name, problems):
        suffix = path.suffix[1:].lower()
        if suffix not in IMAGE_EXTENSIONS + _UNSUPPORTED:
            _log.info("skipped a file that is no image: %s", path)
            continue
        extension, problem = look(path)
        if problem:
            problems.append(f"{path.relative_to(folder)}: {problem}")
            continue
        samples.append(Sample(keys.of(path.relative_to(folder)), extension, path, label))
    if not samples:
        problems.append(f"{name}: the class folder holds no usable image")
    return samples


def _files_below(folder: Path, problems: list[str]) -> Iterator[Path]:
    """All visible files in natural order, through links."""

    def unreadable(error: OSError) -> None:
        problems.append(f"{error.filename}: {error.strerror}")

    for root, folders, files in os.walk(folder, onerror=unreadable, followlinks=True):
        folders[:] = sorted((name for name in folders if not name.startswith(".")), key=natural)
        for name in sorted(files, key=natural):
            if not name.startswith("."):
                yield Path(root, name)
