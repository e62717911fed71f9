"""Emoji: names that enough vendors draw, one vendor for the test alone."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.data.sources.test_icons import package
from vitscale.data.sources.emoji import LEFT_OUT, VENDORS, emoji_splits, make_plan
from vitscale.errors import DataError

SETS = {
    vendor: ("Ann", "MIT", ["cat", "dog", *(["owl"] * (n < 4))]) for n, vendor in enumerate(VENDORS)
}
SETS["fxemoji"] = ("Ann", "MIT", ["dog"])
SETS["noto"] = ("Ann", "MIT", ["cat"])


def test_the_left_out_vendor_is_held_out_and_rare_names_are_no_classes(tmp_path):
    tarball = package(tmp_path / "e.tgz", SETS | {"other": ("Bob", "MIT", ["cat", "dog"])})
    with ThreadPoolExecutor(1) as pool:
        splits = emoji_splits(cache=tmp_path, tarball=tarball, executor=pool, side_px=8)
        keys = {name: {s.key for s in split.samples} for name, split in splits.items()}
    assert splits["train"].classes == splits["held-out"].classes == ("cat", "dog")
    assert keys["held-out"] == {f"{LEFT_OUT}/cat", f"{LEFT_OUT}/dog"}
    others = [vendor for vendor in VENDORS if vendor != LEFT_OUT]
    expected = {f"{vendor}/{name}" for vendor in others for name in ("cat", "dog")}
    assert keys["train"] == expected - {"fxemoji/cat", "noto/dog"}


def test_a_package_without_a_vendor_is_refused(tmp_path):
    fewer = {vendor: facts for vendor, facts in SETS.items() if vendor != "noto"}
    with pytest.raises(DataError, match="no emoji of noto"):
        make_plan(package(tmp_path / "e.tgz", fewer))
