"""Commands `backup` and `restore`."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from digits.cli import runtime
from digits.cli.app import Artifacts, AsJson, NoProgress, Quiet, State, Verbose

CONNECTION_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")


def backup(
    file: Annotated[Path, typer.Argument(help="Archive to write; its name ends in `.tar.zst`.")],
    tables: Annotated[
        bool, typer.Option("--tables", help="Include the prediction tables under the artifact root.")
    ] = False,
    database: Annotated[
        bool, typer.Option(help="Include the database of the Prefect server that `digits up` starts, if it is SQLite.")
    ] = True,
    force: Annotated[bool, typer.Option("--force", help="Replace the archive if it exists.")] = False,
    state: State = None,
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Back up the registry with its artifacts, labels, studies and ledgers, while runs are at work.

    The archive is read again to check it. Passwords in the state directory are not part of it.
    """
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    from digits.cli.output import print_json, print_pairs
    from digits.maintenance.backup import back_up
    from digits.server.services import state_directory
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import TerminalProgress

    root = artifact_root(artifacts)
    found, sentence = find_database(state_directory(state, root), os.environ, wanted=database)
    progress = TerminalProgress()
    done = back_up(Store(root), file, tables=tables, database=found, replace=force, progress=progress).as_record()
    if json:
        print_json(done)
    else:
        sizes = {"archive": f"{file}, {done['bytes'] / 1e6:,.1f} MB", "Prefect database": sentence}
        print_pairs("Backed up", {**sizes, **_contents(done, done["content_bytes"])})


def restore(
    file: Annotated[Path, typer.Argument(help="Archive of `digits backup`.")],
    database: Annotated[bool, typer.Option(help="Restore the Prefect database, if the archive has it.")] = True,
    check: Annotated[bool, typer.Option("--check", help="Check the archive only; write nothing.")] = False,
    max_gb: Annotated[float, typer.Option(help="Largest size of the unpacked files, in GB.", min=0)] = 100,
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Restore a backup into an artifact root without model versions. No file is overwritten.

    The archive is checked completely before anything is visible. If the command is interrupted, run it again.
    """
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    from digits.cli.output import print_json, print_pairs
    from digits.maintenance.backup import check_archive
    from digits.maintenance.restore import describe
    from digits.maintenance.restore import restore as restore_archive
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import TerminalProgress

    progress = TerminalProgress()
    if check:
        done = describe(check_archive(file, progress=progress))
    else:
        store, limit = Store(artifact_root(artifacts)), int(max_gb * 10**9)
        done = restore_archive(file, store, database=database, max_bytes=limit, progress=progress).as_record()
    if json:
        print_json(done)
    else:
        included = "in the archive" if done["database"] else "not in the archive"
        places = {"from": f"{done['root']}, {done['created_at']}", "to": done.get("artifacts", "not restored")}
        print_pairs(
            "Intact" if check else "Restored",
            {**places, "Prefect database": included, **_contents(done, done["bytes"])},
        )


def _contents(found: Mapping[str, Any], size: int) -> dict[str, Any]:
    return {
        "files": f"{found['files']:,}, {size / 1e6:,.1f} MB",
        "model versions": found["versions"],
        "champion": found["champion"] or "none",
        "labelled images": found["labelled_images"],
        "ledgers": found["ledgers"],
        "tables": found["tables"],
    }


def find_database(state: Path, environment: Mapping[str, str], *, wanted: bool) -> tuple[Path | None, str]:
    """Return the SQLite database of our Prefect server, if it has one, and a sentence about the backup of it.

    Args:
        state: state directory.
        environment: environment variables.
        wanted: whether the user wants it in the backup.
    """
    if not wanted:
        return None, "not included, because of --no-database"
    if any(environment.get(name) for name in CONNECTION_VARIABLES):
        return None, "not included: the server uses the database in its connection URL; back it up with pg_dump"
    path = state / "prefect" / "prefect.db"
    if path.is_file():
        return path, "included"
    return None, f"not included: {path} does not exist; back up the database of another Prefect server by its own means"
