"""Every bit of every file of a commit, and every length: nothing that is not as written is taken for a commit."""

from __future__ import annotations

import os

import pytest

from tests.checkpoint.test_commit import save
from vitscale.checkpoint.choose import problems_of
from vitscale.checkpoint.layout import MANIFEST, STATE

pytestmark = pytest.mark.faults
FILES = [MANIFEST, STATE, "state.pt"]


def altered(path, data):
    """The problems of the commit while a file holds `data`."""
    path.write_bytes(data)
    return problems_of(path.parent)


@pytest.mark.parametrize("name", FILES)
def test_every_flipped_bit_is_noticed(tmp_path, name):
    path = save(tmp_path, 1) / name
    good = path.read_bytes()
    missed = []
    for at in range(len(good)):
        for bit in range(8):
            bad = bytearray(good)
            bad[at] ^= 1 << bit
            if not altered(path, bytes(bad)):
                missed.append((at, bit))
    assert not missed
    assert not altered(path, good)


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_and_addition_is_noticed(tmp_path, name):
    path = save(tmp_path, 1) / name
    good = path.read_bytes()
    assert not [n for n in range(len(good) - 1) if not altered(path, good[:n])]
    if name != MANIFEST:  # behind its end a manifest may have white space
        assert altered(path, good + b"\n")
    assert altered(path, good + b"x")


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_gone_or_cannot_be_read_is_noticed(tmp_path, name):
    path = save(tmp_path, 1) / name
    path.rename(path.with_suffix(".gone"))
    assert problems_of(path.parent)
    os.mkdir(path)
    assert problems_of(path.parent)
