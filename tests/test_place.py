"""Where a process stands in the job."""

from __future__ import annotations

import pytest

from vitscale.errors import ConfigError
from vitscale.place import Place, place_of


def test_without_a_launcher_a_process_is_alone():
    assert place_of({}) == Place(0, 1, 0, 0)
    assert place_of({}).is_first


def test_the_launchers_names_are_read():
    env = {"RANK": "5", "WORLD_SIZE": "8", "LOCAL_RANK": "1", "GROUP_RANK": "2"}
    assert place_of(env) == Place(rank=5, world=8, local_rank=1, node=2)
    assert not place_of(env).is_first
    assert str(place_of(env)) == "rank 5 of 8"


def test_the_environment_is_the_default(monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert place_of().rank == 1


@pytest.mark.parametrize(
    ("env", "complaint"),
    [
        ({"RANK": "one"}, "RANK must be a whole number"),
        ({"RANK": "-1"}, "RANK must be a whole number"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE must be a whole number"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK must be below WORLD_SIZE"),
    ],
)
def test_an_impossible_place_is_refused(env, complaint):
    with pytest.raises(ConfigError, match=complaint):
        place_of(env)
