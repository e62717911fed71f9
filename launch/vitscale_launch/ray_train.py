"""A job on Ray Train: Ray places the ranks and starts them again when one dies; vitscale decides the rest.

Ray's own checkpoints and `ray.train.report` are not used: a commit in the run folder is what counts.
"""

from __future__ import annotations

import importlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable
from typing import Any

from vitscale.attempts import attempts_of, note_end, restarts_of
from vitscale.errors import STOPPED_EXIT_CODE
from vitscale.outcome import last_word, reply
from vitscale_launch.elastic import scaling_policy
from vitscale_launch.gauges import gauges_of
from vitscale_launch.job import Job
from vitscale_launch.preemption import go_on_without, job_id, notice_of_leaving
from vitscale_launch.stopping import StopSignals

WORKER = "vitscale.train.worker:run"
_LOOK_S = 0.2
_FATAL_GRACE_S = 30.0
_END_S = 30.0


def run_on_ray(job: Job, signals: StopSignals, worker: str = WORKER) -> dict[str, Any]:
    """Run the job on the connected Ray and return the reply of rank 0.

    Args:
        job: what to run.
        signals: stop requests of this process.
        worker: the function each rank calls with the request, as "module:name".
    """
    started = time.time()
    fit = _Fit(job, worker)
    fit.start()
    try:
        while fit.is_alive():
            fit.join(_LOOK_S)
            signals.keep_asking()
            if signals.count > 1:
                return _left_at_once(job)
            word = last_word(job.folder, started, job.submission)
            if word is not None and time.time() - word["time"] > _FATAL_GRACE_S:
                return _failed(job, word["exit_code"], word["message"])
        return fit.reply()
    finally:
        fit.end()


class _Fit(threading.Thread):
    """`TorchTrainer.fit` beside the main thread, so that the signals stay ours and not Ray's."""

    def __init__(self, job: Job, worker: str) -> None:
        super().__init__(name="ray-train", daemon=True)
        self._job, self._worker = job, worker
        self._controllers: list[Any] = []
        self._outcome: Any = None
        self._error: Exception | None = None

    def run(self) -> None:
        try:
            trainer = _trainer(self._job, self._worker, self._controllers.append)
            self._outcome = trainer.fit().return_value
        except Exception as error:  # handed to the main thread by `reply`
            self._error = error

    def end(self) -> None:
        """End the wait, and with Ray's controller its ranks.

        A thread that waits while Ray is shut down at times takes the whole process with it (Ray 2.60).
        """
        import ray

        deadline = time.monotonic() + _END_S
        while self.is_alive() and time.monotonic() < deadline:
            for controller in self._controllers:
                ray.kill(controller)
            self.join(_LOOK_S)

    def reply(self) -> dict[str, Any]:
        """What rank 0 returned, or a failure once the restarts are used up."""
        if self._error is None:
            return self._outcome
        from ray.exceptions import RayActorError
        from ray.train import TrainingFailedError

        if isinstance(self._error, RayActorError):
            message = "Ray's controller of the job died; run the same command again: it goes on from the last commit"
            return _failed(self._job, 1, message)
        if not isinstance(self._error, TrainingFailedError):
            raise self._error
        tries = self._job.profile.max_failures + 1
        return _failed(self._job, 1, f"all {tries} attempts failed; the last one: {self._error}")


