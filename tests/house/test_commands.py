"""Every command in the documentation can be typed as it stands."""

from __future__ import annotations

import importlib

import pytest

from tests.house.commands import commands_in, problem_of, targets_of
from tests.house.tree import ROOT, files
from vitscale.cli.main import COMMANDS

PAGES = [path for path in files() if path.suffix == ".md"]


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_the_commands_of_a_page_parse(page, capsys):
    lines = list(commands_in((ROOT / page).read_text(encoding="utf-8")))
    problems = {line: problem for line in lines if (problem := problem_of(line, ROOT))}
    assert problems == {}


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_of_the_table_is_there(name):
    module = importlib.import_module(f"vitscale.cli.{name}")
    assert callable(module.add_arguments)
    assert callable(module.run)


def test_the_makefile_has_the_promised_targets():
    targets = targets_of((ROOT / "Makefile").read_text())
    assert {
        "demo",
        "test",
        "test-long",
        "lint",
        "format",
        "bench",
        "ui",
        "clean",
        "help",
    } <= targets


def test_commands_are_found_in_blocks_only():
    text = (
        "vitscale no\n```bash\n$ vitscale a \\\n  b  # c\nmake x\nls\n```\n```python\nmake y\n```\n"
    )
    assert list(commands_in(text)) == ["vitscale a    b  # c", "make x"]


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("vitscale trian configs/debug/tiny.toml", "no command 'trian'"),
        ("vitscale train configs/debug/absent.toml", "no file configs/debug/absent.toml"),
        ("vitscale train RECIPE --resume perhaps", "perhaps"),
        ("vitscale config show RECIPE --colour", "--colour"),
        ("vitscale plan RECIPE 32", "'32' is not of the form"),
        ("make everything", "no target everything"),
    ],
)
def test_a_wrong_command_is_found(command, complaint):
    assert complaint in problem_of(command, ROOT)


@pytest.mark.parametrize(
    "command",
    [
        "vitscale --version",
        "vitscale train RECIPE --resume must train.batch=64 optim.lr=1e-3  # a comment",
        "vitscale evaluate runs/x --on fewshot --json | head",
        "make test",
    ],
)
def test_a_right_command_passes(command, capsys):
    assert problem_of(command, ROOT) == ""
