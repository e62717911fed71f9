"""The table of docs/scaling.md is what the planner says."""

from __future__ import annotations

from bench.scaling import MODELS, WORLDS, efficiency, job_of, table
from tests.house.tree import ROOT


def test_the_page_has_the_numbers_of_the_code():
    page = (ROOT / "docs/scaling.md").read_text(encoding="utf-8")
    jobs = {variant: [job_of(variant, world) for world in WORLDS] for variant in MODELS}
    assert table(jobs) in page


def test_more_gpus_are_faster_and_none_of_them_is_faster_than_on_one_machine():
    for variant in MODELS:
        jobs = [job_of(variant, world) for world in WORLDS]
        speeds = [job.images_per_s for job in jobs]
        assert speeds == sorted(speeds)
        assert all(0 < efficiency(job, jobs[0]) <= 1.02 for job in jobs)
        assert all(job.fits for job in jobs)
