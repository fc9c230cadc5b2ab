"""Decisions of the janitor on runs, by state, age and process."""

import pytest

from digits.server.reaping import UNLABELLED_SECONDS, Verdict, judge

OLD = UNLABELLED_SECONDS + 1


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CANCELLING"])
def test_an_active_run_whose_process_is_gone_is_crashed_at_once(state: str) -> None:
    assert judge(state, 0, labelled=True, alive=False) is Verdict.CRASH


@pytest.mark.parametrize("state", ["COMPLETED", "SCHEDULED", "CRASHED", "PAUSED"])
def test_a_run_that_is_not_active_is_left_however_old_it_is(state: str) -> None:
    assert judge(state, OLD, labelled=True, alive=False) is Verdict.LEAVE
    assert judge(state, OLD, labelled=False, alive=None) is Verdict.LEAVE


def test_a_run_whose_process_is_alive_is_left_however_long_it_takes() -> None:
    assert judge("RUNNING", 100 * OLD, labelled=True, alive=True) is Verdict.LEAVE


def test_a_run_on_another_machine_is_reported_only() -> None:
    assert judge("RUNNING", 100 * OLD, labelled=True, alive=None) is Verdict.UNKNOWN


def test_a_run_without_a_label_is_crashed_after_fifteen_minutes() -> None:
    """Setting the label is the first thing that a run does."""
    assert judge("PENDING", UNLABELLED_SECONDS, labelled=False, alive=None) is Verdict.LEAVE
    assert judge("PENDING", OLD, labelled=False, alive=None) is Verdict.CRASH
    assert judge("RUNNING", OLD, labelled=False, alive=None) is Verdict.CRASH
