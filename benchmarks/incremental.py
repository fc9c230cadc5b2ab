"""An incremental run over 100,000 unchanged PNG files of 28x28, with the champion of the artifact root."""

import json
import os
import subprocess
import tempfile
import time
from pathlib import Path

from tests.support.command import DIGITS
from tests.support.pictures import write_images

IMAGES = 100_000
RUNS = ((), (), ("--verify",))


def main() -> None:
    """Print the seconds of the first run, of the second, and of one that compares all contents."""
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images"
        write_images(images, IMAGES)
        for path in images.rglob("*.png"):
            os.utime(path, (0, 1_700_000_000))  # as files that were not written just now
        for options in RUNS:
            started = time.perf_counter()
            table = f"{folder}/table.csv"
            command = [DIGITS, "predict", str(images), "--out", table, "--json", "--incremental", *options]
            result = subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - started
            unchanged = json.loads(result.stdout)["unchanged"]
            print(f"{IMAGES:,} images, {unchanged:,} unchanged {' '.join(options)}: {seconds:.1f} s")


if __name__ == "__main__":
    main()
