"""The page of a run in a browser: each section readable, no error, nothing fetched; wide or narrow, light or dark."""

from __future__ import annotations

import pytest

from tests.evaluate.browser import SCHEMES, WIDTHS, Browser, chromium, contrast
from tests.evaluate.test_page import SECTIONS
from vitscale.evaluate.page import write_page
from vitscale.tracking.journal import Journal


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    program = chromium()
    if program is None:
        pytest.skip("no Chromium on the PATH and none named in CHROMIUM")
    browser = Browser(program, tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The page of a run that has logged a loss and nothing else."""
    run = tmp_path_factory.mktemp("bare")
    journal = Journal(run, 1)
    for step in (10, 20, 30):
        journal.append({"train/loss": 3.0 - step / 20}, step)
    journal.close()
    return write_page(run)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("width", WIDTHS)
def test_every_section_is_readable_and_nothing_is_fetched(browser, reported, bare, width, scheme):
    for page, pictures in ((reported / "report" / "report.html", 45), (bare, 0)):
        sight = browser.look(page, width, scheme)
        assert sight.problems() == []
        assert sight.facts["headings"] == SECTIONS
        assert sight.facts["dark"] == (scheme == "dark")
        assert len(sight.facts["pictures"]) >= pictures


def test_numbers_of_any_length_have_room_beside_the_charts(browser, tmp_path):
    journal = Journal(tmp_path, 1)
    for part in range(6):
        values = {"train/lr": 1e-3 - 2e-6 * part, "train/loss": 1e-7 * part}
        values |= {"speed/images_per_s": 123_456 + 20 * part, "train/grad_norm": -1e-7 * part}
        journal.append(values, 100_000 + 40_000 * part)
    journal.close()
    assert browser.look(write_page(tmp_path), 390, "light").problems() == []


@pytest.mark.parametrize(
    ("fault", "problem"),
    [
        ("<script>console.error('a fault')</script>", "said: console.error: a fault"),
        ("<script>nothing.at.all()</script>", "nothing is not defined"),
        ('<img alt="" src="http://127.0.0.1:9/a.png">', "asked for http://127.0.0.1:9/a.png"),
        ('<link rel="stylesheet" href="other.css">', "other.css"),
        ('<img alt="" src="data:image/png;base64,AAAA">', "1 pictures are not shown"),
        ('<div style="width: 3000px">wide</div>', "px wider than the window"),
        ('<p style="color: #999; background: #fff">faint</p>', "contrast 2.85"),
        ('<p style="font-size: 8px">small</p>', "8.0 px: small"),
        ("<style>#curves h2 { display: none }</style>", "the heading of curves cannot be seen"),
        ("<style>header { height: 300px }</style>", "is covered"),
        (
            '<div style="overflow: auto"><p style="width: 2000px; text-align: right"><i class="point">x</i></p></div>',
            "1 points of charts lie beyond the edge",
        ),
        ("<style>.chart text { font-size: 40px }</style>", "cut off by the edge of its chart"),
    ],
)
def test_what_is_wrong_with_a_page_is_noticed(browser, bare, tmp_path, fault, problem):
    page = tmp_path / "page.html"
    page.write_text(bare.read_text().replace("</main>", f"{fault}</main>"))
    assert any(problem in found for found in browser.look(page, 1280, "light").problems())


def test_contrast_is_that_of_the_guidelines():
    """The ends of the scale, and the two greys on white between which 4.5 lies."""
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(9, 9, 9)", "rgb(9, 9, 9)") == 1
    assert contrast("rgb(255, 255, 255)", "rgb(119, 119, 119)") == pytest.approx(4.48, abs=0.01)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)
