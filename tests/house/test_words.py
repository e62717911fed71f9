"""Nothing unfinished and nothing of one machine is handed in."""

from __future__ import annotations

from pathlib import Path

from tests.house.tree import ROOT, files
from tests.house.words import forbidden_words


def test_files_hold_no_unfinished_notes_and_no_paths_of_a_machine():
    found = list(forbidden_words(ROOT, files()))
    assert not found, "\n".join(found)


def test_offenders_are_found(tmp_path):
    note, path = "TO" + "DO", "/ho" + "me/eve/data"
    (tmp_path / "a.md").write_text(
        f"fine\n{note}: more\nsee {path}\nmethods and /workspace are fine\n"
    )
    (tmp_path / "picture.png").write_bytes(b"\xff\xfe")
    found = list(forbidden_words(tmp_path, [Path("a.md"), Path("picture.png")]))
    assert found == [f"a.md:2: {note}", f"a.md:3: {path[:7]}"]


def test_the_project_has_the_files_that_are_checked():
    listed = {str(path) for path in files()}
    assert {"pyproject.toml", "vitscale/errors.py", "docs/architecture.md"} <= listed
    assert not any(".venv" in path for path in listed)
