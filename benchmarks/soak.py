"""Soak: a running system for an hour, with images that keep arriving and faults that keep happening.

python -m benchmarks soak                         # an hour; as root
python -m benchmarks soak --minutes 10 --seed 7

A system of its own (server, worker, two model versions, an inbox) lives on a small file system in memory. A thread
drops images into the inbox all the time; every 30th is no image. Runs of `predict/inbox` start by schedule, and every
15 seconds by request. Faults follow each other in random order: `kill -9` of a run, of the worker, of the server and of
all of them, a server that stops answering for 20 seconds, `digits down`, and a change of the champion. In the middle
of the time the disk is full for a minute. 15 seconds after a fault the operator's one command, `digits up`, is
run. The time to recover ends when the table has every image that was in the inbox at the time of the fault.

In the end the table must have one row per dropped image, and equal the table of a prediction that nothing disturbs; no
run may be left running; and `digits status` must find nothing that needs attention but the last runs' failed images,
and runs that died before they started: they are still Pending, without a slot, until the janitor ends them after an
hour.
The exit code is 1 if that fails.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import pandas as pd
import requests

from digits.maintenance.processes import descendants
from digits.prediction import service
from digits.store.artifacts import Store
from digits.store.registry import Registry
from tests.support.networks import make_store, small_network, tiny_network
from tests.support.pictures import write_images
from tests.support.processes import measure_memory
from tests.support.running_system import ENDED, RunningSystem, wait_for
from tests.support.server import free_port

DISK_MB = 600
ORIGINALS = 500
BROKEN_EVERY = 30
"""One in this many dropped files is no image."""
DROP_SECONDS = 0.8
"""Mean number of seconds between two dropped images."""
REQUEST_SECONDS = 15
REACTION_SECONDS = 15
"""Seconds from a fault to `digits up`."""
RECOVERY_LIMIT = 420
"""Largest number of seconds until the table has every image of the time of the fault."""
FULL_SECONDS = 60
STOPPED_SECONDS = 20
REST_SECONDS = 10
LOG_LINES = 40
"""Number of lines of the server's log to print if the soak ends by an error."""
EXPECTED = re.compile("images|are free on the disk|since [^,]*, so no worker starts it")
"""True sentences of the status in the end: about files that are no images, the disk, and runs that never started."""
_IN_NAMESPACE = "DIGITS_SOAK_NAMESPACE"


def main() -> int:
    """Run the soak and print its tables; return 1 if something was lost, doubled or left behind."""
    parser = argparse.ArgumentParser(description="Disturb a running system, and check that nothing is lost.")
    parser.add_argument("--minutes", type=float, default=60, help="duration of the faults (default: 60)")
    parser.add_argument("--only", default="", help="text in the names of the faults to inject (default: all)")
    parser.add_argument("--seed", type=int, default=1, help="seed of the order of the faults (default: 1)")
    options = parser.parse_args()
    if _IN_NAMESPACE not in os.environ:  # the small file system is mounted where no other process sees it
        command = ["unshare", "--mount", sys.executable, "-W", "ignore", "-m", "benchmarks.soak", *sys.argv[1:]]
        return subprocess.run(command, env={**os.environ, _IN_NAMESPACE: "1"}, check=False).returncode
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "soak", name], check=True)
        try:
            faults = [name for name in FAULTS if options.only in name]
            return _soak(place, options.minutes * 60, faults, random.Random(options.seed))  # noqa: S311
        finally:
            subprocess.run(["umount", "--lazy", name], check=True)


def _soak(place: Path, seconds: float, faults: Sequence[str], draws: random.Random) -> int:
    root = make_store(place / "artifacts", tiny_network(), name="tiny")
    make_store(root, small_network(), name="small")
    write_images(place / "originals", ORIGINALS)
    inbox = root / "inbox"
    inbox.mkdir()
    system = RunningSystem(root, place / "state", place / "home", free_port())
    system.home.mkdir()
    system.up()
    soak = Soak(system, inbox, place, draws)
    try:
        soak.run(seconds, faults)
        return soak.report()
    except BaseException:
        print("\n".join(system.state.joinpath("server.log").read_text("utf-8", "replace").splitlines()[-LOG_LINES:]))
        raise
    finally:
        system.digits("down", code=0)


