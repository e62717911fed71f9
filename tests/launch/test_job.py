"""What is found wrong before anything starts, and a dry run that touches nothing."""

import json
import subprocess
import sys
import time

import pytest

from vitscale.config.cluster import ClusterProfile
from vitscale.config.load import load_recipe
from vitscale.errors import ConfigError, DataError, ResourceError
from vitscale_launch.cluster import connected
from vitscale_launch.job import check_machine, make_job
from vitscale_launch.submit import dry_run

FRESH = """
import json, sys
from vitscale.cli.main import main
code = main(["submit", sys.argv[1], "--dry-run", "--json", "cluster.workers=4"])
heavy = {"torch", "ray", "mlflow", "deepspeed"} & set(sys.modules)
print(json.dumps(sorted(heavy)), file=sys.stderr)
sys.exit(code)
"""


def test_a_dry_run_prints_plan_and_profile_and_loads_nothing_heavy(recipe_file):
    command = [sys.executable, "-c", FRESH, str(recipe_file)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stderr) == []
    printed = json.loads(done.stdout)
    assert printed["plan"]["world"] == 4
    assert printed["plan"]["accumulation"] == 1
    assert printed["plan"]["total_steps"] == 20
    assert printed["cluster"]["kind"] == "local"
    assert printed["config"]["run"]["name"] == "tiny"


def test_a_dry_run_writes_nothing_and_hides_secrets(recipe, tmp_path):
    profile = ClusterProfile(environment={"WANDB_API_KEY": "0123456789", "NCCL_DEBUG": "INFO"})
    before = sorted(tmp_path.rglob("*"))
    printed = dry_run(recipe, profile)
    assert printed["cluster"]["environment"] == {"WANDB_API_KEY": "***", "NCCL_DEBUG": "INFO"}
    assert sorted(tmp_path.rglob("*")) == before


def test_a_batch_that_cannot_be_cut_is_refused_before_anything_starts(recipe):
    with pytest.raises(ConfigError, match="cannot be cut"):
        make_job(recipe, ClusterProfile(workers=3))


def test_missing_data_are_found_before_anything_starts(recipe_file, tmp_path):
    recipe = load_recipe(recipe_file, [f"data.train={tmp_path / 'nowhere'}"])
    with pytest.raises(DataError):
        make_job(recipe, ClusterProfile())


def test_gpus_that_the_recipe_would_not_use_are_refused(recipe):
    with pytest.raises(ConfigError, match=r"engine\.device"):
        make_job(recipe, ClusterProfile(gpus_per_worker=1))


def test_a_recipe_for_gpus_on_a_profile_without_is_refused(recipe_file):
    recipe = load_recipe(recipe_file, ["engine.device=cuda"])
    with pytest.raises(ConfigError, match=r"cluster\.gpus_per_worker=1"):
        make_job(recipe, ClusterProfile())


def test_gpus_this_machine_lacks_are_refused(recipe_file):
    recipe = load_recipe(recipe_file, ["engine.device=auto", "train.micro_batch=1"])
    job = make_job(recipe, ClusterProfile(gpus_per_worker=1, workers=8))
    with pytest.raises(ResourceError, match="needs 8"):
        check_machine(job)


def test_a_home_that_is_a_file_is_refused(recipe_file, tmp_path):
    (tmp_path / "runs").write_text("no folder")
    job = make_job(load_recipe(recipe_file), ClusterProfile())
    with pytest.raises(ResourceError, match=r"run\.home"):
        check_machine(job)


def test_an_address_where_nobody_listens_is_an_error_within_seconds():
    before = time.monotonic()
    profile = ClusterProfile(kind="ray", address="127.0.0.1:1", connect_s=2)
    with pytest.raises(ResourceError, match=r"cluster\.address"), connected(profile):
        pass
    assert time.monotonic() - before < 10


def test_an_elastic_job_knows_the_numbers_of_workers_it_may_run_on(recipe):
    job = make_job(recipe, ClusterProfile(workers=4, workers_min=1))
    assert job.worlds == (1, 2, 4)  # 3 cannot cut a batch of 8
    assert dry_run(recipe, job.profile)["plan"]["worlds"] == [1, 2, 4]
    assert make_job(recipe, ClusterProfile()).worlds == (2,)


def test_a_smallest_number_of_workers_that_cannot_cut_the_batch_is_refused(recipe):
    with pytest.raises(ConfigError, match=r"workers_min.*on 3 workers.*can: 1, 2, 4"):
        make_job(recipe, ClusterProfile(workers=4, workers_min=3))


def test_each_submission_has_a_name_of_its_own(recipe):
    first, second = (make_job(recipe, ClusterProfile()) for _ in range(2))
    assert first.request["submission"] == first.submission != second.submission
