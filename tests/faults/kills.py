"""Kill campaign: `digits predict` is killed at random instants and resumed; nothing is lost or done twice.

`tests.faults` kills any command and compares what it leaves. This campaign also asks the kernel which images a resumed
prediction opens, and aims its kills at the stages of a prediction.

python -m tests.faults.kills                        # 1,000 kills, 20 to 30 minutes on two cores
python -m tests.faults.kills --seed 7 --only 123    # repeat one round
python -m tests.faults.kills --rounds 20 --prefect  # as a flow, on a server of its own

In each round the command predicts the same images, and is killed with all its processes (SIGKILL) at an instant that
the round draws. Then the same command runs to its end. A round passes if

- at the kill the table was absent or complete;
- the table and its picture have the bytes, and the summary has the values, of an undisturbed run. Exceptions are the
  time, and the number of reused images, which must be exactly that of the committed shards;
- the second run opens no image of a shard that was committed at the kill, as reported by the kernel (inotify).

The processes are copies of one that has imported the command; `--cold` starts a new interpreter for each. An instant is
drawn in two steps: first the stage (after the start, after the first shard started, or after the last one was
committed), then the delay, up to the time that an undisturbed run takes from there to its end, the summary's rename.

"""

import argparse
import importlib
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field
from enum import IntEnum
from multiprocessing import get_context
from pathlib import Path

from digits.cli import main as main_module
from digits.outputs.summary import picture_path, report_path, summary_path
from digits.prediction.plan import Plan
from digits.store.records import Record, read_record
from tests.support.command import DIGITS
from tests.support.networks import small_store
from tests.support.opened_files import OpenedFiles
from tests.support.pictures import write_images
from tests.support.processes import Forked, Process, adopt_orphans, kill_tree
from tests.support.server import prefect_server, untracked

MIN_SHARE = 0.7
"""Minimum share of the kills between the start of the first shard and the table's rename."""

ENOUGH_KILLS = 50
"""Number of kills from which that share is checked."""

RUN_KEYS = ("seconds", "images_per_second", "reused")
_POLL_SECONDS = 0.001
_BAR_WIDTH = 50


class Stage(IntEnum):
    """Stage of a run."""

    STARTED = 0
    FIRST_SHARD = 1
    LAST_SHARD = 2
    FINISHED = 3


_WEIGHTS = {Stage.STARTED: 0.15, Stage.FIRST_SHARD: 0.65, Stage.LAST_SHARD: 0.2}
_STRETCH = {Stage.STARTED: 1.0, Stage.FIRST_SHARD: 0.65, Stage.LAST_SHARD: 0.8}
"""Longest delay of the kill, as a share of an undisturbed run's time from a stage to the end. Most kills then come
before the table's rename, which the picture and the summary follow."""


@dataclass(frozen=True)
class Killed:
    """State that a killed run left.

    Args:
        position: -1 before the first shard; the number of committed shards; one more than all shards after the rename.
        planned: whether the plan exists.
        images: files of the committed shards.
    """

    position: int
    planned: bool
    images: frozenset[bytes]


@dataclass(frozen=True)
class Round:
    """Result of a round, which passed if it has no faults."""

    number: int
    position: int
    shards: int
    too_late: int
    faults: list[str] = field(default_factory=list)

    @property
    def instant(self) -> str:
        """Describe the instant of the kill."""
        if self.position < 0:
            return "before the first shard"
        if self.position < self.shards:
            return f"{self.position} of {self.shards} shards done"
        return "merge" if self.position == self.shards else "after the rename"


