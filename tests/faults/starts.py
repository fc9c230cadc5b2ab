"""Start campaign: many short runs by a worker, several at a time; each must complete at its first attempt.

python -m tests.faults.starts                   # 200 runs, 15 to 30 minutes on two cores
python -m tests.faults.starts --count 20

Each run predicts three images in a new process, as all runs of a worker do. Errors that depend on the timing of threads
while Prefect and the flow are loaded show here. `digits up` starts the server and the worker.

"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.support.networks import tiny_store
from tests.support.pictures import write_images
from tests.support.running_system import ENDED, RunningSystem, started
from tests.support.server import free_port

IMAGES = 3
POLL_SECONDS = 5
ATTEMPTED_AGAIN = "starting once more"
"""Text that the log of a run has if it failed at its start and was started again."""


def main(arguments: list[str] | None = None) -> int:
    """Execute the runs and print how they ended. Return 1 if one did not complete, or needed a second attempt."""
    parser = argparse.ArgumentParser(description="Execute many short runs with a worker.")
    parser.add_argument("--count", type=int, default=200, help="number of runs (default: 200)")
    count = parser.parse_args(arguments).count
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        system = RunningSystem(tiny_store(home / "artifacts"), home / "system", home, free_port())
        write_images(home / "scans", IMAGES)
        with started(system):
            return _report(_execute(system, home, count), system)


def _execute(system: RunningSystem, home: Path, count: int) -> list[dict[str, Any]]:
    """Submit the runs, wait until all have ended, and return them."""
    started = time.monotonic()
    runs = [
        system.run(
            "predict/folder", folder=str(home / "scans"), out=str(home / f"{number}.csv"), options={"processes": 1}
        )
        for number in range(count)
    ]
    left, ended = set(runs), []
    while left:
        time.sleep(POLL_SECONDS)
        found = [system.ask(f"/flow_runs/{run}") for run in sorted(left)[:20]]
        ended += [run for run in found if run["state_type"] in ENDED]
        left -= {run["id"] for run in ended}
    print(f"{count} runs in {time.monotonic() - started:.0f} s", flush=True)
    return ended


def _report(runs: list[dict[str, Any]], system: RunningSystem) -> int:
    states = Counter(run["state_type"] for run in runs)
    log = system.ask("/logs/filter", {"logs": {"level": {"ge_": 30}}, "limit": 200})
    again = [line for line in log if ATTEMPTED_AGAIN in line["message"]]
    for run in runs:
        if run["state_type"] != "COMPLETED":
            print(f"{run['name']}: {run['state']['message']}")
    for line in again:
        print(line["message"])
    print(f"Python {sys.version.split()[0]}: {dict(states)}; {len(again)} needed a second attempt")
    return int(bool(again) or set(states) != {"COMPLETED"})


if __name__ == "__main__":
    sys.exit(main())
