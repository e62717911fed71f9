"""A data set in an S3 bucket, through s3fs, against a server that speaks S3."""

from __future__ import annotations

import os

import numpy as np
import pytest

from tests.data.cached import cache_in, quick
from tests.data.corpora import packed
from vitscale.data.shards import open_shards
from vitscale.data.stores.choose import open_store
from vitscale.data.stores.manifest import facts_at
from vitscale.data.stores.store import NotThere
from vitscale.errors import DataError

moto_server = pytest.importorskip("moto.server", reason="needs moto and s3fs, of the dev extra")
pytest.importorskip("s3fs", reason="needs moto and s3fs, of the dev extra")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")


@pytest.fixture
def bucket(tmp_path, monkeypatch):
    """A bucket with a data set under `train`; its local twin."""
    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    twin = packed(tmp_path / "far", 40, shard_samples=8)
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="corpus")
    for path in (tmp_path / "far").iterdir():
        client.put_object(Bucket="corpus", Key=f"train/{path.name}", Body=path.read_bytes())
    yield twin
    client.close()
    server.stop()


def test_a_data_set_in_a_bucket_reads_as_the_folder_does(bucket, tmp_path):
    source = "s3://corpus/train"
    assert facts_at(source) == bucket.facts
    shards = open_shards(source, cache=cache_in(tmp_path / "c", 1 << 20))
    places = shards.places(np.arange(40))
    for slot in range(40):
        found = os.pread(
            places.files.handles[slot],
            int(places.files.lengths[slot]),
            int(places.files.offsets[slot]),
        )
        assert found == bucket.read(slot)
    assert (shards.labels() == bucket.labels()).all()


def test_ranges_sizes_and_names_are_those_of_the_objects(bucket, tmp_path):
    store = open_store("s3://corpus/train", patience=quick())
    data = (tmp_path / "far" / "shard-000000.tar").read_bytes()
    assert store.size("shard-000000.tar") == len(data)
    assert store.read("shard-000000.tar", 1000, 3000) == data[1000:3000]
    assert store.read("shard-000000.tar", 1000) == data[1000:]
    assert store.names() == sorted(path.name for path in (tmp_path / "far").iterdir())


def test_what_is_not_there_is_told_from_what_is_refused(bucket, tmp_path, monkeypatch):
    store = open_store("s3://corpus/train", patience=quick())
    with pytest.raises(NotThere, match=r"s3://corpus/train/none\.tar"):
        store.read("none.tar")
    with pytest.raises(NotThere):
        open_store("s3://no-such-bucket/train", patience=quick()).read("manifest.json")
    size = store.size("manifest.json")
    assert size is not None
    with pytest.raises(DataError, match="refuses"):
        store.read("manifest.json", size + 10, size + 20)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    with pytest.raises(DataError, match=r"refuses.*credentials"):
        open_store("s3://corpus/train", patience=quick()).read("manifest.json")
