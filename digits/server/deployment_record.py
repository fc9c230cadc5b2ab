"""Deployment record: what Digits last deployed to a Prefect server, kept on that server in a Prefect variable.

A redeployment from another machine finds it, too.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PROJECT = "digits"
"""Name of a project whose prefect.yaml has no other."""
FieldDigests = Mapping[str, str]
"""Digests of the fields of a deployment or automation in its file; see `digits.server.merging`."""


@dataclass(frozen=True)
class DeploymentRecord:
    """Record of the last deployment to a Prefect server; empty if there was none.

    Args:
        fingerprint: digest of everything that the deployments depend on.
        deployments: field digests of each deployment, by name.
        automations: field digests of each automation, by name.
    """

    fingerprint: str = ""
    deployments: Mapping[str, FieldDigests] = field(default_factory=dict)
    automations: Mapping[str, FieldDigests] = field(default_factory=dict)


def variable_name(project: str) -> str:
    """Return the name of the Prefect variable of a project, by the name in its prefect.yaml: `digits_deployed`."""
    return re.sub(r"[^a-z0-9]+", "_", f"{project}_deployed".lower())


def read_record(client: Any, project: str = PROJECT) -> DeploymentRecord:
    """Return the record of a project at a Prefect server; an empty one if it has none, or not one of this version."""
    found = client.read_variable_by_name(variable_name(project))
    try:
        value = json.loads(found.value) if found and isinstance(found.value, str) else found and found.value
        return DeploymentRecord(**value) if value else DeploymentRecord()
    except (TypeError, ValueError):
        return DeploymentRecord()


def write_record(client: Any, project: str, record: DeploymentRecord) -> None:
    """Write the record of a project at a Prefect server."""
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    name, value = variable_name(project), asdict(record)
    if client.read_variable_by_name(name):
        client.update_variable(VariableUpdate(name=name, value=value, tags=["digits"]))
    else:
        client.create_variable(VariableCreate(name=name, value=value, tags=["digits"]))
