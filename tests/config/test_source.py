"""Sources of a recipe: parts as Python slices them, tables with filters, lists as mixtures."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vitscale.config.load import Recipe, load_recipe
from vitscale.config.source import Source, split_part
from vitscale.errors import ConfigError

RECIPE = "configs/debug/tiny.toml"


def train_of(value: str):
    return load_recipe(RECIPE, [f"data.train={value}"]).config.data.train


counts = st.one_of(st.none(), st.integers(-70, 70))


@given(counts, counts, st.integers(0, 50))
def test_a_part_is_what_python_slices(begin, end, samples):
    text = f"x[{'' if begin is None else begin}:{'' if end is None else end}]"
    part = split_part(text)[1]
    assert part is not None
    first, last = part.of(samples)
    assert list(range(first, last)) == list(range(samples))[begin:end]


def test_shares_meet_without_gap_or_overlap():
    for samples in (1, 7, 51_200, 1_281_167):
        ends = [split_part(f"x[{p}%:{p + 1}%]")[1].of(samples) for p in range(100)]
        assert ends[0][0] == 0
        assert ends[-1][1] == samples
        assert all(one[1] == next_[0] for one, next_ in itertools.pairwise(ends))


def test_augreg_holds_out_the_first_51200_of_imagenet_21k():
    assert split_part("full[51200:]")[1].of(14_197_122) == (51_200, 14_197_122)
    assert split_part("full[:51200]")[1].of(14_197_122) == (0, 51_200)


@pytest.mark.parametrize("text", ["x[a:b]", "x[1:2:3]", "x[:101%]", "x[-5%:]"])
def test_brackets_that_hold_no_slice_are_refused(text):
    with pytest.raises(ConfigError, match=r"a part is written|at most 100 %"):
        train_of(f'"{text}"')


def test_a_name_with_brackets_that_are_no_slice_is_a_name():
    assert split_part("data/[old]/x") == ("data/[old]/x", None)


def test_a_text_a_table_and_a_list_of_one_say_the_same():
    assert train_of('"/d"') == train_of('{shards = "/d"}') == train_of('["/d"]')


def test_a_mixture_comes_back_from_its_saved_form():
    recipe = load_recipe(RECIPE, ['data.train=[{shards="/a", weight=2}, "/b[:5%]"]'])
    again = Recipe.from_json(recipe.to_json())
    assert again.config == recipe.config
    assert [source.weight for source in again.config.data.train] == [2, 1]


def test_relative_paths_are_made_absolute_and_urls_stay(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    keys = load_recipe(
        str(Path(__file__).parents[2] / RECIPE),
        ['data.train=[{shards="a[1:]", keys="k.txt"}, "s3://b/x"]', 'data.cache="c"'],
    ).config.data
    assert keys.train[0].shards == f"{tmp_path}/a[1:]"
    assert keys.train[0].keys == f"{tmp_path}/k.txt"
    assert keys.train[1].shards == "s3://b/x"
    assert keys.cache == f"{tmp_path}/c"


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ('data.train=[{shards="/a", weigth=2}]', "data.train.0.weigth: unknown key; did you mean"),
        ("data.train=[]", "is empty, and needs at least one value"),
        ('data.train={shards="/a", weight=3}', "no effect on a single source"),
        ('data.train={shards="/a", classes=["x", "x"]}', "each once"),
        ('data.held_out={shards="/a", weight=3}', "all of a held-out set is scored"),
        ("data.cache=/c", "all shards are on local disks"),
        ("data.train=s3://bucket/x", "is needed to read s3://bucket/x"),
    ],
)
def test_what_cannot_take_effect_is_refused(override, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load_recipe(RECIPE, [override])


def test_a_source_knows_whether_it_is_whole():
    assert Source(shards="/a", weight=3).is_whole
    assert not Source(shards="/a[:5]").is_whole
    assert not Source(shards="/a", classes=("x",)).is_whole


def test_a_file_url_is_a_folder_and_needs_no_cache(tmp_path):
    assert train_of(f'"file://{tmp_path}/d"')[0].place == f"file://{tmp_path}/d"
    with pytest.raises(ConfigError, match="all shards are on local disks"):
        load_recipe(RECIPE, ["data.train=file:///d", "data.cache=/c"])
