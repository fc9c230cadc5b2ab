"""Command `status`."""

from digits.cli.app import Artifacts, AsJson, State
from digits.cli.connection import open_system, use_api


def status(state: State = None, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Show what needs attention, then server, worker, champion, deployments and last runs."""
    from dataclasses import asdict

    from digits.cli.output import print_json, print_status
    from digits.server.status import read_status

    system = open_system(state, artifacts)
    api, _ = system.api()
    if api:
        use_api(system, api)
    found = asdict(read_status(system))
    if json:
        print_json(found)
    else:
        print_status(found)
