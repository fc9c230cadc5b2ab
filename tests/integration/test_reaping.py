"""Which runs the janitor ends: a decision, by state, age and whether the process is there."""

import pytest
from prefect.client.schemas.objects import StateType

from digits.server.reaping import UNLABELLED_SECONDS, Verdict, judge

OLD = UNLABELLED_SECONDS + 1


@pytest.mark.parametrize("state", [StateType.RUNNING, StateType.PENDING, StateType.CANCELLING])
def test_a_run_whose_process_is_gone_is_ended(state: StateType) -> None:
    """At once, whatever it claims."""
    assert judge(state, 0, labelled=True, alive=False) is Verdict.CRASH


@pytest.mark.parametrize("state", [StateType.COMPLETED, StateType.SCHEDULED, StateType.CRASHED, StateType.PAUSED])
def test_a_run_that_claims_nothing_is_left(state: StateType) -> None:
    """However old it is."""
    assert judge(state, OLD, labelled=True, alive=False) is Verdict.LEAVE
    assert judge(state, OLD, labelled=False, alive=None) is Verdict.LEAVE


def test_a_run_that_is_at_work_is_left() -> None:
    """However long it takes."""
    assert judge(StateType.RUNNING, 100 * OLD, labelled=True, alive=True) is Verdict.LEAVE


def test_a_run_on_another_machine_is_told_of_only() -> None:
    """Nobody can see from here whether it is there."""
    assert judge(StateType.RUNNING, 100 * OLD, labelled=True, alive=None) is Verdict.UNKNOWN


def test_a_run_that_never_said_which_process_it_is_has_a_while_for_it() -> None:
    """It is its first act."""
    assert judge(StateType.PENDING, UNLABELLED_SECONDS, labelled=False, alive=None) is Verdict.LEAVE
    assert judge(StateType.PENDING, OLD, labelled=False, alive=None) is Verdict.CRASH
    assert judge(StateType.RUNNING, OLD, labelled=False, alive=None) is Verdict.CRASH
