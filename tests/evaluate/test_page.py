"""The page about a run: every section with real content, nothing from a network, words where nothing is to show."""

from __future__ import annotations

import base64
import json
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from tests.train.recipes import make_recipe
from vitscale.cli.main import main
from vitscale.data.audit import Audit, EpochProof
from vitscale.data.decode import decode
from vitscale.errors import DataError
from vitscale.evaluate.chart import Marks, intervals, line_chart
from vitscale.evaluate.model_pictures import filters, mistakes
from vitscale.evaluate.page import write_page
from vitscale.evaluate.page_model import subject_at
from vitscale.model.build import build_model
from vitscale.tracking.journal import Journal

SECTIONS = [
    *("summary", "curves", "samples", "few-shot", "transfer"),
    *("filters", "positions", "attention", "mistakes"),
]


class Page(HTMLParser):
    """Ids of sections, text and pictures below each, and every address that is used."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.sections: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.charts: dict[str, int] = {}
        self.images: dict[str, list[str]] = {}
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.addresses += [values[name] for name in ("src", "href") if name in values]
        if tag == "section":
            self.sections.append(values["id"])
        at = self.sections[-1] if self.sections else "head"
        if tag == "img":
            self.images.setdefault(at, []).append(values["src"])
        if tag in ("polyline", "circle") or values.get("class") == "point":
            self.charts[at] = self.charts.get(at, 0) + 1

    def handle_data(self, data):
        self.words.setdefault(self.sections[-1] if self.sections else "head", []).append(data)

    def text_of(self, section: str) -> str:
        return " ".join(self.words[section])


@pytest.fixture(scope="module")
def text(reported):
    """The page, as it stands in its file."""
    return (reported / "report" / "report.html").read_text()


def test_every_section_has_its_content(text):
    page = Page(text)
    assert page.sections == SECTIONS
    assert page.charts["curves"] >= 6 and page.charts["few-shot"] == 2
    assert page.charts["transfer"] == 2 and "one" in page.text_of("transfer")
    assert "every step saw exactly the samples of its order" in page.text_of("samples")
    assert "12" in page.text_of("summary")
    counts = {name: len(page.images[name]) for name in ("filters", "positions", "attention")}
    assert counts == {"filters": 28, "positions": 1, "attention": 16}
    assert not [words for words in page.words.values() if "not measured" in words]


def test_epochs_that_are_alike_have_one_line(reported, monkeypatch, tmp_path):
    seen = ((0, 64), (1, 64), (2, 22))
    found = Audit(12, 150, epochs=[EpochProof(0, n, 64, count, 0) for n, count in seen])
    found.epochs += [EpochProof(1, 0, 64, 64, 0)]
    monkeypatch.setattr("vitscale.evaluate.page.audit", lambda *_: found)
    page = Page(write_page(reported, to=tmp_path / "page.html").read_text())
    lines = [words for words in page.words["samples"] if words.startswith("source")]
    assert lines == ["source 0, epochs 0 to 1", "source 0, epoch 2", "source 1, epoch 0"]
    assert "64 of 64 samples, complete, each once" in page.text_of("samples")
    assert "22 of 64 samples, so far, none twice" in page.text_of("samples")


def test_scores_of_the_average_stand_beside_those_of_the_weights(reported, tmp_path):
    [table] = (reported / "transfer" / "tables").glob("*.json")
    record = json.loads(table.read_text())
    for step, weights in ((4, "run step 4 (ema)"), (8, "run step 8 (ema)")):
        path = tmp_path / "transfer" / "tables" / f"r-{step}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record | {"weights": weights, "step": step}))
    (tmp_path / "transfer" / "tables" / "raw.json").write_text(table.read_text())
    (tmp_path / "metrics.jsonl").write_text((reported / "metrics.jsonl").read_text())
    text = Page(write_page(tmp_path).read_text()).text_of("transfer")
    assert text.count("suite r, step ") == 2
    assert "suite r, step 8, average of the weights: value" in text
    assert "suite r, step 12: value" in text


def test_a_run_folder_alone_asks_for_its_page(reported, capsys):
    assert main(["report", str(reported)]) == 0
    assert "report.html" in capsys.readouterr().out
    assert main(["report", "drow", str(reported)]) == 2
    assert "draw" in capsys.readouterr().err


def test_nothing_is_fetched_and_no_script_is_run(text):
    page = Page(text)
    links = [address for address in page.addresses if not address.startswith("data:")]
    assert links == [f"#{name}" for name in SECTIONS]
    assert "script" not in page.tags and "@import" not in text and "url(" not in text


def test_pictures_are_whole_pngs_of_the_size_of_what_they_show(text):
    page = Page(text)
    sizes = {}
    for name, images in page.images.items():
        data = [base64.b64decode(image.removeprefix("data:image/png;base64,")) for image in images]
        sizes[name] = {decode(one).size for one in data}
    assert sizes["filters"] == {(4, 4)} and sizes["attention"] == {(12, 12)}
    assert sizes["positions"] == {(11, 11)}  # 3 x 3 maps of 3 x 3, a gap between


def test_points_and_intervals_stand_at_their_percent():
    text = intervals([("<a>", 0.5, 0.4, 0.65)])
    assert "left: 40.00%; width: 25.00%" in text
    assert 'class="point" style="left: 50.00%"' in text
    assert "&lt;a&gt;" in text and "50.0 % (40.0 to 65.0)" in text


def test_all_curves_have_the_steps_of_the_run_and_accuracy_is_in_percent(tmp_path):
    journal = Journal(tmp_path, 1)
    for step in range(10, 110, 10):
        journal.append({"train/loss": 3.0 - step / 100}, step)
    journal.append({"held_out/top1": 0.25}, 100)
    journal.close()
    page = Page(text := write_page(tmp_path).read_text())
    assert "held-out top-1, %: 25 at step 100" in text
    assert text.count('cx="436.0"') == 2  # both end where the run does
    assert "25.0 %" in page.text_of("summary")


def test_the_mistakes_are_those_of_the_model(reported):
    home = reported.parent
    subject, _ = subject_at(reported, make_recipe(home, home / "data").config)
    assert subject is not None
    found = mistakes(subject.model, subject.images, subject.prepare, subject.view)
    lines = (reported / "metrics.jsonl").read_text().splitlines()
    scored = [json.loads(line)["values"] for line in lines if "held_out/top1" in line][-1]
    assert len(found) == round(17 * (1 - scored["held_out/top1"]))
    assert all(one.truth != one.guess for one in found)
    assert [one.share for one in found] == sorted((one.share for one in found), reverse=True)


def test_a_held_out_set_that_is_gone_is_named(reported):
    home = reported.parent
    config = make_recipe(home, home / "data", f"data.held_out={home / 'moved'}").config
    subject, _ = subject_at(reported, config)
    assert subject is not None
    with pytest.raises(DataError, match="moved"):
        _ = subject.images


def test_filters_span_what_the_patch_embedding_sees():
    """An embedding that reads two patterns only has them as its first two components."""
    from vitscale.config.model import ModelConfig

    model = build_model(ModelConfig(variant="mu/4", image_px=12, depth=1).shape(3), seed=0)
    patterns = torch.linalg.qr(torch.randn(48, 2, generator=torch.Generator().manual_seed(1)))[0]
    weights = torch.randn(model.shape.width, 2) @ patterns.T
    model.patch_embed.projection.weight.data = weights.view(-1, 3, 4, 4)
    made = [(one.astype(float) - 127.5).transpose(2, 0, 1).ravel() for one in filters(model)[:2]]
    for one in made:
        unit = torch.tensor(one / np.linalg.norm(one), dtype=torch.float32)
        assert (patterns.T @ unit).norm() == pytest.approx(1, abs=1e-3)


def test_a_run_that_is_bare_says_what_is_missing(tmp_path):
    journal = Journal(tmp_path, 1)
    for step, rewinds in ((10, 0), (20, 0), (30, 1)):
        journal.append({"train/loss": 3.0 - step / 20, "train/rewinds": rewinds}, step)
    journal.close()
    page = Page(write_page(tmp_path).read_text())
    assert page.sections == SECTIONS
    assert "not measured" in page.text_of("curves")
    assert "committed nothing yet" in page.text_of("samples")
    assert "vitscale evaluate" in page.text_of("transfer")
    assert "no usable checkpoint" in page.text_of("filters")
    assert "rewinds at step" in page.text_of("summary") and "30" in page.text_of("summary")
    assert main(["report", "page", str(tmp_path / "nothing")]) == 3


@pytest.mark.parametrize("values", [{"held_out/top1": 0.25}, {"train/loss": float("nan")}])
def test_a_run_that_logged_next_to_nothing_has_a_page(tmp_path, values):
    journal = Journal(tmp_path, 1)
    journal.append(values, 7)
    journal.close()
    page = Page(write_page(tmp_path).read_text())
    assert page.sections == SECTIONS
    assert "step 7" in page.text_of("summary")


def test_a_file_is_no_run(tmp_path):
    (tmp_path / "metrics.jsonl").write_text("")
    with pytest.raises(DataError, match="a file and no run"):
        write_page(tmp_path / "metrics.jsonl")


def test_lines_are_drawn_to_scale_with_marks_and_without_what_is_not_finite():
    svg = line_chart({"a": [(0, 0.0), (50, float("nan")), (100, 10.0)]}, Marks((25,), (75,)))
    [points] = [part for part in svg.split('points="')[1:]]
    (x0, y0), (x1, y1) = [tuple(map(float, p.split(","))) for p in points.split('"')[0].split()]
    assert x0 < x1 and y0 > y1
    assert 'class="restart"' in svg and 'class="rewind"' in svg
    many = line_chart({"a": [(n, float(n)) for n in range(10_000)], "<b>": [(0, 1.0)]})
    assert many.count(",") < 600 and "&lt;b&gt;" in many
    one = line_chart({"a": [(7, 1.0)]})  # in the middle, and at its place in the whole run
    assert 'cx="252.0"' in one
    assert 'cx="436.0"' in line_chart({"a": [(7, 1.0)]}, steps=(1, 7))
    assert "100 %" in intervals([("x", 0.5, 0.4, 0.6)]) and "100 %" in intervals([])
