"""Manifests for KubeRay, held against the schema of its CRD and read by a YAML parser that is not ours."""

import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

from vitscale.config.cluster import load_profile
from vitscale.config.load import load_recipe
from vitscale.errors import ConfigError, ResourceError
from vitscale_launch.job import make_job
from vitscale_launch.kuberay import manifests
from vitscale_launch.submit import submit
from vitscale_launch.yaml import to_yaml

CRD = json.loads((Path(__file__).parent / "rayjob_crd.json").read_text())
SHIPPED = str(Path(__file__).parents[2] / "configs/cluster/kuberay.toml")
FULL = [
    "cluster.queue=team-a",
    "cluster.kuberay.secret=vitscale-secrets",
    'cluster.kuberay.tolerations=["gpu=yes:NoExecute", "spot:NoSchedule"]',
    'cluster.kuberay.node_selector=["cloud.example.com/pool=h100"]',
]


@pytest.fixture
def job(recipe_file):
    """Makes the job of a profile with overrides, on GPUs."""

    def make(*overrides, **recipe):
        words = [f"{key}={value}" for key, value in recipe.items()]
        config = ["train.batch=4096", "engine.device=auto", *words]
        return make_job(load_recipe(recipe_file, config), load_profile(SHIPPED, overrides))

    return make


def parts(job):
    order, ray_job = yaml.safe_load_all(manifests(job))
    return order, ray_job


@pytest.mark.parametrize("overrides", [[], FULL, ["cluster.workers=8", "cluster.workers_min=8"]])
def test_a_manifest_has_no_key_and_no_type_that_the_crd_does_not_know(job, overrides):
    _, ray_job = parts(job(*overrides))
    jsonschema.validate(ray_job, CRD["schema"])


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("spec", "backoffLimits"), 1),
        (("spec", "submissionMode"), 3),
        (("spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containerz"), []),
    ],
)
def test_the_kept_schema_finds_what_is_wrong(job, place, value):
    _, ray_job = parts(job())
    *tables, leaf = place
    table = ray_job
    for name in tables:
        table = table[name]
    table[leaf] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(ray_job, CRD["schema"])


def test_pods_and_gpus_follow_the_workers(job):
    _, ray_job = parts(job())
    spec = ray_job["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    each = int(container["resources"]["limits"]["nvidia.com/gpu"])
    assert (group["minReplicas"] * each, group["maxReplicas"] * each) == (32, 64)
    assert spec["enableInTreeAutoscaling"] is True
    (head,) = spec["headGroupSpec"]["template"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in head["resources"]["limits"]
    assert spec["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_a_job_of_a_fixed_size_has_no_autoscaler(job):
    _, ray_job = parts(job("cluster.workers=8", "cluster.workers_min=8"))
    spec = ray_job["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    assert [group[name] for name in ("replicas", "minReplicas", "maxReplicas")] == [1, 1, 1]
    assert "enableInTreeAutoscaling" not in spec


def test_secrets_taints_and_labels_are_given_by_reference(job):
    _, ray_job = parts(job(*FULL))
    pod = ray_job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["template"]["spec"]
    assert pod["containers"][0]["envFrom"] == [{"secretRef": {"name": "vitscale-secrets"}}]
    assert pod["nodeSelector"] == {"cloud.example.com/pool": "h100"}
    assert pod["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute"},
        {"key": "spot", "operator": "Exists", "effect": "NoSchedule"},
    ]
    assert ray_job["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "team-a"}


def test_a_pod_has_longer_to_end_than_the_commit_may_take(job):
    _, ray_job = parts(job("cluster.grace_s=1200"))
    spec = ray_job["spec"]["rayClusterSpec"]
    for template in (spec["headGroupSpec"], spec["workerGroupSpecs"][0]):
        assert template["template"]["spec"]["terminationGracePeriodSeconds"] > 1200


def test_the_order_on_the_cluster_is_the_job(job):
    made = job()
    order, _ = parts(made)
    read = json.loads(order["data"]["order.json"])
    assert read == made.order
    assert read["recipe"]["config"]["run"]["home"] == "/mnt/runs"
    assert read["profile"]["address"] == "auto"


def test_before_the_head_pod_ends_the_run_is_asked_to_stop_and_waited_for(job, tmp_path):
    made = job(f"cluster.storage={tmp_path}")
    made.folder.mkdir()
    _, ray_job = parts(made)
    head = ray_job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]
    (container,) = head["containers"]
    sleeping = [sys.executable, "-c", "import time; time.sleep(3)", "-m", "vitscale_launch.inside"]
    run = subprocess.Popen(sleeping)
    subprocess.run(container["lifecycle"]["preStop"]["exec"]["command"], check=True, timeout=60)
    assert (made.folder / "STOP").exists()
    assert run.poll() == 0


@pytest.mark.parametrize("name", ["Tiny", "tiny_run", "a" * 41])
def test_a_name_that_kubernetes_does_not_take_is_refused(job, name):
    with pytest.raises(ConfigError, match=r"run\.name"):
        manifests(job(**{"run.name": name}))


def test_a_job_that_starts_itself_again_cannot_refuse_its_own_commits(recipe):
    with pytest.raises(ConfigError, match="--resume"):
        make_job(recipe, load_profile("slurm", ["cluster.gpus_per_worker=0"]), "never")


@pytest.fixture
def kubectl(tmp_path, monkeypatch):
    """A stand-in that keeps what it is given and ends as it is told."""

    def put(code, said=""):
        tool = tmp_path / "bin" / "kubectl"
        tool.parent.mkdir()
        tool.write_text(
            f'#!/bin/bash\ncat > {tmp_path}/given\necho "$@" >> {tmp_path}/words\n'
            f"echo '{said}' >&2\nexit {code}\n"
        )
        tool.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")

    return put


def submit_to_kubernetes(recipe_file):
    recipe = load_recipe(recipe_file, ["train.batch=4096", "engine.device=auto"])
    return submit(recipe, load_profile(SHIPPED))


def test_kubectl_is_given_the_manifest(recipe_file, kubectl, tmp_path):
    kubectl(0)
    reply = submit_to_kubernetes(recipe_file)
    assert (reply["status"], reply["job"]) == ("submitted", "rayjob/tiny")
    kinds = [part["kind"] for part in yaml.safe_load_all((tmp_path / "given").read_text())]
    assert kinds == ["ConfigMap", "RayJob"]
    assert (tmp_path / "words").read_text() == "create -f -\n"


def test_what_kubectl_says_is_shown(recipe_file, kubectl):
    kubectl(1, 'rayjobs.ray.io "tiny" already exists')
    with pytest.raises(ResourceError, match=r"kubectl refuses: .*already exists") as caught:
        submit_to_kubernetes(recipe_file)
    assert caught.value.exit_code == 2


def test_without_kubectl_the_way_out_is_named(recipe_file, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ResourceError, match=r"kubectl is not installed here.*--dry-run"):
        submit_to_kubernetes(recipe_file)


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": [{"c": 1, "d": [2, 3]}, [4, [5]]], "e": {}, "f": []}},
        {"text": "x: y", "word": "no", "number": "12", "dash": "-c", "empty": "", "quote": '"'},
        {"lines": "first\n  second\nthird\n", "flag": True, "none": None, "float": 0.5},
        {"on": "off", "é": "日本", "nvidia.com/gpu": "8"},
    ],
)
def test_what_we_write_as_yaml_is_read_as_the_same(value):
    assert yaml.safe_load(to_yaml(value)) == value
