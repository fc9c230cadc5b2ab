"""Tables: the latest tables of an artifact root and of the deployments, read from their summaries."""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from digits.errors import DigitsError
from digits.server.attention import Table
from digits.store.artifacts import Store
from digits.store.records import Record, read_record

TABLES_SHOWN = 20


def table_of_run(parameters: Mapping[str, Any], root: Path) -> Path:
    """Return the path of the table that a run of a prediction flow writes.

    Args:
        parameters: parameters of the run, as JSON values.
        root: artifact root of the worker, for a run that names none.
    """
    from digits.prediction.service import default_table

    store = Store(Path(parameters.get("artifacts") or root))
    out, folder = parameters.get("out"), parameters.get("folder")
    return Path(out) if out else default_table(store, Path(folder) if folder else store.inbox)


def read_table(path: Path, deployment: str = "") -> Table | None:
    """Return a table by its summary; None if the summary does not exist or is damaged.

    Args:
        path: path of the table.
        deployment: deployment that wrote it.
    """
    from digits.outputs.summary import summary_path

    summary = summary_path(path)
    with suppress(OSError, DigitsError, LookupError, TypeError, AttributeError):
        return _table(read_record(summary), deployment, datetime.fromtimestamp(summary.stat().st_mtime, UTC))
    return None


def latest_tables(root: Path, known: Iterable[Table]) -> list[Table]:
    """Return the tables of an artifact root and further ones, newest first, at most `TABLES_SHOWN`.

    Args:
        root: artifact root, whose tables may be those of `known`.
        known: tables of deployments.
    """
    from digits.outputs.summary import summary_path

    found = {one.path: one for one in known}
    for path in Store(root).predictions.glob("*/*.summary.json"):
        # The summary names its table, whose extension is not known here.
        with suppress(OSError, DigitsError, LookupError):
            out = Path(read_record(path)["out"])
            if str(out) not in found and summary_path(out) == path and (table := read_table(out)):
                found[table.path] = table
    return sorted(found.values(), key=lambda one: one.written, reverse=True)[:TABLES_SHOWN]


def _table(record: Record, deployment: str, written: datetime) -> Table:
    shifts = (record["drift"] or {}).get("shifts", ())
    return Table(
        path=record["out"],
        deployment=deployment,
        images=record["images"],
        statuses=record["statuses"],
        written=written,
        model_version=record["model_version"],
        drift={one["feature"]: one["psi"] for one in shifts},
        drifted=record["trend"][-1]["drifted"] if shifts else (),
    )