def _trainer(job: Job, worker: str, note_controller: Callable[[Any], None]) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig
    from ray.train.v2.api.config import LoggingConfig

    profile = job.profile
    # Ray's metrics are off on a cluster inside this process, see cluster.py.
    gauges = None if profile.is_local else job.recipe.config.run.name
    config = {"request": job.request, "worker": worker, "worlds": job.worlds, "gauges": gauges}
    storage = job.folder / "ray"
    shutil.rmtree(storage, ignore_errors=True)
    storage.mkdir(parents=True)
    resources = {"CPU": profile.cpus_per_worker, "GPU": float(profile.gpus_per_worker)}
    return _trainer_class(job, note_controller)(
        work,
        train_loop_config=config,
        torch_config=TorchConfig(
            backend="cpu:gloo,cuda:nccl" if profile.gpus_per_worker else "gloo",
            timeout_s=job.recipe.config.engine.timeout_s,
        ),
        scaling_config=ScalingConfig(
            num_workers=(profile.fewest, profile.workers)
            if profile.is_elastic
            else profile.workers,
            elastic_resize_monitor_interval_s=0.0,  # our policy looks after each commit
            use_gpu=bool(profile.gpus_per_worker),
            resources_per_worker=resources,
            placement_strategy=profile.placement.upper(),
            accelerator_type=profile.accelerator,
        ),
        run_config=RunConfig(
            name="train",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=profile.max_failures),
            worker_runtime_env={"env_vars": worker_environment(job)},
            logging_config=LoggingConfig(log_level="ERROR"),
        ),
    )


def _trainer_class(job: Job, note_controller: Callable[[Any], None]) -> Any:
    """TorchTrainer with our scaling policy, whose controller is known; on a local cluster without its cleaner.

    The cleaner, a process that outlives a trainer and frees its resources, asks the dashboard once a second, which a
    local cluster does not have, and says so each time. Should Ray rename that method, only the noise comes back; should
    it rename the other, tests/launch/test_elastic.py and test_ray.py say so.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.constants import get_env_vars_to_propagate
    from ray.train.v2._internal.execution.controller import TrainController

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            callbacks = super()._create_default_callbacks()
            if not job.profile.is_local:
                return callbacks
            return [c for c in callbacks if type(c).__name__ != "PlacementGroupCleanerCallback"]

        def _initialize_and_run_controller(self, **settings: Any) -> Any:
            if job.profile.is_elastic:
                settings["scaling_policy"] = scaling_policy(job, self.scaling_config)
            here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
            environment = {"env_vars": get_env_vars_to_propagate()}
            actor: Any = ray.remote(num_cpus=0, label_selector=here, runtime_env=environment)
            controller = actor(TrainController).remote(**settings)
            note_controller(controller)
            ray.get(controller.run.remote())
            return ray.get(controller.get_result.remote())

    return Trainer


def worker_environment(job: Job) -> dict[str, str]:
    """Thread counts, so that ranks of one node do not fight for its cores, and the profile's own."""
    threads = str(job.profile.threads)
    return {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads, **job.profile.environment}


def work(config: dict[str, Any]) -> dict[str, Any]:
    """What each rank runs, in a thread of a Ray worker process."""
    # Ray Train sets torchrun's names but this one.
    os.environ["GROUP_RANK"] = os.environ.get("NODE_RANK", "0")
    # Ray shows what reaches the root logger too, so every line would come twice.
    logging.getLogger("vitscale").propagate = False
    module, _, name = config["worker"].partition(":")
    request = config["request"] | {"job": job_id()}
    run = getattr(importlib.import_module(module), name)
    answer = run(request, notice_of_leaving(), config["gauges"] and gauges_of(config["gauges"]))
    go_on_without(answer, config["worlds"])
    return answer


def _left_at_once(job: Job) -> dict[str, Any]:
    message = "left at the second signal without waiting; the last commit counts"
    return _reply(job, "stopped", STOPPED_EXIT_CODE, message)


def _failed(job: Job, exit_code: int, message: str) -> dict[str, Any]:
    return _reply(job, "failed", exit_code, message)


def _reply(job: Job, status: str, exit_code: int, message: str) -> dict[str, Any]:
    restarts = restarts_of(job.folder, job.submission)
    own = attempts_of(job.folder, job.submission)
    if own:  # its rank 0 may still wait for the others, and is about to be ended
        note_end(job.folder, own[-1].number, status, message)
    return reply(job.folder, status, exit_code, message) | {"restarts": restarts}
