"""What a run reads, from recipe to ledger: mixtures, several labels, bad images, changed data."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from tests.data.corpora import damage_image, image_file, make_tar
from tests.train.recipes import make_data, make_recipe
from vitscale.cli.main import main
from vitscale.data.shards import open_shards
from vitscale.data.synthetic import synthetic_shards
from vitscale.data.tar_index import index_folder
from vitscale.train.worker import run

LOCAL = ("engine.kind=local", "train.micro_batch=8", "checkpoint.every=3 steps")


def go(recipe):
    return run({"recipe": recipe.to_json(), "resume": "auto"})


def audited(folder, capsys) -> dict:
    capsys.readouterr()
    code = main(["shards", "audit", str(folder), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (code == 3) == bool(found["problems"])
    return found


def stop_at(recipe, step: int) -> None:
    """Train up to the check for a stop that follows `step`."""
    (recipe.config.folder / "STOP").parent.mkdir(parents=True, exist_ok=True)
    (recipe.config.folder / "STOP").touch()
    assert go(recipe)["status"] == "stopped"
    (recipe.config.folder / "STOP").unlink()


def test_a_mixture_that_was_stopped_and_resumed_is_proven(tmp_path, capsys):
    data = make_data(tmp_path / "data")
    synthetic_shards(data / "other", 23, 5, side_px=20, seed=9)
    sources = f'[{{shards="{data}/train", weight=3}}, "{data}/other[3:]"]'
    mixed = (*LOCAL, f"data.train={sources}", "train.duration=24 steps")
    recipe = make_recipe(tmp_path, data, *mixed)
    stop_at(recipe, 10)
    assert go(recipe)["status"] == "finished"
    found = audited(recipe.config.folder, capsys)
    assert found["problems"] == []
    assert (found["steps"], found["images"]) == (24, 24 * 16)
    whole = [(e["source"], e["samples"]) for e in found["epochs"] if e["seen"] == e["samples"]]
    assert whole == [(0, 60)] * 4 + [(1, 20)] * 4  # 288 and 96 of 384 images
    text = (recipe.config.folder / "ledger" / "0002.jsonl").read_text()
    (recipe.config.folder / "ledger" / "0002.jsonl").write_text(
        text.replace('"hash": "', '"hash": "0', 1)
    )
    assert "saw other samples" in audited(recipe.config.folder, capsys)["problems"][0]


def test_a_bad_image_is_in_the_quarantine_and_the_ledger_and_counted_in_no_loss(tmp_path, capsys):
    data = make_data(tmp_path / "data")
    shards = open_shards(data / "train")
    damage_image(shards, 7)
    recipe = make_recipe(tmp_path, data, *LOCAL)
    assert go(recipe)["status"] == "finished"
    [line] = (recipe.config.folder / "quarantine" / "rank-00000.jsonl").read_text().splitlines()
    record = json.loads(line)
    shard, key, offset = shards.whereabouts(7)
    assert (record["sample"], record["shard"], record["key"], record["offset"]) == (
        7,
        shard,
        key,
        offset,
    )
    assert "checksum" in record["why"]
    found = audited(recipe.config.folder, capsys)
    assert found["problems"] == []
    assert found["masked"] in (2, 3)  # 160 images of 60: two epochs and a part
    assert found["quarantined"] == 1


def test_too_many_bad_images_end_the_run_with_exit_code_3_and_the_worst_shard(tmp_path):
    data = make_data(tmp_path / "data")
    for sample in range(0, 60, 3):
        damage_image(open_shards(data / "train"), sample)
    reply = go(make_recipe(tmp_path, data, *LOCAL))
    assert (reply["status"], reply["exit_code"]) == ("failed", 3)
    assert re.search(r"worst shards: shard-\d+\.tar \(\d+\)", reply["message"])


def test_data_that_grew_are_refused_and_then_accepted_by_name(tmp_path, capsys):
    data = make_data(tmp_path / "data")
    synthetic_shards(data / "more", 40, 5, side_px=20, seed=9)
    recipe = make_recipe(tmp_path, data, *LOCAL, "train.duration=6 steps")
    assert go(recipe)["status"] == "finished"
    grown = (f'data.train=["{data}/train", "{data}/more"]', "train.duration=18 steps")
    refused = go(make_recipe(tmp_path, data, *LOCAL, *grown))
    assert refused["exit_code"] == 3
    assert "the number of samples was 60, is 60, 40" in refused["message"]
    name = re.search('data.accept_change="([0-9a-f]+)"', refused["message"]).group(1)
    accepted = make_recipe(tmp_path, data, *LOCAL, *grown, f"data.accept_change={name}")
    assert go(accepted)["step"] == 18
    found = audited(accepted.config.folder, capsys)
    assert found["problems"] == []
    assert {e["source"] for e in found["epochs"]} == {0, 1}


def several_labels(folder, keys: int):
    files = []
    for number in range(keys):
        files.append((f"{number:04d}.png", image_file(seed=number)))
        files.append((f"{number:04d}.json", json.dumps({"label": [number % 3, 3]}).encode()))
    make_tar(folder / "a.tar", files)
    index_folder(folder, classes=("a", "b", "c", "all"))


def test_several_labels_train_under_sigmoid_and_are_refused_under_softmax(tmp_path):
    data = make_data(tmp_path / "data")
    several_labels(data / "several", 40)
    both = (f"data.train={data}/several", f"data.held_out={data}/several", "evaluate.batch=16")
    refused = go(make_recipe(tmp_path / "a", data, *LOCAL, *both))
    assert refused["exit_code"] == 2 and "softmax takes one label" in refused["message"]
    longer = ("train.objective=sigmoid", "train.duration=40 steps", "optim.lr=3e-3")
    recipe = make_recipe(tmp_path / "b", data, *LOCAL, *both, *longer)
    assert go(recipe)["status"] == "finished"
    lines = [
        json.loads(x) for x in (recipe.config.folder / "metrics.jsonl").read_text().splitlines()
    ]
    [score] = [x["values"] for x in lines if "held_out/top1" in x["values"]]
    assert score["held_out/top1"] == 1.0  # "all" is right for every image, and soon learnt


@pytest.mark.parametrize("objective", ["softmax", "sigmoid"])
def test_lost_shards_are_masked_and_accounted_for_where_the_recipe_says_so(
    tmp_path, objective, capsys
):
    data = tmp_path / "data"
    synthetic_shards(data / "train", 60, 5, side_px=14)
    synthetic_shards(data / "held-out", 17, 5, side_px=14, seed=1)
    lost = sorted((data / "train").glob("*.tar"))
    if len(lost) < 2:
        pytest.skip("one shard only")
    lost[0].unlink()
    keep = ("data.missing_shards=mask", f"train.objective={objective}")
    assert go(make_recipe(tmp_path / "a", data, *LOCAL))["exit_code"] == 3
    recipe = make_recipe(tmp_path / "b", data, *LOCAL, *keep)
    assert go(recipe)["status"] == "finished"
    found = audited(recipe.config.folder, capsys)
    counts = open_shards(data / "train", missing="mask").counts
    assert found["problems"] == []
    assert found["masked"] >= 2 * int(np.asarray(counts)[0])
