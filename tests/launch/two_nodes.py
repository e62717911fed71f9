"""A Ray cluster of several nodes on this machine: a head without CPUs, and nodes of one CPU that come and go."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

from vitscale_launch.cluster import _RAY_ENVIRONMENT


class Nodes:
    """The nodes of one cluster; worker nodes are numbered from 0."""

    def __init__(self, cluster: Any) -> None:
        self._cluster = cluster
        self.workers: list[Any] = []
        self.address: str = cluster.address

    def add(self) -> None:
        """One more node of one CPU."""
        self.workers.append(self._cluster.add_node(num_cpus=1, object_store_memory=128 << 20))

    def lose(self, node: Any) -> None:
        """A node dies without a word."""
        self.workers.remove(node)
        self._cluster.remove_node(node, allow_graceful=False)

    def drain(self, node: Any, deadline_s: int) -> None:
        """Tell Ray that a node will be taken away, as a cloud's notice does."""
        import ray
        from ray.core.generated import autoscaler_pb2

        reason = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")
        until = int((time.time() + deadline_s) * 1e3)
        client = ray._raylet.GcsClient(address=self.address)
        accepted, why = client.drain_node(node.node_id, reason, "a test", until)
        assert accepted, why

    def node_of(self, pid: int) -> Any:
        """The worker node on which a process runs."""
        import psutil

        parents = {parent.pid for parent in psutil.Process(pid).parents()}
        for node in self.workers:
            if parents & {p.process.pid for ps in node.all_processes.values() for p in ps}:
                return node
        raise LookupError(f"process {pid} runs on no node")


@contextmanager
def nodes_of_one_cpu(count: int, monkeypatch: Any) -> Generator[Nodes]:
    """A cluster with so many worker nodes."""
    for name, value in _RAY_ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_health_check_failure_threshold", "3")
    monkeypatch.setenv("RAY_health_check_period_ms", "1000")
    import ray
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": 128 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = Nodes(cluster)
        for _ in range(count):
            nodes.add()
        yield nodes
    finally:
        ray.shutdown()  # a test that failed may be connected still
        cluster.shutdown()


def end_all(ray_folder: str) -> None:
    """End the processes of the cluster that was started with this RAY_TMPDIR."""
    import psutil

    for process in psutil.process_iter(["pid"]):
        with suppress(psutil.Error):
            if process.environ().get("RAY_TMPDIR") == ray_folder:
                process.kill()
