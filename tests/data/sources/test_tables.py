"""Lists and Parquet files become splits: paths, columns, several labels, names, and every complaint."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.data.corpora import image_file
from vitscale.data.sources.choose import Choice, splits_of
from vitscale.data.sources.file_list import list_split
from vitscale.data.sources.label_cells import Columns
from vitscale.errors import ConfigError, DataError

USUAL = Columns()


@pytest.fixture
def images(tmp_path):
    """Four images below `img`, one of them with a false name."""
    for name, format in (
        ("a.jpg", "JPEG"),
        ("b.PNG", "PNG"),
        ("c.d.webp", "WEBP"),
        ("e.jpg", "PNG"),
    ):
        path = tmp_path / "img" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(image_file(format))
    return tmp_path


def as_rows(split) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(sample.key, sample.extension, sample.labels) for sample in split.samples]


def test_a_csv_with_names_gives_classes_in_natural_order(images):
    text = "path,label\nimg/a.jpg,dog\nimg/b.PNG,class 10|class 2\nimg/c.d.webp,\nimg/e.jpg,dog\n"
    (images / "list.csv").write_text(text)
    split = list_split(images / "list.csv", USUAL)
    assert split.classes == ("class 2", "class 10", "dog")
    assert split.named
    assert as_rows(split) == [
        ("img/a", "jpg", (2,)),
        ("img/b", "png", (0, 1)),
        ("img/c_d", "webp", ()),
        ("img/e", "png", (2,)),
    ]


def test_a_tsv_with_numbers_in_columns_of_any_name(images):
    (images / "list.tsv").write_text(
        "y\twhere\n3\timg/a.jpg\n0;3\timg/b.PNG\n", encoding="utf-8-sig"
    )
    split = list_split(images / "list.tsv", Columns("where", "y", ";"))
    assert split.classes == ("0", "1", "2", "3")
    assert not split.named
    assert [labels for _, _, labels in as_rows(split)] == [(3,), (0, 3)]


def test_json_lines_hold_one_label_a_list_or_none(images):
    records = [("img/a.jpg", "x"), ("img/b.PNG", ["y", "x"]), ("img/e.jpg", None)]
    lines = [json.dumps({"file_name": path, "labels": labels}) for path, labels in records]
    (images / "list.jsonl").write_text("\n".join(lines) + "\n\n")
    split = list_split(images / "list.jsonl", USUAL)
    assert [labels for _, _, labels in as_rows(split)] == [(0,), (0, 1), ()]


REFUSED = {
    "no column for the paths: none of image, path": ("a.csv", "x,label\nimg/a.jpg,1\n"),
    "no column for the labels": ("a.csv", "path,x\nimg/a.jpg,1\n"),
    "line 2 does not have the columns": ("a.csv", "path,label\nimg/a.jpg\n"),
    "line 2, img/none.jpg: No such file": ("a.csv", "path,label\nimg/none.jpg,1\n"),
    "line 2, list.txt: no JPEG": ("a.csv", "path,label\nlist.txt,1\n"),
    "some labels are whole numbers": ("a.csv", "path,label\nimg/a.jpg,1\nimg/a.jpg,cat\n"),
    "label -1; labels run from 0": ("a.csv", "path,label\nimg/a.jpg,-1\n"),
    "numbered up to it": ("a.csv", "path,label\nimg/a.jpg,4000000000\n"),
    "its name ends in .txt": ("a.txt", "path,label\nimg/a.jpg,1\n"),
    "line 1 is no JSON object": ("a.jsonl", "[1]\n"),
    "line 1: label '1.5' is no whole number": ("a.jsonl", '{"path": "img/a.jpg", "label": 1.5}\n'),
    "Expecting": ("a.jsonl", "{\n"),
    "codec can't decode": ("a.csv", b"path,label\n\xff\xfe,1\n"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_lists_that_cannot_be_used_say_where(images, why):
    name, text = REFUSED[why]
    (images / "list.txt").write_text("text")
    (images / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(DataError) as caught:
        list_split(images / name, USUAL)
    assert why in str(caught.value)
    assert name in str(caught.value)


def test_a_share_of_a_list_is_held_out_by_class(images):
    rows = "".join(f"img/a.jpg,{label}\n" for label in [0] * 10 + [1] * 10)
    (images / "list.csv").write_text("path,label\n" + rows)
    splits = splits_of(Choice("list", images / "list.csv", held_out_share=0.2))
    assert sorted(s.labels for s in splits["held-out"].samples) == [(0,)] * 2 + [(1,)] * 2
    assert len(list(splits["train"].samples)) == 16


pyarrow = pytest.importorskip("pyarrow")


def write_parquet(path: Path, images: list, labels: list, features: dict | None = None) -> None:
    import pyarrow.parquet as parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    table = pyarrow.table({"image": images, "label": labels})
    if features is not None:
        metadata = {"huggingface": json.dumps({"info": {"features": {"label": features}}})}
        table = table.replace_schema_metadata(metadata)
    parquet.write_table(table, path, row_group_size=2)


def in_place(*formats: str) -> list[dict]:
    return [{"bytes": image_file(format, seed=n), "path": None} for n, format in enumerate(formats)]


CLASS_LABEL = {"_type": "ClassLabel", "names": ["cat", "dog", "eel"]}


def test_parquet_of_hugging_face_keeps_names_and_splits(tmp_path):
    data = tmp_path / "data"
    write_parquet(
        data / "train-00000-of-00002.parquet",
        in_place("PNG", "JPEG", "WEBP"),
        [1, 0, -1],
        CLASS_LABEL,
    )
    write_parquet(data / "train-00001-of-00002.parquet", in_place("PNG"), [1], CLASS_LABEL)
    write_parquet(data / "test-00000-of-00001-0a1b.parquet", in_place("PNG"), [0], CLASS_LABEL)
    splits = splits_of(Choice("parquet", tmp_path))
    assert set(splits) == {"train", "test"}
    assert splits["train"].classes == ("cat", "dog", "eel")
    samples = list(splits["train"].samples)
    assert [s.labels for s in samples] == [(1,), (0,), (), (1,)]
    assert [s.extension for s in samples] == ["png", "jpg", "webp", "png"]
    assert samples[1].data == image_file("JPEG", seed=1)
    assert [s.key for s in samples] == [f"train/{n:08d}" for n in range(4)]


def test_parquet_with_plain_bytes_lists_and_text(tmp_path):
    images = [image_file(seed=n) for n in range(3)]
    write_parquet(tmp_path / "a.parquet", images, [["x", "y"], [], ["y"]])
    split = splits_of(Choice("parquet", tmp_path / "a.parquet"))["train"]
    assert split.classes == ("x", "y")
    assert [s.labels for s in split.samples] == [(0, 1), (), (1,)]
    names = {"feature": CLASS_LABEL, "_type": "Sequence"}
    write_parquet(tmp_path / "b.parquet", images, [[0, 2], [1], []], names)
    split = splits_of(Choice("parquet", tmp_path / "b.parquet"))["train"]
    assert split.classes == ("cat", "dog", "eel")


def test_parquet_with_paths_reads_beside_the_table(tmp_path):
    (tmp_path / "x.png").write_bytes(image_file())
    write_parquet(tmp_path / "a.parquet", [{"bytes": None, "path": "x.png"}], [0])
    (sample,) = splits_of(Choice("parquet", tmp_path))["train"].samples
    assert sample.data == tmp_path / "x.png"


def test_parquet_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no \*\.parquet"):
        splits_of(Choice("parquet", tmp_path))
    (tmp_path / "a.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(DataError, match="cannot be read"):
        splits_of(Choice("parquet", tmp_path))
    write_parquet(tmp_path / "a.parquet", in_place("PNG"), [3], CLASS_LABEL)
    with pytest.raises(DataError, match="do not fit the 3 class names"):
        splits_of(Choice("parquet", tmp_path))
    write_parquet(tmp_path / "a.parquet", [b"GIF89a"], [0])
    with pytest.raises(DataError, match="image 0 of the split train"):
        list(splits_of(Choice("parquet", tmp_path))["train"].samples)
    with pytest.raises(DataError, match="there are: image, label"):
        splits_of(Choice("parquet", tmp_path, label_column="fine_label"))


def test_settings_of_other_sources_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"--keys: has no effect on --from list"):
        splits_of(Choice("list", tmp_path / "x.csv", keys=tmp_path))
    with pytest.raises(ConfigError, match=r"--from idx needs the PATH"):
        splits_of(Choice("idx"))
