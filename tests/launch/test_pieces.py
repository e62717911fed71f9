"""Pieces of work run as Ray tasks give what local processes give."""

from __future__ import annotations

import pytest

from tests.data.corpora import damage_image, split_of
from vitscale.data.packing_plan import Packing
from vitscale.data.shards import open_shards
from vitscale.data.tar_index import index_folder
from vitscale.data.verify import verify
from vitscale.data.write import pack_split
from vitscale.errors import DataError, ResourceError
from vitscale_launch.pieces import ray_pieces

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
SMALL = Packing(shard_samples=10)


@pytest.fixture(scope="module")
def cluster():
    """Two cores, of this machine."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray_pieces("local")
    ray.shutdown()


def bytes_below(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_shards_are_packed_indexed_and_verified_alike(tmp_path, cluster):
    pack_split(split_of(40), tmp_path / "ray", SMALL, pieces=cluster)
    packed = pack_split(split_of(40), tmp_path / "here", SMALL)
    assert bytes_below(tmp_path / "ray") == bytes_below(tmp_path / "here")
    for sidecar in (tmp_path / "ray").glob("*.vsidx"):
        sidecar.unlink()
    assert index_folder(tmp_path / "ray", pieces=cluster) == packed.manifest
    damage_image(open_shards(tmp_path / "ray"), 5)
    problems = verify(tmp_path / "ray", pieces=cluster)
    assert len(problems) == 2
    assert problems == verify(tmp_path / "ray")


def _fail(piece: int) -> int:
    if piece == 3:
        raise DataError("piece 3 is bad", where="here")
    return piece


def test_the_error_of_a_piece_arrives_as_it_was(cluster):
    with pytest.raises(DataError, match="here: piece 3 is bad"):
        list(cluster(_fail, range(6)))
    assert sorted(cluster(_fail, range(3))) == [(0, 0), (1, 1), (2, 2)]


def test_a_cluster_that_is_not_there_is_a_clear_error():
    import ray

    ray.shutdown()
    with pytest.raises(ResourceError, match=r"--on.*no Ray cluster answers"):
        list(ray_pieces("127.0.0.1:1")(_fail, [1]))
