"""Cluster profiles: found by name, overridden, and refused with the nearest right name."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from vitscale.config.cluster import ClusterProfile, load_profile, split_overrides
from vitscale.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "configs/cluster"


def test_local_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_profile("local") == ClusterProfile()


def test_a_file_of_the_name_is_read_and_overrides_win(tmp_path, monkeypatch):
    folder = tmp_path / "configs/cluster"
    folder.mkdir(parents=True)
    (folder / "big.toml").write_text('[cluster]\naddress = "auto"\nworkers = 64\n')
    monkeypatch.chdir(tmp_path)
    profile = load_profile("big", ["cluster.workers=8", "cluster.environment.NCCL_DEBUG=INFO"])
    assert (profile.address, profile.workers) == ("auto", 8)
    assert profile.environment == {"NCCL_DEBUG": "INFO"}


@pytest.mark.parametrize("path", sorted(SHIPPED.glob("*.toml")), ids=lambda path: path.stem)
def test_every_shipped_profile_loads(path):
    assert load_profile(str(path)).workers >= 1


def test_an_unknown_profile_names_the_nearest(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="Did you mean 'local'"):
        load_profile("locl")


def test_all_wrong_keys_are_listed_at_once_with_the_nearest_name():
    with pytest.raises(ConfigError) as caught:
        load_profile("local", ["cluster.wrkers=3", "cluster.max_failures=-1"])
    message = str(caught.value)
    assert "cluster profile has 2 problems" in message
    assert "cluster.wrkers: unknown key; did you mean 'workers'?" in message
    assert "cluster.max_failures" in message


@pytest.mark.parametrize("address", ["somewhere", "host:", "ray://host"])
def test_an_address_without_a_port_is_refused(address):
    with pytest.raises(ValidationError, match="HOST:PORT"):
        ClusterProfile(address=address)


def test_threads_follow_the_cores_of_a_worker():
    assert ClusterProfile(cpus_per_worker=4).threads == 4
    assert ClusterProfile(cpus_per_worker=0.5).threads == 1
    assert ClusterProfile(cpus_per_worker=8, omp_threads=2).threads == 2


def test_overrides_are_told_apart():
    given = ["train.batch=8", "cluster.workers=4"]
    assert split_overrides(given) == (["train.batch=8"], ["cluster.workers=4"])


def test_a_job_is_elastic_where_fewer_workers_will_do():
    assert not ClusterProfile(workers=8).is_elastic
    profile = ClusterProfile(workers=8, workers_min=2)
    assert (profile.is_elastic, profile.fewest) == (True, 2)
    with pytest.raises(ValidationError, match="workers_min 3 is above workers 2"):
        ClusterProfile(workers=2, workers_min=3)
