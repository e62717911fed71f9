"""IDX files are parsed, found where they may be, and refused when damaged."""

from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest

from vitscale.data.decode import decode
from vitscale.data.sources import fashion_mnist
from vitscale.data.sources.fashion_mnist import fashion_mnist_splits
from vitscale.data.sources.fetch import FetchFailed
from vitscale.data.sources.idx import read_idx
from vitscale.errors import DataError, ResourceError

PIXELS = np.arange(5 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(5, 28, 28)


def idx_of(array: np.ndarray) -> bytes:
    head = struct.pack(f">{array.ndim + 1}I", 0x0800 + array.ndim, *array.shape)
    return gzip.compress(head + array.tobytes())


@pytest.fixture
def folder(tmp_path):
    for part, labels in (("train", [9, 0, 1, 2, 3]), ("t10k", [4, 5, 6, 7, 8])):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx_of(PIXELS))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx_of(np.array(labels, np.uint8)))
    return tmp_path


def test_both_official_splits_are_read(folder):
    splits = fashion_mnist_splits(folder, cache=folder / "cache")
    assert [s.label for s in splits["train"].samples] == [9, 0, 1, 2, 3]
    held_out = list(splits["held-out"].samples)
    assert [s.label for s in held_out] == [4, 5, 6, 7, 8]
    assert np.array_equal(np.asarray(decode(held_out[3].data))[..., 0], PIXELS[3])


@pytest.mark.parametrize(
    "damage", [lambda d: d[:-9], lambda d: b"x" + d, lambda d: idx_of(PIXELS[0])]
)
def test_a_damaged_file_is_refused(folder, damage):
    path = folder / "train-images-idx3-ubyte.gz"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(DataError, match="train-images"):
        read_idx(path, dimensions=3)


def test_images_and_labels_must_fit(folder):
    (folder / "t10k-labels-idx1-ubyte.gz").write_bytes(idx_of(np.array([1, 2], np.uint8)))
    with pytest.raises(DataError, match="5 images do not fit 2 labels"):
        fashion_mnist_splits(folder, cache=folder)


def test_a_folder_that_lacks_files_is_refused(tmp_path):
    with pytest.raises(DataError, match="lacks some of the four files"):
        fashion_mnist_splits(tmp_path, cache=tmp_path)


def test_everything_that_was_tried_is_told(tmp_path, monkeypatch):
    def failing(*arguments):
        raise FetchFailed(f"tried {arguments[0]}")

    monkeypatch.setattr(fashion_mnist, "INSTALLED", tmp_path / "nowhere")
    monkeypatch.setattr(fashion_mnist, "debian_package", failing)
    monkeypatch.setattr(fashion_mnist, "url", failing)
    with pytest.raises(ResourceError) as caught:
        fashion_mnist_splits(cache=tmp_path / "cache")
    text = str(caught.value)
    for part in ("nowhere: not there", "tried dataset-fashion-mnist", "train-images-idx3-ubyte.gz"):
        assert part in text
