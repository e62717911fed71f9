"""The commit protocol under kills, full disks and damage: the old commit or the new one, never between."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.checkpoint.commits import commit
from tests.ranks import ROOT, run_ranks
from vitscale.checkpoint.choose import found_commit, newest_good
from vitscale.checkpoint.commit import clear_debris
from vitscale.checkpoint.files import ShardReader
from vitscale.checkpoint.layout import MANIFEST, STATE, damage, read_manifest, step_folders
from vitscale.checkpoint.retention import Retention, holding, keep
from vitscale.engine.collectives import Ranks
from vitscale.errors import CheckpointError, SaveError
from vitscale.place import Place

pytestmark = pytest.mark.faults
ALONE = Ranks(Place(), torch.device("cpu"), 10)


def facts_of(step, world=1):
    return {"step": step, "images": 8 * step, "world": world, "shapes": {"w": [4]}}


def save(checkpoints: Path, step: int, *, expected_bytes: int = 1) -> Path:
    def write(writer):
        writer.save("state.pt", {"w": torch.full((4,), float(step))})
        return [([("w", 0, 0, 4)], {"weight": ("state.pt", ["w"])})]

    return commit(checkpoints, facts_of(step), write, ALONE, expected_bytes=expected_bytes)


def save_twice(checkpoints: str) -> None:
    """Run in a process that a fault kills during the second save."""
    save(Path(checkpoints), 1)
    save(Path(checkpoints), 2)


def newest(checkpoints: Path) -> int | None:
    found, _ = newest_good(checkpoints, ALONE)
    return found.manifest.step if found else None


BOUNDARIES = {  # of the writer, in its order, and the commit that is the newest after a kill there in the second save
    "after_mkdir": 1,
    "before_file": 1,
    "mid_file": 1,
    "before_sync": 1,
    "after_file": 1,
    "after_note": 1,
    "before_manifest": 1,
    "mid_manifest": 1,
    "after_manifest": 1,
    "before_rename": 1,
    "after_rename": 2,
    "after_commit": 2,
}


def passes_of_one_save(tmp_path: Path, name: str) -> int:
    """How often a save comes by a point."""
    from collections import Counter

    passed: Counter[str] = Counter()
    with pytest.MonkeyPatch.context() as patch:
        for module in ("commit", "files"):
            patch.setattr(
                f"vitscale.checkpoint.{module}.point", lambda point, rank=0: passed.update([point])
            )
        save(tmp_path / "counted", 1)
    return passed[f"checkpoint.{name}"]


@pytest.mark.parametrize("name", BOUNDARIES)
def test_a_kill_anywhere_leaves_the_old_commit_or_the_new_one(tmp_path, name):
    in_one = passes_of_one_save(tmp_path, name)
    assert in_one > 0
    code = f"from tests.checkpoint.test_commit import save_twice; save_twice({str(tmp_path)!r})"
    for nth in {in_one + 1, 2 * in_one}:  # the first and the last of the second save
        env = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": f"checkpoint.{name}@0:{nth}:kill"}
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, env=os.environ | env, check=False
        )
        assert done.returncode == -signal.SIGKILL
        assert newest(tmp_path) == BOUNDARIES[name]
        save(tmp_path, 3)
        assert newest(tmp_path) == 3
        assert not list(tmp_path.glob(".tmp-*"))
        for _, folder in step_folders(tmp_path):
            shutil.rmtree(folder)


@pytest.mark.parametrize("name", ["mid_file", "before_sync", "before_manifest"])
def test_a_full_disk_is_a_save_error_and_the_last_commit_stays(tmp_path, monkeypatch, name):
    save(tmp_path, 1)
    monkeypatch.setenv("VITSCALE_ENABLE_FAULTS", "1")
    monkeypatch.setenv("VITSCALE_FAULT", f"checkpoint.{name}@0:1:enospc")
    monkeypatch.setattr("vitscale.faults._passes", type(__import__("collections").Counter())())
    with pytest.raises(SaveError, match="No space left"):
        save(tmp_path, 2)
    assert newest(tmp_path) == 1
    assert not list(tmp_path.glob(".tmp-*"))


def test_too_little_free_space_is_noticed_before_anything_is_written(tmp_path):
    save(tmp_path, 1)
    with pytest.raises(SaveError, match="are free") as error:
        save(tmp_path, 2, expected_bytes=2**60)
    assert error.value.retry
    assert [step for step, _ in step_folders(tmp_path)] == [1]


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("file", ["state.pt", STATE, MANIFEST])
@pytest.mark.parametrize("harm", [truncate, flip, Path.unlink])
def test_a_damaged_newest_commit_falls_back_to_the_one_before_and_says_why(tmp_path, file, harm):
    save(tmp_path, 1)
    harm(save(tmp_path, 2) / file)
    found, rejected = newest_good(tmp_path, ALONE)
    assert found is not None
    assert found.manifest.step == 1
    assert len(rejected) == 1 and rejected[0].startswith("step-00000002: ")


def test_when_all_are_damaged_there_is_none(tmp_path):
    for step in (1, 2):
        truncate(save(tmp_path, step) / "state.pt")
    found, rejected = newest_good(tmp_path, ALONE)
    assert found is None and len(rejected) == 2


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    (tmp_path / "step-00000009").mkdir()
    assert newest(tmp_path) is None
    with (
        pytest.raises(CheckpointError, match="never committed"),
        found_commit(tmp_path / "step-00000009"),
    ):
        raise AssertionError("there is none")


def test_a_good_step_is_never_overwritten_and_a_bad_one_is_moved_aside(tmp_path):
    folder = save(tmp_path, 1)
    before = (folder / MANIFEST).stat().st_mtime_ns
    assert save(tmp_path, 1) == folder
    assert (folder / MANIFEST).stat().st_mtime_ns == before
    flip(folder / "state.pt")
    save(tmp_path, 1)
    assert not damage(folder, read_manifest(folder).files)
    assert len(list(tmp_path.glob(".bad-step-00000001-*"))) == 1


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.is_dir())


def test_retention_keeps_the_newest_and_leaves_what_is_no_commit(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step)
    (tmp_path / "step-00000099").mkdir()
    gone = keep(tmp_path, Retention(2))
    assert [path.name for path in gone] == ["step-00000001"]
    assert names(tmp_path) == ["step-00000002", "step-00000003", "step-00000099"]


def test_retention_spares_every_so_manieth_for_good(tmp_path):
    for step in range(1, 8):
        save(tmp_path, step)
    keep(tmp_path, Retention(1, every=3))
    assert names(tmp_path) == ["step-00000003", "step-00000006", "step-00000007"]


def test_a_commit_that_is_being_read_stays_until_the_reader_is_done(tmp_path):
    for step in (1, 2):
        save(tmp_path, step)
    with found_commit(tmp_path / "step-00000001"):
        code = (
            "from pathlib import Path\n"
            "from vitscale.checkpoint.retention import Retention, keep\n"
            f"keep(Path({str(tmp_path)!r}), Retention(1))"
        )
        subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
        assert names(tmp_path) == ["step-00000001", "step-00000002"]
    keep(tmp_path, Retention(1))
    assert names(tmp_path) == ["step-00000002"]
    assert not list(tmp_path.glob(".hold-step-00000001"))


def test_a_copied_commit_on_storage_that_cannot_be_written_is_read_all_the_same(tmp_path):
    with holding(Path("/proc/step-00000001")):
        pass


def test_a_disk_that_keeps_other_bytes_than_it_was_given_is_a_save_error(tmp_path, monkeypatch):
    """Nothing older may go for a commit that cannot be read back."""
    save(tmp_path, 1)

    def rot(handle):
        path = Path(f"/proc/self/fd/{handle}").resolve()
        if path.name == "state.pt":
            flip(path)

    monkeypatch.setattr("vitscale.checkpoint.files.os.fsync", rot)
    with pytest.raises(SaveError, match=r"read back after writing, state.pt does not match"):
        save(tmp_path, 2)
    assert newest(tmp_path) == 1


def test_a_rank_that_leaves_no_note_in_time_is_named(tmp_path):
    from vitscale.checkpoint.commit import Part, Terms, Writing, make_aside

    aside = make_aside(tmp_path, 1, 1)
    assert aside is not None
    place = Place(0, 2)
    writing = Writing(aside, Terms(tmp_path, facts_of(1, 2), 0.2), Part([], []), place, print)
    writing.run()
    assert "rank 1 did not finish within 0.2 s" in str(writing.error)
    assert newest(tmp_path) is None and not aside.exists()


def test_a_run_folder_that_another_attempt_took_is_not_committed_to(tmp_path):
    from vitscale.checkpoint.commit import Part, Terms, Writing, make_aside

    def insist():
        raise CheckpointError("the run belongs to attempt 2 now")

    aside = make_aside(tmp_path, 1, 1)
    assert aside is not None
    terms = Terms(tmp_path, facts_of(1), 1.0, insist)
    writing = Writing(aside, terms, Part([], []), Place(), print)
    writing.run()
    assert "attempt 2" in str(writing.error)
    assert newest(tmp_path) is None and not aside.exists()


def test_debris_of_an_interrupted_deletion_goes_with_the_next_save(tmp_path):
    shutil.move(save(tmp_path, 1), tmp_path / ".trash-step-00000001-abc")
    clear_debris(tmp_path)
    assert list(tmp_path.iterdir()) == []


class Malice:
    """Unpickles to a call that leaves a mark."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (Path.touch, (self.mark,))


