"""A release that is taken back leaves a run that its own policy had ended as ended as it was."""

from support.rules.run_histories import Story

EARLY = {"schedule": {"type": "constant", "learning_rate": 0.1}, "stop": {"early_stopping": {"patience": 2}}}


def ended() -> Story:
    story = Story(EARLY)
    story.attempt(0)
    story.train([0.5, 0.6, 0.7])
    assert "early_stopping" == story.run.state.stopped_by
    return story


def test_a_run_that_had_ended_is_over_again_when_its_release_is_cancelled():
    story = ended()
    before = story.run.state
    story.command("release")
    story.command("cancel", seq=story.run.seq)

    assert before == story.run.state
    assert "stop" == story.report(3, 0.8).action
    assert story.replayed() == story.run


def test_a_run_goes_on_as_long_as_one_release_stands():
    story = ended()
    story.command("release")
    first = story.run.seq
    story.command("release")
    story.command("cancel", seq=first)

    assert "continue" == story.report(3, 0.8).action


def test_a_run_is_over_again_when_all_its_releases_are_cancelled():
    story = ended()
    story.command("release")
    first = story.run.seq
    story.command("release")
    story.command("cancel", seq=story.run.seq)
    story.command("cancel", seq=first)

    assert "stop" == story.report(3, 0.8).action


def test_a_cancelled_release_does_not_come_back_when_the_run_goes_back():
    story = ended()
    story.command("release")
    story.command("cancel", seq=story.run.seq)

    assert "stop" == story.attempt(3).action
    assert story.replayed() == story.run


def test_a_policy_that_came_after_the_release_is_not_ended_by_what_the_old_one_saw():
    story = ended()
    story.command("release")
    number = story.run.seq
    story.put({"type": "constant", "learning_rate": 0.1}, "restart")
    story.command("cancel", seq=number)

    assert "continue" == story.report(3, 0.8).action
