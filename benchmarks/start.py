"""Start-up time of the command: `digits --help`, and the prediction of ten images in a new process.

python -m benchmarks start          # under a minute

Needs a champion in the artifact root; `make demo` trains one.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.support.command import DIGITS
from tests.support.pictures import write_images


def main() -> None:
    """Print the median wall time of each command and, for comparison, of `import tensorflow`."""
    parser = argparse.ArgumentParser(description="Measure how long the command takes to start.")
    parser.add_argument("--rounds", type=int, default=3, help="number of runs of each command (default: 3)")
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "ten", 10)
        commands = {
            "digits --help": [DIGITS, "--help"],
            "digits predict, ten images": [DIGITS, "predict", f"{folder}/ten", "--out", f"{folder}/ten.csv"],
            "import tensorflow": [sys.executable, "-W", "ignore", "-c", "import tensorflow"],
        }
        times = [{name: _seconds(command) for name, command in commands.items()} for _ in range(rounds)]
    for name in commands:
        print(f"{name:<28} {median(one[name] for one in times):6.2f} s wall time (median of {rounds})")


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
