"""Commands `up`, `down` and `janitor`."""

import shlex
import threading
from collections.abc import Sequence
from contextlib import chdir
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digits.cli import runtime
from digits.cli.app import Artifacts, AsJson, DryRun, Notify, Prune, State, Yes
from digits.cli.connection import open_system, require_api, use_api
from digits.cli.deploy import DeployOptions, deploy_project, preview, take_options

if TYPE_CHECKING:
    from digits.maintenance.retention import RetentionConfig
    from digits.server.services import System

REAP_SECONDS = 15
"""Time in which `digits down` looks for runs whose process is gone."""
PASSWORD = "password of the ui (asked once)"  # noqa: S105 - the title of a line
TRACKING = "to use the server elsewhere"


def up(
    port: Annotated[int, typer.Option(help="Port of the server, if one is started.", min=1, max=65535)] = 4200,
    dry_run: DryRun = False,
    prune: Prune = False,
    yes: Yes = False,
    notify: Notify = None,
    state: State = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Start or find a Prefect server, deploy prefect.yaml, start a worker, and print the address of the UI.

    The worker is one of the work pool `digits`. None is started if all deployments use other work pools.
    """
    from digits.cli.output import print_facts

    system, options = open_system(state, artifacts), take_options(prune=prune, yes=yes, notify=notify)
    if dry_run:
        project = runtime.require_flows()
        print_facts("Would deploy", preview(system, project, options), json=json)
        return
    print_facts("Running", start_system(system, port, options), json=json)


def down(state: State = None, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Stop the worker and the server that `digits up` started, and nothing else."""
    from digits.cli.output import print_facts

    print_facts("Stopped", stop_system(open_system(state, artifacts)), json=json)


def janitor(
    table_days: Annotated[float | None, typer.Option(metavar="DAYS", min=1)] = None,
    inbox_days: Annotated[float | None, typer.Option(metavar="DAYS", min=1)] = None,
    state: State = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Do the janitor's work now: mark dead runs as Crashed, remove unused files, and rotate the logs."""
    from digits.cli.output import print_facts
    from digits.maintenance.retention import RetentionConfig

    retention = RetentionConfig(table_days=table_days, inbox_days=inbox_days)
    print_facts("Cleaned", clean_system(open_system(state, artifacts), retention), json=json)


def start_system(system: "System", port: int, options: DeployOptions) -> dict[str, object]:
    """Start the parts of the system that do not run, and deploy prefect.yaml; return the facts by name.

    Raises:
        UsageError: if there is no project.
        OperationsError: if a part cannot be started. Parts that were started keep running; `up` can be repeated.
    """
    from digits.server.logs import rotate_logs
    from digits.server.prefect_settings import check_sources
    from digits.server.services import ensure_server
    from digits.terminal import print_notice

    project = runtime.require_flows()
    with chdir(project):  # where server and worker will run
        check_sources()
    with system.exclusive():
        rotate_logs(system.state)
        found = system.api()[0] is not None
        starting = "starting a Prefect server (5 to 20 s, the first time longer)"
        print_notice("looking for the configured Prefect server" if found else starting)
        api, ours = ensure_server(system, port, project)
        use_api(system, api)
        deployed = deploy_project(api, project, options, ours=ours)
        worker = _start_worker(system, api, project)
        crashed = _reap()
    return {
        **describe_access(system, api, ours=ours),
        "server": ("running already" if found else "started") + ("" if ours else ", not by digits"),
        "worker": worker,
        **deployed,
        **({"crashed": ", ".join(crashed)} if crashed else {}),
        "state": system.state,
        "artifacts": system.root,
    }


def _start_worker(system: "System", api: str, project: Path) -> str:
    """Start the worker of the work pool `digits`, if a deployment uses it; return its state."""
    from digits.server.observation import find_pools
    from digits.server.services import POOL, ensure_worker

    pools = find_pools(project)
    if POOL in pools or system.worker.record():
        return "started" if ensure_worker(system, api, project) else "running already"
    return describe_other_workers(pools)


def describe_other_workers(pools: Sequence[str]) -> str:
    """Return why no worker was started, if no deployment uses the work pool `digits`, and what executes the runs."""
    from digits.wording import choose

    names = f"{choose(len(pools), 'work pool', 'work pools')} {', '.join(pools)}"
    return f"none started: the runs are executed by workers of the {names}, which `digits status` shows"


def describe_access(system: "System", api: str, *, ours: bool) -> dict[str, object]:
    """Return how to open the UI, and how to use the server from other programs; both without the password itself."""
    from digits.server.api import hide_secrets, ui_answers
    from digits.server.password import password_file

    ui, file = hide_secrets(api).removesuffix("/api"), password_file(system.state)
    variables = f"PREFECT_API_URL={hide_secrets(api)}"
    if ours and not ui_answers(ui):
        ui = f"does not answer at {ui}; see {system.server.log}"
    if not ours or not file.exists():
        return {"ui": ui, TRACKING: f"export {variables}"}
    show = f"cat {shlex.quote(str(file))}"
    return {"ui": ui, PASSWORD: show, TRACKING: f'export {variables} PREFECT_API_AUTH_STRING="$({show})"'}


def stop_system(system: "System") -> dict[str, object]:
    """Stop the worker and the server that `digits up` started; return the facts by name."""
    if not system.state.is_dir():
        return {"nothing": f"was started from {system.state}"}
    with system.exclusive():
        record = system.server.record()
        try:
            worker = system.worker.stop()
            runs = _reap_briefly(system, record.api) if record else {}
        finally:
            server = system.server.stop()
    return {
        "worker": "stopped" if worker else "was not running",
        "server": "stopped" if server else "was not started by digits up, or not running",
        **runs,
    }


def _reap_briefly(system: "System", api: str) -> dict[str, object]:
    """Set runs whose process is gone to Crashed, if the server lets that be done within a few seconds.

    Returns:
        The names of these runs under "interrupted", or under "runs" why they were not checked.
    """
    from digits.server.api import Access, check_access

    found: dict[str, object] = {"runs": f"not checked, as the server did not answer within {REAP_SECONDS} s"}

    def reap() -> None:
        try:
            access = check_access(api, system.environment(api))
            if access is not Access.OPEN:
                reason = "requires another password" if access is Access.DENIED else "does not answer"
                found["runs"] = f"not checked, as the server {reason}"
                return
            use_api(system, api)
            crashed = _reap()
        except Exception as error:  # noqa: BLE001 - the server is stopped, whatever is wrong with it
            found["runs"] = f"not checked: {error}"
            return
        found.clear()
        found.update({"interrupted": ", ".join(crashed)} if crashed else {})

    thread = threading.Thread(target=reap, daemon=True)  # a client of Prefect waits for minutes
    thread.start()
    thread.join(REAP_SECONDS)
    return dict(found)


def clean_system(system: "System", config: "RetentionConfig") -> dict[str, object]:
    """Do the janitor's work; return the facts by name. Without a Prefect server, only files are removed."""
    from digits.maintenance import retention
    from digits.server.logs import rotate_logs
    from digits.store.artifacts import Store
    from digits.wording import FILES_OR_DIRECTORIES, count

    api, _ = system.api()
    crashed = "not checked, as there is no Prefect server"
    if api:
        require_api(system)
        crashed = ", ".join(_reap()) or "none"
    removed = retention.sweep_store(Store(system.root), config)
    rotated = ", ".join(path.name for path in rotate_logs(system.state))
    return {
        "runs set to crashed": crashed,
        "removed": f"{count(len(removed), *FILES_OR_DIRECTORIES)}, {sum(one.bytes for one in removed) / 1e6:,.1f} MB",
        "rotated": rotated or "no log",
        **{one.path: one.reason for one in removed},
    }


def _reap() -> list[str]:
    from digits.server.dead_runs import sweep_dead_runs

    return sweep_dead_runs()
