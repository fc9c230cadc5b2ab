"""The commands `up`, `down`, `status` and `janitor`, and predicting through a deployment."""

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits.errors import OperationsError
from digits.server.api import shown
from digits.server.deployments import ensure_deployments
from digits.server.services import (
    System,
    client_environment,
    ensure_server,
    ensure_worker,
    require_access,
    state_directory,
)
from digits.settings import artifact_root

if TYPE_CHECKING:
    from digits.prediction.config import PredictionConfig

POLL_SECONDS = 0.5


def system_of(state: Path | None, artifacts: Path | None) -> System:
    """Give the system of a state directory and an artifact root, each as chosen or configured."""
    root = artifact_root(artifacts)
    return System(state_directory(state, root), root)


def up(system: System, port: int) -> dict[str, object]:
    """Have a server, what it must know, and a worker; say what was there and what was made.

    Raises:
        OperationsError: something can't be had; what was started before stays, and the next `up` goes on.
    """
    from digits.cli.output import say

    with system.turn():
        found = system.api()[0] is not None
        say("looking for a Prefect server" if found else "starting a Prefect server (5 to 20 s, the first time longer)")
        api, ours = ensure_server(system, port)
        use(api)
        deployed = ensure_deployments(system, api)
        if deployed:
            say("deployed what is in prefect.yaml")
        started = ensure_worker(system, api)
        crashed = _reap()
    return {
        "ui": shown(api).removesuffix("/api"),
        "server": ("running already" if found else "started") + ("" if ours else ", not by digits"),
        "worker": "started" if started else "running already",
        "deployments": "deployed" if deployed else "as they were",
        **({"crashed": ", ".join(crashed)} if crashed else {}),
        "state": system.state,
        "artifacts": system.root,
        "to track runs of your own": f"export PREFECT_API_URL={shown(api)}",
    }


def down(system: System) -> dict[str, object]:
    """Stop the worker and the server, those that `up` started; say which."""
    if not system.state.is_dir():
        return {"nothing": f"was started from {system.state}"}
    with system.turn():
        record = system.server.record()
        worker = system.worker.stop()
        crashed: list[str] = []
        if record:
            use(record["api"])
            crashed = _reap()
        server = system.server.stop()
    return {
        "worker": "stopped" if worker else "was not running",
        "server": "stopped" if server else "was not started by digits up, or not running",
        **({"interrupted": ", ".join(crashed)} if crashed else {}),
    }


def use(api: str) -> None:
    """Have this process talk to a Prefect API; before Prefect is imported."""
    os.environ.update(client_environment(api))


def find(system: System) -> str:
    """Give the API of the system, and have this process talk to it.

    Raises:
        OperationsError: there is none, it does not answer, or it wants another password.
    """
    api, _ = system.api()
    if api is None:
        raise OperationsError("no Prefect server runs here, and none is configured; `digits up` starts one")
    require_access(system, api)
    use(api)
    return api


def _reap() -> list[str]:
    from digits.server.reaping import reap

    return [str(row["which"]) for row in reap() if row["what"] == "crashed"]


def status(system: System) -> dict[str, Any]:
    """Give the state of the system as JSON values."""
    from digits.server.status import look

    api, _ = system.api()
    if api:
        use(api)
    return asdict(look(system))


def clean(system: System) -> dict[str, object]:
    """Do what the janitor does; say what was done. Without a server, only the artifact store is swept."""
    from digits.maintenance import retention
    from digits.maintenance.retention import RetentionConfig
    from digits.store.artifacts import Store

    api, _ = system.api()
    crashed = "no Prefect server, so not looked for"
    if api:
        find(system)
        crashed = ", ".join(_reap()) or "none"
    removed = retention.sweep(Store(system.root), RetentionConfig())
    return {
        "runs set to crashed": crashed,
        "removed": f"{len(removed)} files and directories, {sum(one.bytes for one in removed) / 1e6:,.1f} MB",
        **{one.path: one.reason for one in removed},
    }


def submit(
    system: System, folder: Path, model: str, out: Path | None, options: "PredictionConfig", shadow: str | None
) -> tuple[str, dict[str, Any]]:
    """Have the deployment predict a folder, and wait for the end; give where the run is in the UI, and its state.

    Raises:
        OperationsError: there is no such deployment, or no server.
    """
    from digits.cli.output import say

    api = find(system)
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    changed = options.model_dump(mode="json", exclude_unset=True)
    parameters = {"folder": str(folder), "model": model, "out": out and str(out), "options": changed, "shadow": shadow}
    try:
        run: Any = run_deployment("predict/folder", parameters=parameters, timeout=0)
    except ObjectNotFound as error:
        raise OperationsError(f"{shown(api)} has no deployment predict/folder; `digits up` makes it") from error
    place = f"{shown(api).removesuffix('/api')}/runs/flow-run/{run.id}"
    say(f"submitted; the run is at {place}")
    return place, _wait(run.id)


def _wait(run: Any) -> dict[str, Any]:
    """Wait for a run's end, with a bar that follows its progress artifact."""
    import time

    from prefect.client.orchestration import get_client

    from digits.cli.output import DrawnProgress

    done, bar = 0, DrawnProgress().start("Predicting", 100)
    with get_client(sync_client=True) as client:
        while True:
            found = client.read_flow_run(run)
            percent = _percent(client, run)
            bar.advance(percent - done)
            done = percent
            if found.state is not None and found.state.is_final():
                bar.close(found.state.name or "")
                return {"name": found.name, "state": found.state.name, "message": found.state.message or ""}
            time.sleep(POLL_SECONDS)


def _percent(client: Any, run: Any) -> int:
    from prefect.client.schemas.filters import ArtifactFilter

    chosen = {"key": {"any_": ["prediction-progress"]}, "flow_run_id": {"any_": [run]}}
    found = client.read_artifacts(artifact_filter=ArtifactFilter.model_validate(chosen), limit=1)
    return int(float(found[0].data)) if found else 0
