"""The sidecar of a shard survives a round trip and refuses to be read when anything about it is off."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.data.corpora import flip_byte
from vitscale.data.index import ShardIndex, hash_of_labels, read_index, write_index
from vitscale.errors import DataError


def index_of(labels: list[list[int]]) -> ShardIndex:
    n = len(labels)
    flat = [label for of_sample in labels for label in of_sample]
    return ShardIndex(
        offsets=np.arange(n, dtype=np.uint64) * 1024 + 512,
        key_hashes=np.arange(n, dtype=np.uint64) + 2**63,
        lengths=np.full(n, 100, np.uint32),
        crcs=np.arange(n, dtype=np.uint32),
        label_starts=np.cumsum([0, *map(len, labels)]).astype(np.uint32),
        labels=np.array(flat, np.uint32),
        widths=np.arange(n, dtype=np.uint16) + 1,
        heights=np.full(n, 2**16 - 1, np.uint16),
        kinds=np.arange(n, dtype=np.uint8) % 4,
        tar_bytes=10**6,
        tar_xxh3="00112233445566778899aabbccddeeff",
    )


@pytest.mark.parametrize("labels", [[], [[3]], [[0], [2**32 - 1]], [[1, 2], [], [3]]])
def test_an_index_reads_back_as_written(tmp_path, labels):
    index = index_of(labels)
    write_index(index, tmp_path / "a.vsidx")
    again = read_index(tmp_path / "a.vsidx")
    for name in (
        "offsets",
        "key_hashes",
        "lengths",
        "crcs",
        "label_starts",
        "labels",
        "widths",
        "heights",
        "kinds",
    ):
        assert np.array_equal(getattr(index, name), getattr(again, name))
    assert (again.tar_bytes, again.tar_xxh3) == (index.tar_bytes, index.tar_xxh3)
    assert hash_of_labels(again) == hash_of_labels(index)
    assert again.has_one_label_each == all(len(of_sample) == 1 for of_sample in labels)


def test_the_layout_is_the_documented_one(tmp_path):
    write_index(index_of([[7]]), tmp_path / "a.vsidx")
    data = (tmp_path / "a.vsidx").read_bytes()
    assert len(data) == 64 + 8 + 8 + 4 + 4 + 8 + 4 + 2 + 2 + 1 + 8
    assert data[:8] == b"VSIDX\r\n\0"
    assert struct.unpack_from("<IIQQQ", data, 8) == (2, 64, 1, 1, 10**6)
    assert struct.unpack_from("<QQIIIIIHHB", data, 64) == (512, 2**63, 100, 0, 0, 1, 7, 1, 65535, 0)


def test_any_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "a.vsidx"
    write_index(index_of([[1], [2]]), path)
    for offset in range(path.stat().st_size):
        flip_byte(path, offset)
        with pytest.raises(DataError, match="vitscale shards index"):
            read_index(path)
        flip_byte(path, offset)
    read_index(path)


def test_an_index_cut_anywhere_is_refused(tmp_path):
    path = tmp_path / "a.vsidx"
    write_index(index_of([[1], [2]]), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_index(path)


def test_a_missing_index_says_how_to_make_one(tmp_path):
    with pytest.raises(DataError, match=r"No such file.*vitscale shards index"):
        read_index(tmp_path / "none.vsidx")


def test_writing_leaves_no_other_file(tmp_path):
    write_index(index_of([[1]]), tmp_path / "a.vsidx")
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.vsidx"]
