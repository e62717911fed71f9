"""What a job tells of itself in its log, and what that comes to."""

from vitscale_launch.events import events_in, is_event, story_of, tell


def test_a_story_is_read_from_a_log_of_other_lines(capsys):
    tell("checked", from_step=50, resources={"CPU": 2.0})
    print("step 60")
    tell("attempt", number=3, workers=2)
    tell("commit", step=75)
    tell("attempt", number=4, workers=1)
    tell("mlflow", url="http://m/#/experiments/1/runs/a")
    tell("ended", status="stopped", exit_code=75, message="stopped at step 80")
    log = capsys.readouterr().out
    story = story_of(events_in(log))
    assert story.checked == {"from_step": 50, "resources": {"CPU": 2.0}}
    assert (story.attempts, story.restarts, story.workers, story.committed) == (2, 1, 1, 75)
    assert story.mlflow == "http://m/#/experiments/1/runs/a"
    assert story.ended["exit_code"] == 75
    assert [line for line in log.splitlines() if not is_event(line)] == ["step 60"]


def test_a_line_that_was_cut_off_is_no_event(capsys):
    tell("commit", step=7)
    log = capsys.readouterr().out
    assert story_of(events_in(log + log[:20])).committed == 7


def test_without_events_nothing_is_known():
    story = story_of(events_in("Traceback\n"))
    assert (story.checked, story.ended, story.restarts, story.committed) == ({}, {}, 0, None)
