"""Tars of other writers are indexed as webdataset reads them, or refused with shard, key and byte."""

from __future__ import annotations

import gzip
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from tests.data.corpora import files_with, flip_byte, image_file, make_tar
from vitscale.data.class_names import read_class_names
from vitscale.data.labels import LabelRule
from vitscale.data.shards import open_shards
from vitscale.data.tar_headers import TarReader, members
from vitscale.data.tar_index import index_folder, index_tar
from vitscale.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves tars open

IMAGES = [image_file(seed=number) for number in range(12)]
LONG = "deep/" * 40 + "leaf"
FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def read_by_webdataset(*tars: Path) -> list[dict]:
    """What webdataset itself makes of the tars."""
    urls = [str(tar) for tar in tars]
    return list(webdataset.WebDataset(urls, shardshuffle=False, empty_check=False))


def assert_same_as_webdataset(folder: Path, labels: LabelRule = LabelRule()) -> None:  # noqa: B008
    """Same samples in the same order: key, image bytes, label."""
    index_folder(folder, labels=labels)
    shards = open_shards(folder)
    theirs = read_by_webdataset(*sorted(folder.glob("*.tar")))
    assert shards.samples == len(theirs)
    for number, sample in enumerate(theirs):
        image = next(sample[e] for e in ("jpg", "jpeg", "png", "webp") if e in sample)
        assert shards.read(number) == image
        assert shards.name(number).endswith(f"key {sample['__key__']!r}")
        if "cls" in sample:
            assert shards.labels()[number] == int(sample["cls"])


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("names", [["a", "b/c", "n01440764_1"], ["./x", "./y/z"], ["ä/ö", "日本"]])
def test_tars_of_python_are_read_as_webdataset_reads_them(tmp_path, format, names):
    make_tar(tmp_path / "a.tar", files_with(names), FORMATS[format])
    assert_same_as_webdataset(tmp_path)


@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_names_longer_than_a_header_are_read(tmp_path, format):
    make_tar(tmp_path / "a.tar", files_with([LONG, "short", LONG + "2"]), FORMATS[format])
    assert_same_as_webdataset(tmp_path)


def test_ustar_names_split_into_prefix_and_name_are_read(tmp_path):
    make_tar(tmp_path / "a.tar", files_with(["p" * 90 + "/" + "n" * 60]))
    assert_same_as_webdataset(tmp_path)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar command")
@pytest.mark.parametrize("format", ["gnu", "oldgnu", "pax", "ustar", "v7"])
def test_tars_of_the_tar_command_are_read_with_folders_and_dot_prefix(tmp_path, format):
    source = tmp_path / "source"
    for name, data in files_with(["cats/1", "cats/2", "dogs/1"]):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_bytes(data)
    command = [
        "tar",
        f"--format={format}",
        "--sort=name",
        "-C",
        str(source),
        "-cf",
        str(tmp_path / "a.tar"),
        ".",
    ]
    subprocess.run(command, check=True)
    assert_same_as_webdataset(tmp_path)


def test_extensions_in_any_case_and_further_files_are_accepted(tmp_path):
    files = [
        ("a.JPG", image_file("JPEG")), ("a.CLS", b" 7\n"), ("a.txt", b"caption"), ("a.seg.png", b"x"),
        ("b.cls", b"0"), ("b.WebP", image_file("WEBP")), ("b.json", b"{}"),
    ]  # fmt: skip
    make_tar(tmp_path / "a.tar", files)
    assert_same_as_webdataset(tmp_path)


def test_members_that_webdataset_skips_are_skipped(tmp_path):
    files = [
        ("__meta__", b"x"),
        ("noextension", b"x"),
        ("__info__/a.txt", b"x"),
        *files_with(["a"]),
    ]
    make_tar(tmp_path / "a.tar", files)
    assert_same_as_webdataset(tmp_path)


def test_labels_come_from_a_json_field_when_asked(tmp_path):
    files = [
        ("a.jpg", IMAGES[0]), ("a.json", json.dumps({"meta": {"class": 5}}).encode()), ("a.cls", b"1"),
        ("b.jpg", IMAGES[1]), ("b.json", json.dumps({"meta": {"class": 2}}).encode()), ("b.cls", b"1"),
    ]  # fmt: skip
    make_tar(tmp_path / "a.tar", files)
    manifest = index_folder(tmp_path, labels=LabelRule("meta.class"))
    assert open_shards(tmp_path).labels().tolist() == [5, 2]
    assert manifest.classes == ("0", "1", "2", "3", "4", "5")


def test_without_cls_the_json_field_label_is_taken(tmp_path):
    make_tar(tmp_path / "a.tar", [("a.jpg", IMAGES[0]), ("a.json", b'{"label": 3}')])
    index_folder(tmp_path)
    assert open_shards(tmp_path).labels().tolist() == [3]


def test_the_walk_agrees_with_tarfile_on_every_member(tmp_path):
    path = make_tar(tmp_path / "a.tar", files_with(["a", LONG, "c/ü"]), tarfile.PAX_FORMAT)
    with open(path, "rb") as file, tarfile.open(path) as theirs:
        ours = [(m.name, m.data, m.size) for m in members(TarReader(file, "a.tar"))]
        assert ours == [(m.name, m.offset_data, m.size) for m in theirs]