def test_loading_never_runs_code_from_a_checkpoint(tmp_path):
    mark = tmp_path / "mark"
    torch.save({"w": Malice(mark)}, tmp_path / "state.pt")
    with pytest.raises(CheckpointError, match="cannot be loaded safely"):
        ShardReader(tmp_path).load("state.pt")
    assert not mark.exists()


def two_ranks_one_fails(checkpoints: str) -> tuple[str, str]:
    """Rank 1's disk fails in the second save: every rank must hear of it, and go on."""
    from vitscale.place import place_of

    ranks = Ranks(place_of(), torch.device("cpu"), 30)
    rank, folder = ranks.place.rank, Path(checkpoints)

    def write(writer):
        writer.save(f"rank-{rank}.pt", {"w": torch.zeros(4)})
        return []

    heard = ""
    for step in (1, 2, 3):
        try:
            commit(folder, facts_of(step, 2), write, ranks, expected_bytes=1)
        except SaveError as error:
            heard += f"{step}: {error}"
    found, _ = newest_good(folder, ranks)
    ranks.close()
    return heard, found.folder.name if found else ""


@pytest.mark.dist
def test_one_ranks_full_disk_aborts_the_save_on_all_ranks_and_the_next_save_works(tmp_path):
    fault = {"VITSCALE_ENABLE_FAULTS": "1", "VITSCALE_FAULT": "checkpoint.before_file@1:2:enospc"}
    function = "tests.checkpoint.test_commit:two_ranks_one_fails"
    for heard, last in run_ranks(2, function, str(tmp_path), **fault):
        assert heard.startswith("2: ") and "rank 1: rank-1.pt: No space left" in heard
        assert last == "step-00000003"