@dataclass
class Soak:
    """A soak: the system, its inbox, and what was observed.

    Args:
        system: running system.
        inbox: folder into which the images are dropped.
        place: directory of everything, a small file system of its own.
        draws: source of random choices.
        dropped: names of the dropped images, in order.
        recoveries: seconds until recovery, by fault.
        memory: bytes of server and worker with what they started, by minute.
    """

    system: RunningSystem
    inbox: Path
    place: Path
    draws: random.Random
    dropped: list[str] = field(default_factory=list)
    recoveries: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    memory: dict[str, list[int]] = field(default_factory=lambda: defaultdict(list))
    _ended: threading.Event = field(default_factory=threading.Event)
    _held: threading.Event = field(default_factory=threading.Event)

    def run(self, seconds: float, faults: Sequence[str]) -> None:
        """Drop images, request runs and inject faults for some seconds, the full disk in the middle."""
        threads = [threading.Thread(target=work) for work in (self._drop, self._request, self._measure)]
        for thread in threads:
            thread.start()
        started, deck, filled = time.monotonic(), list[str](), False
        try:
            wait_for(self.rows, "the first rows")
            while time.monotonic() - started < seconds:
                deck = deck or self.draws.sample(faults, len(faults))
                if not filled and time.monotonic() - started > seconds / 2:
                    self._disturb("disk full for a minute", Soak.fill_disk)
                    filled = True
                else:
                    name = deck.pop()
                    self._disturb(name, FAULTS[name])
        finally:
            self._ended.set()
            for thread in threads:
                thread.join()

    def _disturb(self, name: str, fault: "Callable[[Soak], object]") -> None:
        wanted = set(self.dropped)
        started = time.monotonic()
        print(f"{time.strftime('%H:%M:%S')} {name}", end="", flush=True)
        fault(self)
        time.sleep(REACTION_SECONDS)
        self.system.up()
        wait_for(lambda: wanted <= self.rows(), f"recovery from: {name}", RECOVERY_LIMIT)
        taken = time.monotonic() - started
        self.recoveries[name].append(taken)
        print(f": recovered after {taken:.0f} s, {len(wanted)} rows", flush=True)
        time.sleep(REST_SECONDS)

    def rows(self) -> set[str]:
        """Return the paths of the rows of the inbox's table."""
        return set(self.table().path) if self.tables() else set()

    def tables(self) -> Sequence[Path]:
        """Return the tables of the inbox: one, or none yet."""
        return list((self.system.root / "predictions").glob("inbox-*/predictions.csv"))

    def table(self) -> pd.DataFrame:
        """Return the inbox's table."""
        return pd.read_csv(self.tables()[0], dtype=str, keep_default_na=False)

    # What happens all the time

    def _drop(self) -> None:
        originals = sorted((self.place / "originals").iterdir())
        while not self._ended.wait(self.draws.expovariate(1 / DROP_SECONDS)):
            if self._held.is_set():
                continue
            number = len(self.dropped)
            draft = self.place / "draft"
            if number % BROKEN_EVERY:
                shutil.copyfile(originals[number % len(originals)], draft)
            else:
                draft.write_bytes(b"no picture")
            draft.rename(self.inbox / f"{number:06}.png")
            self.dropped.append(f"{number:06}.png")

    def _request(self) -> None:
        while not self._ended.wait(REQUEST_SECONDS):
            with suppress(requests.RequestException, AssertionError):
                self.system.run("predict/inbox")

    def _measure(self) -> None:
        while not self._ended.wait(60):
            for name in ("server", "worker"):
                with suppress(OSError, ValueError):
                    self.memory[name].append(measure_memory(self.system.process(name)))

    # Faults

    def kill(self, *names: str) -> None:
        """Kill services, and all that the worker started."""
        processes = [self.system.process(name) for name in names]
        below = [pid for process in processes for pid in descendants(process)]
        for pid in [*processes, *below]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def kill_run(self) -> None:
        """Kill a process of a run, as soon as there is one."""
        worker = self.system.process("worker")
        running = wait_for(lambda: descendants(worker), "a run")
        with suppress(ProcessLookupError):
            os.kill(self.draws.choice(running), signal.SIGKILL)

    def stop_server(self) -> None:
        """Stop the server for some seconds, as a machine does that swaps."""
        server = self.system.process("server")
        tree = [server, *descendants(server)]
        for pid in tree:
            os.kill(pid, signal.SIGSTOP)
        time.sleep(STOPPED_SECONDS)
        for pid in tree:
            os.kill(pid, signal.SIGCONT)

    def change_champion(self) -> None:
        """Make the other model version the champion."""
        registry = Registry(Store(self.system.root))
        champion = registry.champion()
        other = next(one.number for one in registry.versions() if one != champion)
        self.system.digits("promote", str(other))

    def fill_disk(self) -> None:
        """Fill the file system for a minute. No image is dropped meanwhile."""
        self._held.set()
        ballast = self.place / "ballast"
        with suppress(OSError), ballast.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(1 << 20))
        time.sleep(FULL_SECONDS)
        ballast.unlink()
        self._held.clear()

    # The outcome

    def report(self) -> int:
        """Check the outcome and print the tables; return 1 if a check failed."""
        self.system.up()
        wait_for(lambda: set(self.dropped) <= self.rows(), "the last images", RECOVERY_LIMIT)
        wait_for(lambda: not self._active_runs(), "the end of all runs", RECOVERY_LIMIT)
        table, expected = self.table(), self._undisturbed()
        problems = []
        if list(table.path) != sorted(self.dropped):
            problems.append(f"{len(self.dropped)} images were dropped, the table has {len(table)} rows")
        elif not table[["prediction", "status"]].equals(expected[["prediction", "status"]]):
            problems.append("the table differs from that of an undisturbed prediction")
        problems += [f"status: {line}" for line in self.system.status()["attention"] if not EXPECTED.search(line)]
        print(f"\n{len(self.dropped)} images dropped, {len(table)} rows, {table.path.duplicated().sum()} doubled\n")
        self._print_tables()
        for problem in problems:
            print(f"FAILED: {problem}")
        return 1 if problems else 0

    def _undisturbed(self) -> pd.DataFrame:
        out = self.place / "undisturbed.csv"
        service.predict_folder(Store(self.system.root), self.inbox, out=out)
        return pd.read_csv(out, dtype=str, keep_default_na=False)

    def _active_runs(self) -> int:
        counted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING", "CANCELLING"]}}}}
        return int(self.system.ask("/flow_runs/count", counted))

    def _print_tables(self) -> None:
        print("| fault | times | recovered after, median | most |\n|---|---|---|---|")
        for name, times in sorted(self.recoveries.items()):
            print(f"| {name} | {len(times)} | {median(times):.0f} s | {max(times):.0f} s |")
        print("\n| runs | number |\n|---|---|")
        for state in (*ENDED, "PENDING"):
            number = self.system.ask("/flow_runs/count", {"flow_runs": {"state": {"type": {"any_": [state]}}}})
            print(f"| {state.lower()} | {number} |")
        print("\n| memory (PSS, with what it started) | first | median | most | last |\n|---|---|---|---|---|")
        for name, sizes in self.memory.items():
            shown = (sizes[0], median(sizes), max(sizes), sizes[-1])
            print(f"| {name} | {' | '.join(f'{size / 1e6:.0f} MB' for size in shown)} |")
        database = self.system.state / "prefect" / "prefect.db"
        print(f"\nThe database has {database.stat().st_size / 1e6:.1f} MB.", flush=True)


FAULTS: dict[str, Callable[[Soak], object]] = {
    "kill -9 of a run": Soak.kill_run,
    "kill -9 of the worker and its runs": lambda soak: soak.kill("worker"),
    "kill -9 of the server": lambda soak: soak.kill("server"),
    "kill -9 of everything": lambda soak: soak.kill("server", "worker"),
    "server stopped for 20 seconds": Soak.stop_server,
    "digits down": lambda soak: soak.system.down(),
    "change of the champion": Soak.change_champion,
}

if __name__ == "__main__":
    sys.exit(main())
