"""Prediction by a deployment: `digits predict --deploy`."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits.cli.connection import require_api

if TYPE_CHECKING:
    from digits.outputs.summary import PredictionSummary
    from digits.prediction.config import PredictionConfig
    from digits.server.services import System

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class EndedRun:
    """End of a run of the deployment `predict/folder`.

    Args:
        name: name of the run.
        state: name of its final state.
        message: message of its final state.
        place: address of the run in the UI.
        summary: summary of the table; None if the run has published none.
    """

    name: str
    state: str
    message: str
    place: str
    summary: "PredictionSummary | None"


def predict_deployed(
    system: "System", folder: Path, model: str, out: Path | None, options: "PredictionConfig", shadow: str | None
) -> EndedRun:
    """Run the deployment `predict/folder`, and wait for its end.

    Raises:
        UsageError: if the files are listed on standard input, which the worker does not have.
        OperationsError: if there is no server or no such deployment.
    """
    from digits.errors import OperationsError
    from digits.server.api import hide_secrets
    from digits.terminal import print_notice

    changed = options_for_worker(options).model_dump(mode="json", exclude_unset=True)
    api = require_api(system)
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    parameters = {"folder": str(folder), "model": model, "out": out and str(out), "options": changed, "shadow": shadow}
    try:
        run: Any = run_deployment("predict/folder", parameters=parameters, timeout=0)
    except ObjectNotFound as error:
        raise OperationsError(
            f"{hide_secrets(api)} has no deployment predict/folder; create it with `digits up`"
        ) from error
    place = f"{hide_secrets(api).removesuffix('/api')}/runs/flow-run/{run.id}"
    print_notice(f"submitted: {place}")
    return _wait(run.id, place)


def options_for_worker(options: "PredictionConfig") -> "PredictionConfig":
    """Return the options with an absolute path of the list of files, as the worker runs in another directory."""
    from digits.settings import check_deployed_paths

    if options.files_from is None:
        return options
    listed = options.files_from if str(options.files_from) == "-" else options.files_from.absolute()
    check_deployed_paths({"files_from": listed}, Path.cwd())
    return options.model_copy(update={"files_from": listed})


def _wait(run: Any, place: str) -> EndedRun:
    """Wait for the end of a run, with a bar that follows its progress artifact."""
    import time

    from prefect.client.orchestration import get_client

    from digits.terminal import TerminalProgress

    done, bar = 0, TerminalProgress().start("Predicting", 100)
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_flow_run(run)
            percent = _percent(client, run)
            bar.advance(percent - done)
            done = percent
            if found.state is not None and found.state.is_final():
                bar.close(found.state.name or "")
                summary = _published_summary(client, run)
                return EndedRun(found.name, found.state.name or "", found.state.message or "", place, summary)
            time.sleep(POLL_SECONDS)


def _percent(client: Any, run: Any) -> int:
    found = _newest_artifact(client, run, "prediction-progress")
    return int(float(found.data)) if found else 0


def _published_summary(client: Any, run: Any) -> "PredictionSummary | None":
    import json

    from digits.outputs.summary import PredictionSummary

    found = _newest_artifact(client, run, "prediction-summary")
    return PredictionSummary.from_record(json.loads(found.data)) if found else None


def _newest_artifact(client: Any, run: Any, kind: str) -> Any:
    """Return the newest Prefect artifact of a kind of a run; None if there is none."""
    from prefect.client.schemas.filters import ArtifactFilter
    from prefect.client.schemas.sorting import ArtifactSort

    chosen = {"key": {"like_": f"{kind}-"}, "flow_run_id": {"any_": [run]}}
    found = client.read_artifacts(
        artifact_filter=ArtifactFilter.model_validate(chosen), sort=ArtifactSort.UPDATED_DESC, limit=1
    )
    return found[0] if found else None


def print_ended(ended: EndedRun, *, json: bool) -> None:
    """Print the end of a run of a deployment and the summary of its table; exit with 1 unless it completed."""
    from digits.cli.output import (
        describe_summary,
        exit_if_unread,
        out,
        print_json,
        print_pairs,
        print_single,
        summary_values,
    )

    if json:
        values = summary_values(ended.summary) if ended.summary else {}
        print_json({**values, "name": ended.name, "state": ended.state, "message": ended.message, "run": ended.place})
    else:
        if ended.summary:
            print_single(ended.summary, out)
        counts = describe_summary(ended.summary) if ended.summary else {}
        print_pairs(ended.name, {"state": ended.state, "result": ended.message, **counts, "run": ended.place})
    if ended.state != "Completed":
        sys.exit(1)
    if ended.summary:
        exit_if_unread(ended.summary)
