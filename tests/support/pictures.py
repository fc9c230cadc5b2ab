"""Folders of real digits to measure with: those of the sample that comes with Digits, as files."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from digits.data import datasets
from digits.images.types import Pixels

LINKS = 1000
"""Names a file has at most: file systems stop somewhere (ext4 at 65,000)."""


def sample_digits() -> Pixels:
    """Give the 7,000 images of MNIST that come with Digits, (7000, 28, 28) uint8."""
    with TemporaryDirectory() as downloads:
        data = datasets.load("mnist-sample", downloads=Path(downloads))
    return np.concatenate([data.train_pixels, data.test_pixels])


def write_images(folder: Path, count: int) -> None:
    """Write real digits as PNG files, those of the sample over and over."""
    folder.mkdir()
    pixels = sample_digits()
    for number in range(count):
        Image.fromarray(pixels[number % len(pixels)]).save(folder / f"{number:06}.png")


def link_images(folder: Path, count: int, *, directories: int = 1) -> None:
    """Fill a folder with so many images, spread over directories, that are links to a few thousand files beside it."""
    originals = folder.with_name(f"{folder.name}-originals")
    write_images(originals, min(count, len(sample_digits())))
    files = sorted(originals.iterdir())
    assert count <= LINKS * len(files), f"{count:,} images would be over {LINKS} links a file"
    places = [folder / f"{number:03}" for number in range(directories)] if directories > 1 else [folder]
    for place in places:
        place.mkdir(parents=True)
    for number in range(count):
        os.link(files[number % len(files)], places[number % directories] / f"{number:07}.png")
