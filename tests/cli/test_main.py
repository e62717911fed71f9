"""The front door: exit codes and messages."""

from __future__ import annotations

import json
import sys
from types import ModuleType

import pytest

from vitscale import __version__
from vitscale.cli.main import COMMANDS, main
from vitscale.errors import CheckpointError, DataError, NotFiniteError


@pytest.fixture
def command(monkeypatch):
    """Put a function in the place of `vitscale plan`."""

    def install(
        run, add_arguments=lambda parser: parser.add_argument("--json", action="store_true")
    ):
        module = ModuleType("vitscale.cli.plan")
        module.run, module.add_arguments = run, add_arguments
        monkeypatch.setitem(sys.modules, "vitscale.cli.plan", module)

    return install


def raising(error):
    def run(arguments):
        raise error

    return run


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in COMMANDS)


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip() == f"vitscale {__version__}"


def test_no_command_at_all_prints_the_help_and_is_a_usage_error(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


def test_an_unknown_command_gets_the_nearest_name(capsys):
    assert main(["evalute", "x"]) == 2
    captured = capsys.readouterr()
    assert captured.err == "vitscale: there is no command 'evalute'. Did you mean 'evaluate'?\n"
    assert captured.out == ""


def test_an_unknown_option_is_a_usage_error_of_one_line(capsys):
    assert main(["train", "a.toml", "--colour"]) == 2
    assert capsys.readouterr().err == (
        "vitscale: train: does not know --colour. See `vitscale train --help`.\n"
    )


def test_an_unknown_option_before_a_command_is_refused(capsys):
    assert main(["--verbose"]) == 2
    assert "--verbose" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code"),
    [(DataError("gone"), 3), (NotFiniteError("nan"), 4), (CheckpointError("torn"), 5)],
)
def test_an_error_becomes_its_message_and_its_exit_code(command, capsys, error, code):
    command(raising(error))
    assert main(["plan"]) == code
    assert capsys.readouterr().err == f"vitscale: {error}\n"


def test_with_json_an_error_is_json_on_stderr(command, capsys):
    command(raising(DataError("gone", where="shard 7", given=12, do="Copy it.")))
    assert main(["plan", "--json"]) == 3
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err) == {
        "error": "DataError",
        "exit_code": 3,
        "message": "shard 7: gone (given: 12). Copy it.",
        "what": "gone",
        "where": "shard 7",
        "given": "12",
        "do": "Copy it.",
    }


def test_usage_errors_are_json_too(capsys):
    assert main(["plan", "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["error"] == "ConfigError"


def test_an_interrupt_ends_with_130(command, capsys):
    command(raising(KeyboardInterrupt()))
    assert main(["plan"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_a_fault_of_ours_keeps_its_traceback(command):
    command(raising(ZeroDivisionError("ours")))
    with pytest.raises(ZeroDivisionError):
        main(["plan"])


def test_the_exit_code_of_a_command_is_that_of_the_process(command):
    command(lambda arguments: 75)
    assert main(["plan"]) == 75


def test_words_default_to_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["vitscale", "--version"])
    assert main() == 0
