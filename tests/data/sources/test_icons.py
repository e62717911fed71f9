"""Icons: classes by shared names, whole authors held out, licences respected, drawings on white."""

from __future__ import annotations

import io
import json
import tarfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from vitscale.data.decode import decode
from vitscale.data.sources import icons
from vitscale.data.sources.icons import icons_splits, render, svg_of
from vitscale.errors import DataError

SQUARE = '<path fill="currentColor" d="M0 0h24v24H0z"/>'
NAMES = [f"icon-{number}" for number in range(35)]


def package(path, sets: dict[str, tuple[str, str, list[str]]]):
    """A tarball like npm's: prefix -> (author, licence, icon names)."""
    collections = {
        prefix: {"name": prefix.title(), "author": {"name": author}, "license": {"spdx": licence}}
        for prefix, (author, licence, _) in sets.items()
    }
    files = {"package/package.json": {}, "package/collections.json": collections}
    for prefix, (_, _, names) in sets.items():
        body = {
            "prefix": prefix,
            "height": 24,
            "width": 24,
            "icons": {n: {"body": SQUARE} for n in names},
        }
        files[f"package/json/{prefix}.json"] = body
    files["package/json/unlisted.json"] = {
        "prefix": "unlisted",
        "icons": {"home": {"body": SQUARE}},
    }
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            data = json.dumps(content).encode()
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


SETS = {
    "one": ("Ann", "MIT", [*NAMES, "rare"]),
    "two": ("Bob", "Apache-2.0", NAMES),
    "three": ("Bob", "MIT", NAMES),
    "four": ("Cy", "CC-BY-4.0", NAMES),
    "tiny": ("Di", "MIT", NAMES[:2]),
    "gpl": ("Ed", "GPL-2.0-only", ["rare", "rare2"]),
    "nc": ("Flo", "CC-BY-NC-SA-4.0", ["rare", "rare2"]),
}


def splits_of(tmp_path, **settings):
    tarball = package(tmp_path / "icons.tgz", SETS)
    with ThreadPoolExecutor(1) as pool:
        splits = icons_splits(cache=tmp_path, tarball=tarball, executor=pool, **settings)
        return {name: (split, list(split.samples)) for name, split in splits.items()}


def test_names_that_enough_sets_draw_are_the_classes(tmp_path):
    splits = splits_of(tmp_path, min_sets=3, held_out_sets=1)
    train, samples = splits["train"]
    assert train.classes == tuple(sorted(NAMES))
    assert splits["held-out"][0].classes == train.classes
    assert all(train.classes[s.label] == s.key.split("/")[1] for s in samples)


def test_sets_are_held_out_whole_and_with_all_sets_of_their_author(tmp_path):
    for seed in range(6):
        splits = splits_of(tmp_path, min_sets=3, held_out_sets=2, seed=seed)
        train, held_out = (
            {s.key.split("/")[0] for s in splits[n][1]} for n in ("train", "held-out")
        )
        assert train.isdisjoint(held_out)
        assert train | held_out == {"one", "two", "three", "four", "tiny"}
        assert held_out in ({"two", "three"}, {"one", "four"})


def test_the_choice_is_repeatable(tmp_path):
    first, again = (splits_of(tmp_path, min_sets=3, held_out_sets=1) for _ in range(2))
    assert first["held-out"][1] == again["held-out"][1]
    assert first["train"][1] == again["train"][1]


def test_refused_licences_and_unlisted_sets_are_left_out_and_the_rest_is_credited(tmp_path):
    splits = splits_of(tmp_path, min_sets=1, held_out_sets=1)
    split, samples = splits["train"]
    assert {s.key.split("/")[0] for s in samples}.isdisjoint({"gpl", "nc", "unlisted"})
    assert "rare2" not in split.classes
    text = split.notes["LICENCES.txt"]
    assert "MIT (3 sets)" in text
    assert "two: Two, Bob" in text
    assert "GPL" not in text


def test_asking_for_more_than_there_is_says_what_is_left(tmp_path):
    with pytest.raises(DataError, match="0 classes"):
        splits_of(tmp_path, min_sets=9, held_out_sets=1)
    with pytest.raises(DataError, match="sets to hold out are left"):
        splits_of(tmp_path, min_sets=3, held_out_sets=30)


def test_a_cut_package_is_refused(tmp_path):
    tarball = package(tmp_path / "icons.tgz", SETS)
    whole = tarball.read_bytes()
    for share in (0.05, 0.3, 0.6, 0.8):
        tarball.write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError, match="the package is damaged"):
            icons_splits(cache=tmp_path, tarball=tarball, min_sets=3, held_out_sets=1)


def test_an_icon_is_drawn_black_on_white_and_centred():
    wide = {
        "width": 32,
        "height": 16,
        "icons": {"a": {"body": '<path fill="currentColor" d="M0 0h32v16H0z"/>'}},
    }
    pixels = np.asarray(decode(render(svg_of(wide, "a"), 28)))
    assert pixels.shape == (28, 28, 3)
    assert (pixels[14] == 0).all()
    assert (pixels[2] == 255).all()
    assert (pixels[25] == 255).all()


def test_colours_are_kept():
    red = {"icons": {"a": {"body": '<path fill="#c80000" d="M0 0h16v16H0z"/>'}}}
    assert decode(render(svg_of(red, "a"), 28)).getpixel((14, 14)) == (200, 0, 0)


def test_an_icon_may_have_its_own_size_and_origin():
    own = {"width": 24, "height": 24, "icons": {"a": {"body": "", "width": 10, "left": -2}}}
    assert 'viewBox="-2 0 10 24"' in svg_of(own, "a")


def test_the_package_is_asked_for_by_name():
    assert (icons.PACKAGE, icons.VERSION) == ("@iconify/json", "2.2.535")
