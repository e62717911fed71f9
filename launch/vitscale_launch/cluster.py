"""A connection to Ray: a small cluster inside this process, or one that is already there."""

from __future__ import annotations

import logging
import math
import os
import socket
import stat
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from vitscale.config.cluster import ClusterProfile
from vitscale.errors import ResourceError

_OBJECT_STORE_BYTES = 128 << 20  # the job passes a recipe and a reply, no tensors
# A dead worker is noticed at the next health check, and its peers get a moment to close their sockets. Metrics
# and tune-ups that a single job has no use for would each start a process.
_RAY_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",
    "TORCH_PROCESS_GROUP_SHUTDOWN_TIMEOUT_S": "5",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "2",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_TRAIN_ENABLE_STATE_TRACKING": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_WARN_BLOCKING_GET_INSIDE_ASYNC": "0",
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_COLOR_PREFIX": "0",  # the log of a job is read by programs, too
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Its exporter lives on after ray.shutdown, and after several clusters in one process it aborted that (Ray 2.60). So
    # a cluster inside this process exports nothing; one that `ray start` began keeps its metrics, and our gauges.
    "RAY_enable_metrics_collection": "0",
}
_KIND_OF_GPU = "accelerator_type:"
_LOCAL_ENVIRONMENT = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0"}
# Ray plans with a lost node for a while, waits this long for it, and only then takes fewer workers.
_ELASTIC_ENVIRONMENT = {"RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "20"}


def prepare_environment() -> None:
    """Set what Ray reads when it is first imported; what the user has set stays."""
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)


@contextmanager
def _environment_of(profile: ClusterProfile) -> Generator[None]:
    """What Ray reads at the start of a job, for this kind of cluster only; what the user has set stays."""
    more = _LOCAL_ENVIRONMENT if profile.is_local else {}
    more = more | (_ELASTIC_ENVIRONMENT if profile.is_elastic else {})
    ours = [name for name in more if name not in os.environ]
    os.environ.update({name: more[name] for name in ours})
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


@contextmanager
def connected(profile: ClusterProfile) -> Generator[dict[str, float]]:
    """Ray, connected and large enough for the profile's workers; gives its resources, and disconnects at the end.

    Raises:
        ResourceError: nothing answers at the address, or the cluster lacks CPUs or GPUs.
    """
    prepare_environment()
    # torch comes with it. Loaded beside the threads of a connected Ray, it at times ended the process (Ray 2.60).
    import ray.train.torch

    with _environment_of(profile):
        if profile.is_local:
            _start_here(ray, profile)
        else:
            _connect(ray, profile)
        try:
            resources: dict[str, float] = {**ray.cluster_resources()}
            _insist_on_room(resources, profile)
            yield resources
        finally:
            ray.shutdown()


def _start_here(ray: Any, profile: ClusterProfile) -> None:
    # Token authentication stays as Ray has it, which is on for a cluster it starts itself.
    ray.init(
        address="local",
        num_cpus=math.ceil(profile.workers * profile.cpus_per_worker),
        include_dashboard=False,
        object_store_memory=_OBJECT_STORE_BYTES,
        logging_level=logging.ERROR,
        _temp_dir=str(_private_folder()),
    )


def _connect(ray: Any, profile: ClusterProfile) -> None:
    if profile.address != "auto":
        insist_on_listener(profile)
    try:
        ray.init(address=profile.address, logging_level=logging.ERROR)
    except (ConnectionError, TimeoutError, RuntimeError, ValueError) as error:
        raise no_answer(profile, str(error).strip().splitlines()[0]) from error


def insist_on_listener(profile: ClusterProfile) -> None:
    """Pass where somebody listens at the address of a cluster; Ray itself would try for minutes.

    Raises:
        ResourceError: nobody does.
    """
    address = profile.address or ""
    url = urlsplit(address if "://" in address else f"ray://{address}")
    try:
        port = url.port or (443 if url.scheme == "https" else 80)
        socket.create_connection((url.hostname or "", port), timeout=profile.connect_s).close()
    except (OSError, ValueError) as error:
        raise no_answer(profile, str(error)) from error


def no_answer(profile: ClusterProfile, reason: str) -> ResourceError:
    """The error of an address at which there is no cluster to be had."""
    return ResourceError(
        f"no Ray cluster answers: {reason}",
        where="cluster.address",
        given=profile.address,
        do='Start one with `ray start --head`, correct the address, or use "local".',
    )


def _insist_on_room(resources: Mapping[str, float], profile: ClusterProfile) -> None:
    wanted = {
        "CPU": profile.fewest * profile.cpus_per_worker,
        "GPU": float(profile.fewest * profile.gpus_per_worker),
    }
    for name, amount in wanted.items():
        if resources.get(name, 0.0) < amount:
            raise ResourceError(
                f"the Ray cluster has {resources.get(name, 0):g} {name}s and the job needs {amount:g}",
                where=f"cluster.{'workers_min' if profile.is_elastic else 'workers'}",
                given=profile.fewest,
                do=f"Use fewer workers, or lower cluster.{name.lower()}s_per_worker.",
            )
    # Ray marks each node that has GPUs with a small resource that names their kind.
    kinds = {name.partition(":")[2] for name in resources if name.startswith(_KIND_OF_GPU)}
    if profile.accelerator is not None and profile.accelerator not in kinds:
        raise ResourceError(
            f"the Ray cluster has no {profile.accelerator}",
            where="cluster.accelerator",
            do=f"It has: {', '.join(sorted(kinds)) or 'no GPUs'}.",
        )


def _private_folder() -> Path:
    """Ray's files of this user; under /tmp itself, since its socket paths must stay short.

    Raises:
        ResourceError: somebody else owns the folder.
    """
    path = Path("/tmp") / f"vitscale-ray-{os.getuid()}"
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.getuid():
        raise ResourceError(
            "the folder for Ray's sockets belongs to somebody else",
            where=str(path),
            do="Ask its owner to remove it.",
        )
    return path
