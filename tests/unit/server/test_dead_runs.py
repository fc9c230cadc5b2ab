"""Decisions on dead runs, by state, age, process and tag."""

from typing import Any

import pytest

from digits.server.dead_runs import UNSTARTED_SECONDS, is_dead

OLD = UNSTARTED_SECONDS + 1


def judge(state: str, age: float, **facts: Any) -> bool:
    """Judge a run of a deployment that has not recorded its process, unless the facts differ."""
    return is_dead(state, age, **{"alive": None, "tagged": True, "labelled": False, **facts})


@pytest.mark.parametrize("state", ["RUNNING", "PENDING", "CANCELLING"])
def test_an_active_run_whose_process_is_gone_is_dead_at_once(state: str) -> None:
    assert judge(state, 0, labelled=True, alive=False)
    assert judge(state, 0, labelled=True, alive=False, tagged=False)


@pytest.mark.parametrize("state", ["COMPLETED", "SCHEDULED", "CRASHED", "PAUSED"])
def test_a_run_that_is_not_active_is_left_however_old_it_is(state: str) -> None:
    assert not judge(state, OLD, labelled=True, alive=False)
    assert not judge(state, OLD)


def test_a_run_whose_process_is_alive_or_on_another_machine_is_left() -> None:
    assert not judge("RUNNING", 100 * OLD, labelled=True, alive=True)
    assert not judge("RUNNING", 100 * OLD, labelled=True, alive=None)


def test_a_run_that_never_started_is_dead_after_an_hour() -> None:
    for state in ("PENDING", "CANCELLING"):
        assert not judge(state, UNSTARTED_SECONDS)
        assert judge(state, OLD)


def test_heartbeats_decide_on_a_run_that_is_running() -> None:
    assert not judge("RUNNING", 100 * OLD)


def test_a_run_of_others_is_left_however_old_it_is() -> None:
    assert not judge("PENDING", 100 * OLD, tagged=False)
