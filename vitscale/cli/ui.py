"""`vitscale ui`: open MLflow's page on the runs of this machine."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """--home, --port."""
    parser.add_argument(
        "--home", default="runs", help="folder of all runs, run.home (default: runs)"
    )
    parser.add_argument("--port", type=int, default=5000, help="port on 127.0.0.1 (default: 5000)")


def run(arguments: argparse.Namespace) -> NoReturn:
    """Become `mlflow ui`; Ctrl-C ends it."""
    from vitscale.tracking.page import HOST, page_command

    command = page_command(arguments.home, arguments.port)
    print(f"MLflow on http://{HOST}:{arguments.port} (Ctrl-C ends it)", flush=True)
    os.execv(command[0], command)
