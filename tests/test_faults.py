"""Fault points: silent unless asked for, and then exact."""

from __future__ import annotations

import errno
import math
import signal
import subprocess
import sys

import pytest

from vitscale import faults
from vitscale.errors import ConfigError


@pytest.fixture
def fault(monkeypatch):
    monkeypatch.setattr(faults, "_passes", type(faults._passes)())

    def ask(text, enabled="1"):
        monkeypatch.setenv("VITSCALE_FAULT", text)
        monkeypatch.setenv("VITSCALE_ENABLE_FAULTS", enabled)

    return ask


def test_a_point_does_nothing_by_default(monkeypatch):
    monkeypatch.delenv("VITSCALE_FAULT", raising=False)
    faults.point("save.before_rename")


@pytest.mark.parametrize(("action", "number"), [("enospc", errno.ENOSPC), ("eio", errno.EIO)])
def test_the_nth_pass_on_the_rank_fails_and_no_other(fault, action, number):
    fault(f"save@1:2:{action}")
    faults.point("save", rank=0)
    faults.point("other", rank=1)
    faults.point("save", rank=1)
    with pytest.raises(OSError) as raised:
        faults.point("save", rank=1)
    assert raised.value.errno == number
    faults.point("save", rank=1)


def test_a_range_of_passes_spoils_each_of_them_and_no_other(fault):
    fault("loss@0:2-3:spike")
    assert [faults.factor("loss") for _ in range(4)] == [1.0, 1000.0, 1000.0, 1.0]


def test_a_factor_is_one_unless_asked_for_and_may_be_nan_on_one_rank(fault, monkeypatch):
    monkeypatch.delenv("VITSCALE_FAULT", raising=False)
    assert faults.factor("loss") == 1.0
    fault("loss@1:1:nan")
    assert faults.factor("loss", rank=0) == 1.0
    assert math.isnan(faults.factor("loss", rank=1))


def test_other_actions_work_at_a_factor_and_a_point_has_no_number(fault):
    fault("loss@0:1:eio")
    with pytest.raises(OSError):
        faults.factor("loss")
    fault("save@0:1:nan")
    with pytest.raises(ConfigError, match="without a number"):
        faults.point("save")


def test_a_fault_without_permission_is_an_error(fault):
    fault("save@0:1:eio", enabled="0")
    with pytest.raises(ConfigError, match="outside a test"):
        faults.point("save")


@pytest.mark.parametrize("text", ["save", "save@0:1", "save@zero:1:eio", "save@0:1:explode"])
def test_a_fault_that_cannot_be_read_is_an_error(fault, text):
    fault(text)
    with pytest.raises(ConfigError, match="name@rank:nth:action"):
        faults.point("save")


def test_kill_kills():
    code = "from vitscale.faults import point; point('here'); print('alive')"
    env = {"VITSCALE_FAULT": "here@0:1:kill", "VITSCALE_ENABLE_FAULTS": "1"}
    answer = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert answer.returncode == -signal.SIGKILL
    assert answer.stdout == b""
