"""Images per second of `digits predict`, compared with another checkout of Digits, such as an older one.

python -m benchmarks versus --against DIR --artifacts ROOT                    # 20,000 PNG files, as a library
python -m benchmarks versus --against DIR --artifacts ROOT --flow             # the same, as flows on a running server
python -m benchmarks versus --against DIR --artifacts ROOT --folder photos    # a folder of your own

Both predict the same files in new processes, in alternation. Rates depend on the machine and on what else it does, so
compare the ratios: each is the median of those of the rounds. Needs a champion in both artifact roots; `--artifacts` is
that of the other checkout. "rate" is what the command reports, from the start of the first shard to the rename of the
table. "CPU" is the time of all processes of the command, from its start to its end.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple

from benchmarks.start import HERE, command_of, cpu_seconds
from tests.support.pictures import write_images
from tests.support.server import prefect_server, untracked


class Result(NamedTuple):
    """Images per second, and CPU-seconds of the command."""

    rate: float
    cpu: float


def main() -> None:
    """Print the rates of both checkouts and their ratios."""
    parser = argparse.ArgumentParser(description="Compare the rate of predictions with that of another checkout.")
    parser.add_argument("--against", type=Path, required=True, help="other checkout of Digits")
    parser.add_argument("--artifacts", type=Path, required=True, help="artifact root of the other checkout")
    parser.add_argument("--images", type=int, default=20_000, help="number of PNG files to write (default: 20,000)")
    parser.add_argument("--folder", type=Path, help="folder to predict instead")
    parser.add_argument("--flow", action="store_true", help="predict by flows on a running Prefect server")
    parser.add_argument("--rounds", type=int, default=5, help="number of predictions by each (default: 5)")
    options = parser.parse_args()
    other = {"DIGITS_ARTIFACTS": str(options.artifacts.resolve())}
    with tempfile.TemporaryDirectory() as directory, _environment(Path(directory), flow=options.flow) as environment:
        place = options.folder or Path(directory) / "images"
        if not options.folder:
            write_images(place, options.images)
        found: dict[str, list[Result]] = {"this": [], "other": []}
        for number in range(options.rounds + 1):
            for name, checkout, more in (("this", HERE, {}), ("other", options.against.resolve(), other)):
                table = Path(directory) / f"{name}-{number}.csv"
                found[name].append(_predict(checkout, place.resolve(), table, {**environment, **more}))
    rounds = {name: results[1:] for name, results in found.items()}  # the first one reads the files from the disk
    for name, results in rounds.items():
        print(f"{name:<6} {median(one.rate for one in results):8,.0f} images per second", end=", ")
        print(f"{median(one.cpu for one in results):6.2f} CPU-s (medians of {len(results)})")
    pairs = list(zip(*rounds.values(), strict=True))
    rate, cpu = (median(values) for values in zip(*((a.rate / b.rate, b.cpu / a.cpu) for a, b in pairs), strict=True))
    print(f"this one has {rate:.2f} times the rate of the other, and takes 1/{cpu:.2f} of its CPU time")


@contextmanager
def _environment(directory: Path, *, flow: bool) -> Iterator[Mapping[str, str]]:
    """Yield the environment of the commands, with a Prefect server if they are flows."""
    if not flow:
        yield untracked(directory / "prefect")
        return
    with prefect_server(directory / "prefect") as environment:
        yield environment


def _predict(checkout: Path, place: Path, table: Path, environment: Mapping[str, str]) -> Result:
    command = [*command_of(checkout), "predict", str(place), "--out", str(table), "--json"]
    tracked = ["--track"] if "PREFECT_API_URL" in environment else []
    before = cpu_seconds()
    run = subprocess.run(
        [*command, *tracked],
        env={**environment, "PYTHONPATH": str(checkout)},
        cwd=checkout,
        capture_output=True,
        text=True,
        check=False,
    )
    if run.returncode != 0:
        sys.exit(f"{' '.join(command)} failed:\n{run.stderr[-3000:]}")
    return Result(json.loads(run.stdout)["images_per_second"], cpu_seconds() - before)


if __name__ == "__main__":
    main()
