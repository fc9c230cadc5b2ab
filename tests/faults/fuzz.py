"""Damaged pictures by the thousand through `digits predict`: a row each, nothing dies of them, none costs too much.

python -m tests.faults.fuzz                        # 2,000 files
python -m tests.faults.fuzz --count 100000         # in batches of 5,000: 10 to 30 minutes on two cores
python -m tests.faults.fuzz --keep FOLDER          # and leave them there

The files are whole pictures of all six formats, changed at random one to three times: bits flipped, bytes set, cut off,
chunks doubled, dropped and swapped, lengths edited; half of the PNG files get right check sums again. Then each is
decoded by itself, in a process of its own that is started anew if one kills it, to see what it costs.
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
"""Files that are there at once, unless they are to be kept."""

LEAST_PAST_HEADER = 0.5


def write_mutations(folder: Path, numbers: range, seed: int) -> list[Path]:
    """Write damaged pictures; the same number and seed give the same one."""
    folder.mkdir()
    whole, paths = seed_files(), []
    for number in numbers:
        draws = random.Random(f"{seed}/{number}")  # noqa: S311
        extension, content = draws.choice(whole)
        paths.append(folder / f"{number:06}.{extension}")
        paths[-1].write_bytes(mutate(content, draws))
    return paths


def predict(folder: Path, place: Path) -> list[dict[str, str]]:
    """Predict a folder by the command; give the rows of the table."""
    table = place / "table.csv"
    command = [DIGITS, "predict", str(folder), "--out", str(table), "--artifacts", str(tiny_store(place / "store"))]
    result = subprocess.run(command, env=untracked(place), capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"the command ended with {result.returncode}: {result.stderr[-2000:]}")
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@dataclass
class Found:
    """What became of the files.

    Args:
        statuses: of their rows.
        costs: of each.
        astray: files without a row, and rows without a file.
    """

    statuses: Counter[str] = field(default_factory=Counter)
    costs: list[Cost] = field(default_factory=list)
    astray: int = 0

    def take(self, paths: Sequence[Path], rows: Sequence[dict[str, str]]) -> None:
        """Count a batch, after a decoder has had each of its files."""
        self.statuses.update(row["status"] for row in rows)
        files, named = Counter(path.name for path in paths), Counter(row["path"] for row in rows)
        self.astray += ((files - named) + (named - files)).total()
        cpus = len(os.sched_getaffinity(0))
        with ThreadPoolExecutor(cpus) as pool:
            for costs in pool.map(lambda first: list(measure_costs(paths[first::cpus])), range(cpus)):
                self.costs += costs


def main(arguments: list[str] | None = None) -> int:
    """Print what became of the files; 1 when a promise was broken."""
    options = _options(arguments)
    found = Found()
    with tempfile.TemporaryDirectory() as name, _folder(options.keep) as kept:
        for first in range(0, options.count, BATCH):
            numbers = range(first, min(first + BATCH, options.count))
            folder = Path(kept) / f"{first:06}"
            paths = write_mutations(folder, numbers, options.seed)
            found.take(paths, predict(folder, Path(name) / folder.name))
            if options.keep is None:
                shutil.rmtree(folder)
            print(f"{numbers.stop:,} of {options.count:,}", file=sys.stderr)
        faults = list(_report(found))
    for fault in faults:
        print(f"broken: {fault}")
    return int(bool(faults))


def _report(found: Found) -> Iterator[str]:
    """Print the figures, and give what should not have been."""
    costs = found.costs
    share = sum(cost.past_header for cost in costs) / len(costs)
    slowest, largest = max(costs, key=lambda cost: cost.seconds), max(costs, key=lambda cost: cost.growth)
    print(f"{len(costs):,} damaged files, {share:.0%} of them past the header check")
    print("rows by status: " + ", ".join(f"{status} {count:,}" for status, count in found.statuses.most_common()))
    print(
        f"slowest: {slowest.seconds:.2f} s ({slowest.name}); largest: {largest.growth / 2**20:.0f} MiB ({largest.name})"
    )
    print(f"{sum(cost.outcome == 'crashed' for cost in costs)} of them kill a bare decoder")
    if found.astray:
        yield f"{found.astray} files have no row, or rows no file of their own"
    if share < LEAST_PAST_HEADER:
        yield f"only {share:.0%} are past the header check, so that too little is tried"
    yield from (f"{cost}" for cost in costs if not cost.within_limits)


def _folder(keep: Path | None) -> AbstractContextManager[str | os.PathLike[str]]:
    if keep is None:
        return tempfile.TemporaryDirectory()
    keep.mkdir(parents=True)
    return nullcontext(keep)


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Predict damaged pictures.")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0, help="the same seed makes the same files")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="a new folder to leave the files in")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
