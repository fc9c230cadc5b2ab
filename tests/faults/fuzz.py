"""Fuzzing: thousands of damaged images through `digits predict`; each has a row, and none costs too much.

python -m tests.faults.fuzz                        # 2,000 files
python -m tests.faults.fuzz --count 100000         # in batches of 5,000: 10 to 30 minutes on two cores
python -m tests.faults.fuzz --keep FOLDER          # keep the files

The files are images of all six formats with one to three random changes: bits flipped, bytes replaced, truncation,
chunks duplicated, deleted and swapped, lengths edited. Half of the PNG files get correct checksums again. Each file is
also decoded alone, in a process that is restarted after a crash, to measure its cost.

"""

import argparse
import csv
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.command import DIGITS
from tests.support.decoding_costs import Cost, measure_costs
from tests.support.mutations import mutate, seed_files
from tests.support.networks import tiny_store
from tests.support.server import untracked

BATCH = 5_000
"""Number of files on disk at a time, unless they are kept."""

MIN_PAST_HEADER = 0.5


def write_mutations(folder: Path, numbers: range, seed: int) -> list[Path]:
    """Write damaged images. The same number and seed give the same image."""
    folder.mkdir()
    whole, paths = seed_files(), []
    for number in numbers:
        draws = random.Random(f"{seed}/{number}")  # noqa: S311
        extension, content = draws.choice(whole)
        paths.append(folder / f"{number:06}.{extension}")
        paths[-1].write_bytes(mutate(content, draws))
    return paths


def predict(folder: Path, place: Path) -> list[dict[str, str]]:
    """Predict a folder with the command, and return the rows of the table."""
    table = place / "table.csv"
    command = [DIGITS, "predict", str(folder), "--out", str(table), "--artifacts", str(tiny_store(place / "store"))]
    result = subprocess.run(command, env=untracked(place), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"the command exited with {result.returncode}: {result.stderr[-2000:]}")
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass
class Results:
    """Results of all files.

    Args:
        statuses: number of rows per status.
        costs: cost of decoding each file.
        mismatches: number of files without a row, and of rows without a file.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    costs: list[Cost] = field(default_factory=list)
    mismatches: int = 0

    def add(self, paths: Sequence[Path], rows: Sequence[dict[str, str]]) -> None:
        """Add a batch of files and their rows, and measure the cost of decoding each file."""
        self.statuses.update(row["status"] for row in rows)
        first_rows = (row for row in rows if row["page"] in ("", "1"))
        files, named = Counter(path.name for path in paths), Counter(row["path"] for row in first_rows)
        self.mismatches += ((files - named) + (named - files)).total()
        cpus = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cpus) as pool:
            for costs in pool.map(lambda first: list(measure_costs(paths[first::cpus])), range(cpus)):
                self.costs += costs


def main(arguments: list[str] | None = None) -> int:
    """Print the results. Return 1 if a promise was broken."""
    options = _options(arguments)
    results = Results()
    with tempfile.TemporaryDirectory() as name, _folder(options.keep) as kept:
        for first in range(0, options.count, BATCH):
            numbers = range(first, min(first + BATCH, options.count))
            folder = Path(kept) / f"{first:06}"
            paths = write_mutations(folder, numbers, options.seed)
            results.add(paths, predict(folder, Path(name) / folder.name))
            if options.keep is None:
                shutil.rmtree(folder)
            print(f"{numbers.stop:,} of {options.count:,}", file=sys.stderr)
        faults = list(report(results))
    for fault in faults:
        print(f"broken: {fault}")
    return int(bool(faults))


def report(results: Results) -> Iterator[str]:
    """Print the figures and yield the broken promises."""
    costs = results.costs
    share = sum(cost.past_header for cost in costs) / len(costs)
    slowest, largest = max(costs, key=lambda cost: cost.seconds), max(costs, key=lambda cost: cost.growth)
    print(f"{len(costs):,} damaged files, {share:.0%} of them pass the header check")
    print("rows by status: " + ", ".join(f"{status} {count:,}" for status, count in results.statuses.most_common()))
    print(
        f"slowest: {slowest.seconds:.2f} s ({slowest.name}); largest: {largest.growth / 2**20:.0f} MiB ({largest.name})"
    )
    print(f"{sum(cost.outcome == 'crashed' for cost in costs)} of them crash the decoder")
    if results.mismatches:
        yield f"{results.mismatches} files have no row, or rows no file"
    if share < MIN_PAST_HEADER:
        yield f"only {share:.0%} pass the header check, which is too few to test the decoders"
    yield from (f"{cost}" for cost in costs if not cost.within_limits)


def _folder(keep: Path | None) -> AbstractContextManager[str | os.PathLike[str]]:
    if keep is None:
        return tempfile.TemporaryDirectory()
    keep.mkdir(parents=True)
    return nullcontext(keep)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predict damaged images.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="random seed of the files")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="new folder in which to keep the files")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
