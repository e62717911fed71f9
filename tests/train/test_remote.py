"""Training from shards on a server by way of the node's cache is the same training, whatever the network does."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.servers import (
    Server,
    cut_after,
    flips,
    no_proxy,  # noqa: F401
    replies,
    resets,
    serving,
)
from tests.ranks import run_ranks
from tests.train.recipes import exact_losses, make_data, make_recipe
from tests.train.test_sources import audited, go, stop_at
from vitscale.config.load import Recipe
from vitscale.data.index import index_path
from vitscale.data.ledger import read
from vitscale.data.shards import open_shards
from vitscale.data.stores.store import Patience
from vitscale.tracking.journal import read_metrics
from vitscale.train.worker import run

pytestmark = pytest.mark.usefixtures("no_proxy", "no_pauses")
LOCAL = ("engine.kind=local", "train.micro_batch=8", "data.lanes=2", "data.window=6")
FRESH = """
import json, sys
from vitscale.cli.main import main
code = main(sys.argv[1:])
print(json.dumps(sorted({"torch", "ray", "mlflow", "deepspeed"} & set(sys.modules))), file=sys.stderr)
sys.exit(code)
"""


@pytest.fixture
def no_pauses(monkeypatch):
    monkeypatch.setattr(Patience, "pause_s", lambda *_: 0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    return make_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def twin(data, tmp_path_factory) -> Recipe:
    """The run from the folder, finished."""
    recipe = make_recipe(tmp_path_factory.mktemp("twin"), data, *LOCAL)
    assert go(recipe)["status"] == "finished"
    return recipe


@pytest.fixture
def far(data, tmp_path):
    """A server with a copy of the training shards, which tests may damage."""
    with serving(shutil.copytree(data / "train", tmp_path / "far")) as server:
        yield server


def remote(home: Path, data: Path, place: str, *more: str) -> Recipe:
    own = (f"data.train={place}", f"data.cache={home / 'cache'}")
    return make_recipe(home, data, *LOCAL, *own, *more)


def tars(server: Server) -> list[str]:
    return sorted(path.name for path in server.folder.glob("*.tar"))


def assert_same_training(one: Recipe, other: Recipe) -> None:
    """Losses and the hashes of what was seen are equal, bit for bit."""
    first, second = one.config.folder, other.config.folder
    assert exact_losses(first) == exact_losses(second)
    assert len(read(first).lines) == 10
    assert read(first) == read(second)


def test_a_run_from_a_server_is_that_from_the_folder_and_fetches_each_file_once(
    tmp_path, data, twin, far
):
    recipe = remote(tmp_path, data, far.url)
    assert go(recipe)["status"] == "finished"
    assert_same_training(recipe, twin)
    for name in tars(far):
        assert far.gets(name) == far.gets(index_path(Path(name)).name) == 1


def test_failures_of_the_network_change_nothing(tmp_path, data, twin, far):
    first, second, third, fourth, *_ = tars(far)
    far.faults = {
        first: [replies(503), replies(503, Retry_After="0"), replies(429)],
        second: [cut_after(1500), resets, cut_after(700)],
        third: [flips],
        index_path(Path(fourth)).name: [flips, resets],
        "manifest.json": [replies(500)],
    }
    recipe = remote(tmp_path, data, far.url)
    assert go(recipe)["status"] == "finished"
    assert not any(far.faults.values())
    assert_same_training(recipe, twin)
    assert sum(line.seen.masked for line in read(recipe.config.folder).lines.values()) == 0
    assert far.gets(third) == 2


def test_a_cache_smaller_than_the_corpus_is_never_exceeded_and_changes_nothing(
    tmp_path, data, twin, far
):
    sizes = [path.stat().st_size for path in far.folder.iterdir()]
    limit = sum(sizes) * 2 // 3
    recipe = remote(tmp_path, data, far.url, f"data.cache_gb={limit / 1e9}", "data.prefetch=1")
    assert go(recipe)["status"] == "finished"
    assert_same_training(recipe, twin)
    kept = [path.stat().st_size for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert sum(kept) <= limit
    assert sum(far.gets(name) for name in tars(far)) > len(tars(far))


def test_a_run_that_goes_on_fetches_nothing_again(tmp_path, data, far):
    longer = ("train.duration=20 steps", "checkpoint.every=10 steps")
    recipe = remote(tmp_path, data, far.url, *longer)
    stop_at(recipe, 10)
    before = len(far.seen)
    assert go(recipe)["status"] == "finished"
    assert {name for _, name, _ in far.seen[before:]} <= {"manifest.json"}
    whole = make_recipe(tmp_path / "whole", data, *LOCAL, *longer)
    go(whole)
    assert exact_losses(recipe.config.folder) == exact_losses(whole.config.folder)
    assert read(recipe.config.folder) == read(whole.config.folder)


def test_a_shard_that_the_server_does_not_have_ends_the_run_with_its_name(tmp_path, data, far):
    gone = tars(far)[2]
    (far.folder / gone).unlink()
    reply = go(remote(tmp_path, data, far.url))
    assert (reply["status"], reply["exit_code"]) == ("failed", 3)
    assert f"shard {gone} cannot be had" in reply["message"]
    assert "data.missing_shards" in reply["message"]


def test_a_shard_that_is_gone_may_be_masked_and_every_slot_of_it_is_accounted_for(
    tmp_path, data, far, capsys
):
    gone = tars(far)[2]
    (far.folder / gone).unlink()
    recipe = remote(tmp_path, data, far.url, "data.missing_shards=mask", "train.duration=15 steps")
    assert go(recipe)["status"] == "finished"
    found = audited(recipe.config.folder, capsys)
    shards = open_shards(data / "train")
    assert found["problems"] == []
    assert found["images"] == 4 * shards.samples
    assert found["masked"] == 4 * int(shards.counts[shards.names.index(gone)])
    lost = read_metrics(recipe.config.folder)["data/lost_images"]
    assert lost[-1].value == found["masked"]


@pytest.mark.parametrize("command", ["plan", "submit"])
def test_plan_and_dry_run_need_the_manifest_alone(tmp_path, data, far, command):
    remote(tmp_path, data, far.url)
    overrides = [f"data.train={far.url}", f"data.cache={tmp_path / 'cache'}", *LOCAL]
    arguments = [command, str(tmp_path / "recipe.toml"), *overrides]
    arguments += ["--json"] if command == "plan" else ["--dry-run", "--json"]
    done = subprocess.run(
        [sys.executable, "-c", FRESH, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stderr) == []
    assert json.loads(done.stdout)["data"]["samples"] == 60
    assert {name for _, name, _ in far.seen} == {"manifest.json"}
    assert not (tmp_path / "cache").exists()


@pytest.mark.dist
@pytest.mark.slow
def test_two_ranks_share_a_cache_and_train_as_from_the_folder(tmp_path, data, far):
    two = ("train.micro_batch=4",)
    here = make_recipe(tmp_path / "here", data, *LOCAL, *two)
    there = remote(tmp_path / "there", data, far.url, *two)
    for recipe in (here, there):
        replies_of = run_ranks(2, "tests.train.test_remote:straight", recipe.to_json())
        assert [reply["status"] for reply in replies_of] == ["finished"] * 2
    assert_same_training(there, here)
    assert all(far.gets(name) == 1 for name in tars(far))


def straight(recipe: dict) -> dict:
    return run({"recipe": recipe, "resume": "auto"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_run_from_a_bucket_is_that_from_the_folder(tmp_path, data, twin, monkeypatch):
    moto_server = pytest.importorskip("moto.server", reason="needs moto and s3fs, of the dev extra")
    pytest.importorskip("s3fs", reason="needs moto and s3fs, of the dev extra")
    import boto3

    server = moto_server.ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-a-real-secret")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        client = boto3.client("s3")
        client.create_bucket(Bucket="corpus")
        for path in (data / "train").iterdir():
            client.put_object(Bucket="corpus", Key=f"train/{path.name}", Body=path.read_bytes())
        recipe = remote(tmp_path, data, "s3://corpus/train")
        assert go(recipe)["status"] == "finished"
        client.close()
    finally:
        server.stop()
    assert_same_training(recipe, twin)
