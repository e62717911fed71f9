"""Cluster profiles: found by name, overridden, and refused with the nearest right name."""

import json
import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from vitscale.config.cluster import ClusterProfile, Kuberay, load_profile, split_overrides
from vitscale.errors import ConfigError

SHIPPED = Path(__file__).parents[2] / "configs/cluster"


def test_local_needs_no_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_profile("local") == ClusterProfile()


def test_a_file_of_the_name_is_read_and_overrides_win(tmp_path, monkeypatch):
    folder = tmp_path / "configs/cluster"
    folder.mkdir(parents=True)
    (folder / "big.toml").write_text('[cluster]\nkind = "ray"\naddress = "auto"\nworkers = 64\n')
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
        ClusterProfile(kind="ray", address=address)


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


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"queue": "gpu"}, 'queue has no effect with kind = "local"'),
        ({"address": "auto"}, 'address has no effect with kind = "local"'),
        (
            {"accelerator": "H100", "gpus_per_worker": 1},
            'accelerator has no effect with kind = "local"',
        ),
        ({"kind": "ray", "address": "auto", "time_limit": "1 h"}, "time_limit has no effect"),
        (
            {"kind": "ray", "address": "auto", "storage": "/x"},
            "where the command joins the cluster",
        ),
        ({"kind": "ray", "address": "http://h:8265", "accelerator": "H100"}, "without GPUs"),
        ({"kind": "ray", "address": "http://h:8265", "storage": "s3://b"}, "by a rename"),
        ({"kind": "ray"}, "address None is neither"),
        ({"kind": "kuberay"}, "needs storage, and kuberay.image"),
        ({"kind": "slurm", "workers": 12, "workers_per_node": 8}, "12 is no multiple of"),
        ({"kind": "slurm", "workers_min": 1}, "workers_min has no effect"),
        ({"kind": "slurm", "time_limit": "3 epochs"}, "3 epochs is no time"),
        (
            {"kind": "slurm", "slurm": {"launcher": "torchrun"}, "placement": "pack"},
            "placement has no",
        ),
        ({"kind": "slurm", "kuberay": {"image": "i", "claim": "c"}}, "kuberay has no effect"),
    ],
)
def test_a_setting_without_effect_or_sense_is_refused(settings, complaint):
    with pytest.raises(ValidationError, match=re.escape(complaint)):
        ClusterProfile.model_validate_json(json.dumps(settings))


@pytest.mark.parametrize("taint", ["gpu", "gpu:Never", "a b:NoSchedule"])
def test_a_taint_that_kubernetes_does_not_know_is_refused(taint):
    with pytest.raises(ValidationError, match="KEY:EFFECT"):
        Kuberay(image="i", claim="c", tolerations=[taint])


def test_a_label_needs_a_value():
    with pytest.raises(ValidationError, match="KEY=VALUE"):
        Kuberay(image="i", claim="c", node_selector=["pool"])


def test_a_job_on_the_cluster_joins_it_with_what_concerns_the_ranks():
    profile = load_profile(str(SHIPPED / "kuberay.toml"))
    inside = profile.inside()
    assert (inside.kind, inside.address, inside.is_remote) == ("ray", "auto", False)
    assert (inside.workers, inside.fewest, inside.accelerator) == (64, 32, "H100")
    assert (inside.storage, inside.kuberay) == (None, None)


def test_nodes_follow_the_ranks_of_a_node():
    profile = load_profile(str(SHIPPED / "slurm.toml"))
    assert (profile.nodes(profile.workers), profile.ranks_per_node) == (8, 8)
    one = load_profile(str(SHIPPED / "slurm.toml"), ["cluster.workers=1"])
    assert (one.nodes(1), one.ranks_per_node) == (1, 1)