class Lane:
    """A directory in which rounds run one after the other.

    Args:
        place: an empty directory.
        images: folder to predict.
        store: artifact root with a champion.
        environment: environment variables of the command.
        cold: whether to start a new interpreter for each run.
    """

    def __init__(self, place: Path, images: Path, store: Path, environment: dict[str, str], *, cold: bool) -> None:
        adopt_orphans()
        self._images, self._out = place / "images", place / "out" / "table.csv"
        self._errors = place / "errors"
        self._environment, self._cold = environment, cold
        shutil.copytree(images, self._images, copy_function=os.link)
        root = shutil.copytree(store, place / "artifacts")
        self._work = root / "work" / "predictions"
        options = ["--out", str(self._out), "--artifacts", str(root), "--json"]
        tracked = ["--track"] if "PREFECT_API_URL" in environment else []
        self._command = [DIGITS, "predict", str(self._images), *options, *tracked]
        self._shards = 0
        self._windows = self._run_undisturbed()

    def _run_undisturbed(self) -> dict[Stage, float]:
        """Run once without a kill and keep the result. Return the seconds from each stage to the end."""
        with OpenedFiles(self._images) as opened:
            process = self._start()
            times = self._watch_stages(process)
            if process.wait() != 0:
                raise RuntimeError(f"an undisturbed run failed: {self._errors.read_text()}")
            if set(opened.names()) != set(map(os.fsencode, os.listdir(self._images))):  # noqa: PTH208 - bytes
                raise RuntimeError("the kernel does not report which images a run opens; use a local file system")
        self._expected = self._result()
        return {stage: times[Stage.FINISHED] - times.get(stage, times[Stage.FINISHED]) for stage in _WEIGHTS}

    def _start(self) -> Process:
        if not self._cold:
            return Forked(self._run_command)
        null, environment = subprocess.DEVNULL, self._environment
        with self._errors.open("wb") as errors:
            return subprocess.Popen(
                self._command, env=environment, stdin=null, stdout=null, stderr=errors, start_new_session=True
            )

    def _run_command(self) -> int:
        """Run the digits command in this process, a copy."""
        os.environ.clear()
        os.environ.update(self._environment)
        with self._errors.open("wb") as errors, Path(os.devnull).open("r+b") as null:
            for number, file in enumerate((null, null, errors)):
                os.dup2(file.fileno(), number)
        sys.argv = self._command
        try:
            main_module.main()
        except SystemExit as end:
            return int(end.code or 0)
        return 0

    def _watch_stages(self, process: Process, until: Stage | None = None) -> dict[Stage, float]:
        """Watch a run until it reaches a stage or ends. Return the time at which it reached each stage."""
        times = {Stage.STARTED: time.monotonic()}
        while until not in times and process.poll() is None:
            times.setdefault(self._stage(), time.monotonic())
            time.sleep(_POLL_SECONDS)
        times.setdefault(self._stage(), time.monotonic())
        return times

    def _stage(self) -> Stage:
        if summary_path(self._out).exists():
            return Stage.FINISHED
        names = self._parts()
        if not names:
            return Stage.STARTED
        return Stage.LAST_SHARD if len(_seals(names)) == self._shards else Stage.FIRST_SHARD

    def _parts(self) -> list[str]:
        plan = self._plan()
        with suppress(FileNotFoundError):
            if plan is not None:
                self._shards = self._shards or len(Plan.open(plan).shards)
                return os.listdir(plan / "parts")  # noqa: PTH208 - faster
        return []

    def _plan(self) -> Path | None:
        with suppress(FileNotFoundError):
            names = os.listdir(self._work)  # noqa: PTH208 - faster
            return next((self._work / name for name in names if not name.startswith("tmp-")), None)
        return None

    def _result(self) -> tuple[bytes, bytes, Record]:
        summary = read_record(summary_path(self._out))
        values = {name: value for name, value in summary.items() if name not in RUN_KEYS}
        del values["files"][report_path(self._out).name]  # its page states the duration of the run
        return self._out.read_bytes(), picture_path(self._out).read_bytes(), values

    def _clean(self) -> None:
        shutil.rmtree(self._out.parent, ignore_errors=True)
        shutil.rmtree(self._work, ignore_errors=True)

    def round(self, number: int, seed: int) -> Round:
        """Kill a run, resume it, and check the result."""
        draws = random.Random(f"{seed}/{number}")  # noqa: S311
        too_late = 0
        while (killed := self._kill(draws)) is None:
            too_late += 1
        faults = [*self._faults_at_the_kill(), *self._resume(killed)]
        return Round(number, killed.position, self._shards, too_late, faults)

    def _kill(self, draws: random.Random) -> Killed | None:
        """Run the command and kill it. Return None if it had already finished."""
        (stage,) = draws.choices(list(_WEIGHTS), list(_WEIGHTS.values()))
        wait = draws.random() * self._windows[stage] * _STRETCH[stage]
        self._clean()
        process = self._start()
        self._watch_stages(process, until=stage)
        time.sleep(wait)
        kill_tree(process)
        return None if process.returncode == 0 else self._left()

    def _left(self) -> Killed:
        path = self._plan()
        if path is None:
            return Killed(self._shards + 1 if self._out.exists() else -1, planned=False, images=frozenset())
        names = self._parts()
        plan, committed = Plan.open(path), [int(name.removesuffix(".json")) for name in _seals(names)]
        position = self._shards + 1 if self._out.exists() else len(committed) if names else -1
        images = (entry.path for shard in committed for entry in plan.entries(shard))
        return Killed(position, planned=True, images=frozenset(images))

    def _faults_at_the_kill(self) -> Iterator[str]:
        if self._out.exists() and self._out.read_bytes() != self._expected[0]:
            yield "at the kill the table was incomplete"

    def _resume(self, killed: Killed) -> Iterator[str]:
        with OpenedFiles(self._images) as opened:
            status = self._start().wait()
            again = killed.images.intersection(opened.names())
        if status != 0:
            yield f"the second run exited with {status}: {self._errors.read_text()[-500:]}"
            return
        if again:
            yield f"{len(again)} of {len(killed.images)} images of committed shards were read again"
        for name, found, expected in zip(("table", "picture", "summary"), self._result(), self._expected, strict=True):
            if found != expected:
                yield f"the {name} differs from that of an undisturbed run"
        reused = read_record(summary_path(self._out))["reused"]
        if killed.planned and reused != len(killed.images):
            yield f"the summary says {reused} images were reused, but {len(killed.images)} were committed"


