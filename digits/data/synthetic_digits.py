"""Synthetic digits: printed digits in several fonts, and digits drawn in three forms that are rare in MNIST.

Many images to predict show printed digits, but MNIST has none. Its ones rarely have a flag or a foot, and its sevens
are rarely crossed. The fonts are Pillow's default font and the fonts of matplotlib that contain digits. They are
installed with the training libraries, and are the same on every machine.
"""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from digits.images.normalize import normalize
from digits.images.types import Labels, Pixels

if TYPE_CHECKING:
    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Random = np.random.Generator
Strokes = TypeVar("Strokes")
"""Strokes of one digit, in whatever form the function that draws them takes them."""
Point = tuple[float, float]
"""Position (x, y) in units of the digit's height: x to the right, y down."""

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
_SIZES, _BLUR = (20, 60), 1.0
"""Smallest and largest size of printed text, and largest standard deviation of its blur, in pixels."""
_SMALL_SIZES, _SMALL_BLUR = (9, 24), 1.2
"""The same for small print, as in photos of newspapers."""
_MARGIN = 6
"""Margin around printed text in pixels."""
_HEIGHT, _DRAWN_MARGIN = 80, 40
"""Height of a drawn digit and margin around it in pixels."""
_SUBPIXELS = 16
_SHIFT = 4
"""Fractional bits of coordinates that are passed to OpenCV: log2 of `_SUBPIXELS`."""
_JITTER = 0.015
"""Standard deviation of the random displacement of each point, in units of the digit's height."""


def are_digits(class_names: Sequence[str]) -> bool:
    """Return whether all class names are digits from 0 to 9, and there is at least one."""
    return bool(class_names) and set(class_names) <= set("0123456789")


def render_printed_digits(
    class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]
) -> tuple[Pixels, Labels]:
    """Render each class in each font, with random sizes and blur.

    Args:
        class_names: names of the classes, each a digit.
        count: number of images per class and font.
        seed: random seed of sizes and blur.
        shape: height and width of the images in pixels.

    Returns:
        Pixels in MNIST's form, (N, *shape) uint8, and labels, (N,) uint8.
    """
    return _render_digits(class_names, count, np.random.default_rng(seed), shape, sizes=_SIZES, blur=_BLUR)


def render_small_digits(
    class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]
) -> tuple[Pixels, Labels]:
    """Render each class in each font as `render_printed_digits` does, but in fewer pixels and with more blur."""
    random = np.random.default_rng([seed, 91])
    return _render_digits(class_names, count, random, shape, sizes=_SMALL_SIZES, blur=_SMALL_BLUR)


def _render_digits(  # noqa: PLR0913 - what, how many, and how they look
    class_names: Sequence[str],
    count: int,
    random: Random,
    shape: tuple[int, int],
    *,
    sizes: tuple[int, int],
    blur: float,
) -> tuple[Pixels, Labels]:
    drawn = [
        (normalize(render_text(name, font, random, sizes=sizes, blur=blur), "mnist", shape=shape), label)
        for font in list_fonts()
        for label, name in enumerate(class_names)
        for _ in range(count)
    ]
    pixels = np.stack([picture for picture, _ in drawn]) if drawn else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in drawn], np.uint8)


@cache
def list_fonts() -> list[Path | None]:
    """Return the font files, in the same order on every machine; None stands for Pillow's default font."""
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return [None, *(file for pattern in _TEXT_FONTS for file in sorted(folder.glob(pattern)))]


def render_text(
    text: str, file: Path | None, random: Random, *, sizes: tuple[int, int] = _SIZES, blur: float = _BLUR
) -> Pixels:
    """Render text with a random size and blur, white on black.

    Args:
        text: text to render.
        file: font file of `list_fonts`.
        random: random generator.
        sizes: smallest and largest size in pixels.
        blur: largest standard deviation of the blur in pixels.

    Returns:
        (height, width) uint8, as large as the text with a margin.
    """
    from PIL import Image, ImageDraw, ImageFilter

    font = _load_font(file, int(random.integers(*sizes)))
    left, top, right, bottom = font.getbbox(text)
    image = Image.new("L", (int(right - left) + 2 * _MARGIN, int(bottom - top) + 2 * _MARGIN))
    ImageDraw.Draw(image).text((_MARGIN - left, _MARGIN - top), text, font=font, fill=255)
    return np.array(image.filter(ImageFilter.GaussianBlur(random.uniform(0, blur))))


