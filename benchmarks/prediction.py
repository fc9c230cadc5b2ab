"""Images a second of `digits predict` on 20,000 PNG files of 28x28, with the champion of the artifact root."""

import json
import subprocess
import tempfile
import time
from pathlib import Path

from benchmarks.pictures import write_images
from benchmarks.start import DIGITS

IMAGES = 20_000
ROUNDS = 2


def main() -> None:
    """Print the rate that the command reports, and that of its whole process."""
    with tempfile.TemporaryDirectory() as folder:
        write_images(Path(folder) / "images", IMAGES)
        for _ in range(ROUNDS):
            started = time.perf_counter()
            command = [DIGITS, "predict", f"{folder}/images", "--out", f"{folder}/table.csv", "--json"]
            result = subprocess.run(command, check=True, capture_output=True)
            seconds = time.perf_counter() - started
            rate = json.loads(result.stdout)["images_per_second"]
            print(f"{IMAGES:,} images: {rate:,.0f} a second; whole process {IMAGES / seconds:,.0f} a second")


if __name__ == "__main__":
    main()
