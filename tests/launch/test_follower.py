"""A job that is followed: what is checked before it starts, and a real one, scored to its last commit."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from tests.evaluate.made_runs import make_downstream
from tests.train.recipes import make_data, make_recipe
from vitscale.config.cluster import ClusterProfile, Follow, Slurm, load_profile
from vitscale.errors import ConfigError
from vitscale_launch.job import make_job, ordered_job
from vitscale_launch.submit import dry_run, submit

KNN = '[data.one]\ntrain = "{0}/one"\ntest = "{0}/one-test"\n[[task]]\nmethod = "knn"\nk = [5]\n'


def test_the_suite_goes_with_the_order_since_its_file_may_not_be_there(recipe, tmp_path):
    (tmp_path / "s.toml").write_text(KNN.format(tmp_path))
    job = make_job(recipe, ClusterProfile(follow=Follow(suite=str(tmp_path / "s.toml"))))
    order = json.loads(json.dumps(job.order))
    (tmp_path / "s.toml").unlink()
    again = ordered_job(order)
    assert again.follow == job.follow is not None
    assert again.follow["suite"]["name"] == "s"
    assert "follow" not in order["profile"]
    assert dry_run(job.recipe, ClusterProfile())["cluster"].get("follow") is None


def test_a_follower_that_cannot_be_is_refused_before_anything_starts(recipe, tmp_path):
    with pytest.raises(ConfigError, match="there is no suite 'dmo'"):
        make_job(recipe, load_profile("local", ["cluster.follow.suite=dmo"]))
    with pytest.raises(ConfigError, match="suite: is required"):
        load_profile("local", ["cluster.follow.gpus=1"])
    with pytest.raises(ValueError, match=r"follow has no effect with slurm\.launcher"):
        ClusterProfile(kind="slurm", slurm=Slurm(launcher="torchrun"), follow=Follow(suite="demo"))


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.filterwarnings("ignore")
def test_a_job_on_ray_has_every_commit_scored_once_when_it_ends(tmp_path, capfd):
    """Real ranks, a real suite; the job is submitted a second time for more steps."""
    data = make_data(tmp_path / "data")
    make_downstream(tmp_path / "down")
    suite = tmp_path / "s.toml"
    suite.write_text(KNN.format(tmp_path / "down"))
    profile = ClusterProfile(follow=Follow(suite=str(suite)))
    own = ("engine.kind=local", "checkpoint.keep=1", "optim.schedule=constant")
    for steps in (6, 10):
        recipe = make_recipe(tmp_path, data, *own, f"train.duration={steps} steps")
        reply = submit(recipe, profile)
        assert reply["status"] == "finished"
        assert reply["message"].endswith("every commit is scored by suite s")
    folder = recipe.config.folder
    lines = (folder / "transfer" / "followed-s.jsonl").read_text().splitlines()
    assert Counter(json.loads(line)["step"] for line in lines) == Counter([2, 4, 6, 8, 10])
    told = (folder / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in told if "transfer/one/knn" in line]
    assert sorted(steps) == [2, 4, 6, 8, 10]
    # Ray puts the name of the process before each line.
    said = [line for line in capfd.readouterr().err.splitlines() if "[follower] " in line]
    assert [line for line in said if "suite s" in line]
    scored = [line.partition("[follower] ")[2] for line in said if line.endswith(" is scored")]
    assert len(scored) == len({*scored}) == 5