@cache
def _load_font(file: Path | None, size: int) -> "Font":
    from PIL import ImageFont

    return ImageFont.load_default(size) if file is None else ImageFont.truetype(str(file), size)


def draw_handwritten_digits(
    class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]
) -> tuple[Pixels, Labels]:
    """Draw the forms of `FORMS`, with random proportions, slant, stroke width and blur.

    Args:
        class_names: names of the classes; forms of other classes are not drawn.
        count: number of images per form.
        seed: random seed of the drawings.
        shape: height and width of the images in pixels.

    Returns:
        Pixels in MNIST's form, (N, *shape) uint8, and labels, (N,) uint8.
    """
    random = np.random.default_rng([seed, 253])
    return draw_each(FORMS, _draw_strokes, class_names, count, random=random, shape=shape)


def draw_each(  # noqa: PLR0913 - what, how, how many, and how they look
    forms: Sequence[tuple[str, Callable[[Random], Strokes]]],
    draw: Callable[[Strokes, Random], Pixels],
    class_names: Sequence[str],
    count: int,
    *,
    random: Random,
    shape: tuple[int, int],
) -> tuple[Pixels, Labels]:
    """Draw forms of digits, and bring them into MNIST's form.

    Args:
        forms: class of each form, and the function that returns its strokes.
        draw: function that draws strokes.
        class_names: names of the classes; forms of other classes are not drawn.
        count: number of images per form.
        random: random generator.
        shape: height and width of the images in pixels.

    Returns:
        Pixels, (N, *shape) uint8, and labels, (N,) uint8.
    """
    drawn = [
        (normalize(draw(form(random), random), "mnist", shape=shape), class_names.index(name))
        for name, form in forms
        for _ in range(count if name in class_names else 0)
    ]
    pixels = np.stack([picture for picture, _ in drawn]) if drawn else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in drawn], np.uint8)


def _draw_strokes(strokes: Sequence[Sequence[Point]], random: Random) -> Pixels:
    import cv2

    slant = random.uniform(-0.15, 0.35)
    width = int(random.integers(5, 19))
    lines = [np.array([_slant_and_jitter(point, slant, random) for point in stroke]) for stroke in strokes]
    corner = np.concatenate(lines).min(axis=0)
    side = _HEIGHT + 2 * _DRAWN_MARGIN
    canvas = np.zeros((side, side), np.uint8)
    for line in lines:
        points = np.rint(((line - corner) * _HEIGHT + _DRAWN_MARGIN) * _SUBPIXELS).astype(np.int32)
        cv2.polylines(canvas, [points.reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, _SHIFT)
    return np.asarray(cv2.GaussianBlur(canvas, (0, 0), random.uniform(0.5, 2.5)), np.uint8)


def _slant_and_jitter(point: Point, slant: float, random: Random) -> Point:
    x, y = point
    return (
        x - slant * y + random.normal(0, _JITTER),
        y + random.normal(0, _JITTER),
    )


def _one_with_flag(random: Random) -> list[list[Point]]:
    """Return the strokes of a one: a stem, and a flag that runs from its top down to the left.

    The flag is steeper than the bar of a seven, and at most half as long as the stem.
    """
    angle, length = np.deg2rad(random.uniform(30, 70)), random.uniform(0.2, 0.5)
    return [[(-length * float(np.cos(angle)), length * float(np.sin(angle))), (0, 0), (0, 1)]]


def _one_with_flag_and_foot(random: Random) -> list[list[Point]]:
    left, right = random.uniform(0.12, 0.35, 2)
    return [*_one_with_flag(random), [(-float(left), 1), (float(right), 1)]]


def _crossed_seven(random: Random) -> list[list[Point]]:
    """Return the strokes of a seven: a bar, a leaning stem, and a stroke across the middle of the stem."""
    width, lean, middle = random.uniform(0.4, 0.65), random.uniform(0.15, 0.4), random.uniform(0.42, 0.6)
    left, right, rise = *random.uniform(0.15, 0.28, 2), random.uniform(-0.08, 0.04)
    centre = width - lean * middle
    bar = [(0, random.uniform(-0.03, 0.06)), (width, 0), (width - lean, 1)]
    return [bar, [(centre - left, middle - rise), (centre + right, middle + rise)]]


FORMS: Sequence[tuple[str, Callable[[Random], list[list[Point]]]]] = (
    ("1", _one_with_flag),
    ("1", _one_with_flag_and_foot),
    ("7", _crossed_seven),
)
"""Class of each drawn form, and the function that returns its strokes."""
