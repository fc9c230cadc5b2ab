"""Deployment record: what Digits last deployed to a Prefect server, kept on that server in a Prefect variable.

A redeployment from another machine finds it, too. A long record continues in further variables.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

PROJECT = "digits"
"""Name of a project whose prefect.yaml has no other."""
PIECE_LENGTH = 3000
"""Number of characters of a record per variable. Prefect allows 5,000, with quotation marks counted twice."""
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
    try:
        value = json.loads("".join(_read_pieces(client, variable_name(project))))
        return DeploymentRecord(**value)
    except (TypeError, ValueError):
        return DeploymentRecord()


def write_record(client: Any, project: str, record: DeploymentRecord) -> None:
    """Write the record of a project at a Prefect server."""
    from prefect.client.schemas.actions import VariableCreate, VariableUpdate

    text, name = json.dumps(asdict(record)), variable_name(project)
    pieces = [text[start : start + PIECE_LENGTH] for start in range(0, len(text), PIECE_LENGTH)]
    existing = len(list(_read_pieces(client, name)))
    for number, piece in enumerate(pieces):
        kind, save = (VariableUpdate, "update_variable") if number < existing else (VariableCreate, "create_variable")
        getattr(client, save)(kind(name=_piece_name(name, number), value=piece, tags=["digits"]))
    for number in range(len(pieces), existing):
        client.delete_variable_by_name(_piece_name(name, number))


def _read_pieces(client: Any, name: str) -> Iterator[str]:
    """Yield the values of the variables that have the pieces of a record."""
    number = 0
    while found := client.read_variable_by_name(_piece_name(name, number)):
        yield found.value
        number += 1


def _piece_name(name: str, number: int) -> str:
    return f"{name}_{number + 1}" if number else name
