"""`vitscale plan --on PROFILE`: the same as the options that the profile stands for, and how the two may not differ."""

from __future__ import annotations

import json

import pytest

from tests.house.tree import ROOT
from vitscale.cli.main import main

RECIPE = ("configs/pretrain/vit_h14_jft.toml", "--images", "300000000", "--classes", "18291")
PROFILES = {
    "h100": 'kind = "ray"\naddress = "auto"\nworkers = 32\nworkers_per_node = 4\ngpus_per_worker = 1\n'
    'accelerator = "H100"\n',
    "some": 'kind = "ray"\naddress = "auto"\nworkers = 16\ngpus_per_worker = 1\n',
    "cpu": 'kind = "ray"\naddress = "auto"\nworkers = 4\n',
    "abacus": 'kind = "ray"\naddress = "auto"\nworkers = 4\ngpus_per_worker = 1\naccelerator = "abacus"\n',
}

IN_FP8 = [
    "ops.linear=fp8-rowwise",
    "engine.zero_stage=2",
    "ops.block=compile",
    "model.variant=H/16",
]


@pytest.fixture
def plan(tmp_path, monkeypatch, capsys):
    """The output of `vitscale plan` on one of PROFILES, or its complaint."""
    monkeypatch.chdir(ROOT)
    for name, text in PROFILES.items():
        (tmp_path / f"{name}.toml").write_text(f"[cluster]\n{text}")

    def run(*words, on=None, code=0):
        profile = () if on is None else ("--on", str(tmp_path / f"{on}.toml"))
        assert main(["plan", *RECIPE, *profile, *words]) == code
        printed = capsys.readouterr()
        return printed.err if code else printed.out

    return run


def test_a_profile_stands_for_world_gpu_and_ranks_of_a_machine(plan):
    options = ("--world", "32", "--gpu", "H100", "--per-node", "4", "--json")
    by_profile = json.loads(plan("--json", on="h100"))
    assert by_profile == json.loads(plan(*options))
    assert by_profile == json.loads(plan(*options, on="h100"))
    assert by_profile["forecast"]["images_per_s"] > 0


def test_overrides_change_the_profile(plan):
    changed = json.loads(
        plan("cluster.workers=64", "cluster.accelerator=A100-80G", "--json", on="h100")
    )
    wanted = plan("--world", "64", "--gpu", "A100-80G", "--per-node", "4", "--json")
    assert changed == json.loads(wanted)


def test_a_name_of_several_kinds_is_told_which_is_reckoned_with(plan):
    common = ("cluster.accelerator=A100",)
    whole = json.loads(plan(*common, "--json", on="h100"))["forecast"]
    assert (
        whole == json.loads(plan("cluster.accelerator=A100-80G", "--json", on="h100"))["forecast"]
    )
    assert whole["gpu"] == "A100-80G"
    assert "A100-80G, one of several of that name: for another --gpu A100-40G" in plan(
        *common, on="h100"
    )
    narrowed = json.loads(plan(*common, "--gpu", "A100-40G", "--json", on="h100"))["forecast"]
    assert narrowed["gpu"] == "A100-40G"
    complaint = plan("cluster.accelerator=A100-40G", "--gpu", "A100", on="h100", code=2)
    assert "the profile says cluster.accelerator = A100-40G" in complaint


def test_ranks_on_cpus_hold_what_explicit_attention_keeps(plan):
    """2 H N bytes a token of each block in bf16, less 4 H bytes of sums that the fused one keeps (docs/scaling.md).

    Of the last block 2 H, for its one token, less the 2 D of queries that are not copied.
    """
    found = {
        name: json.loads(plan("engine.recompute=none", f"ops.attention={name}", "--json", on="cpu"))
        for name in ("auto", "explicit", "sdpa")
    }
    held = {name: each["forecast"]["memory"]["activations"] for name, each in found.items()}
    assert held["auto"] == held["explicit"]
    model, images = found["auto"]["model"], found["auto"]["plan"]["micro_batch"]
    tokens, heads = model["tokens"], model["heads"]
    last = 2 * heads - 2 * model["width"]
    more = images * tokens * ((model["depth"] - 1) * heads * (2 * tokens - 4) + last)
    assert held["explicit"] - held["sdpa"] == pytest.approx(more, rel=0.01)


def test_an_option_says_what_the_profile_leaves_open(plan):
    by_both = json.loads(plan("--gpu", "H200", "--json", on="some"))
    assert by_both == json.loads(plan("--world", "16", "--gpu", "H200", "--json"))


@pytest.mark.parametrize("profile", ["cpu", "some"])
def test_without_an_accelerator_there_is_what_needs_none(plan, profile):
    """Weights of 14 n + 2 n bytes in all, and 2 numbers a parameter sent (docs/scaling.md)."""
    found = json.loads(plan("engine.zero_stage=1", "--json", on=profile))
    world, n = found["plan"]["world"], found["model"]["parameters"]
    forecast = found["forecast"]
    memory = forecast["memory"]
    assert memory["weights"] == 2 * n
    assert memory["masters"] + memory["moments"] == pytest.approx(12 * n / world, rel=0.3)
    assert forecast["sent_bytes_per_step"] == pytest.approx(3 * 2 * n * (world - 1) / world)
    assert "images_per_s" not in forecast
    text = plan(on=profile)
    assert "at most on each rank" in text
    assert "MFU" not in text


def test_what_auto_became_is_in_the_plan(plan):
    found = json.loads(plan("engine.recompute=auto", "engine.zero_stage=auto", "--json", on="h100"))
    assert found["forecast"]["engine"] == {"stage": 1, "recompute": "none"}
    small = plan("engine.recompute=auto", "cluster.accelerator=L4", on="h100")
    assert "engine      ZeRO stage 3, recompute none" in small


@pytest.mark.parametrize(
    ("profile", "words", "complaint"),
    [
        ("h100", ["--gpu", "H200"], "the profile says cluster.accelerator = H100"),
        ("h100", ["--world", "8"], "the profile says cluster.workers = 32"),
        ("h100", ["--per-node", "8"], "the profile says cluster.workers_per_node = 4"),
        ("abacus", [], "It knows A100-40G, A100-80G, H100"),
        ("cpu", ["--gpu", "H100"], "has no effect with a profile that gives its workers no GPUs"),
        ("cpu", ["--measured", "100"], "has no effect with a profile that gives its workers"),
        ("some", ["--measured", "100"], "has no effect without --gpu or cluster.accelerator"),
        (None, ["cluster.workers=8"], "cluster"),
        ("h100", ["engine.zero_hpz=8"], "must be the ranks of a machine, 4 here"),
        (
            "h100",
            ["cluster.accelerator=L4", "train.micro_batch=64", "engine.recompute=none"],
            "Fits: ",
        ),
        (
            "h100",
            ["cluster.accelerator=A100", *IN_FP8],
            "fp8-rowwise needs compute capability 9.0, and this GPU has 8.0 (given: fp8-rowwise). "
            'Use "torch", or H100, H200, B200.',
        ),
        ("h100", ["cluster.accelerator=L4", *IN_FP8], "needs compute capability 9.0"),
    ],
)
def test_profiles_and_options_that_contradict_are_refused(plan, profile, words, complaint):
    assert complaint in plan(*words, on=profile, code=2)


def test_a_preset_has_no_place_to_run(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    assert main(["plan", "--model", "B/16", "--on", "local"]) == 2
    assert "--on: has no effect with --model" in capsys.readouterr().err
