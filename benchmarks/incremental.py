"""Duration of incremental predictions of 100,000 PNG files of 28x28 pixels that have not changed.

python -m benchmarks incremental

The first run predicts all files. The second one finds them unchanged by their modification times, the third one by
their contents (`--verify`). Needs a champion in the artifact root; `make demo` trains one.
"""

import argparse
import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.command import DIGITS
from tests.support.pictures import write_images

RUNS = ((), (), ("--verify",))


def main() -> None:
    """Print the wall time of each run."""
    parser = argparse.ArgumentParser(description="Measure incremental predictions of unchanged files.")
    parser.add_argument("--images", type=int, default=100_000, help="number of files (default: 100000)")
    count = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_images(images, count)
        for path in images.rglob("*.png"):
            os.utime(path, (0, 1_700_000_000))  # the contents of files that were modified just now are always read
        for options in RUNS:
            started = time.perf_counter()
            table = f"{folder}/table.csv"
            command = [DIGITS, "predict", str(images), "--out", table, "--json", "--incremental", *options]
            result = subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - started
            unchanged = json.loads(result.stdout)["unchanged"]
            print(
                f"{count:,} images, {unchanged:,} unchanged{' (--verify)' if options else ''}: {seconds:.1f} s",
                flush=True,
            )


if __name__ == "__main__":
    main()
