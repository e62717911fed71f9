"""The command that opens MLflow's page on the store of a home."""

from __future__ import annotations

import socket
import sys
from importlib.util import find_spec
from pathlib import Path

from vitscale.errors import ConfigError, ResourceError
from vitscale.tracking.target import STORE_NAME

HOST = "127.0.0.1"


def page_command(home: str | Path, port: int) -> list[str]:
    """Words that start `mlflow ui` on the SQLite store below `home`, for this machine only.

    Raises:
        ConfigError: there is no store yet.
        ResourceError: the port is taken, or mlflow is not installed.
    """
    store = Path(home).absolute() / STORE_NAME
    if not store.exists():
        raise ConfigError(
            "there is no MLflow store yet",
            where=str(store),
            do='A run with tracking.mlflow = "auto" makes it; name its home with --home.',
        )
    if find_spec("mlflow") is None:
        raise ResourceError(
            "mlflow is not installed", do='Install it: pip install "vitscale[mlflow]".'
        )
    _insist_on_free(port)
    where = ["--backend-store-uri", f"sqlite:///{store}", "--host", HOST, "--port", str(port)]
    return [sys.executable, "-m", "mlflow", "ui", *where, "--workers", "1"]


def _insist_on_free(port: int) -> None:
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise ResourceError(
            f"the port cannot be used: {getattr(error, 'strerror', None) or error}",
            where="--port",
            given=port,
            do=f"Use a free one, such as --port {_free_port()}.",
        ) from error


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
