"""Start campaign: `digits up` on a disk that becomes full at one of its system calls.

python -m tests.faults.system                   # each of the first 24 calls of a new system, and 10 of the others
python -m tests.faults.system --only 7          # repeat one round

Below the home directory, which contains the state directory, all calls from a certain one on fail with ENOSPC, in
`digits up`, the server and the worker. The command must end with one sentence and a documented exit code. Then, with
free space again, `digits down` must leave no process.

"""

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.faults import shim
from tests.faults.shim import Seen, Shim
from tests.support.command import DIGITS
from tests.support.networks import tiny_store
from tests.support.server import free_port

EXIT_CODES = (0, 4, 7)
"""Exit codes that docs/operations.md gives for a full disk."""
FIRST = 24
"""Number of calls that are all tried; the server makes most of the later ones."""
SECONDS = 400
NOTICE = "starting a Prefect server"


@dataclass(frozen=True)
class Round:
    """One `digits up` whose disk becomes full.

    Args:
        at: number of the first call that failed.
        code: exit code of the command.
        message: its last line on standard error.
        seconds: its duration.
        seen: counts of the shim.
        faults: what was wrong, one sentence each.
    """

    at: int
    code: int
    message: str
    seconds: float
    seen: Seen
    faults: Sequence[str]


class Place:
    """Home directory of a system of its own, whose commands run with the shim."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "system"
        self.port = free_port()
        control = home.with_name("shim")
        control.mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DIGITS_"))}
        root = {"HOME": str(home), "DIGITS_ARTIFACTS": str(tiny_store(home / "artifacts"))}
        self._environment = {**kept, **root, "DIGITS_STATE": str(self.state), **shim.environment(control)}
        self.shim = Shim(control / "control")

    def digits(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command."""
        return subprocess.run(
            [DIGITS, *arguments], env=self._environment, capture_output=True, text=True, check=False, timeout=SECONDS
        )

    def up(self) -> "subprocess.CompletedProcess[str]":
        """Run `digits up`."""
        return self.digits("up", "--port", str(self.port), "--json")

    def processes(self) -> list[int]:
        """Return the processes that this system has started and that still run."""
        return [process.pid for process in psutil.process_iter() if _belongs(process, str(self.state))]


def _belongs(process: psutil.Process, state: str) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE and state in process.environ().get("PREFECT_HOME", "")
    except psutil.Error:
        return False


def run_round(place: Place, at: int) -> Round:
    """Start a new system, with a new password and database, while the disk becomes full at a call, and stop it."""
    shutil.rmtree(place.state, ignore_errors=True)
    started = time.monotonic()
    with place.shim.armed(place.home, at=at, error="ENOSPC", for_good=True):
        done = place.up()
        seen = place.shim.seen()
    seconds = time.monotonic() - started
    stopped = place.digits("down", "--json")
    return Round(at, done.returncode, _last_line(done.stderr), seconds, seen, list(_faults(place, done, stopped)))


def _faults(
    place: Place, up: "subprocess.CompletedProcess[str]", down: "subprocess.CompletedProcess[str]"
) -> Iterator[str]:
    if up.returncode not in EXIT_CODES:
        yield f"exit code {up.returncode}"
    if "Traceback" in up.stderr + down.stderr:
        yield f"traceback: {up.stderr}{down.stderr}"
    sentences = [line for line in up.stderr.splitlines() if NOTICE not in line and not line.startswith("deployed")]
    if up.returncode and (len(sentences) != 1 or not sentences[0].startswith("digits: ")):
        yield f"expected one sentence: {sentences}"
    if down.returncode:
        yield f"`digits down` ended with {down.returncode}: {down.stderr}"
    if left := place.processes():
        yield f"processes are left: {left}"


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1]


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds and print the results. Return 1 if a round failed."""
    parser = argparse.ArgumentParser(description="Start the system on a disk that becomes full.")
    parser.add_argument("--first", type=int, default=FIRST, help="number of calls that are all tried")
    parser.add_argument("--sample", type=int, default=10, help="number of later calls")
    parser.add_argument("--seed", type=int, default=0, help="random seed of the later calls")
    parser.add_argument("--only", type=int, metavar="N", help="try only this call")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name) / "home"
        home.mkdir()
        place = Place(home)
        with place.shim.armed(home):
            done = place.up()
            calls = place.shim.seen().calls
        place.digits("down")
        print(f"`digits up` ends with {done.returncode} after {calls:,} calls: {_last_line(done.stderr)}", flush=True)
        numbers = [options.only] if options.only else _chosen(options, calls)
        failed = sum(bool(_print(run_round(place, at)).faults) for at in numbers)
        again, down = place.up(), place.digits("down")
        print(f"{len(numbers)} rounds, {failed} failed; the next `digits up` ends with {again.returncode}")
        print(_last_line(again.stderr) if again.returncode else "")
        return int(bool(failed or done.returncode or again.returncode or down.returncode))


def _chosen(options: argparse.Namespace, calls: int) -> list[int]:
    later = random.Random(options.seed).sample(range(options.first + 1, calls), options.sample)  # noqa: S311
    return [*range(1, options.first + 1), *sorted(later)]


def _print(done: Round) -> Round:
    print(f"call {done.at} ({done.seen.kind}): exit code {done.code}, {done.seconds:.1f} s: {done.message}", flush=True)
    for fault in done.faults:
        print(f"    {fault}", flush=True)
    return done


if __name__ == "__main__":
    sys.exit(main())
