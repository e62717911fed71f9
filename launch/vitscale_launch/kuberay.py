"""A job as manifests of Kubernetes: a ConfigMap with the order, and a RayJob that makes its own cluster for it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

from vitscale.config.cluster import ClusterProfile, Kuberay
from vitscale.errors import ConfigError
from vitscale_launch.job import Job
from vitscale_launch.yaml import to_yaml

_ORDER_FOLDER = "/etc/vitscale"
# Names of Ray clusters made from it get a suffix, and those of pods one more.
_NAME = re.compile(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?")
_HEAD_MEMORY_GB = 16
_SPARE_S = 60
_IDLE_S = 600
_ORDER_BYTES = 900_000  # a ConfigMap holds 1 MiB


def manifests(job: Job) -> str:
    """YAML of all that Kubernetes must have for the job.

    Raises:
        ConfigError: the run's name is none that Kubernetes takes, or the recipe is too long for a ConfigMap.
    """
    name, order = job.recipe.config.run.name, json.dumps(job.order)
    if not _NAME.fullmatch(name):
        raise ConfigError(
            "Kubernetes takes names of lower-case letters, digits and dashes, 40 at most",
            where="run.name",
            given=name,
            do="Choose such a name.",
        )
    if len(order) > _ORDER_BYTES:
        raise ConfigError(
            f"the resolved recipe has {len(order):,} bytes and a ConfigMap holds {_ORDER_BYTES:,}",
            where=name,
            do="Shorten its lists of files.",
        )
    kuberay = settings(job.profile)
    meta = {"name": name, "namespace": kuberay.namespace}
    order_map = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": meta,
        "data": {"order.json": order},
    }
    return to_yaml(order_map) + "---\n" + to_yaml(_ray_job(job, kuberay, meta))


def settings(profile: ClusterProfile) -> Kuberay:
    """The profile's table for Kubernetes."""
    assert profile.kuberay is not None  # the profile was checked
    return profile.kuberay


def _ray_job(job: Job, kuberay: Kuberay, meta: dict[str, Any]) -> dict[str, Any]:
    profile = job.profile
    queue = {"labels": {"kueue.x-k8s.io/queue-name": profile.queue}} if profile.queue else {}
    limit = profile.time_limit
    return {
        "apiVersion": "ray.io/v1",
        "kind": "RayJob",
        "metadata": meta | queue,
        "spec": {
            "entrypoint": f"exec python -m vitscale_launch.inside {_ORDER_FOLDER}/order.json",
            # The operator itself talks to the Jobs API, so there is no pod more.
            "submissionMode": "HTTPMode",
            # Each try makes a new cluster, and the run goes on from its last commit.
            "backoffLimit": kuberay.retries,
            **({"activeDeadlineSeconds": int(limit.seconds)} if limit else {}),
            "shutdownAfterJobFinishes": True,
            "ttlSecondsAfterFinished": _IDLE_S,
            "rayClusterSpec": {
                "authOptions": {"mode": "token"},
                **({"enableInTreeAutoscaling": True} if profile.is_elastic else {}),
                "headGroupSpec": {
                    # No CPUs for Ray: the head runs the job's own process and no rank.
                    "rayStartParams": {"num-cpus": "0", "num-gpus": "0"},
                    "template": {"spec": _pod(job, kuberay, is_head=True)},
                },
                "workerGroupSpecs": [
                    {
                        "groupName": "ranks",
                        "replicas": profile.nodes(profile.fewest),
                        "minReplicas": profile.nodes(profile.fewest),
                        "maxReplicas": profile.nodes(profile.workers),
                        "rayStartParams": {},
                        "template": {"spec": _pod(job, kuberay, is_head=False)},
                    }
                ],
            },
        },
    }


def _pod(job: Job, kuberay: Kuberay, *, is_head: bool) -> dict[str, Any]:
    profile = job.profile
    volumes: list[dict[str, Any]] = [
        {"name": "runs", "persistentVolumeClaim": {"claimName": kuberay.claim}},
        {
            "name": "shared-memory",
            "emptyDir": {"medium": "Memory", "sizeLimit": f"{kuberay.shared_memory_gb}Gi"},
        },
    ]
    mounts: list[dict[str, Any]] = [
        {"name": "runs", "mountPath": profile.storage},
        {"name": "shared-memory", "mountPath": "/dev/shm"},
    ]
    if is_head:
        volumes.append({"name": "order", "configMap": {"name": job.recipe.config.run.name}})
        mounts.append({"name": "order", "mountPath": _ORDER_FOLDER, "readOnly": True})
    stop = _stop_of_head(job) if is_head else _stop_of_worker(profile)
    container = {
        "name": "ray",
        "image": kuberay.image,
        "resources": _resources(profile, kuberay, is_head=is_head),
        **({"envFrom": [{"secretRef": {"name": kuberay.secret}}]} if kuberay.secret else {}),
        "lifecycle": {"preStop": {"exec": {"command": ["bash", "-c", stop]}}},
        "volumeMounts": mounts,
    }
    placed = {} if is_head else _placed(kuberay)
    return {
        # Longer than the commit that `preStop` waits for; after that Kubernetes kills.
        "terminationGracePeriodSeconds": profile.grace_s + _SPARE_S,
        "securityContext": {"runAsNonRoot": True},
        "automountServiceAccountToken": is_head and profile.is_elastic,
        **placed,
        "containers": [container],
        "volumes": volumes,
    }


def _resources(profile: ClusterProfile, kuberay: Kuberay, *, is_head: bool) -> dict[str, Any]:
    ranks = 0 if is_head else profile.ranks_per_node
    memory_gb = _HEAD_MEMORY_GB if is_head else kuberay.memory_gb * ranks
    amounts: dict[str, str] = {
        "cpu": "4" if is_head else f"{profile.cpus_per_worker * ranks:g}",
        "memory": f"{memory_gb + kuberay.shared_memory_gb}Gi",
    }
    if profile.gpus_per_worker and ranks:
        amounts["nvidia.com/gpu"] = str(ranks)
    return {"requests": amounts, "limits": amounts}


def _placed(kuberay: Kuberay) -> dict[str, Any]:
    labels = dict(text.split("=") for text in kuberay.node_selector)
    selector = {"nodeSelector": labels} if labels else {}
    taints = _tolerations(kuberay.tolerations)
    return selector | ({"tolerations": taints} if taints else {})


def _tolerations(texts: Sequence[str]) -> list[dict[str, str]]:
    found: list[dict[str, str]] = []
    for text in texts:
        name, _, effect = text.rpartition(":")
        key, equals, value = name.partition("=")
        operator = {"operator": "Equal", "value": value} if equals else {"operator": "Exists"}
        found.append({"key": key, **operator, "effect": effect})
    return found


def _stop_of_head(job: Job) -> str:
    """Without its head the job is over: have it commit, and wait until its process has ended."""
    stop = shlex.quote(str(job.folder / "STOP"))
    return f"touch {stop}; {_wait_for('vitscale_launch[.]inside')}"


def _stop_of_worker(profile: ClusterProfile) -> str:
    """Tell Ray that this node is taken away, so that its ranks commit and leave; wait until they have."""
    drain = (
        "ray drain-node --reason DRAIN_NODE_REASON_PREEMPTION --reason-message 'the pod ends' "
        f"--deadline-remaining-seconds {profile.grace_s}"
    )
    return f"{drain}; {_wait_for('ray::RayTrain[W]orker')}"


def _wait_for(pattern: str) -> str:
    """Until no such process is left; the pattern must not match the text of the command itself."""
    return f"while pgrep -f '{pattern}' > /dev/null; do sleep 1; done"
