"""Option types that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

NOTIFY_VARIABLE = "DIGITS_NOTIFY"

Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts",
        help="Artifact root. Default: the variable DIGITS_ARTIFACTS, else `artifacts/` of the project, else of the "
        "current directory.",
    ),
]
State = Annotated[
    Path | None,
    typer.Option(
        "--state",
        help="Directory with the database, password, logs and locks of the local Prefect server. Default: the variable "
        "DIGITS_STATE, else `system/` under the artifact root.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Force = Annotated[
    bool,
    typer.Option("--force", help="Overwrite the file even if Digits did not write it, or if it was changed since."),
]
File = Annotated[
    Path | None,
    typer.Option("--file", help="File that declares the deployments. Default: prefect.yaml of the project."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Print what would be deployed, and where, without changing anything.")
]
Prune = Annotated[
    bool,
    typer.Option(
        "--prune",
        help="Remove the deployments and automations that Digits once deployed and that no file declares now.",
    ),
]
Yes = Annotated[
    bool, typer.Option("--yes", help="Deploy schedules without asking to a server that `digits up` did not start.")
]
Notify = Annotated[
    str | None,
    typer.Option(
        "--notify",
        envvar=NOTIFY_VARIABLE,
        show_envvar=False,
        help="Address to which notifications about failed and crashed runs, refused models, drift and stale tables are "
        "sent: mailto://..., a Slack webhook or another https:// webhook; `off` turns them off. Use the variable "
        f"{NOTIFY_VARIABLE} to keep it out of the list of processes.",
    ),
]
