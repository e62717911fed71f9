"""Signals on the submitting process become a file that the workers see."""

import os
import signal

from vitscale_launch.stopping import stop_signals


def test_signals_are_counted_and_ask_for_a_stop_and_the_handlers_come_back(tmp_path):
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with stop_signals(tmp_path) as signals:
        os.kill(os.getpid(), signal.SIGINT)
        assert signals.count == 1
        assert (tmp_path / "STOP").exists()
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.count == 2
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before


def test_a_file_left_by_an_earlier_stop_is_removed_at_the_start(tmp_path):
    (tmp_path / "STOP").touch()
    with stop_signals(tmp_path) as signals:
        signals.keep_asking()
        assert not (tmp_path / "STOP").exists()


def test_the_file_comes_back_if_a_restarted_worker_removed_it(tmp_path):
    with stop_signals(tmp_path) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        (tmp_path / "STOP").unlink()
        signals.keep_asking()
        assert (tmp_path / "STOP").exists()
