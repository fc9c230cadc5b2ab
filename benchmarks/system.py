"""The running system: how soon it is there, how long a folder takes under its worker, what orchestration costs.

    python -m benchmarks system
    python -m benchmarks system --images 50000 --rounds 2

- `digits up` with an existing database, until it says where the UI is, and the UI's first page answers;
- `predict/folder` with 1,000 images, from the submission to its end, as the server's clock has it; of that what is
  neither waiting for the worker, nor starting an interpreter and importing, nor the library's own work on the folder;
- a flow in this process against the same library calls, interpreter and imports left out, on a running server; as
  `digits predict` runs it, without Prefect's heartbeats, for the last of which a deployment's run waits up to a second.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from tests.support.networks import small_store
from tests.support.pictures import link_images
from tests.support.server import free_port, untracked

FOLDER = 1_000
ROUNDS = 3


def main() -> None:
    """Print a line for each."""
    parser = argparse.ArgumentParser(description="The running system.")
    parser.add_argument("--images", type=int, default=50_000, help="in the folder that flow and library predict")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        root = small_store(place / "artifacts")
        port = free_port()
        environment = {**untracked(place / "home"), "HOME": name, "DIGITS_ARTIFACTS": str(root)}
        try:
            _measure_up(environment, port, given.rounds)
            quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
            os.environ.update(environment, **quiet, PREFECT_API_URL=f"http://127.0.0.1:{port}/api")
            _measure_folder(place, given.rounds)
            _measure_overhead(place, root, given.images, given.rounds)
        finally:
            _digits(environment, "down")


def _digits(environment: dict[str, str], *arguments: str) -> None:
    command = [str(Path(sys.executable).with_name("digits")), *arguments]
    subprocess.run(command, env=environment, check=True, capture_output=True)


def _measure_up(environment: dict[str, str], port: int, rounds: int) -> None:
    times = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        _digits(environment, "up", "--port", str(port))
        _open_page(f"http://127.0.0.1:{port}/runs")
        times.append(time.perf_counter() - began)
        if len(times) <= rounds:
            _digits(environment, "down")
    print(f"digits up: {times[0]:.1f} s with a new database, {_told(times[1:])} with an existing one", flush=True)


def _open_page(address: str) -> None:
    """Open a page of the UI as a browser does; other programs are told that there is none."""
    request = urllib.request.Request(address, headers={"Accept": "text/html"})  # noqa: S310 - our own server
    with urllib.request.urlopen(request) as page:  # noqa: S310
        page.read()


def _told(times: list[float]) -> str:
    return f"{median(times):.1f} s ({min(times):.1f} to {max(times):.1f})"


def _measure_folder(place: Path, rounds: int) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment

    folder = place / "small"
    link_images(folder, FOLDER)
    total, inside, library = [], [], []
    for number in range(rounds):
        out = place / f"table-{number}.csv"
        run: Any = run_deployment(
            "predict/folder", parameters={"folder": str(folder), "out": str(out)}, timeout=300, poll_interval=0.2
        )
        with get_client(sync_client=True) as client:
            found = client.read_flow_run(run.id)
        if found.state is None or found.state.name != "Completed":
            raise RuntimeError(f"the run did not complete: {found.state}")
        total.append(_seconds(found.expected_start_time, found.end_time))
        inside.append(_seconds(found.start_time, found.end_time))
        library.append(_as_library(folder, place / f"library-{number}.csv"))
    ours = median(inside) - median(library)
    print(
        f"predict/folder with {FOLDER:,} images: {_told(total)} from submission to completion; {median(inside):.2f} s "
        f"from the flow's start to its end, of which {median(library):.2f} s are the library's in a process of its "
        f"own, and {ours:.2f} s ours",
        flush=True,
    )


def _seconds(began: datetime | None, ended: datetime | None) -> float:
    if began is None or ended is None:
        raise RuntimeError("the server has no times of the run")
    return (ended - began).total_seconds()


def _as_library(folder: Path, out: Path) -> float:
    from digits import api

    began = time.perf_counter()
    api.predict(folder, out=out)
    return time.perf_counter() - began


def _as_flow(folder: Path, out: Path, root: Path) -> None:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.prediction import predict_folder

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        predict_folder(folder, out=out, artifacts=root)


def _measure_overhead(place: Path, root: Path, images: int, rounds: int) -> None:
    folder = place / "large"
    link_images(folder, images)
    times: dict[str, list[float]] = {"flow": [], "library": []}
    ways: dict[str, Callable[[Path], object]] = {
        "flow": lambda out: _as_flow(folder, out, root),
        "library": lambda out: _as_library(folder, out),
    }
    for number in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            way(place / f"{name}-{number}-large.csv")
            times[name].append(time.perf_counter() - began)
    more = median(times["flow"]) - median(times["library"])
    print(
        f"{images:,} images: {_told(times['flow'])} as a flow on a running server, {_told(times['library'])} as "
        f"library calls: {more:.2f} s or {more / median(times['library']):.1%} more",
        flush=True,
    )


if __name__ == "__main__":
    main()
