"""A million images in one folder: memory, speed, how often the folder is listed, and a kill in the middle.

python -m benchmarks scale                           # 1,000,000 beside 10,000 images; 5 to 10 minutes on two cores
python -m benchmarks scale --images 100000 --rounds 1
python -m benchmarks scale --directories 500         # spread over so many, instead of in one

Whole runs of `digits predict`, the small and the large folder in turn, so that a machine with other work to do slows
both down: the small one several times before each large one, of which the median counts. Images a second are the
summary's: from the first worker's start to the rename of the table. CPU time an image, which other work changes less,
is that of the whole run less that of a run with one image. Memory is the sum of the proportional set sizes
(PSS) of the command and all processes below it, looked at every 50 ms; the most that was seen counts. Then a run of the
large folder gets SIGKILL, with all its processes, when half of its shards are committed, and the same command goes on
under strace, which tells how many names were read from the folder.

The images are real digits, each under many names (hard links); the champion is that of the artifact root (`make demo`
makes one), copied.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import NamedTuple

from digits.prediction.plan import Plan
from digits.settings import artifact_root
from digits.store.files import hash_file
from tests.support.command import DIGITS
from tests.support.networks import copy_champion
from tests.support.pictures import link_images
from tests.support.processes import MemoryWatch, adopt_orphans, kill_tree

MOST_BYTES = 700 * 10**6
MOST_GROWTH = 1.2
"""The large folder's memory, in terms of the small one's."""

LEAST_SPEED = 0.9
"""The large folder's images a second, in terms of the small one's."""

MOST_LISTINGS = 1.01
"""Of the names read, in terms of those that there are: workers are hired by a glance at the first thousand."""

SMALL_RUNS = 5
_LISTED = re.compile(r"getdents64\(\d+<(.*?)>.*?/\* (\d+) entries \*/")
_GLANCE = 0.02


class Run(NamedTuple):
    """What a run took: the most bytes held at once, images a second, and seconds of CPU time."""

    peak: int
    rate: float
    cpu: float


@dataclass
class Folder:
    """Images to predict, and how that went.

    Args:
        images: the folder.
        count: of its images.
        store: the artifact root.
        runs: those that were not disturbed.
    """

    images: Path
    count: int
    store: Path
    runs: list[Run] = field(default_factory=list)

    @property
    def table(self) -> Path:
        """Where the result goes."""
        return self.images.with_suffix(".csv")

    @property
    def command(self) -> list[str]:
        """The command that predicts it."""
        return [DIGITS, "predict", str(self.images), "--out", str(self.table), "--artifacts", str(self.store), "--json"]

    def predict(self) -> Run:
        """Predict it, undisturbed."""
        before = _cpu_seconds()
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process, MemoryWatch(process.pid) as watch:
            output, _ = process.communicate()
        rate = _summary(process.returncode, output, self.count)["images_per_second"]
        self.runs.append(Run(watch.peak, rate, _cpu_seconds() - before))
        return self.runs[-1]

    @property
    def peak(self) -> int:
        """The most bytes of all runs."""
        return max(run.peak for run in self.runs)

    def cpu_beyond(self, start: "Folder") -> float:
        """Give the seconds of CPU time an image, over those of the start."""
        whole, begin = (median(run.cpu for run in folder.runs) for folder in (self, start))
        return (whole - begin) / self.count


def _cpu_seconds() -> float:
    """Give what all runs that have ended have taken, with all processes below them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summary(status: int, output: bytes, count: int) -> dict[str, float]:
    if status != 0 or json.loads(output)["images"] != count:
        sys.exit(f"the prediction of {count:,} images failed ({status})")
    return dict(json.loads(output))


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; 1 when one misses its bar."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        store = copy_champion(artifact_root(), place / "artifacts")
        one, small, large = (
            Folder(place / f"{count}", count, store) for count in (1, min(10_000, options.images // 10), options.images)
        )
        for folder in (one, small, large):
            link_images(folder.images, folder.count, directories=options.directories)
        faults = [*_compare(one, small, large, options.rounds), *_interrupt(large)]
    for fault in faults:
        print(f"missed: {fault}")
    return int(bool(faults))


def _compare(one: Folder, small: Folder, large: Folder, rounds: int) -> Iterator[str]:
    """Predict them in turn; print what each took."""
    ratios = [_round(one, small, large) for _ in range(rounds)]
    for folder in (small, large):
        rates = sorted(run.rate for run in folder.runs)
        print(
            f"{folder.count:>9,} images: {folder.peak / 1e6:4.0f} MB at most, "
            f"{median(rates):6,.0f} images a second ({rates[0]:,.0f} to {rates[-1]:,.0f} in {len(rates)} runs), "
            f"{folder.cpu_beyond(one) * 1e6:.0f} microseconds of CPU time an image"
        )
    growth, speed = large.peak / small.peak, median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    most = f"most {large.peak / 1e6:.0f} MB (at most {MOST_BYTES / 1e6:.0f})"
    print(f"memory: ratio {growth:.2f} (at most {MOST_GROWTH}), {most}")
    print(f"speed: ratio {speed:.2f} (at least {LEAST_SPEED}), by round {spread}", flush=True)
    if growth > MOST_GROWTH or large.peak > MOST_BYTES:
        yield "memory"
    if speed < LEAST_SPEED:
        yield "speed"


def _round(one: Folder, small: Folder, large: Folder) -> float:
    """Give the large folder's images a second, in terms of the small one's."""
    one.predict()
    usual = median(small.predict().rate for _ in range(SMALL_RUNS))
    return large.predict().rate / usual


def _interrupt(folder: Folder) -> Iterator[str]:
    """Kill a run half-way and go on, counting the names that are read from the folder."""
    adopt_orphans()
    expected = hash_file(folder.table)
    folder.table.unlink()
    done = _kill_half_way(folder)
    trace = folder.images.with_suffix(".trace")
    tracing = (
        ["strace", "-ff", "-y", "--seccomp-bpf", "-e", "trace=getdents64", "-o", str(trace)]
        if shutil.which("strace")
        else []
    )
    finished = subprocess.run([*tracing, *folder.command], capture_output=True, check=False)
    reused = _summary(finished.returncode, finished.stdout, folder.count)["reused"]
    same = hash_file(folder.table) == expected
    print(
        f"killed with {done:,} images done: {reused:,} taken over, the table is {'the same' if same else 'another one'}"
    )
    if reused != done or not same:
        yield "the continuation"
    if not tracing:
        print("the names read from the folder were not counted: strace is not installed")
        return
    listings = _names_read(trace, folder.images) / folder.count
    print(f"names read from the folder: {listings:.3f} of those that there are (at most {MOST_LISTINGS})")
    if listings > MOST_LISTINGS:
        yield "the listing"


def _kill_half_way(folder: Folder) -> int:
    """Kill a run, with all below it; give the number of images of its committed shards."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(folder.command, stdout=null, stderr=null, start_new_session=True)
    while (plan := _plan(folder.store)) is None or 2 * len(plan.pending_shards()) > len(plan.shards):
        if process.poll() is not None:
            sys.exit(f"the prediction of {folder.count:,} images ended ({process.returncode}) before it was killed")
        time.sleep(_GLANCE)
    kill_tree(process)
    return sum(map(plan.images_in, set(plan.shards).difference(plan.pending_shards())))


def _plan(store: Path) -> Plan | None:
    with suppress(FileNotFoundError):
        for path in (store / "work" / "predictions").glob("*/plan.json"):
            if not path.parent.name.startswith("tmp-"):
                return Plan.open(path.parent)
    return None


def _names_read(trace: Path, images: Path) -> int:
    """Count the names that any process read from a folder or from those below it."""
    traces = trace.parent.glob(f"{trace.name}.*")
    found = (_LISTED.search(line) for path in traces for line in path.read_text(errors="replace").splitlines())
    return sum(int(match[2]) for match in found if match and Path(match[1]).is_relative_to(images))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare a large folder with a small one.")
    parser.add_argument("--images", type=int, default=1_000_000, help="of the large folder")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--directories", type=int, default=1, help="over which the images are spread")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
