"""Deployments: registration of the deployments of prefect.yaml at a Prefect server, whenever they have changed."""

import sys
from pathlib import Path
from typing import Any

from digits.errors import OperationsError
from digits.server.services import POOL, System, run_prefect
from digits.store.files import hash_file, write_file
from digits.store.records import digest_of

DEPLOYMENTS = ("train/nightly", "rollback/rollback", "predict/folder", "predict/inbox", "janitor/janitor")
_PACKAGE = Path(__file__).resolve().parents[1]


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
    declaration = project / "prefect.yaml"
    if not declaration.is_file():
        raise OperationsError(
            f"{declaration}: there is no such file, expected the declaration of the deployments; restore it"
        )
    settings = [*_PACKAGE.glob("*/config.py"), _PACKAGE / "maintenance" / "retention.py"]
    sources = [declaration, *sorted((project / "flows").glob("*.py")), *sorted(settings)]
    return digest_of([api, str(project), sys.executable, *map(hash_file, sources)])
