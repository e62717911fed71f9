"""A run whose recomputation is chosen at each start: what it leaves, and that its numbers do not change by it."""

from __future__ import annotations

import pytest

from tests.train.recipes import exact_losses, make_data, make_recipe
from vitscale.checkpoint.layout import read_manifest, step_folders
from vitscale.engine import choice
from vitscale.train.worker import run

CHOSEN = ("engine.kind=local", "train.micro_batch=16", "engine.recompute=auto")


def go(recipe):
    return run({"recipe": recipe.to_json(), "resume": "auto"})


def decided(recipe) -> list[str]:
    """The modes that the commits of a run were made with."""
    folders = [folder for _, folder in step_folders(recipe.config.folder / "checkpoints")]
    return [read_manifest(folder).facts["engine"]["recompute"] for folder in folders]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_goes_on_alike_where_another_machine_decides_otherwise(
    tmp_path, monkeypatch, caplog, precision
):
    data = make_data(tmp_path / "data")
    settings = (f"engine.precision={precision}", "train.duration=20 steps")
    whole = make_recipe(tmp_path / "a", data, *CHOSEN, *settings)
    with caplog.at_level("INFO"):
        assert go(whole)["status"] == "finished"
    assert "plain torch, recompute none: at most" in caplog.text
    parts = make_recipe(tmp_path / "b", data, *CHOSEN, *settings)
    parts.config.folder.mkdir(parents=True)
    (parts.config.folder / "STOP").touch()
    assert go(parts)["step"] == 10
    (parts.config.folder / "STOP").unlink()
    assert set(decided(parts)) == {"none"}
    monkeypatch.setattr(choice, "device_memory", lambda device: 1)
    with caplog.at_level("WARNING"):
        assert go(parts)["status"] == "finished"
    assert "which may be too much" in caplog.text
    assert decided(parts)[0] == "cheap"  # of two blocks the other modes need no less
    assert exact_losses(parts.config.folder) == exact_losses(whole.config.folder)
