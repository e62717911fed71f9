"""`vitscale report` and `vitscale ui`."""

import json
import socket

import pytest

from vitscale.cli.main import main
from vitscale.errors import ConfigError, ResourceError
from vitscale.tracking.journal import Journal
from vitscale.tracking.page import page_command


@pytest.fixture
def run_folder(tmp_path):
    """A run of two attempts and one commit, as it lies on disk."""
    for name in ("attempts/0001", "attempts/0002", "checkpoints/step-00000020"):
        (tmp_path / "tiny" / name).mkdir(parents=True)
    (tmp_path / "tiny/checkpoints/.tmp-step-00000030").mkdir()
    journal = Journal(tmp_path / "tiny", 2)
    journal.append({"train/loss": 0.25}, 20)
    journal.close()
    return tmp_path / "tiny"


def test_show_prints_last_metrics_attempts_and_checkpoints(run_folder, capsys):
    assert main(["report", "show", str(run_folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "run": "tiny",
        "step": 20,
        "attempts": 2,
        "checkpoints": ["step-00000020"],
        "mlflow": None,
        "last": {"train/loss": 0.25},
    }
    assert main(["report", "show", str(run_folder)]) == 0
    assert "train/loss   0.25" in capsys.readouterr().out


def test_a_folder_without_a_run_is_refused(tmp_path, capsys):
    assert main(["report", "show", str(tmp_path)]) == 2
    assert main(["report", "sync", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("is not a run folder") == 2


def test_the_page_needs_a_store(tmp_path):
    with pytest.raises(ConfigError, match="no MLflow store yet"):
        page_command(tmp_path, 5000)


def test_a_taken_port_is_refused_with_a_free_one(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ResourceError, match=r"free one, such as --port \d+"):
            page_command(tmp_path, taken.getsockname()[1])


def test_the_page_is_served_to_this_machine_only(tmp_path):
    (tmp_path / "mlflow.db").touch()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = page_command(tmp_path, port)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert f"sqlite:///{tmp_path}/mlflow.db" in command
