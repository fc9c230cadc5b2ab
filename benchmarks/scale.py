"""Prediction of a million images in one folder: memory, speed, listings, and a kill half-way.

python -m benchmarks scale                           # 1,000,000 and 10,000 images; 5 to 10 minutes on two cores
python -m benchmarks scale --images 100000 --rounds 1
python -m benchmarks scale --directories 500         # images in 500 subfolders instead of one folder

Whole runs of `digits predict` on the small and the large folder alternate, so that other work on the machine slows down
both. The small folder is predicted several times before each run on the large one, and the median counts.

- Images per second are those of the summary: from the start of the first worker to the rename of the table.
- CPU time per image is that of the whole run without that of a run with one image. Other work affects it less.
- Memory is the highest sum of the proportional set sizes (PSS) of the command and all processes below it, measured
  every 50 ms.
- Then a run on the large folder and all its processes get SIGKILL when half of its shards are committed. The same
  command resumes it under strace, which shows how many names are read from the folder.

The images are real digits, each under many names (hard links). The champion is a copy of that of the artifact root;
`make demo` trains one. The exit code is 1 if a limit is missed.
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

MAX_BYTES = 700 * 10**6
MAX_GROWTH = 1.2
"""Limit of the memory of the large folder, divided by that of the small one."""

MIN_SPEED = 0.9
"""Limit of the images per second of the large folder, divided by those of the small one."""

MAX_LISTINGS = 1.01
"""Limit of the names read from the folder, divided by the names in it. Before it lists the folder,
a prediction reads the first names to decide on the number of workers."""

SMALL_RUNS = 5
_LISTED = re.compile(r"getdents64\(\d+<(.*?)>.*?/\* (\d+) entries \*/")
_POLL_INTERVAL = 0.02


class Run(NamedTuple):
    """Cost of a run.

    Args:
        peak: peak memory of all processes together, in bytes.
        rate: images per second.
        cpu: CPU time of all processes, in seconds.
    """

    peak: int
    rate: float
    cpu: float


@dataclass
class Folder:
    """Folder of images, with the runs that predicted it.

    Args:
        images: path of the folder.
        count: number of images in it.
        store: artifact root.
        runs: complete runs.
    """

    images: Path
    count: int
    store: Path
    runs: list[Run] = field(default_factory=list)

    @property
    def table(self) -> Path:
        """Path of the prediction table."""
        return self.images.with_suffix(".csv")

    @property
    def command(self) -> list[str]:
        """Command that predicts the folder."""
        return [DIGITS, "predict", str(self.images), "--out", str(self.table), "--artifacts", str(self.store), "--json"]

    def predict(self) -> Run:
        """Predict the folder and record the run."""
        before = _cpu_seconds()
        process = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        with process, MemoryWatch(process.pid) as watch:
            output, _ = process.communicate()
        rate = _summary(process.returncode, output, self.count)["images_per_second"]
        self.runs.append(Run(watch.peak, rate, _cpu_seconds() - before))
        return self.runs[-1]

    @property
    def peak(self) -> int:
        """Highest peak memory of all runs, in bytes."""
        return max(run.peak for run in self.runs)

    def cpu_per_image(self, start: "Folder") -> float:
        """Return the seconds of CPU time per image, without those of the start.

        Args:
            start: folder with one image, whose runs measure the start.
        """
        total, start_up = (median(run.cpu for run in folder.runs) for folder in (self, start))
        return (total - start_up) / self.count


def _cpu_seconds() -> float:
    """Return the CPU time of all runs that have ended, including their child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _summary(status: int, output: bytes, count: int) -> dict[str, float]:
    if status != 0 or json.loads(output)["images"] != count:
        sys.exit(f"the prediction of {count:,} images failed ({status})")
    return dict(json.loads(output))


