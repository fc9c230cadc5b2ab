"""Time to decode, normalize and screen an image, by kind of image.

python -m benchmarks normalization [--rounds 7]
python -m benchmarks normalization --against FOLDER    # compared with another checkout of Digits, such as an older one

The figures are microseconds of CPU time per image, with the files and pixels in memory. Of several rounds the one with
the lowest mean counts, because other work on the machine only adds time. With `--against`, a process per checkout times
the same images, the two take turns, and ratios of the times are printed, too. The photos are those of the benchmark
`photos`, decoded as a prediction decodes them, and at one megapixel. The exit code is 1 if a limit is exceeded.
"""

import argparse
import io
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.photos import QUALITY, draw_photo
from digits.images.decode import MIN_SIDE, decode
from digits.images.types import Pixels
from tests.support.pictures import sample_digits

DIGITS, PHOTOS, LARGE = 300, 40, 8
MEGAPIXEL = (1154, 867)
ROOT = Path(__file__).parents[1]
HERE, OTHER = "this checkout", "the other one"
FORM, INVERTED, UNEVEN = "28x28, MNIST's form", "28x28, inverted", "28x28, with an uneven border"
PHOTO, LARGE_PHOTO = "photo of 640x480, as decoded", "photo of a megapixel"
LIMITS = {FORM: 25, INVERTED: 150, UNEVEN: 150, LARGE_PHOTO: 3000}
"""Largest time to normalize an image, in microseconds."""
RATIOS = {FORM: 1.03, INVERTED: 1.3, UNEVEN: 1.3, PHOTO: 1.3}
"""Largest ratio of the time to normalize an image to that of the other checkout."""


class Kind(NamedTuple):
    """Images of one kind, with the steps that are timed; the images are files if the step is `decode`."""

    name: str
    images: Sequence[Pixels]
    steps: Sequence[str] = ("normalize", "screen")


def main(arguments: list[str] | None = None) -> int:
    """Print one line per kind and step; return 1 if a kind exceeds a limit."""
    parser = argparse.ArgumentParser(description="Measure how long it takes to decode, normalize and screen an image.")
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds, of which the fastest counts (default: 7)"
    )
    parser.add_argument("--against", type=Path, help="another checkout of Digits to compare with")
    options = parser.parse_args(arguments)
    checkouts = {HERE: ROOT} | ({OTHER: options.against} if options.against else {})
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for kind in (measured := kinds()):
            np.savez(Path(folder) / f"{kind.name}.npz", *kind.images)
        watches = {name: stack.enter_context(_stopwatch(path, folder)) for name, path in checkouts.items()}
        print(f"{'microseconds per image':<44}" + "".join(f"{name:>15}" for name in watches))
        lines = [(kind, step) for kind in measured for step in kind.steps]
        return int(any([_exceeds_limit(kind.name, step, watches, options.rounds) for kind, step in lines]))  # noqa: C419 - every line is printed


def kinds() -> list[Kind]:
    """Return the images of all kinds."""
    digits = sample_digits()[:DIGITS]
    photos = [Image.fromarray(draw_photo(digit, number)) for number, digit in enumerate(digits[:PHOTOS])]
    large = [np.asarray(photo.convert("L").resize(MEGAPIXEL)) for photo in photos[:LARGE]]
    grey = [Image.fromarray(digit) for digit in digits]
    jpegs = [_file(photo, "JPEG", quality=QUALITY) for photo in photos]
    return [
        Kind(FORM, list(digits)),
        Kind(INVERTED, list(255 - digits)),
        Kind(UNEVEN, [_shaded(digit, number) for number, digit in enumerate(digits)]),
        Kind(PHOTO, [decode(file.tobytes(), min_side=MIN_SIDE).pixels for file in jpegs]),
        Kind(LARGE_PHOTO, large),
        Kind("grey PNG of 28x28", [_file(image, "PNG") for image in grey], ["decode"]),
        Kind("colour PNG of 28x28", [_file(image.convert("RGB"), "PNG") for image in grey], ["decode"]),
        Kind("colour PNG of 640x480", [_file(photo, "PNG") for photo in photos], ["decode"]),
        Kind("colour JPEG of 640x480", jpegs, ["decode"]),
    ]


def _shaded(digit: Pixels, number: int) -> Pixels:
    """Draw a digit in dark ink on paper that is lit from one side, with noise."""
    light = np.linspace(250, 150, digit.shape[1]) * (1 - 0.8 * digit / 255)
    noise = np.random.default_rng(number).normal(0, 2, digit.shape)
    return np.clip(light + noise, 0, 255).astype(np.uint8)


def _file(image: Image.Image, form: str, **options: Any) -> Pixels:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return np.frombuffer(buffer.getvalue(), np.uint8)


@contextmanager
def _stopwatch(checkout: Path, folder: str) -> Iterator["subprocess.Popen[str]"]:
    """Start the process that times the steps of a checkout, and end it."""
    command = [sys.executable, "-P", str(ROOT / "benchmarks" / "stopwatch.py"), folder]
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve())}
    with subprocess.Popen(
        command, env=environment, cwd=checkout, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin
        process.stdin.close()


def _exceeds_limit(kind: str, step: str, watches: Mapping[str, "subprocess.Popen[str]"], rounds: int) -> bool:
    times = {name: float("inf") for name in watches}
    for _ in range(rounds + 1):  # the first one loads OpenCV
        times = {name: min(times[name], _time(watch, step, kind)) for name, watch in watches.items()}
    ratio = times[HERE] / times[OTHER] if OTHER in times else None
    verdicts = [(times[HERE], LIMITS.get(kind)), (ratio, RATIOS.get(kind) if ratio else None)]
    if step != "normalize":
        verdicts = []
    print(
        f"{step:<10}{kind:<34}"
        + "".join(f"{time:>15,.1f}" for time in times.values())
        + ("" if ratio is None else f"  ratio {ratio:.3f}")
        + "".join(f"  at most {limit:,}: {_verdict(value, limit)}" for value, limit in verdicts if value and limit),
        flush=True,
    )
    return any(value is not None and limit is not None and value > limit for value, limit in verdicts)


def _verdict(value: float, limit: float) -> str:
    return "met" if value <= limit else "MISSED"


def _time(watch: "subprocess.Popen[str]", step: str, kind: str) -> float:
    assert watch.stdin
    assert watch.stdout
    watch.stdin.write(f"{step} {kind}\n")
    watch.stdin.flush()
    return float(watch.stdout.readline())


if __name__ == "__main__":
    sys.exit(main())
