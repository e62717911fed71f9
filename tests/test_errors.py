"""The family of errors with a remedy."""

from __future__ import annotations

import pickle

import pytest

from vitscale import errors
from vitscale.errors import ConfigError, SaveError, VitscaleError, nearest


def test_a_message_says_what_where_given_and_what_to_do():
    error = ConfigError("is too large", where="train.batch", given=7, do="Halve it.")
    assert str(error) == "train.batch: is too large (given: 7). Halve it."


def test_parts_that_are_missing_leave_no_trace():
    assert str(ConfigError("no")) == "no"
    assert str(ConfigError("no", given=0)) == "no (given: 0)"


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("ConfigError", 2),
        ("ResourceError", 2),
        ("DataError", 3),
        ("NotFiniteError", 4),
        ("CheckpointError", 5),
        ("SaveError", 5),
    ],
)
def test_each_kind_has_its_exit_code(name, code):
    kind = getattr(errors, name)
    assert kind.exit_code == code
    assert issubclass(kind, VitscaleError)


def test_only_a_failed_save_is_worth_another_try():
    retried = [kind for kind in VitscaleError.__subclasses__() if kind.retry]
    assert retried == [SaveError]


def test_an_error_crosses_processes_whole():
    error = pickle.loads(pickle.dumps(SaveError("full", where="disk", given=3, do="Free some.")))
    assert type(error) is SaveError
    assert (str(error), error.where, error.given) == (
        "disk: full (given: 3). Free some.",
        "disk",
        3,
    )


def test_nearest_suggests_one_name_or_lists_all():
    assert nearest("bacth", ["batch", "lr"]) == "did you mean 'batch'?"
    assert nearest("zzz", ["lr", "batch"]) == "known: batch, lr"
