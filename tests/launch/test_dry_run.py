"""What `vitscale submit --dry-run` prints for the shipped profiles at 1 and 512 GPUs, kept in golden/.

After a change that is meant: WRITE_GOLDEN=1 python -m pytest tests/launch/test_dry_run.py, and read the difference.
"""

import os
import re
from pathlib import Path

import pytest

from vitscale.cli.main import main

GOLDEN = Path(__file__).parent / "golden"
CLUSTER = Path(__file__).parents[2] / "configs/cluster"
FEWEST = {1: 1, 512: 256}


def dry_run(capsys, recipe_file, profile, gpus):
    """The output without what differs from machine to machine, and without the resolved config."""
    words = ["submit", str(recipe_file), "--on", str(CLUSTER / f"{profile}.toml"), "--dry-run"]
    words += ["train.batch=4096", "engine.device=auto", f"cluster.workers={gpus}"]
    words += ["cluster.gpus_per_worker=1"]
    if profile in ("ray", "kuberay"):
        words.append(f"cluster.workers_min={FEWEST[gpus]}")
    assert main(words) == 0
    text = capsys.readouterr().out
    text = re.sub(r"^( +order\.json: ).*$", r"\1ORDER", text, flags=re.MULTILINE)
    text = re.sub(r"^config\..*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"  +(?=\S)(?<=\S  )", "  ", text.replace(str(recipe_file.parent), "/tmp"))


@pytest.mark.parametrize("gpus", [1, 512])
@pytest.mark.parametrize("profile", ["local", "ray", "kuberay", "slurm", "slurm_torchrun"])
def test_a_dry_run_prints_what_it_printed_before(recipe_file, capsys, profile, gpus):
    before = sorted(recipe_file.parent.rglob("*"))
    printed = dry_run(capsys, recipe_file, profile, gpus)
    assert sorted(recipe_file.parent.rglob("*")) == before
    golden = GOLDEN / f"{profile}-{gpus}.txt"
    if "WRITE_GOLDEN" in os.environ:
        golden.write_text(printed)
    assert printed == golden.read_text()
