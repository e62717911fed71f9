"""What people see while a run goes on."""

import io

from vitscale.tracking.console import Console

TRAIN = {"train/loss": 2.5, "train/lr": 1e-3, "speed/images_per_s": 1234.56}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_each_log_is_an_aligned_line_where_there_is_no_terminal():
    stream = io.StringIO()
    console = Console(1000, stream)
    console.show(TRAIN, 50)
    console.show(TRAIN, 1000)
    first, last = stream.getvalue().splitlines()
    assert first == ("step   50/1000    5.0%  loss   2.5000  lr 1.00e-03    1234.6 images/s  ETA -")
    assert last.startswith("step 1000/1000  100.0%  loss   2.5000")
    assert last.endswith("done")


def test_a_terminal_gets_one_bar_in_place_and_evaluations_below_it():
    stream = Terminal()
    console = Console(100, stream)
    console.show(TRAIN, 50)
    console.show(TRAIN, 60)
    assert stream.getvalue().count("\n") == 0
    assert stream.getvalue().count("\r") == 2
    console.show({"held_out/top1": 0.5, "system/cpu_percent": 3.0}, 60)
    assert stream.getvalue().endswith("\nstep  60/100  held_out/top1 0.5\n")
