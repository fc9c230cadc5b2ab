"""Deployments: registration of the deployments of prefect.yaml at a Prefect server, whenever they have changed."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits.errors import OperationsError
from digits.server.services import POOL, System, run_prefect
from digits.store.files import hash_file, write_file
from digits.store.records import digest_of

DEPLOYMENTS = ("train/nightly", "rollback/rollback", "predict/folder", "predict/inbox", "janitor/janitor")
_PACKAGE = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class DeclaredDeployment:
    """Deployment of a prefect.yaml.

    Args:
        name: name as `FLOW/DEPLOYMENT`.
        pool: name of its work pool; None if it has none.
        scheduled: whether one of its schedules is active.
    """

    name: str
    pool: str | None
    scheduled: bool


def declared_deployments(project: Path) -> tuple[DeclaredDeployment, ...]:
    """Return the deployments of a project's prefect.yaml, in its order. The sources of the flows are not executed.

    Raises:
        OperationsError: if there is no prefect.yaml, or it has an error.
    """
    import yaml

    path = _require_declaration(project)
    try:
        entries = yaml.safe_load(path.read_text("utf-8"))["deployments"] or ()
        return tuple(_declared(project, entry) for entry in entries)
    except (OSError, ValueError, TypeError, LookupError, SyntaxError, AttributeError, yaml.YAMLError) as error:
        problem = " ".join(str(error).split()) or type(error).__name__
        raise OperationsError(
            f"{path}: found no readable list of deployments ({problem}), expected entries with name and entrypoint; "
            "correct it"
        ) from error


def _declared(project: Path, entry: Mapping[str, Any]) -> DeclaredDeployment:
    from prefect.flows import load_flow_arguments_from_entrypoint

    path, colon, flow = entry["entrypoint"].rpartition(":")
    # A path is relative to the project, and the name of a module has no colon.
    entrypoint = f"{project / path}:{flow}" if colon else flow
    schedules = entry.get("schedules") or [entry.get("schedule")]
    return DeclaredDeployment(
        name=f"{load_flow_arguments_from_entrypoint(entrypoint, {'name'})['name']}/{entry['name']}",
        pool=(entry.get("work_pool") or {}).get("name"),
        scheduled=any(one and one.get("active") is not False for one in schedules),
    )


def ensure_deployments(system: System, api: str, project: Path) -> bool:
    """Create the work pool and the deployments of prefect.yaml, unless they exist and nothing has changed.

    Args:
        system: system whose state directory records what is deployed.
        api: address of the Prefect API.
        project: directory with prefect.yaml and the flows.

    Returns:
        Whether anything was deployed.

    Raises:
        OperationsError: if there is no prefect.yaml, or Prefect reports an error in it.
    """
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectNotFound

    wanted = _fingerprint(api, project)
    note = system.state / "deployed"
    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(POOL)
        except ObjectNotFound:
            client.create_work_pool(WorkPoolCreate(name=POOL, type="process"))
        known = deployments_by_name(client)
    if note.is_file() and note.read_text() == wanted and known.keys() >= set(DEPLOYMENTS):
        return False
    run_prefect(["--no-prompt", "deploy", "--all"], api, project)
    write_file(note, wanted.encode())
    return True


def deployments_by_name(client: Any) -> dict[str, Any]:
    """Return the Prefect deployments, by `FLOW/DEPLOYMENT`."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    return {f"{flows.get(one.flow_id, '?')}/{one.name}": one for one in client.read_deployments()}


def _fingerprint(api: str, project: Path) -> str:
    """Return a digest of all that a deployment depends on: prefect.yaml, flows, settings, project, Python and API."""
    declaration = _require_declaration(project)
    settings = [*_PACKAGE.glob("*/config.py"), _PACKAGE / "maintenance" / "retention.py"]
    sources = [declaration, *sorted((project / "flows").glob("*.py")), *sorted(settings)]
    return digest_of([api, str(project), sys.executable, *map(hash_file, sources)])


def _require_declaration(project: Path) -> Path:
    path = project / "prefect.yaml"
    if not path.is_file():
        raise OperationsError(f"{path}: there is no such file, expected the declaration of the deployments; restore it")
    return path
