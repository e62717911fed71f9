"""Runs independent pieces of work, such as the shards of a data set, as tasks of a Ray cluster.

The tools of `vitscale shards` take this in place of local processes. A task whose worker or machine is lost is run
again, which is safe since every piece writes its files aside and moves them into place.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

from vitscale.errors import ResourceError, VitscaleError
from vitscale_launch.cluster import prepare_environment

Piece = TypeVar("Piece")
Result = TypeVar("Result")
LOCAL = "local"
_AHEAD = 2
"""Tasks handed to the cluster per core: enough to keep all at work, few enough for memory."""
_TRIES_AGAIN = 3
_ANSWER_S = 10.0


class RayPieces:
    """`work(piece)` as one Ray task for each piece, in the order of completion.

    Args:
        address: of a running cluster, or `local` for one that is started here and ended with the process.
        cpus: cores, or the share of one, that Ray reserves for a task.
        gpus: GPUs, or the share of one, likewise.
    """

    def __init__(self, address: str, *, cpus: float = 1, gpus: float = 0) -> None:
        self._address = address
        self._needs: dict[str, Any] = {"num_cpus": cpus} | ({"num_gpus": gpus} if gpus else {})

    def __call__(
        self, work: Callable[[Piece], Result], pieces: Sequence[Piece]
    ) -> Iterator[tuple[int, Result]]:
        """(number of the piece, result).

        Raises:
            ResourceError: the cluster cannot be reached, or a task was lost time and again.
        """
        import ray

        self._connect()
        task: Any = ray.remote(**self._needs, max_retries=_TRIES_AGAIN)(work)
        ahead = max(1, int(ray.cluster_resources().get("CPU", 1))) * _AHEAD
        number_of: dict[Any, int] = {}
        following = 0
        try:
            while number_of or following < len(pieces):
                while following < len(pieces) and len(number_of) < ahead:
                    number_of[task.remote(pieces[following])] = following
                    following += 1
                (done,), _ = ray.wait(list(number_of))
                yield number_of.pop(done), _result_of(done)
        finally:
            for left in number_of:
                ray.cancel(left)

    def _connect(self) -> None:
        """Join the cluster, unless this process is in one already.

        Raises:
            ResourceError: nothing answers at the address.
        """
        import ray

        if ray.is_initialized():
            return
        try:
            if self._address in (LOCAL, "auto"):
                ray.init(address=self._address, include_dashboard=False, log_to_driver=False)
                return
            # Ray itself would try for minutes.
            host, _, port = self._address.removeprefix("ray://").rpartition(":")
            socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_S).close()
            ray.init(address=self._address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise ResourceError(
                f"no Ray cluster answers: {str(error).strip().splitlines()[0]}",
                where="--on",
                given=self._address,
                do="Start one with `ray start --head`, correct the address, or use --on local.",
            ) from error


def ray_pieces(address: str) -> RayPieces:
    """Tasks of the cluster at `address`.

    Raises:
        ResourceError: Ray is not installed.
    """
    prepare_environment()
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise ResourceError(
            "Ray is not installed",
            where="--on",
            given=address,
            do="pip install 'vitscale[cluster]'",
        ) from error
    return RayPieces(address)


def _result_of(done: Any) -> Any:
    """The result of a task; what the piece itself raised comes as it was."""
    import ray
    from ray.exceptions import RayError, RayTaskError

    try:
        return ray.get(done)
    except RayTaskError as error:
        cause: object = error.cause
        if isinstance(cause, VitscaleError):
            raise cause from error
        raise
    except RayError as error:
        raise ResourceError(
            f"a task was lost: {error}",
            do="Look into the cluster's logs, and run the command again.",
        ) from error
