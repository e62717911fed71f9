"""`vitscale checkpoint`: commits and what is wrong with them."""

from __future__ import annotations

import json

import pytest

from vitscale.checkpoint.layout import MANIFEST, FileRecord, Manifest, sha256_of, step_folder
from vitscale.cli.main import main


@pytest.fixture
def run(tmp_path):
    """A run with commits of two files at steps 5 and 10."""
    for step in (5, 10):
        folder = step_folder(tmp_path / "checkpoints", step)
        folder.mkdir(parents=True)
        for name in ("a", "b"):
            (folder / name).write_bytes(f"{name}{step}".encode() * 100)
        files = tuple(
            FileRecord(path.name, path.stat().st_size, sha256_of(path))
            for path in sorted(folder.iterdir())
        )
        (folder / MANIFEST).write_text(Manifest({"step": step, "world": 2}, files).to_json())
    return tmp_path


def test_commits_are_listed_newest_first(run, capsys):
    assert main(["checkpoint", "list", str(run), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["step"], row["world"], row["problems"]) for row in rows] == [
        (10, 2, []),
        (5, 2, []),
    ]
    assert rows[0]["size"] == 600


def test_a_changed_byte_is_found_by_verify_only(run, capsys):
    path = step_folder(run / "checkpoints", 10) / "b"
    path.write_bytes(b"x" + path.read_bytes()[1:])
    assert main(["checkpoint", "list", str(run)]) == 0
    assert main(["checkpoint", "verify", str(run)]) == 5
    out = capsys.readouterr().out
    assert "damaged\n  b does not match its SHA-256" in out


def test_a_folder_without_a_manifest_is_no_commit(run, capsys):
    (step_folder(run / "checkpoints", 5) / MANIFEST).unlink()
    assert main(["checkpoint", "list", str(run)]) == 5
    assert "never committed" in capsys.readouterr().out


def test_a_run_without_checkpoints_says_so(tmp_path, capsys):
    assert main(["checkpoint", "verify", str(tmp_path)]) == 5
    assert "there is no checkpoint" in capsys.readouterr().err
