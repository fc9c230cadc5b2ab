"""Option types that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

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
