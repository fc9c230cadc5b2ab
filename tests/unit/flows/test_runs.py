"""Second start of a run that fails at once, without a Prefect server."""

from collections.abc import Callable, Iterator

import pytest
from prefect.logging import disable_run_logger

from digits.errors import DataError
from flows import runs
from flows.runs import start_again_once


@pytest.fixture(autouse=True)
def _without_run() -> Iterator[None]:
    with disable_run_logger():
        yield


def failing(*errors: Exception) -> Callable[[], str]:
    """Return a function that raises these errors, one per call, and then returns `done`."""
    left = iter(errors)

    def work() -> str:
        if error := next(left, None):
            raise error
        return "done"

    return work


def test_a_run_that_fails_unexpectedly_at_once_is_started_once_more() -> None:
    assert start_again_once(failing()) == "done"
    assert start_again_once(failing(SystemError("AST constructor recursion depth mismatch"))) == "done"


def test_a_run_is_not_started_a_third_time() -> None:
    with pytest.raises(ValueError, match="second"):
        start_again_once(failing(ValueError("first"), ValueError("second")))


def test_a_run_that_fails_as_expected_or_late_is_not_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same folder or model would fail again; hours of work are not repeated without being asked for."""
    with pytest.raises(DataError):
        start_again_once(failing(DataError("no such folder")))
    monkeypatch.setattr(runs, "FIRST_SECONDS", -1)
    with pytest.raises(ValueError, match="late"):
        start_again_once(failing(ValueError("late")))
