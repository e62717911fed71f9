"""Where many images lie, in one call: the same as sample by sample, whatever the order and the labels."""

from __future__ import annotations

import itertools
import os
import threading

import numpy as np
import pytest

from tests.data.corpora import flip_byte, image_file, make_tar, packed
from vitscale.data.bad_images import BadImage
from vitscale.data.index import hash_of_key
from vitscale.data.open_shard import open_local
from vitscale.data.shards import ShardSet, open_shards
from vitscale.data.tar_index import index_folder
from vitscale.errors import DataError


def several(folder) -> ShardSet:
    """Samples with none, one and several labels in three shards."""
    for number in range(3):
        files = []
        for at in range(7):
            labels = " ".join(str(label) for label in range((at * (number + 1)) % 4))
            key = f"{number}-{at}"
            files += [
                (f"{key}.png", image_file(seed=10 * number + at)),
                (f"{key}.cls", labels.encode()),
            ]
            if not labels:
                files.pop()
        make_tar(folder / f"{number}.tar", files)
    index_folder(folder)
    return open_shards(folder)


def read_at(places, slot: int) -> bytes:
    files = places.files
    return os.pread(files.handles[slot], int(files.lengths[slot]), int(files.offsets[slot]))


def labels_at(places, slot: int) -> list[int]:
    return places.labels[places.label_starts[slot] : places.label_starts[slot + 1]].tolist()


@pytest.mark.parametrize("make", [several, lambda folder: packed(folder, 50)])
def test_places_are_those_of_the_single_samples(tmp_path, make):
    shards = make(tmp_path)
    starts, labels = shards.label_table()
    draw = np.random.default_rng(3)
    for count in (0, 1, 7, 200):
        ids = draw.integers(0, shards.samples, count)
        places = shards.places(ids)
        for slot, sample in enumerate(ids.tolist()):
            shard, row = shards._find(sample)
            assert read_at(places, slot) == shards.read(sample)
            assert places.files.crcs[slot] == shard.index.crcs[row]
            size = [shard.index.widths[row], shard.index.heights[row]]
            assert places.files.sizes[slot].tolist() == size == [12, 10]
            assert labels_at(places, slot) == labels[starts[sample] : starts[sample + 1]].tolist()
        assert places.label_starts[-1] == len(places.labels)
        kinds = {
            name: getattr(places.files, name).dtype for name in ("handles", "offsets", "sizes")
        }
        assert kinds == {"handles": np.int32, "offsets": np.int64, "sizes": np.int32}


def test_sets_with_several_labels_have_no_single_ones(tmp_path):
    shards = several(tmp_path)
    assert shards.most_labels == 3
    with pytest.raises(DataError, match=r"no label or several.*label_table"):
        shards.labels()
    starts, labels = shards.label_table()
    wanted = [list(range((at * (n + 1)) % 4)) for n in range(3) for at in range(7)]
    assert [labels[a:b].tolist() for a, b in itertools.pairwise(starts)] == wanted


def test_key_hashes_are_those_of_the_keys_in_the_tars(tmp_path):
    shards = packed(tmp_path, 20)
    keys = [shards.whereabouts(sample)[1] for sample in range(20)]
    assert shards.key_hashes().tolist() == [hash_of_key(key) for key in keys]
    assert len(set(keys)) == 20


def test_shard_numbers_follow_the_manifest(tmp_path):
    shards = packed(tmp_path, 50)
    expected = np.repeat(np.arange(len(shards.counts)), shards.counts)
    assert (shards.shard_numbers(np.arange(50)) == expected).all()
    with pytest.raises(IndexError):
        shards.places(np.array([3, 50]))


def test_files_stay_open_as_long_as_places_do(tmp_path):
    shards = packed(tmp_path, 50)
    shards._shelf.idle = 1
    places = shards.places(np.arange(50))
    wanted = [shards.read(sample) for sample in range(50)]
    shards.close()
    assert [read_at(places, slot) for slot in range(50)] == wanted
    handle = int(places.files.handles[0])
    del places
    with pytest.raises(OSError):
        os.fstat(handle)


def test_threads_may_ask_at_once(tmp_path):
    shards = packed(tmp_path, 60, shard_samples=2)
    wanted = [shards.read(sample) for sample in range(60)]
    shards._shelf.idle = 5
    wrong = []

    def ask(seed: int) -> None:
        draw = np.random.default_rng(seed)
        for _ in range(60):
            ids = draw.integers(0, 60, 16)
            places = shards.places(ids)
            wrong.extend(s for s, i in enumerate(ids) if read_at(places, s) != wanted[i])

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_shard_that_goes_during_a_run_ends_it_or_is_masked(tmp_path, caplog):
    packed(tmp_path, 40)
    for missing in ("abort", "mask"):
        shards = open_shards(tmp_path, missing=missing)
        gone = tmp_path / "shard-000001.tar"
        gone.rename(tmp_path / "aside")
        ids = np.arange(40)
        inside = shards.shard_numbers(ids) == 1
        if missing == "abort":
            with pytest.raises(
                DataError, match=r"shard-000001\.tar cannot be had: the file is gone"
            ):
                shards.places(ids)
        else:
            for _ in range(2):
                places = shards.places(ids)
                assert ((places.files.handles == -1) == inside).all()
            assert shards.lost == {"shard-000001.tar": "the file is gone"}
            assert caplog.text.count("lost shard shard-000001.tar") == 1
            with pytest.raises(BadImage, match="its shard is lost"):
                shards.read(int(ids[inside][0]))
            assert "its shard is lost" in shards.name(int(ids[inside][0]))
            assert len(shards.label_table()[1]) == 40
        (tmp_path / "aside").rename(gone)
    assert (shards.places(ids).files.handles == -1).sum() == inside.sum()  # lost stays lost


def test_shards_missing_from_the_start_may_be_masked(tmp_path):
    packed(tmp_path, 40)
    (tmp_path / "shard-000000.tar").unlink()
    (tmp_path / "shard-000002.vsidx").unlink()
    shards = open_shards(tmp_path, missing="mask")
    assert set(shards.lost) == {"shard-000000.tar", "shard-000002.tar"}
    counts = np.diff(shards.label_table()[0])
    assert (counts == (shards.shard_numbers(np.arange(40)) != 2)).all()
    assert (shards.labels() == -1).sum() == shards.counts[2]


def test_an_image_is_read_once_more_before_it_counts_as_bad(tmp_path):
    shards = packed(tmp_path, 4, shard_samples=4)
    wanted = shards.read(1)
    record = shards._records[0]
    at = int(open_local(tmp_path, record).index.offsets[1]) + 9
    flip_byte(tmp_path / record.name, at)
    with pytest.raises(BadImage, match="checksum"):
        shards.reread(1)
    flip_byte(tmp_path / record.name, at)
    assert shards.reread(1) == shards.read(1) == wanted


def test_whereabouts_name_shard_key_and_byte(tmp_path):
    shards = packed(tmp_path, 4, shard_samples=4)
    shard, key, offset = shards.whereabouts(2)
    assert shard == "shard-000000.tar"
    assert shards.name(2) == f"shard-000000.tar, key {key!r}"
    with open(tmp_path / shard, "rb") as file:
        file.seek(offset)
        assert file.read(4) == b"\x89PNG"
