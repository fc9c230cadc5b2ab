"""Cost of the running system: its start, a folder predicted by its worker, and the overhead of orchestration.

python -m benchmarks system
python -m benchmarks system --images 50000 --rounds 2

- `digits up` with a new and with an existing database: until the command ends and the first page of the UI is served.
- The deployment `predict/folder` with 1,000 images: from submission to completion by the server's clock; and the part
  of the run that is orchestration, without waiting for the worker, starting and importing, and the library's own work.
- A flow compared with the same library calls in one process, with a running server, without start and imports. Like
  `digits predict` it runs without Prefect's heartbeats; at its end a run with heartbeats waits up to a second for the
  last one.
"""

import argparse
import os
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from statistics import median
from typing import Any

from digits.server.password import read_password
from digits.server.services import client_environment
from tests.support.command import DIGITS
from tests.support.networks import small_store
from tests.support.pictures import link_images
from tests.support.server import free_port, untracked

FOLDER_IMAGES = 1_000
"""Number of images that the deployment predicts."""


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(description="Measure the start of the system and the cost of orchestration.")
    parser.add_argument(
        "--images", type=int, default=50_000, help="images in the folder of the third measurement (default: 50000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        root = small_store(place / "artifacts")
        port = free_port()
        environment = {**untracked(place / "home"), "HOME": name, "DIGITS_ARTIFACTS": str(root)}
        try:
            _measure_up(environment, port, options.rounds)
            quiet = {"PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL": "CRITICAL"}
            client = client_environment(f"http://127.0.0.1:{port}/api", {}, read_password(root / "system"))
            os.environ.update(environment, **quiet, **client)
            _measure_folder(place, options.rounds)
            _measure_overhead(place, root, options.images, options.rounds)
        finally:
            _digits(environment, "down")


def _digits(environment: dict[str, str], *arguments: str) -> None:
    subprocess.run([DIGITS, *arguments], env=environment, check=True, capture_output=True)


def _measure_up(environment: dict[str, str], port: int, rounds: int) -> None:
    times = []
    for _ in range(rounds + 1):
        started = time.perf_counter()
        _digits(environment, "up", "--port", str(port))
        _open_page(f"http://127.0.0.1:{port}/runs")
        times.append(time.perf_counter() - started)
        if len(times) <= rounds:
            _digits(environment, "down")
    print(f"digits up: {times[0]:.1f} s with a new database, {_summarize(times[1:])} with an existing one", flush=True)


def _open_page(address: str) -> None:
    """Open a page of the UI as a browser does; the server shows its pages to clients that accept HTML only."""
    request = urllib.request.Request(address, headers={"Accept": "text/html"})  # noqa: S310 - the local server
    with urllib.request.urlopen(request) as page:  # noqa: S310
        page.read()


def _summarize(times: list[float]) -> str:
    return f"{median(times):.1f} s ({min(times):.1f} to {max(times):.1f})"


def _measure_folder(place: Path, rounds: int) -> None:
    from prefect.client.orchestration import get_client
    from prefect.deployments import run_deployment

    folder = place / "small"
    link_images(folder, FOLDER_IMAGES)
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
    orchestration = median(inside) - median(library)
    print(
        f"predict/folder with {FOLDER_IMAGES:,} images: {_summarize(total)} from submission to completion; "
        f"{median(inside):.2f} s from the start to the end of the flow, of which {orchestration:.2f} s are "
        f"orchestration: the same library call takes {median(library):.2f} s",
        flush=True,
    )


def _seconds(started: datetime | None, ended: datetime | None) -> float:
    if started is None or ended is None:
        raise RuntimeError("the server has no start or end time of the run")
    return (ended - started).total_seconds()


def _as_library(folder: Path, out: Path) -> float:
    from digits.prediction import service
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    started = time.perf_counter()
    service.predict_folder(Store(artifact_root()), folder, out=out)
    return time.perf_counter() - started


def _as_flow(folder: Path, out: Path, root: Path) -> None:
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows.prediction import predict_folder

    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        predict_folder(folder, out=out, artifacts=root)


def _measure_overhead(place: Path, root: Path, images: int, rounds: int) -> None:
    folder = place / "large"
    link_images(folder, images)
    times: dict[str, list[float]] = {"flow": [], "library": []}
    variants: dict[str, Callable[[Path], object]] = {
        "flow": lambda out: _as_flow(folder, out, root),
        "library": lambda out: _as_library(folder, out),
    }
    for number in range(rounds):
        for name, predict in variants.items():
            started = time.perf_counter()
            predict(place / f"{name}-{number}-large.csv")
            times[name].append(time.perf_counter() - started)
    overhead = median(times["flow"]) - median(times["library"])
    print(
        f"{images:,} images: {_summarize(times['flow'])} as a flow on a running server, "
        f"{_summarize(times['library'])} as library calls: {overhead:.2f} s or "
        f"{overhead / median(times['library']):.1%} more",
        flush=True,
    )


if __name__ == "__main__":
    main()
