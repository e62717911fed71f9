"""A finished run that was scored, with its page: made once for all tests that look at it."""

from __future__ import annotations

import pytest

from tests.evaluate.made_runs import make_downstream, make_run, train
from vitscale.cli.main import main

RIDGE = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n[[task]]\nmethod = "ridge"\nshots = [1, 5]\n'


@pytest.fixture(scope="session")
def reported(tmp_path_factory):
    """Its folder."""
    home = tmp_path_factory.mktemp("page")
    run = train(make_run(home, "train.duration=12 steps", "checkpoint.keep=3"))
    make_downstream(home / "down")
    suite = home / "r.toml"
    suite.write_text(RIDGE.format(home / "down"))
    how = ["--suite", str(suite), "--device", "cpu", "--workers", "1"]
    assert main(["evaluate", str(run), *how]) == 0
    assert main(["report", "page", str(run)]) == 0
    return run
