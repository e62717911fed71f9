"""Parts, class filters, lists and mixtures of sets: the right samples under the right labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest

from tests.data.corpora import image_file, packed
from vitscale.config.dataset import MASKED
from vitscale.config.source import Source
from vitscale.data.corpus import Corpus, open_corpus
from vitscale.data.samples import Sample, Split
from vitscale.data.shards import ShardSet
from vitscale.data.tar_index import index_folder
from vitscale.data.write import pack
from vitscale.errors import ConfigError, DataError


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("data") / "d"
    packed(folder, 50, shard_samples=7)
    return str(folder)


def corpus_of(shards: str, **filters) -> Corpus:
    return open_corpus([Source(shards=shards, **filters)])


def keys_of(corpus: Corpus) -> list[str]:
    return [corpus.whereabouts(sample)[1] for sample in range(corpus.samples)]


def test_a_whole_set_is_itself(folder):
    corpus = corpus_of(folder)
    assert corpus.samples == 50
    assert corpus.facts == corpus.selections[0].shards.facts
    rows = corpus.rows(np.arange(50))
    assert rows.labels[:, 0].tolist() == corpus.labels().tolist()


@pytest.mark.parametrize("part", ["[5:]", "[:12]", "[-9:]", "[20%:40%]"])
def test_a_part_is_that_stretch_of_the_ids(folder, part):
    whole, some = corpus_of(folder), corpus_of(folder + part)
    numbers = {
        "[5:]": slice(5, 50),
        "[:12]": slice(12),
        "[-9:]": slice(41, 50),
        "[20%:40%]": slice(10, 20),
    }
    wanted = numbers[part]
    assert keys_of(some) == keys_of(whole)[wanted]
    assert some.labels().tolist() == whole.labels()[wanted].tolist()
    assert some.facts.fingerprint != whole.facts.fingerprint
    assert int(some.selections[0].counts.sum()) == some.samples


def test_parts_that_meet_share_no_sample_and_lose_none(folder):
    train, held = keys_of(corpus_of(folder + "[13:]")), keys_of(corpus_of(folder + "[:13]"))
    assert Counter(train + held) == Counter(keys_of(corpus_of(folder)))


def test_classes_keep_their_samples_under_new_labels(folder):
    whole = corpus_of(folder)
    some = corpus_of(folder, classes=("class 3", "class 1"))
    assert some.classes == ("class 3", "class 1")
    wanted = [(key, {3: 0, 1: 1}[label]) for key, label in pairs(whole) if label in (1, 3)]
    assert pairs(some) == wanted
    with pytest.raises(ConfigError, match="no class 'class 9'"):
        corpus_of(folder, classes=("class 9",))


def pairs(corpus: Corpus) -> list[tuple[str, int]]:
    return list(zip(keys_of(corpus), corpus.labels().tolist(), strict=True))


def test_lists_of_ids_and_keys_choose_and_leave_out(folder, tmp_path):
    whole = corpus_of(folder)
    (tmp_path / "ids").write_text("# few\n41\n3\n\n17\n")
    assert keys_of(corpus_of(folder, ids=str(tmp_path / "ids"))) == [
        keys_of(whole)[n] for n in (3, 17, 41)
    ]
    chosen = sorted(keys_of(whole))[:11]
    (tmp_path / "keys").write_text("\n".join(chosen))
    keys = str(tmp_path / "keys")
    assert sorted(keys_of(corpus_of(folder, keys=keys))) == chosen
    assert not set(keys_of(corpus_of(folder, without=keys))) & set(chosen)
    assert corpus_of(folder, without=keys).samples == 39
    both = corpus_of(folder + "[:25]", keys=keys)
    assert set(keys_of(both)) == set(chosen) & set(keys_of(whole)[:25])


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("ids", "3\n50", "1 lines are no sample number, the first '50'"),
        ("ids", "x", "no sample number"),
        ("keys", "nope", "1 keys are not in the set: 'nope'"),
        ("keys", "", "is empty"),
        ("ids", "3\n3", "has lines twice"),
    ],
)
def test_lists_that_do_not_fit_are_refused(folder, tmp_path, name, text, message):
    (tmp_path / "list").write_text(text)
    with pytest.raises(DataError, match=message):
        corpus_of(folder, **{name: str(tmp_path / "list")})
    with pytest.raises(DataError, match="cannot be read"):
        corpus_of(folder, **{name: str(tmp_path / "absent")})


def test_filters_that_leave_nothing_are_refused(folder, tmp_path):
    with pytest.raises(DataError, match=r"no sample is left by the part \[50:\]"):
        corpus_of(folder + "[50:]")
    (tmp_path / "ids").write_text("40")
    with pytest.raises(DataError, match="no sample is left by ids"):
        corpus_of(folder + "[:10]", ids=str(tmp_path / "ids"))


def test_sets_of_other_classes_join_under_one_list(tmp_path):
    """Class names decide: `b` is one class wherever it comes from."""
    for name, classes, count in (("one", ("a", "b"), 6), ("two", ("c", "b"), 10)):
        samples = [Sample(f"{name}{n}", "png", image_file(seed=n), n % 2) for n in range(count)]
        pack(Split(classes, samples), tmp_path / name)
    both = open_corpus([Source(shards=str(tmp_path / name)) for name in ("one", "two")])
    assert both.classes == ("a", "b", "c")
    assert both.samples == 16
    wanted = {f"one{n}": n % 2 for n in range(6)} | {f"two{n}": (2, 1)[n % 2] for n in range(10)}
    assert dict(pairs(both)) == wanted
    shuffled = np.random.default_rng(0).permutation(16)
    rows = both.rows(shuffled)
    assert rows.labels[:, 0].tolist() == both.labels()[shuffled].tolist()
    lengths = [len(both.read(int(sample))) for sample in shuffled]
    assert rows.files.lengths.tolist() == lengths


def test_several_labels_stand_in_rows_and_filters_drop_single_labels(tmp_path):
    from tests.data.corpora import make_tar

    labels = {"k0": b"0 2", "k1": b"1", "k2": b"0,1,2", "k3": None}
    files = [
        file
        for number, (key, text) in enumerate(labels.items())
        for file in ((f"{key}.png", image_file(seed=number)), (f"{key}.cls", text))
        if file[1] is not None
    ]
    make_tar(tmp_path / "d" / "a.tar", files)
    index_folder(tmp_path / "d", classes=("x", "y", "z"))
    corpus = corpus_of(str(tmp_path / "d"))
    none = MASKED
    assert corpus.most_labels == 3
    assert corpus.rows(np.arange(4)).labels.tolist() == [
        [0, 2, none],
        [1, none, none],
        [0, 1, 2],
        [none, none, none],
    ]
    assert corpus.label_rows().tolist() == corpus.rows(np.arange(4)).labels.tolist()
    with pytest.raises(DataError, match="3 of 4 samples have no label or several"):
        corpus.labels()
    some = corpus_of(str(tmp_path / "d"), classes=("z", "x"))
    assert [sorted(row) for row in some.rows(np.arange(2)).labels.tolist()] == [[none, 0, 1]] * 2


def test_every_set_of_a_mixture_is_told_its_own_shards(folder, tmp_path, monkeypatch):
    packed(tmp_path / "other", 20, shard_samples=5)
    walks: dict[str, Iterator[int]] = {}
    monkeypatch.setattr(
        ShardSet, "prefetch", lambda self, walk, **_: walks.update({str(self.folder): walk})
    )
    both = open_corpus([Source(shards=each) for each in (folder, str(tmp_path / "other"))])
    both.follow(lambda: iter([(0, 7), (1, 2), (0, 3), (1, 0)]), lambda source, shard: 0)
    # read only now, as the threads that fetch do
    assert list(walks[folder]) == [7, 3]
    assert list(walks[str(tmp_path / "other")]) == [2, 0]
