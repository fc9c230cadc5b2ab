"""How long the console command takes to start: `digits --help`, and ten images predicted by a cold process.

Needs a champion in the artifact root (`make demo` makes one).
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from tests.support.command import DIGITS
from tests.support.pictures import write_images

ROUNDS = 3


def main() -> None:
    """Print the median wall seconds of each command, in turn with a bare `import tensorflow`."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "ten", 10)
        commands = {
            "digits --help": [DIGITS, "--help"],
            "digits predict, ten images": [DIGITS, "predict", f"{folder}/ten", "--out", f"{folder}/ten.csv"],
            "import tensorflow": [sys.executable, "-W", "ignore", "-c", "import tensorflow"],
        }
        rounds = [{name: _seconds(command) for name, command in commands.items()} for _ in range(ROUNDS)]
    for name in commands:
        print(f"{name:<28} {median(times[name] for times in rounds):6.2f} s wall (median of {ROUNDS})")


def _seconds(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
