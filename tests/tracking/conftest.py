"""A real MLflow server on a loopback port that tests kill and start again."""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest

from vitscale.config.train import TrackingConfig
from vitscale.place import Place
from vitscale.tracking.build import make_tracker

PATIENCE_S = 60


class Server:
    """`mlflow server` with a SQLite store; `kill` leaves the store as it is."""

    def __init__(self, folder):
        self._folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process = None

    def start(self):
        """Start it unless it runs, and wait until it answers."""
        if self._process is None:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self._folder,
                env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        deadline = time.monotonic() + PATIENCE_S
        while not self._healthy():
            assert time.monotonic() < deadline, "the MLflow server did not start"
            time.sleep(0.2)

    def kill(self):
        """End it and its children at once."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def _command(self):
        store, artifacts = f"sqlite:///{self._folder}/mlflow.db", str(self._folder / "artifacts")
        words = ["server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        where = ["--backend-store-uri", store, "--artifacts-destination", artifacts]
        return [sys.executable, "-m", "mlflow", *words, *where]

    def _healthy(self):
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except (urllib.error.URLError, OSError):
            return False


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """The one server of the session; down until a test starts it."""
    server = Server(tmp_path_factory.mktemp("mlflow-server"))
    yield server
    server.kill()


@pytest.fixture
def tracker_of():
    """Makes the tracker of one attempt of a run in `folder`."""

    def make(folder, *, attempt=1, mlflow="auto", rank=0, params=None, **settings):
        config = TrackingConfig(mlflow=mlflow, **settings)
        place = Place(rank=rank, world=2)
        params = {"optim": {"lr": 0.001}} if params is None else params
        return make_tracker(
            config, folder=folder, name=folder.name, params=params, place=place, attempt=attempt
        )

    return make
