"""What the doctor makes of a machine."""

from __future__ import annotations

import json
import socket
from pathlib import Path

import pytest

from vitscale.cli import machine
from vitscale.cli.main import main
from vitscale.ops.apex import ApexState

LEAST = {"torch": "2.6", "ray": "2.54"}


def states(findings):
    return {finding.name: finding.state for finding in findings}


def test_absent_and_old_packages_are_wrong_and_versions_compare_as_numbers():
    installed = {"torch": "2.13.0+cpu", "ray": "2.9.1", "webdataset": "1.0.2", "mlflow": "3.0"}
    found = {finding.name: finding for finding in machine.packages(installed, LEAST)}
    assert states(found.values()) == {
        "torch": "ok",
        "deepspeed": "wrong",
        "ray": "wrong",
        "mlflow": "ok",
        "webdataset": "ok",
        "torchao": "note",
    }
    assert found["ray"].text == "2.9.1 is older than 2.54"
    assert found["ray"].remedy == "pip install 'ray>=2.54'"


def test_the_least_versions_are_those_of_the_project():
    found = machine._least_versions()
    assert {"torch", "deepspeed", "ray", "mlflow", "webdataset"} <= set(found)


@pytest.mark.parametrize(
    ("torch", "driver", "state", "words"),
    [
        ({"usable": False, "cuda": None, "gpus": []}, [], "note", "runs use the CPU"),
        ({"usable": False, "cuda": None, "gpus": []}, ["H100"], "wrong", "built without CUDA"),
        ({"usable": False, "cuda": "13.0", "gpus": []}, ["H100"], "wrong", "built for CUDA 13.0"),
        ({"usable": True, "cuda": "13.0", "gpus": [["H100", 2**36]]}, ["H100"], "ok", "64.0 GiB"),
        ({"error": "libcudart is missing"}, [], "wrong", "libcudart"),
    ],
)
def test_gpus_are_what_torch_can_use_of_what_the_driver_has(torch, driver, state, words):
    (finding,) = machine.gpus(torch, driver)
    assert finding.state == state
    assert words in finding.text


@pytest.mark.parametrize(
    ("state", "expected"),
    [
        ("absent", "note"),
        ("nvidia", "ok"),
        ("nvidia-python-only", "wrong"),
        ("wrong-package", "wrong"),
    ],
)
def test_an_apex_that_cannot_run_is_wrong(state, expected):
    assert machine.apex(ApexState(state, "message")).state == expected


def test_little_space_is_wrong():
    assert machine.space(Path("/runs"), 2**30).state == "wrong"
    assert machine.space(Path("/runs"), 2**40).state == "ok"


def test_a_port_in_use_is_a_note():
    with socket.create_server(("127.0.0.1", 0)) as server:
        number = server.getsockname()[1]
        assert machine.port(number, "a test").state == "note"
    assert machine.port(number, "a test").state == "ok"


@pytest.mark.parametrize(("state", "code"), [("ok", 0), ("note", 0), ("wrong", 2)])
def test_the_doctor_ends_with_2_where_something_is_wrong(
    monkeypatch, capsys, tmp_path, state, code
):
    finding = machine.Finding("disk", state, "as it is", "buy one")
    monkeypatch.setattr("vitscale.cli.doctor.examine", lambda folder: [finding])
    assert main(["doctor", "--folder", str(tmp_path)]) == code
    assert "buy one" in capsys.readouterr().out
    assert main(["doctor", "--json"]) == code
    assert json.loads(capsys.readouterr().out)[0]["remedy"] == "buy one"


def test_a_missing_folder_is_refused(capsys):
    assert main(["doctor", "--folder", "/no/such"]) == 2
    assert "no such folder" in capsys.readouterr().err
