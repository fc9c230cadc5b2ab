"""Folders of image files made from the MNIST sample that comes with Digits."""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image

from digits.data import datasets
from digits.images.types import Pixels

MAX_LINKS = 1000
"""Maximum number of hard links per file; file systems limit it (ext4 to 65,000)."""


def sample_digits() -> Pixels:
    """Return the 7,000 images of the MNIST sample, (7000, 28, 28) uint8."""
    with TemporaryDirectory() as downloads:
        data = datasets.load("mnist-sample", downloads=Path(downloads))
    return np.concatenate([data.train_pixels, data.test_pixels])


def write_images(folder: Path, count: int) -> None:
    """Write images of the sample as PNG files, repeating them if necessary."""
    folder.mkdir()
    pixels = sample_digits()
    for number in range(count):
        Image.fromarray(pixels[number % len(pixels)]).save(folder / f"{number:06}.png")


def link_images(folder: Path, count: int, *, directories: int = 1) -> None:
    """Fill a folder, or directories in it, with hard links to a few thousand images beside it."""
    originals = folder.with_name(f"{folder.name}-originals")
    write_images(originals, min(count, len(sample_digits())))
    files = sorted(originals.iterdir())
    assert count <= MAX_LINKS * len(files), f"{count:,} images exceed {MAX_LINKS} links per file"
    places = [folder / f"{number:03}" for number in range(directories)] if directories > 1 else [folder]
    for place in places:
        place.mkdir(parents=True)
    for number in range(count):
        os.link(files[number % len(files)], places[number % directories] / f"{number:07}.png")