REFUSED = {
    "no image": [("a.cls", b"1"), *files_with(["b"])],
    "the key comes twice": [*files_with(["a", "b"]), ("a.txt", b"x")],
    "two files with extension .png": [*files_with(["a"]), *files_with(["a"])],
    "two images, a.png and a.jpg": [("a.png", b"x"), ("a.jpg", b"x"), ("a.cls", b"1")],
    "not whole numbers": [("a.png", b"x"), ("a.cls", b"cat")],
    "labels run from 0": [("a.png", b"x"), ("a.json", b'{"label": -1}')],
    "no samples": [],
}


@pytest.mark.parametrize("why", REFUSED)
def test_samples_that_cannot_be_used_are_refused_by_name(tmp_path, why):
    make_tar(tmp_path / "x.tar", REFUSED[why])
    with pytest.raises(DataError, match=why) as caught:
        index_folder(tmp_path)
    assert "x.tar" in str(caught.value)
    assert why == "no samples" or ("key '" in str(caught.value) and "byte " in str(caught.value))
    assert not (tmp_path / "manifest.json").exists()


@pytest.mark.parametrize(
    ("kind", "name"), [(tarfile.SYMTYPE, "symbolic link"), (tarfile.LNKTYPE, "hard link")]
)
def test_links_are_refused(tmp_path, kind, name):
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        member = tarfile.TarInfo("a.png")
        member.type, member.linkname = kind, "b.png"
        tar.addfile(member)
    with pytest.raises(DataError, match=f"a.png is a {name}"):
        index_folder(tmp_path)


@pytest.mark.skipif(shutil.which("tar") is None, reason="needs the tar command")
@pytest.mark.parametrize("format", ["gnu", "pax"])
def test_sparse_members_are_refused(tmp_path, format):
    with open(tmp_path / "a.png", "wb") as file:
        file.truncate(1 << 20)
    command = [
        "tar",
        f"--format={format}",
        "-S",
        "-C",
        str(tmp_path),
        "-cf",
        str(tmp_path / "x.tar"),
        "a.png",
    ]
    subprocess.run(command, check=True)
    with pytest.raises(DataError, match=r"sparse file"):
        index_folder(tmp_path)


def test_a_tar_cut_anywhere_is_refused(tmp_path):
    whole = make_tar(tmp_path / "whole" / "a.tar", files_with(["a", "b"])).read_bytes()
    end = len(whole.rstrip(b"\0"))
    cut = tmp_path / "a.tar"
    for length in [0, 1, 511, 512, 513, 1024, *range(1500, end, 61)]:
        cut.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"cut short|damaged"):
            index_tar(cut)


def test_any_damaged_header_is_refused_with_its_byte(tmp_path):
    path = make_tar(tmp_path / "a.tar", files_with(["a", "b"]))
    with tarfile.open(path) as tar:
        headers = [member.offset for member in tar]
    for header in headers:
        flip_byte(path, header + 3)
        with pytest.raises(DataError, match=rf"byte {header}: damaged tar header"):
            index_tar(path)
        flip_byte(path, header + 3)


def test_samples_hidden_behind_an_end_mark_are_refused(tmp_path):
    one = make_tar(tmp_path / "one.tar", files_with(["a"])).read_bytes()
    two = make_tar(tmp_path / "two.tar", files_with(["b"])).read_bytes()
    (tmp_path / "joined.tar").write_bytes(one + two)
    with pytest.raises(DataError, match="data follows the end mark"):
        index_tar(tmp_path / "joined.tar")


def test_a_packed_tar_says_that_it_must_be_unpacked(tmp_path):
    plain = make_tar(tmp_path / "plain", files_with(["a", "b"]))
    (tmp_path / "a.tar").write_bytes(gzip.compress(plain.read_bytes()))
    with pytest.raises(DataError, match="packed with gzip"):
        index_tar(tmp_path / "a.tar")


def test_class_names_are_read_and_must_suffice(tmp_path):
    make_tar(tmp_path / "a.tar", files_with(["a", "b", "c"]))
    (tmp_path / "names").write_text("cat\nsea lion\ndog\n")
    names = read_class_names(tmp_path / "names")
    assert index_folder(tmp_path, classes=names).classes == ("cat", "sea lion", "dog")
    with pytest.raises(DataError, match="label 2 has no class name"):
        index_folder(tmp_path, classes=names[:2])


def test_indexing_again_gives_the_same_fingerprint(tmp_path):
    make_tar(tmp_path / "a.tar", files_with(["a", "b"]))
    first = index_folder(tmp_path)
    assert index_folder(tmp_path) == first
    assert first.fingerprint == index_folder(tmp_path).fingerprint


def test_numbers_too_large_for_octal_are_read(tmp_path):
    block = bytearray(tarfile.TarInfo("a.png").tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + (10**10).to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    first = next(members(TarReader(io.BytesIO(bytes(block)), "x")))
    assert first.size == 10**10


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=r"no \*\.tar"):
            index_folder(folder)


def test_the_crc_is_that_of_the_image(tmp_path):
    import crc32c

    index = index_tar(make_tar(tmp_path / "a.tar", files_with(["a", "b"])))
    assert index.crcs.tolist() == [crc32c.crc32c(IMAGES[0]), crc32c.crc32c(IMAGES[1])]
    assert index.labels.tolist() == [0, 1]
    assert np.array_equal(index.lengths, [len(IMAGES[0]), len(IMAGES[1])])
