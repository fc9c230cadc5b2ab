"""Time to normalize an image, and to screen it, by kind of image.

python -m benchmarks normalization [--rounds 7]

The figures are microseconds of CPU time per image, for pixels in memory. Of several rounds the one with the lowest mean
counts, because other work on the machine only adds time. The photos are those of the benchmark `photos`, decoded as a
prediction decodes them, and at one megapixel. The exit code is 1 if a kind exceeds its limit.
"""

import argparse
import io
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.photos import QUALITY, draw_photo
from digits.images.decode import MIN_SIDE, decode
from digits.images.normalize import normalize
from digits.images.screening import screen
from digits.images.types import Pixels
from tests.support.pictures import sample_digits

DIGITS, PHOTOS, LARGE = 300, 40, 8
MEGAPIXEL = (1154, 867)


class Kind(NamedTuple):
    """Images of one kind, with the limit in microseconds per image."""

    name: str
    images: Sequence[Pixels]
    limit: float | None


def main(arguments: list[str] | None = None) -> int:
    """Print one line per kind; return 1 if a kind exceeds its limit."""
    parser = argparse.ArgumentParser(description="Measure how long it takes to normalize and to screen an image.")
    parser.add_argument(
        "--rounds", type=int, default=7, help="number of rounds, of which the fastest counts (default: 7)"
    )
    rounds = parser.parse_args(arguments).rounds
    print(f"{'microseconds per image':<34}{'normalize':>10}{'screen':>8}")
    return int(any([_exceeds_limit(kind, rounds) for kind in kinds()]))  # noqa: C419 - every kind is printed


def kinds() -> list[Kind]:
    """Return the images of all kinds."""
    digits = sample_digits()[:DIGITS]
    photos = [Image.fromarray(draw_photo(digit, number)) for number, digit in enumerate(digits[:PHOTOS])]
    large = [np.asarray(photo.convert("L").resize(MEGAPIXEL)) for photo in photos[:LARGE]]
    return [
        Kind("28x28, MNIST's form", list(digits), 25),
        Kind("28x28, inverted", list(255 - digits), 150),
        Kind("28x28, with an uneven border", [_shaded(digit, number) for number, digit in enumerate(digits)], 150),
        Kind("photo of 640x480, as decoded", [_as_decoded(photo) for photo in photos], None),
        Kind("photo of a megapixel", large, 3000),
    ]


def _shaded(digit: Pixels, number: int) -> Pixels:
    """Draw a digit in dark ink on paper that is lit from one side, with noise."""
    light = np.linspace(250, 150, digit.shape[1]) * (1 - 0.8 * digit / 255)
    noise = np.random.default_rng(number).normal(0, 2, digit.shape)
    return np.clip(light + noise, 0, 255).astype(np.uint8)


def _as_decoded(photo: Image.Image) -> Pixels:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=QUALITY)
    return decode(file.getvalue(), min_side=MIN_SIDE).pixels


def _exceeds_limit(kind: Kind, rounds: int) -> bool:
    normalizing, screening = (_shortest_time(step, kind.images, rounds) for step in (normalize, screen))
    verdict = ""
    if kind.limit is not None:
        verdict = f"  at most {kind.limit:,.0f}: {'met' if normalizing <= kind.limit else 'MISSED'}"
    print(f"{kind.name:<34}{normalizing:>10,.1f}{screening:>8,.1f}{verdict}", flush=True)
    return kind.limit is not None and normalizing > kind.limit


def _shortest_time(step: Callable[[Pixels], Any], images: Sequence[Pixels], rounds: int) -> float:
    return min(_mean_time(step, images) for _ in range(rounds + 1))  # the first one loads OpenCV


def _mean_time(step: Callable[[Pixels], Any], images: Sequence[Pixels]) -> float:
    started = time.process_time()
    for image in images:
        step(image)
    return (time.process_time() - started) / len(images) * 1e6


if __name__ == "__main__":
    sys.exit(main())
