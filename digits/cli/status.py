"""Command `status`."""

import sys
from typing import Annotated

import typer

from digits.cli.app import Artifacts, AsJson, State
from digits.cli.connection import open_system, use_api
from digits.errors import UsageError

NEEDS_ATTENTION = 8
"""Exit code if something needs attention, also of `digits doctor`."""


def status(
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print only what needs attention; print nothing if nothing does.")
    ] = False,
    prometheus: Annotated[
        bool,
        typer.Option(
            "--prometheus",
            help="Print metrics in the text format of Prometheus, for the textfile collector of node_exporter. The "
            "exit code is 0 even if something needs attention.",
        ),
    ] = False,
    state: State = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Show what needs attention, then server, worker, champion, deployments and last runs.

    The exit code is 8 if something needs attention.
    """
    from dataclasses import asdict

    from digits.cli.output import print_json, print_status
    from digits.server.metrics import format_metrics
    from digits.server.status import read_status

    if quiet + prometheus + json > 1:
        raise UsageError(
            "found several of --quiet, --prometheus and --json, expected at most one; leave the others out"
        )
    system = open_system(state, artifacts)
    api, _ = system.api()
    if api:
        use_api(system, api)
    found = read_status(system)
    if prometheus:
        sys.stdout.write(format_metrics(found))
        return
    if quiet:
        sys.stdout.writelines(f"{sentence}\n" for sentence in found.attention)
    elif json:
        print_json(asdict(found))
    else:
        print_status(asdict(found))
    sys.exit(NEEDS_ATTENTION if found.attention else 0)