def main(arguments: list[str] | None = None) -> int:
    """Print the figures; return 1 if one misses its limit."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        store = copy_champion(artifact_root(), place / "artifacts")
        one, small, large = (
            Folder(place / f"{count}", count, store) for count in (1, min(10_000, options.images // 10), options.images)
        )
        for folder in (one, small, large):
            link_images(folder.images, folder.count, directories=options.directories)
        missed = [*_compare(one, small, large, options.rounds), *_interrupt(large)]
    for name in missed:
        print(f"missed: {name}")
    return int(bool(missed))


def _compare(one: Folder, small: Folder, large: Folder, rounds: int) -> Iterator[str]:
    """Predict the folders in turn, print the cost of each, and yield the names of missed limits."""
    ratios = [_round(one, small, large) for _ in range(rounds)]
    for folder in (small, large):
        rates = sorted(run.rate for run in folder.runs)
        print(
            f"{folder.count:>9,} images: peak {folder.peak / 1e6:4.0f} MB, "
            f"{median(rates):6,.0f} images per second ({rates[0]:,.0f} to {rates[-1]:,.0f} in {len(rates)} runs), "
            f"{folder.cpu_per_image(one) * 1e6:.0f} microseconds of CPU time per image"
        )
    growth, speed = large.peak / small.peak, median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    peak = f"peak {large.peak / 1e6:.0f} MB (at most {MAX_BYTES / 1e6:.0f})"
    print(f"memory: ratio {growth:.2f} (at most {MAX_GROWTH}), {peak}")
    print(f"speed: ratio {speed:.2f} (at least {MIN_SPEED}), {spread} by round", flush=True)
    if growth > MAX_GROWTH or large.peak > MAX_BYTES:
        yield "memory"
    if speed < MIN_SPEED:
        yield "speed"


def _round(one: Folder, small: Folder, large: Folder) -> float:
    """Return the images per second of the large folder, divided by those of the small one."""
    one.predict()
    small_rate = median(small.predict().rate for _ in range(SMALL_RUNS))
    return large.predict().rate / small_rate


def _interrupt(folder: Folder) -> Iterator[str]:
    """Kill a run half-way, resume it, and count the names that are read from the folder; yield missed limits."""
    adopt_orphans()
    expected = hash_file(folder.table)
    folder.table.unlink()
    completed = _kill_half_way(folder)
    trace = folder.images.with_suffix(".trace")
    tracing = (
        ["strace", "-ff", "-y", "--seccomp-bpf", "-e", "trace=getdents64", "-o", str(trace)]
        if shutil.which("strace")
        else []
    )
    finished = subprocess.run([*tracing, *folder.command], capture_output=True, check=False)
    reused = _summary(finished.returncode, finished.stdout, folder.count)["reused"]
    same = hash_file(folder.table) == expected
    table = "identical" if same else "different"
    print(f"killed after {completed:,} images: {reused:,} reused by the resumed run, the table is {table}")
    if reused != completed or not same:
        yield "resumed run"
    if not tracing:
        print("names read from the folder: not counted, as strace is not installed")
        return
    listings = _names_read(trace, folder.images) / folder.count
    print(f"names read from the folder: {listings:.3f} times those in it (at most {MAX_LISTINGS})")
    if listings > MAX_LISTINGS:
        yield "listings"


def _kill_half_way(folder: Folder) -> int:
    """Kill a run and its child processes; return the number of images in its committed shards."""
    null = subprocess.DEVNULL
    process = subprocess.Popen(folder.command, stdout=null, stderr=null, start_new_session=True)
    while (plan := _plan(folder.store)) is None or 2 * len(plan.pending_shards()) > len(plan.shards):
        if process.poll() is not None:
            sys.exit(f"the prediction of {folder.count:,} images ended ({process.returncode}) before it was killed")
        time.sleep(_POLL_INTERVAL)
    kill_tree(process)
    return sum(map(plan.images_in, set(plan.shards).difference(plan.pending_shards())))


def _plan(store: Path) -> Plan | None:
    with suppress(FileNotFoundError):
        for path in (store / "work" / "predictions").glob("*/plan.json"):
            if not path.parent.name.startswith("tmp-"):
                return Plan.open(path.parent)
    return None


def _names_read(trace: Path, images: Path) -> int:
    """Return the number of names that all processes read from a folder and its subfolders."""
    traces = trace.parent.glob(f"{trace.name}.*")
    found = (_LISTED.search(line) for path in traces for line in path.read_text(errors="replace").splitlines())
    return sum(int(match[2]) for match in found if match and Path(match[1]).is_relative_to(images))


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Compare the prediction of a large folder with that of a small one.")
    parser.add_argument(
        "--images", type=int, default=1_000_000, help="number of images in the large folder (default: 1000000)"
    )
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (default: 3)")
    parser.add_argument("--directories", type=int, default=1, help="number of subfolders (default: 1)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