def _seals(names: Iterable[str]) -> list[str]:
    return [name for name in names if name.endswith(".json")]


_lanes: list[Lane] = []
"""Lane of this process, once it is open."""


def _import_what_predict_imports() -> None:
    for name in (
        "digits.prediction.service",
        "digits.settings",
        "digits.cli.commands",
        "digits.cli.output",
        "digits.server.api",
        "rich.progress",
    ):
        importlib.import_module(name)


def _open_lane(base: Path, environment: dict[str, str], cold: bool) -> None:
    _import_what_predict_imports()
    place = base / f"lane-{os.getpid()}"
    place.mkdir()
    _lanes.append(Lane(place, base / "images", base / "store", environment, cold=cold))


def _run(number: int, seed: int) -> Round:
    return _lanes[0].round(number, seed)


def run_rounds(options: argparse.Namespace, numbers: Iterable[int]) -> Iterator[Round]:
    """Run rounds in parallel lanes and yield each result."""
    with tempfile.TemporaryDirectory() as folder, _environment(Path(folder) / "prefect", options) as environment:
        base = Path(folder)
        write_images(base / "images", options.images)
        small_store(base / "store")
        given = (base, environment, options.cold)
        with ProcessPoolExecutor(options.lanes, get_context("spawn"), _open_lane, given) as pool:
            for job in [pool.submit(_run, number, options.seed) for number in numbers]:
                yield job.result()


def _environment(home: Path, options: argparse.Namespace) -> AbstractContextManager[dict[str, str]]:
    return prefect_server(home) if options.prefect else nullcontext(untracked(home))


def histogram(rounds: Iterable[Round]) -> str:
    """Draw a histogram of the instants of the kills."""
    counts = Counter((done.position, done.instant) for done in rounds)
    most = max(counts.values(), default=1)
    lines = [
        f"{instant:<22} {count:>5} {'#' * -(-count * _BAR_WIDTH // most)}"
        for (_, instant), count in sorted(counts.items())
    ]
    return "\n".join(lines)


def share_within(rounds: list[Round]) -> float:
    """Return the share of kills between the start of the first shard and the table's rename."""
    return sum(0 <= done.position <= done.shards for done in rounds) / len(rounds)


def main(arguments: list[str] | None = None) -> int:
    """Run the rounds and print the results. Return 1 if a round failed, or if too few kills met a run at work."""
    options = _options(arguments)
    numbers = range(options.rounds) if options.only is None else [options.only]
    print(f"seed {options.seed}, {options.images:,} images, {options.lanes} at a time", flush=True)
    started, rounds = time.monotonic(), []
    for done in run_rounds(options, numbers):
        rounds.append(done)
        for fault in done.faults:
            print(f"round {done.number}, killed {done.instant}: {fault}", flush=True)
    return _report(rounds, time.monotonic() - started)


def _report(rounds: list[Round], seconds: float) -> int:
    failed, share = sum(bool(done.faults) for done in rounds), share_within(rounds)
    print(histogram(rounds))
    print(f"{len(rounds):,} kills, {share:.0%} of them between the first shard's start and the table's rename")
    print(f"{sum(done.too_late for done in rounds)} kills came after the end and were drawn again")
    print(f"{failed} rounds failed; {seconds / len(rounds):.2f} s per round, {seconds:.0f} s in all")
    return int(failed > 0 or (len(rounds) >= ENOUGH_KILLS and share < MIN_SHARE))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Kill runs of `digits predict` at random instants and continue them.")
    parser.add_argument("--rounds", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the instants")
    parser.add_argument("--only", type=int, metavar="N", help="run only this round")
    parser.add_argument("--images", type=int, default=3000)
    parser.add_argument("--lanes", type=int, default=len(os.sched_getaffinity(0)), help="number of rounds in parallel")
    parser.add_argument("--cold", action="store_true", help="start a new interpreter for each run")
    parser.add_argument("--prefect", action="store_true", help="run as a flow, on a server of its own")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
