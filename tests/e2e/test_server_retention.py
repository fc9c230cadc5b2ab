"""Test of the retention of a Prefect server that Digits starts: old runs are removed, and their space is used again."""

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from digits.server.server_settings import DEFAULT_SETTINGS
from tests.support.running_system import RunningSystem, wait_for
from tests.support.server import prefect_server

pytestmark = pytest.mark.slow
BATCHES, RUNS = 6, 40
REPORT = "x" * 400_000
"""Text of a Prefect artifact, as large as what a run of the nightly training publishes."""
PERIOD = 61 * 60
AGED = {"flow_run": "end_time", "events": "occurred", "event_resources": "occurred"}
"""Columns that decide on the age of rows, by table."""
Ask = Callable[[str, Any], Any]


def test_old_runs_are_removed_and_the_database_stops_growing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After each batch of runs, the clock is moved on by the period, by dating everything back."""
    settings = {
        **DEFAULT_SETTINGS,
        "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(PERIOD),
        "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{PERIOD}S",
        "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "3",
    }
    database = tmp_path / "prefect.db"
    with prefect_server(tmp_path, settings) as environment:
        port = urlsplit(environment["PREFECT_API_URL"]).port
        assert port
        ask = RunningSystem(tmp_path, tmp_path, tmp_path, port).ask
        flow = ask("/flows/", {"name": "retention"})["id"]
        sizes = []
        for batch in range(BATCHES):
            for _ in range(RUNS):
                complete_run(ask, flow)
            date_back(database, PERIOD)
            wait_for(lambda: ask("/flow_runs/count", {}) == 0, f"the removal of batch {batch}")
            wait_for(lambda: count(database, "artifact") == 0, f"the removal of the reports of batch {batch}")
            sizes.append(size(database))
    assert sizes[-1] < 1.1 * sizes[1], sizes


def complete_run(ask: Ask, flow: str) -> None:
    """Create a run with a report and logs, and complete it."""
    run = ask("/flow_runs/", {"flow_id": flow, "state": {"type": "PENDING"}})["id"]
    for state in ("RUNNING", "COMPLETED"):
        ask(f"/flow_runs/{run}/set_state", {"state": {"type": state}})
    ask("/artifacts/", {"key": "report", "type": "markdown", "data": REPORT, "flow_run_id": run})


def date_back(database: Path, seconds: int) -> None:
    """Date all ended runs and events back."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection, connection:
        for table, column in AGED.items():
            moved = f"strftime('%Y-%m-%d %H:%M:%f000', {column}, '-{seconds} seconds')"
            connection.execute(f"UPDATE {table} SET {column} = {moved} WHERE {column} IS NOT NULL")  # noqa: S608


def size(database: Path) -> int:
    """Return the number of bytes of a database, after its write-ahead log is moved into it.

    The length of the log depends on when the server last moved it.
    """
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (pages,), (page,) = connection.execute("PRAGMA page_count"), connection.execute("PRAGMA page_size")
        return int(pages[0]) * int(page[0])


def count(database: Path, table: str) -> int:
    """Return the number of rows of a table."""
    with contextlib.closing(sqlite3.connect(database, timeout=60)) as connection:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])  # noqa: S608
