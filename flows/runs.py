"""What all flows share: they end in a sentence that a person can act on, and tell of failures and recoveries."""

from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Flow, State
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import FlowRunFilter
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.sorting import FlowRunSort
from prefect.logging import get_run_logger
from prefect.states import Completed, Failed

from digits.errors import DigitsError
from digits.server.reaping import is_bad, label_run
from tasks.edge import tell

P = ParamSpec("P")
R = TypeVar("R")
NAMED_PARTS = 2


def told(function: Callable[P, tuple[R, str]]) -> Callable[P, R]:
    """Have a flow end in a sentence: the second part of its result, or the message of an expected error.

    The traceback of an expected error goes to the run's log. It begins with saying which process it is.
    """

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> State[Any]:
        label_run()
        try:
            result, sentence = function(*args, **kwargs)
        except DigitsError as error:
            get_run_logger().exception("%s", error)
            return Failed(message=str(error), data=error)
        return Completed(message=sentence, data=result)

    return cast("Callable[P, R]", run)


def short(path: Path) -> str:
    """Give the last parts of a path, by which people know a folder: `scans/2026-11`."""
    return "/".join(path.absolute().parts[-NAMED_PARTS:]).lstrip("/")


def announce_failure(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit `digits.run.failed`, or `digits.run.crashed`; a hook of every flow."""
    kind = "crashed" if state.type == StateType.CRASHED else "failed"
    tell(f"digits.run.{kind}", f"digits.flow.{flow.name}", flow.name, run=flow_run.name, message=state.message or "")


def announce_recovery(flow: Flow[Any, Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Emit `digits.run.recovered` when the deployment's run before this one had failed; a hook of every flow."""
    if flow_run.deployment_id and (before := _run_before(flow_run)) and is_bad(before):
        tell(
            "digits.run.recovered",
            f"digits.flow.{flow.name}",
            flow.name,
            run=flow_run.name,
            message=state.message or "",
            before=before.name,
        )


def _run_before(run: FlowRun) -> FlowRun | None:
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


WATCHED: dict[str, Any] = {
    "on_failure": [announce_failure],
    "on_crashed": [announce_failure],
    "on_completion": [announce_recovery],
}
"""The hooks of every flow."""
