"""The memory that `digits predict` needs, and that it does not grow with the folder.

python -m benchmarks memory                       # 20,000 and 500,000 images: 2 to 4 minutes on two cores
python -m benchmarks memory --directories 500     # spread over so many, instead of in one

Memory is the sum of the proportional set sizes (PSS) of the command and all processes below it, looked at every 50 ms;
the most that was seen counts. The images are real digits, each under many names (hard links). Needs a champion in the
artifact root (`make demo` makes one).
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.pictures import link_images
from benchmarks.processes import MemoryWatch
from benchmarks.start import DIGITS

MOST_BYTES = 700 * 10**6
MOST_GROWTH = 1.2
"""The larger folder's memory, in terms of the smaller one's."""


def main(arguments: list[str] | None = None) -> int:
    """Print the peak for each size, and their ratio; 1 when it is over the bars above."""
    options = _options(arguments)
    peaks = [_peak(count, options.directories) for count in sorted(options.images)]
    ratio = peaks[-1] / peaks[0]
    print(f"ratio {ratio:.2f} (at most {MOST_GROWTH}), most {max(peaks) / 1e6:.0f} MB (at most {MOST_BYTES / 1e6:.0f})")
    return int(ratio > MOST_GROWTH or max(peaks) > MOST_BYTES)


def _peak(count: int, directories: int) -> int:
    """Predict so many images; give the most bytes that were held at once."""
    with tempfile.TemporaryDirectory() as folder:
        link_images(Path(folder) / "images", count, directories=directories)
        command = [DIGITS, "predict", f"{folder}/images", "--out", f"{folder}/table.csv", "--json"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            with MemoryWatch(process.pid) as watch:
                summary, _ = process.communicate()
            _check(process, summary, count)
    rate = json.loads(summary)["images_per_second"]
    print(f"{count:>9,} images: {watch.peak / 1e6:6.0f} MB at most, {rate:,.0f} images a second", flush=True)
    return watch.peak


def _check(process: subprocess.Popen[bytes], summary: bytes, count: int) -> None:
    if process.returncode != 0 or json.loads(summary)["images"] != count:
        sys.exit(f"the prediction of {count:,} images failed ({process.returncode})")


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure the memory that a small and a large folder need.")
    parser.add_argument("--images", type=int, nargs=2, default=[20_000, 500_000], metavar="N", help="two sizes")
    parser.add_argument("--directories", type=int, default=1, help="over which they are spread")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
