"""Quantities with units."""

from __future__ import annotations

import pytest

from vitscale.units import Duration, human_bytes, human_count, human_seconds


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("300 epochs", 300, "epochs"),
        ("1 epoch", 1, "epochs"),
        ("90M images", 90e6, "images"),
        ("2000 steps", 2000, "steps"),
        ("10k steps", 10_000, "steps"),
        ("1.5B images", 1.5e9, "images"),
        ("5%", 5, "%"),
        (" 0.5 % ", 0.5, "%"),
        ("30 min", 30, "min"),
        ("2 h", 2, "h"),
    ],
)
def test_a_duration_is_a_number_and_a_unit(text, value, unit):
    assert Duration.parse(text) == Duration(value, unit)


@pytest.mark.parametrize(
    "text", ["", "300", "epochs", "-1 steps", "1e3 steps", "3 weeks", "5 Steps", "1 2 steps"]
)
def test_anything_else_is_refused_with_an_example(text):
    with pytest.raises(ValueError, match=r"is not a duration.*300 epochs"):
        Duration.parse(text)


@pytest.mark.parametrize(
    "text", ["300 epochs", "2.5 epochs", "90000000 images", "5%", "45 s", "1234567 steps"]
)
def test_a_duration_survives_being_written(text):
    assert str(Duration.parse(text)) == text
    assert Duration.parse(str(Duration.parse(text))) == Duration.parse(text)


@pytest.mark.parametrize(
    ("text", "steps"),
    [
        ("7 steps", 7),
        ("0 steps", 0),
        ("100 images", 4),  # 3.125 batches of 32
        ("96 images", 3),
        ("2 epochs", 63),  # 2,000 images
        ("0.1 epochs", 4),  # 100 images, not 100.00000000000001
        ("10%", 50),
        ("0.1%", 1),
    ],
)
def test_steps_are_rounded_up(text, steps):
    assert Duration.parse(text).steps(batch=32, epoch_images=1000, total_steps=500) == steps


@pytest.mark.parametrize("text", ["5%", "30 min"])
def test_what_cannot_be_counted_in_steps_is_refused(text):
    with pytest.raises(ValueError, match="cannot be counted in steps"):
        Duration.parse(text).steps(batch=32, epoch_images=1000)


def test_times_know_their_seconds():
    assert [Duration.parse(t).seconds for t in ("45 s", "30 min", "1.5 h")] == [45, 1800, 5400]
    assert Duration.parse("30 min").is_time
    assert not Duration.parse("30 steps").is_time


def test_counts_for_people():
    assert [human_count(n) for n in (7, 391e3, 85.8e6, 22.1e9, 2.5e12)] == [
        "7",
        "391k",
        "85.8M",
        "22.1B",
        "2.5T",
    ]


def test_bytes_for_people():
    found = [human_bytes(n) for n in (0, 1023, 1024, 1.5 * 2**30, 3 * 2**40)]
    assert found == ["0 B", "1023 B", "1.0 KiB", "1.5 GiB", "3.0 TiB"]


def test_seconds_for_people():
    found = [human_seconds(s) for s in (45, 59.6, 200, 3599, 7500)]
    assert found == ["45 s", "1 min 00 s", "3 min 20 s", "59 min 59 s", "2 h 05 min"]
