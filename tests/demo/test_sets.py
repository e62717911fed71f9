"""What the demo runs on where not everything can be fetched."""

from __future__ import annotations

import pytest

from vitscale.demo import sets
from vitscale.demo.commands import CommandFailed
from vitscale.errors import DataError


class Shell:
    """Packs nothing; the sets named in `missing` cannot be had."""

    def __init__(self, *missing):
        self.missing, self.packed = missing, []

    def run(self, *words):
        name = words[words.index("--to") + 1].removeprefix("data/")
        if name in self.missing:
            raise CommandFailed(words, 3, "vitscale: no network. Fetch it by hand.")
        self.packed.append(name)


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_everything_is_there():
    assert sets.prepare(sets.FULL, Shell()) == sets.FULL


def test_a_missing_downstream_set_is_left_out_and_said(capsys):
    story = sets.prepare(sets.FULL, Shell("fashion-mnist"))
    assert story.pretrain == sets.ICONS
    assert story.downstream == (sets.DIGITS,)
    assert "Fashion-MNIST cannot be had here:\n    vitscale: no network" in capsys.readouterr().out


def test_a_missing_pretraining_set_makes_the_demo_smaller():
    assert sets.prepare(sets.FULL, Shell("icons")) == sets.SMALL


def test_without_any_network_the_digits_remain():
    shell = Shell("icons", "fashion-mnist")
    assert sets.prepare(sets.SMALL, shell) == sets.OFFLINE
    assert shell.packed == ["digits-0-4", "digits-5-9"]


def test_when_even_the_digits_fail_the_demo_says_so():
    with pytest.raises(DataError, match="not even the digits"):
        sets.prepare(sets.FULL, Shell("icons", "fashion-mnist", "digits-0-4"))
