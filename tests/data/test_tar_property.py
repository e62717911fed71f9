"""Tars with any names, and tars that were damaged anywhere: the right answer or a DataError, as others read them."""

from __future__ import annotations

import contextlib
import io
import json
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
import webdataset
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webdataset.tariterators import base_plus_ext

from vitscale.config.dataset import MANIFEST, Manifest, ShardRecord, read_manifest
from vitscale.data.index import read_index, write_index
from vitscale.data.tar_headers import TarReader, members
from vitscale.data.tar_index import index_tar
from vitscale.data.tar_samples import split_name
from vitscale.errors import DataError

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")  # webdataset leaves tars open
FEW = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
FORMATS = [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
letters = st.characters(exclude_characters="/.\0\n\r", exclude_categories=["Cs"])
parts = st.text(letters, min_size=1, max_size=20)
keys = st.lists(parts, min_size=1, max_size=8).map("/".join).filter(lambda k: not k.startswith("_"))
contents = st.binary(max_size=1500)
pax = st.dictionaries(st.sampled_from(["comment", "SCHILY.xattr.a", "mtime"]), st.just("12"))


@st.composite
def tars(draw) -> tuple[bytes, dict[str, bytes]]:
    """Bytes of a tar by Python's writer, and its images by key."""
    format = draw(st.sampled_from(FORMATS))
    images = draw(st.dictionaries(keys, contents, min_size=1, max_size=5))
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=format) as tar:
        written = {}
        for number, (key, image) in enumerate(images.items()):
            try:
                _add(tar, f"{key}.png", image, draw(pax) if format == tarfile.PAX_FORMAT else {})
                _add(tar, f"{key}.cls", b"%d" % number, {})
            except ValueError:  # USTAR cannot hold the name
                continue
            written[key] = image
            if draw(st.booleans()):
                folder = tarfile.TarInfo(f"folder{number}")
                folder.type = tarfile.DIRTYPE
                tar.addfile(folder)
    return buffer.getvalue(), written


def _add(tar: tarfile.TarFile, name: str, data: bytes, records: dict[str, str]) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.pax_headers = len(data), records
    tar.addfile(member, io.BytesIO(data))


@FEW
@given(tars())
def test_any_tar_of_python_is_indexed_right(tmp_path, made):
    data, images = made
    path = tmp_path / "a.tar"
    path.write_bytes(data)
    if not images:
        return
    index = index_tar(path)
    found = [data[o : o + n] for o, n in zip(index.offsets, index.lengths, strict=True)]
    assert found == list(images.values())
    assert index.tar_bytes == len(data)
    theirs = list(webdataset.WebDataset(str(path), shardshuffle=False, empty_check=False))
    assert [(s["__key__"], s["png"]) for s in theirs] == list(images.items())
    assert [int(s["cls"]) for s in theirs] == index.labels.tolist()


@FEW
@given(tars(), st.data())
def test_a_cut_tar_is_refused_or_lacks_only_padding(tmp_path, made, data):
    whole, _ = made
    length = data.draw(st.integers(0, len(whole) - 1))
    path = tmp_path / "a.tar"
    path.write_bytes(whole[:length])
    try:
        index_tar(path)
    except DataError:
        return
    assert length >= len(whole.rstrip(b"\0")) + tarfile.BLOCKSIZE


@FEW
@given(tars(), st.data())
def test_flipped_bits_give_an_error_or_an_index_that_points_into_the_tar(tmp_path, made, data):
    whole = bytearray(made[0])
    for _ in range(data.draw(st.integers(1, 3))):
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        whole[bit // 8] ^= 1 << bit % 8
    path = tmp_path / "a.tar"
    path.write_bytes(whole)
    try:
        index = index_tar(path)
    except DataError:
        return
    write_index(index, tmp_path / "a.vsidx")
    assert len(read_index(tmp_path / "a.vsidx")) == len(index)


@FEW
@given(st.binary(max_size=3000))
def test_any_bytes_are_refused_or_walked_to_the_end(data):
    # a checksum that fits leads deeper than random bytes would
    block = bytearray(data[:512].ljust(512, b"\0"))
    block[148:156] = b"%06o\0 " % (sum(block[:148]) + 8 * 32 + sum(block[156:]))
    tar = TarReader(io.BytesIO(bytes(block) + data[512:]), "x", hashing=True)
    with contextlib.suppress(DataError):
        assert all(member.data + member.size <= tar.at + 512 for member in members(tar))


@given(st.text(st.sampled_from("ab./_\nä"), max_size=12))
def test_names_are_split_as_webdataset_splits_them(name):
    assert split_name(name) == base_plus_ext(name)


@pytest.mark.skipif(shutil.which("bsdtar") is None, reason="needs bsdtar")
@pytest.mark.parametrize("format", ["ustar", "pax", "gnutar"])
def test_tars_of_bsdtar_are_read(tmp_path, format):
    for name in ("a.png", "a.cls", "ü" * 60 + ".png"):
        (tmp_path / name).write_bytes(b"1")
    tar = str(tmp_path / "x.tar")
    command = ["bsdtar", "--format", format, "-C", str(tmp_path), "-cf", tar, "a.png", "a.cls"]
    subprocess.run(command, check=True)
    assert index_tar(Path(tar)).labels.tolist() == [1]


@FEW
@given(st.binary(max_size=400), st.booleans())
def test_any_bytes_as_an_index_are_refused(tmp_path, data, magic):
    path = tmp_path / "a.vsidx"
    path.write_bytes(b"VSIDX\r\n\0\x02\0\0\0\x40\0\0\0" + data if magic else data)
    with pytest.raises(DataError):
        read_index(path)


def manifest_text() -> str:
    record = ShardRecord("a.tar", 3, 10240, "0" * 32, "0" * 16, 2, 1)
    return Manifest(("cat", "ä"), (record,)).to_json()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
PLACES = ["format", "version", "fingerprint", "classes", "shards"]
FIELDS = ["name", "samples", "bytes", "xxh3", "labels", "most_labels", "unlabelled", "more"]


@FEW
@given(st.sampled_from(PLACES + FIELDS), json_values)
def test_a_manifest_with_any_other_value_is_refused(tmp_path, place, value):
    content = json.loads(manifest_text())
    record = content if place in PLACES else content["shards"][0]
    if place in record and record[place] == value and type(record[place]) is type(value):
        return
    record[place] = value
    (tmp_path / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(DataError):
        read_manifest(tmp_path)


@FEW
@given(st.data())
def test_a_cut_or_overwritten_manifest_is_refused_or_the_same(tmp_path, data):
    text = manifest_text().encode()
    at = data.draw(st.integers(0, len(text) - 1))
    garbage = data.draw(st.binary(max_size=4))
    (tmp_path / MANIFEST).write_bytes(text[:at] + garbage + text[at + len(garbage) :])
    whole = Manifest(("cat", "ä"), (ShardRecord("a.tar", 3, 10240, "0" * 32, "0" * 16, 2, 1),))
    try:
        assert read_manifest(tmp_path).shards == whole.shards
    except DataError:
        return


def test_deep_nesting_is_refused(tmp_path):
    (tmp_path / MANIFEST).write_text("[" * 100_000)
    with pytest.raises(DataError):
        read_manifest(tmp_path)
