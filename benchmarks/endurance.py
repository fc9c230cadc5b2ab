"""Endurance: real runs for hours on a server that keeps them for 61 minutes; how much do database and memory grow?

python -m benchmarks endurance                    # three hours
python -m benchmarks endurance --minutes 150 --seconds 30

A worker executes `predict/folder` all the time, besides the runs that the schedules start. After the first hour the
server removes as many runs as are added, so that its database should keep its size. The exit code is 1 if it grows by
10 % or more in the last hour.
"""

import argparse
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.support.networks import tiny_store
from tests.support.pictures import write_images
from tests.support.processes import measure_memory
from tests.support.running_system import RunningSystem, started
from tests.support.server import free_port

IMAGES = 100
RETENTION_SECONDS = 61 * 60
ROUND_SECONDS = 600
"""Seconds between two lines of the table."""
MOST_GROWTH = 0.1
SETTINGS = {
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_SECONDS),
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": f"PT{RETENTION_SECONDS}S",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_LOOP_SECONDS": "60",
}


@dataclass(frozen=True)
class Sample:
    """Measurements at one time: seconds since the start, and bytes."""

    seconds: float
    database: int
    server: int
    worker: int


def main() -> int:
    """Execute the runs and print a line every ten minutes; return 1 if the database still grows at the end."""
    parser = argparse.ArgumentParser(description="Execute real runs for hours, and measure database and memory.")
    parser.add_argument("--minutes", type=float, default=180, help="duration (default: 180)")
    parser.add_argument("--seconds", type=float, default=45, help="seconds from one run to the next (default: 45)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        secrets = tuple(SETTINGS.items())
        system = RunningSystem(tiny_store(home / "artifacts"), home / "state", home, free_port(), secrets)
        write_images(home / "scans", IMAGES)
        with started(system):
            return _report(_execute(system, home, options.minutes * 60, options.seconds))


def _execute(system: RunningSystem, home: Path, seconds: float, pause: float) -> list[Sample]:
    """Submit runs for some seconds, and measure every ten minutes."""
    started, number, samples = time.monotonic(), 0, list[Sample]()
    print("| minutes | runs | runs on the server | database | server | worker |\n|---|---|---|---|---|---|")
    while (elapsed := time.monotonic() - started) < seconds or not samples:
        system.run("predict/folder", folder=str(home / "scans"), out=str(home / f"{number}.csv"))
        number += 1
        if elapsed >= len(samples) * ROUND_SECONDS:
            samples.append(_measure(system, elapsed))
            known = system.ask("/flow_runs/count", {"flow_runs": {"state": {"type": {"not_any_": ["SCHEDULED"]}}}})
            sizes = (samples[-1].database, samples[-1].server, samples[-1].worker)
            shown = " | ".join(f"{size / 1e6:.1f} MB" for size in sizes)
            print(f"| {elapsed / 60:.0f} | {number} | {known} | {shown} |", flush=True)
        time.sleep(pause)
    return [*samples, _measure(system, time.monotonic() - started)]


def _measure(system: RunningSystem, elapsed: float) -> Sample:
    database = sum(path.stat().st_size for path in (system.state / "prefect").glob("prefect.db*"))
    server, worker = (measure_memory(system.process(name)) for name in ("server", "worker"))
    return Sample(elapsed, database, server, worker)


def _report(samples: list[Sample]) -> int:
    last = samples[-1]
    before = max(
        (one for one in samples if one.seconds <= last.seconds - 3600), key=lambda one: one.seconds, default=samples[0]
    )
    growth = last.database / before.database - 1
    print(
        f"\nFrom minute {before.seconds / 60:.0f} to minute {last.seconds / 60:.0f} the database grew by {growth:.1%}."
    )
    return int(growth >= MOST_GROWTH)


if __name__ == "__main__":
    sys.exit(main())
