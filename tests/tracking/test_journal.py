"""The journal: one line a call, valid JSON always, and readable after any kill."""

import json
import math

from vitscale.tracking.journal import FILE_NAME, Journal, complete_lines, read_metrics, read_records


def log(folder, attempt, steps, scale=1.0):
    journal = Journal(folder, attempt)
    for step in steps:
        journal.append({"train/loss": scale * step}, step)
    journal.close()


def steps_and_values(folder, key="train/loss"):
    return [(point.step, point.value) for point in read_metrics(folder)[key]]


def test_a_line_holds_step_time_attempt_and_values(tmp_path):
    log(tmp_path, 3, [10])
    row = json.loads((tmp_path / FILE_NAME).read_text())
    assert row.pop("time") > 1.7e9
    assert row == {"step": 10, "attempt": 3, "values": {"train/loss": 10.0}}


def test_values_that_json_has_no_number_for_come_back(tmp_path):
    journal = Journal(tmp_path, 1)
    journal.append({"a": math.nan, "b": math.inf, "c": -math.inf}, 0)
    journal.close()
    text = (tmp_path / FILE_NAME).read_text()

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    json.loads(text, parse_constant=refuse)
    series = read_metrics(tmp_path)
    assert math.isnan(series["a"][0].value)
    assert (series["b"][0].value, series["c"][0].value) == (math.inf, -math.inf)


def test_the_last_attempt_counts_for_steps_that_were_run_twice(tmp_path):
    log(tmp_path, 1, [1, 2, 3])
    log(tmp_path, 2, [2, 3, 4], scale=10)
    assert steps_and_values(tmp_path) == [(1, 1), (2, 20), (3, 30), (4, 40)]


def test_a_line_torn_by_a_kill_costs_only_itself(tmp_path):
    log(tmp_path, 1, [1, 2])
    path = tmp_path / FILE_NAME
    path.write_bytes(path.read_bytes()[:-9])
    assert steps_and_values(tmp_path) == [(1, 1)]
    log(tmp_path, 2, [2, 3])
    assert steps_and_values(tmp_path) == [(1, 1), (2, 2), (3, 3)]


def test_a_reader_goes_on_from_the_offset_it_was_given(tmp_path):
    log(tmp_path, 1, [1, 2])
    *_, (_, offset) = read_records(tmp_path / FILE_NAME)
    log(tmp_path, 1, [3])
    assert [record.step for record, _ in read_records(tmp_path / FILE_NAME, offset)] == [3]


def test_lines_longer_than_a_chunk_are_read_whole(tmp_path):
    path = tmp_path / "lines"
    lines = [b"x" * 400_000, b"", b"y" * 300_000]
    path.write_bytes(b"\n".join(lines) + b"\nunfinished")
    found = list(complete_lines(path))
    assert [line for line, _ in found] == lines
    assert found[-1][1] == path.stat().st_size - len("unfinished")


def test_no_journal_reads_as_no_metrics(tmp_path):
    assert read_metrics(tmp_path) == {}


def test_a_full_disk_is_reported_once_and_does_not_raise(tmp_path, caplog):
    (tmp_path / FILE_NAME).symlink_to("/dev/full")
    log(tmp_path, 1, [1, 2, 3])
    assert [record.message.count("No space left") for record in caplog.records] == [1]
