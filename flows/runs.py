"""Runs: the final message of each flow run, and events about failed, crashed and recovered runs."""

import signal
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from inspect import signature
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_run_logger
from prefect.runtime import deployment, flow_run
from prefect.states import Completed, Failed

from digits.errors import DigitsError
from digits.project import check_version
from digits.server.dead_runs import ended_badly, label_run
from digits.settings import check_deployed_paths, paths_among
from digits.store.author import current_run
from tasks.edge import emit

P = ParamSpec("P")
R = TypeVar("R")
FIRST_SECONDS = 120
"""Seconds within which an unexpected error does not end a run, but starts it once more. A client of Prefect repeats a
request to a busy server for one minute."""
ALARM_SECONDS = 10.0
"""Seconds between two signals to a run that has exceeded its time limit."""
NAME_PARTS = 2
"""Number of parts of a path in the name of a run."""


@dataclass(frozen=True)
class Skipped:
    """End of a run that had nothing to work with; its state is of the type Completed and has the name `Skipped`.

    Args:
        reason: final message of the run.
    """

    reason: str


def with_final_message(function: Callable[P, tuple[R, str] | Skipped]) -> Callable[P, R]:
    """Decorate a flow function so that the final message of its run is one sentence.

    The sentence is the second part of the function's result, or the reason of a `Skipped`. After an expected error it
    is the error's message; the traceback goes to the log of the run. Before the function is called, the version of the
    project is checked, the run records its process in a label, and in a run of a deployment all paths must be absolute.
    An unexpected error within `FIRST_SECONDS` lets the function be called once more.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        def work() -> tuple[R, str] | Skipped:
            _begin_run(signature(function).bind(*args, **kwargs).arguments)
            return function(*args, **kwargs)

        try:
            ended = start_again_once(work)
        except DigitsError as error:
            get_run_logger().exception("%s", error)
            return Failed(message=str(error), data=error)
        if isinstance(ended, Skipped):
            return Completed(name="Skipped", message=ended.reason, data=None)
        result, sentence = ended
        return Completed(message=sentence, data=result)

    return cast("Callable[P, R]", run)


def _begin_run(parameters: Mapping[str, Any]) -> None:
    """Check the project and the paths of a run with these parameters, and record its process and its ID."""
    repeat_alarm()
    check_version(Path(__file__).parents[1])
    label_run()
    current_run.set(str(flow_run.id or ""))
    if deployment.id is not None:
        check_deployed_paths(dict(paths_among(parameters)), Path.cwd())


def repeat_alarm() -> None:
    """Repeat the signal that ends a run at its time limit, every `ALARM_SECONDS` until the run ends.

    Prefect lets SIGALRM raise an exception, once. The exception is lost if the code that runs at this moment discards
    every exception. Then the run would have no limit.
    """
    remaining, interval = signal.getitimer(signal.ITIMER_REAL)
    if remaining and not interval:
        signal.setitimer(signal.ITIMER_REAL, remaining, ALARM_SECONDS)


def start_again_once(work: Callable[[], R]) -> R:
    """Return the result of some work. If it fails by an unexpected error within `FIRST_SECONDS`, start it once more.

    Such errors are usually accidents of the start, such as a busy server. Steps that are finished are reused.
    """
    began = time.monotonic()
    try:
        return work()
    except DigitsError:
        raise
    except Exception as error:
        if time.monotonic() - began > FIRST_SECONDS:
            raise
        get_run_logger().warning("unexpected %s at the start; starting once more", type(error).__name__, exc_info=True)
    return work()


def short_path(path: Path) -> str:
    """Return the last parts of a path, for the name of a run: `scans/2026-11`."""
    return "/".join(path.absolute().parts[-NAME_PARTS:]).lstrip("/")


def announce_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit the event `digits.run.failed` or `digits.run.crashed`."""
    kind = "crashed" if state.type == StateType.CRASHED else "failed"
    emit(f"digits.run.{kind}", f"digits.flow.{flow.name}", flow.name, run=flow_run.name, message=state.message or "")


def announce_recovery(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit the event `digits.run.recovered` if the previous run of the same deployment failed or crashed."""
    if flow_run.deployment_id and (before := _previous_run(flow_run)) and ended_badly(before):
        emit(
            "digits.run.recovered",
            f"digits.flow.{flow.name}",
            flow.name,
            run=flow_run.name,
            message=state.message or "",
            before=before.name,
        )


def _previous_run(run: FlowRun) -> FlowRun | None:
    with get_client(sync_client=True) as client:
        ended: Sequence[FlowRun] = client.read_flow_runs(
            flow_run_filter=FlowRunFilter.model_validate(
                {
                    "deployment_id": {"any_": [run.deployment_id]},
                    "state": {"type": {"any_": ["COMPLETED", "FAILED", "CRASHED"]}},
                    "id": {"not_any_": [run.id]},
                }
            ),
            sort=FlowRunSort.END_TIME_DESC,
            limit=1,
        )
    return ended[0] if ended else None


HOOKS: dict[str, Any] = {
    "on_failure": [announce_failure],
    "on_crashed": [announce_failure],
    "on_completion": [announce_recovery],
}
"""Hooks of every flow, as arguments of `prefect.flow`."""
