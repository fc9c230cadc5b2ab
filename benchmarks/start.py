"""Start-up time of the command: `digits --help`, and the prediction of ten images in a new process.

python -m benchmarks start                                           # under a minute
python -m benchmarks start --against DIR --artifacts ROOT --rounds 9 # compared with another checkout, in alternation

Needs a champion in the artifact root; `make demo` trains one. With `--artifacts`, the other checkout has another root.
Each command runs once before the rounds, so that no file is read from the disk for the first time.
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from tests.support.pictures import write_images

HERE = Path(__file__).resolve().parents[1]


class Times(NamedTuple):
    """Wall time and CPU time of a command with all its processes, in seconds."""

    wall: float
    cpu: float


def main() -> None:
    """Print the medians of each command and, for comparison, of `import tensorflow`."""
    parser = argparse.ArgumentParser(description="Measure how long the command takes to start.")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each command (default: 3)")
    parser.add_argument("--against", type=Path, help="other checkout of Digits to compare with")
    parser.add_argument("--artifacts", type=Path, help="artifact root of the other checkout (default: the same)")
    options = parser.parse_args()
    checkouts = [HERE, *([options.against.resolve()] if options.against else [])]
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "ten", 10)
        commands: dict[str, tuple[list[str], Mapping[str, str]]] = {}
        for number, checkout in enumerate(checkouts):
            more = {"DIGITS_ARTIFACTS": str(options.artifacts.resolve())} if number and options.artifacts else {}
            environment = {**os.environ, "PYTHONPATH": str(checkout), **more}
            place, out = f"{folder}/ten", f"{folder}/{number}.csv"
            name = " (other)" if number else ""
            commands[f"digits --help{name}"] = [*command_of(checkout), "--help"], environment
            predict = [*command_of(checkout), "predict", place, "--out", out]
            commands[f"digits predict, ten images{name}"] = predict, environment
        if not options.against:
            commands["import tensorflow"] = [sys.executable, "-W", "ignore", "-c", "import tensorflow"], os.environ
        for command in commands.values():
            _measure(*command)
        times = [{name: _measure(*command) for name, command in commands.items()} for _ in range(options.rounds)]
    for name in commands:
        wall, cpu = (median(values) for values in zip(*(one[name] for one in times), strict=True))
        print(f"{name:<36} {wall:6.2f} s wall time, {cpu:6.2f} CPU-s (medians of {options.rounds})")


def command_of(checkout: Path) -> list[str]:
    """Return the command `digits` of a checkout, as its installation would define it."""
    entry = tomllib.loads((checkout / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]["digits"]
    module, _, function = entry.partition(":")
    program = f"import sys; from {module} import {function}; sys.argv[0] = 'digits'; sys.exit({function}())"
    return [sys.executable, "-P", "-c", program]


def _measure(command: list[str], environment: Mapping[str, str]) -> Times:
    started, before = time.perf_counter(), cpu_seconds()
    subprocess.run(command, check=True, capture_output=True, env=environment)
    return Times(time.perf_counter() - started, cpu_seconds() - before)


def cpu_seconds() -> float:
    """Return the CPU time of all ended child processes, with their children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
