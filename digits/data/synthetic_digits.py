"""Printed digits to train on beside handwritten ones: those of the fonts that come with the libraries of training.

Many pictures of digits are of print, and MNIST has none: its ones have no flag and no foot. The fonts are Pillow's own
and matplotlib's that have digits: they are there wherever a network can be trained, and the same on every machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from digits.images.normalize import normalize

if TYPE_CHECKING:
    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

from collections.abc import Callable

from digits.images.types import Labels, Pixels

_TEXT_FONTS = (
    "DejaVuSans.ttf",
    "DejaVuSans[-M]*.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-*.ttf",
    "STIXGeneral*.ttf",
    "cmr10.ttf",
    "cmss10.ttf",
    "cmtt10.ttf",
    "cmb10.ttf",
)
_SIZES = (20, 60)
_MARGIN = 6


def are_digits(class_names: Sequence[str]) -> bool:
    """Tell whether every class is one of the digits 0 to 9, so that it can be printed."""
    return bool(class_names) and set(class_names) <= set("0123456789")


def render_printed_digits(class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]) -> tuple[Pixels, Labels]:
    """Render each class in each font, in sizes and degrees of sharpness drawn at random.

    Args:
        class_names: digits.
        count: renderings of each class in each font.
        seed: the same seed gives the same pictures.
        shape: height and width of a picture.

    Returns:
        (N, *shape) uint8 pixels in MNIST's form, and (N,) uint8 labels.
    """
    random = np.random.default_rng(seed)
    drawn = [
        (normalize(render_text(name, font, random), "mnist", shape=shape), label)
        for font in list_fonts()
        for label, name in enumerate(class_names)
        for _ in range(count)
    ]
    pixels = np.stack([picture for picture, _ in drawn]) if drawn else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in drawn], np.uint8)


def list_fonts() -> list[Path | None]:
    """Give the fonts' files, in an order that is the same everywhere; None is the font in Pillow."""
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return [None, *(file for pattern in _TEXT_FONTS for file in sorted(folder.glob(pattern)))]


def render_text(text: str, file: Path | None, random: np.random.Generator) -> Pixels:
    """Render text in a font of `fonts`, in a size and a degree of sharpness drawn at random: (h, w) uint8 on black."""
    from PIL import Image, ImageDraw, ImageFilter

    font = _face(file, int(random.integers(*_SIZES)))
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 2 * _MARGIN, int(bottom - top) + 2 * _MARGIN))
    ImageDraw.Draw(image).text((_MARGIN - left, _MARGIN - top), text, font=font, fill=255)
    return np.array(image.filter(ImageFilter.GaussianBlur(random.uniform(0, 1))))


def _face(file: Path | None, size: int) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)


Random = np.random.Generator
Point = tuple[float, float]
"""Right and down, in heights of the digit."""

_HEIGHT, _DRAWN_MARGIN = 80, 40
_FINER = 16
_SHIFT = 4
_UNSTEADY = 0.015


def draw_handwritten_digits(class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]) -> tuple[Pixels, Labels]:
    """Draw each form so many times.

    Args:
        class_names: digits; the forms of those that are missing are left out.
        count: drawings of each form.
        seed: the same seed gives the same pictures.
        shape: height and width of a picture.

    Returns:
        (N, *shape) uint8 pixels in MNIST's form, and (N,) uint8 labels.
    """
    random = np.random.default_rng([seed, 253])
    drawn = [
        (normalize(_drawn(strokes(random), random), "mnist", shape=shape), class_names.index(name))
        for name, strokes in FORMS
        for _ in range(count if name in class_names else 0)
    ]
    pixels = np.stack([picture for picture, _ in drawn]) if drawn else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in drawn], np.uint8)


def _drawn(strokes: Sequence[Sequence[Point]], random: Random) -> Pixels:
    import cv2

    slant = random.uniform(-0.15, 0.35)
    width = int(random.integers(5, 19))
    lines = [np.array([_steered(point, slant, random) for point in stroke]) for stroke in strokes]
    corner = np.concatenate(lines).min(axis=0)
    side = _HEIGHT + 2 * _DRAWN_MARGIN
    canvas = np.zeros((side, side), np.uint8)
    for line in lines:
        fine = np.rint(((line - corner) * _HEIGHT + _DRAWN_MARGIN) * _FINER).astype(np.int32)
        cv2.polylines(canvas, [fine.reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, _SHIFT)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.5, 2.5)), np.uint8)


def _steered(point: Point, slant: float, random: Random) -> Point:
    right, down = point
    return (
        right - slant * down + random.normal(0, _UNSTEADY),
        down + random.normal(0, _UNSTEADY),
    )


def _flagged_one(random: Random) -> list[list[Point]]:
    """A stem, and a flag from its top down to the left: steeper than the bar of a seven, at most half as long."""
    angle, length = np.deg2rad(random.uniform(30, 70)), random.uniform(0.2, 0.5)
    return [[(-length * float(np.cos(angle)), length * float(np.sin(angle))), (0, 0), (0, 1)]]


def _one_with_a_foot(random: Random) -> list[list[Point]]:
    left, right = random.uniform(0.12, 0.35, 2)
    return [*_flagged_one(random), [(-float(left), 1), (float(right), 1)]]


def _crossed_seven(random: Random) -> list[list[Point]]:
    """A bar, a stem that leans, and a stroke across its middle."""
    width, lean, middle = random.uniform(0.4, 0.65), random.uniform(0.15, 0.4), random.uniform(0.42, 0.6)
    left, right, rise = *random.uniform(0.15, 0.28, 2), random.uniform(-0.08, 0.04)
    centre = width - lean * middle
    bar = [(0, random.uniform(-0.03, 0.06)), (width, 0), (width - lean, 1)]
    return [bar, [(centre - left, middle - rise), (centre + right, middle + rise)]]


FORMS: Sequence[tuple[str, Callable[[Random], list[list[Point]]]]] = (
    ("1", _flagged_one),
    ("1", _one_with_a_foot),
    ("7", _crossed_seven),
)
"""Each form's class, and what draws it."""
