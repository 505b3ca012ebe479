"""Which job counts as one that does nothing."""

from __future__ import annotations

from kdbench.bench.work.executors.stall import Watchdog

LIMIT = 10.0


def looks(used, steps=(), times=range(1, 40)):
    """The first second at which a job is stalled; None for never."""
    now = 0.0
    dog = Watchdog(lambda: used(now), 0.0, 0.0)
    for now in times:
        if now in steps:
            dog.stepped()
        if dog.stalled(LIMIT, now):
            return now
    return None


def test_a_job_that_never_did_anything_is_stalled_after_the_limit():
    assert looks(lambda now: 0.0) == LIMIT


def test_a_job_that_stopped_is_stalled_after_a_whole_stretch_without_anything():
    assert looks(lambda now: min(now, 5)) == 2 * LIMIT
    assert looks(lambda now: 0.0, steps=[3]) == 2 * LIMIT


def test_a_slow_job_is_not_stalled():
    assert looks(lambda now: 0.02 * now) is None
    assert looks(lambda now: 0.0, steps=range(0, 40, 7)) is None


def test_waiting_takes_some_processor_time():
    assert looks(lambda now: 0.005 * now) == LIMIT


def test_where_nobody_knows_the_processor_time_no_job_is_stalled():
    assert looks(lambda now: None) is None


def test_time_in_which_the_coordinator_was_stopped_does_not_count():
    assert looks(lambda now: 0.0, times=[1, 2, 3, 3003, 3004, 3005]) is None
