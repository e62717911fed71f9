"""Help texts come from the sections themselves."""

from __future__ import annotations

import pytest

from vitscale.config.explain import explain, sections, summary_of
from vitscale.errors import ConfigError

ALL = {key.name: key for key in explain()}


@pytest.mark.parametrize("key", ALL.values(), ids=ALL)
def test_every_key_has_a_help_text_and_a_type_in_words(key):
    assert key.help.endswith((".", ")"))
    assert "." not in key.kind and "<" not in key.kind and "Union" not in key.kind


@pytest.mark.parametrize(
    ("name", "kind", "bounds", "default"),
    [
        ("train.batch", "whole number", ">= 1", "required"),
        ("train.duration", "duration", "", "required"),
        ("optim.warmup", "duration", "", '"0 steps"'),
        ("optim.clip_norm", 'number | "off"', "> 0", "1.0"),
        ("data.flip", "true | false", "", "true"),
        ("data.crop_area", "[number, number]", "", "[0.05, 1.0]"),
        ("model.image_px", "whole number | [whole number, whole number]", "", "224"),
        ("engine.zero_stage", '"auto" | 0 | 1 | 2 | 3', "", '"auto"'),
        ("engine.precision", '"bf16" | "fp16" | "fp32"', "", '"bf16"'),
        ("train.label_smoothing", "number", ">= 0, < 1", "0.0"),
    ],
)
def test_facts_of_a_key(name, kind, bounds, default):
    key = ALL[name]
    assert (key.kind, key.bounds, key.default) == (kind, bounds, default)


def test_a_section_stands_for_its_keys():
    assert {key.section for key in explain("init")} == {"init"}
    names = ["init.weights", "init.checkpoint", "init.head", "init.which"]
    names += ["init.resample", "init.patches"]
    assert [key.name for key in explain("init")] == names
    assert all(summary_of(section) for section in sections())


@pytest.mark.parametrize(
    ("name", "hint"),
    [("train.bacth", "'train.batch'"), ("modle", "'model'"), ("opt.lr", "'optim.lr'")],
)
def test_an_unknown_key_names_the_nearest(name, hint):
    with pytest.raises(ConfigError, match=f"Did you mean {hint}"):
        explain(name)
