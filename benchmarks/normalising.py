"""How long it takes to bring a picture into MNIST's form, and to look for oddities besides, by kind of picture.

python -m benchmarks normalising [--rounds 7]

Microseconds of CPU time a picture, of pixels in memory: the least mean of some rounds, as neighbours only ever make it
longer. The photographs are those of the measurement `photos`, decoded as a prediction decodes them, and one megapixel
in full. Fails when a kind takes longer than its bar.
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
    """Pictures of a kind, and how many microseconds one may take."""

    name: str
    pictures: Sequence[Pixels]
    most: float | None


def main(arguments: list[str] | None = None) -> int:
    """Print a line for each kind; 1 when one takes too long."""
    parser = argparse.ArgumentParser(description="How long normalising a picture takes.")
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args(arguments).rounds
    print(f"{'microseconds a picture':<34}{'normalize':>10}{'look':>8}")
    return int(any([_is_missed(kind, rounds) for kind in kinds()]))  # noqa: C419 - all of them are printed


def kinds() -> list[Kind]:
    """Make the pictures."""
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
    """Draw a digit in dark ink on paper that light falls on from one side, with noise."""
    light = np.linspace(250, 150, digit.shape[1]) * (1 - 0.8 * digit / 255)
    noise = np.random.default_rng(number).normal(0, 2, digit.shape)
    return np.clip(light + noise, 0, 255).astype(np.uint8)


def _as_decoded(photo: Image.Image) -> Pixels:
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=QUALITY)
    return decode(file.getvalue(), min_side=MIN_SIDE).pixels


def _is_missed(kind: Kind, rounds: int) -> bool:
    normalizing, looking = (_least_time(step, kind.pictures, rounds) for step in (normalize, screen))
    told = ""
    if kind.most is not None:
        told = f"  at most {kind.most:,.0f}: {'met' if normalizing <= kind.most else 'MISSED'}"
    print(f"{kind.name:<34}{normalizing:>10,.1f}{looking:>8,.1f}{told}", flush=True)
    return kind.most is not None and normalizing > kind.most


def _least_time(step: Callable[[Pixels], Any], pictures: Sequence[Pixels], rounds: int) -> float:
    return min(_mean_time(step, pictures) for _ in range(rounds + 1))  # the first one loads OpenCV


def _mean_time(step: Callable[[Pixels], Any], pictures: Sequence[Pixels]) -> float:
    started = time.process_time()
    for picture in pictures:
        step(picture)
    return (time.process_time() - started) / len(pictures) * 1e6


if __name__ == "__main__":
    sys.exit(main())
