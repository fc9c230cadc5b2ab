"""Command `init`: a project of one's own."""

from pathlib import Path
from typing import Annotated

import typer

from digits.cli.app import AsJson


def init(
    directory: Annotated[
        Path, typer.Argument(help="Directory of the project; it is created if it is missing.")
    ] = Path(),
    upgrade: Annotated[
        bool,
        typer.Option(
            "--upgrade",
            help="Update the files of the project to the installed version of Digits, except those that you changed.",
        ),
    ] = False,
    json: AsJson = False,
) -> None:
    """Write a project of your own: flows, tasks, prefect.yaml, and files for services and containers."""
    from digits import project
    from digits.cli.output import print_json, print_pairs
    from digits.errors import UsageError, os_errors_as
    from digits.terminal import print_notice
    from digits.wording import count

    place = directory.expanduser().absolute()
    with os_errors_as(
        UsageError, place, "the project's files could not be written", "check path, permissions and space"
    ):
        changes = project.upgrade_project(place) if upgrade else project.create_project(place)
    if json:
        print_json({"project": place, "version": project.installed_version(), **vars(changes)})
        return
    facts = {"project": place, "version": project.installed_version(), "written": count(len(changes.written), "file")}
    removed = {"removed": ", ".join(changes.removed)} if changes.removed else {}
    kept = {"kept, because you changed or removed them": ", ".join(changes.kept)} if changes.kept else {}
    print_pairs("Upgraded" if upgrade else "Created", {**facts, **removed, **kept})
    if not upgrade:
        print_notice(f"next: cd {place}, edit prefect.yaml, and run digits up")
