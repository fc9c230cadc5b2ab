"""Look-alikes: images of digits as people have them, made from MNIST's test digits and from fonts.

`python -m benchmarks sets` measures the accuracy on them. They imitate kinds of images, not any published set, and are
used for measuring only. A change of the normalization that helps one real set and harms these fits that set alone.
"""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter, ImageFont

from digits.images.types import Pixels
from tests.support.handwriting import Random, Values, crop, enlarge, light, place

FONTS = Path("/usr/share/fonts/truetype/liberation")
SEED = 7
Kind = Callable[[Pixels, Random], Pixels]


def draw_images(kind: str, digits: Pixels, *, seed: int = SEED) -> Iterator[Pixels]:
    """Draw an image of a kind for each digit.

    Args:
        kind: a key of `KINDS`.
        digits: digits in MNIST's form, (N, 28, 28) uint8.
        seed: random seed; the same seed gives the same images.

    Returns:
        Iterator over images, (H, W) uint8 of any size.
    """
    random = np.random.default_rng(seed)
    return (KINDS[kind](digit, random) for digit in digits)


def draw_printed(count: int, *, seed: int = SEED) -> Iterator[tuple[int, Pixels]]:
    """Yield labels with printed digits, (H, W) uint8, in the fonts of `FONTS`; nothing if they are not installed."""
    random = np.random.default_rng(seed)
    fonts = sorted(FONTS.glob("*.ttf"))
    for number in range(count if fonts else 0):
        label = number % 10
        font = fonts[int(random.integers(len(fonts)))]
        yield label, _printed_cell(_render(str(label), font, int(random.integers(24, 52))), random)


def _render(text: str, font: Path, size: int) -> Values:
    face = ImageFont.truetype(str(font), size)
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (int(right - left), int(bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, font=face, fill=255)
    return np.asarray(image, np.float32) / 255


def _printed_cell(glyph: Values, random: Random) -> Pixels:
    """Draw a photo of a printed digit in its cell, with shadow, grid lines, blur and noise."""
    side = max(glyph.shape) + int(random.integers(10, 30))
    return _photograph(_add_grid(place(glyph, (side, side), random), random), random, blur=random.uniform(0.5, 2))


def _add_grid(ink: Values, random: Random) -> Values:
    """Add the lines of a cell along zero to two edges."""
    ink = ink.copy()
    for _ in range(int(random.integers(3))):
        edge = (ink, ink[::-1], ink.T, ink.T[::-1])[int(random.integers(4))]
        width = int(random.integers(1, 4))
        edge[:width] = np.maximum(edge[:width], random.uniform(0.3, 1))
    return ink


def _photograph(ink: Values, random: Random, *, blur: float = 0, darkest: float = 0.6, noise: float = 4) -> Pixels:
    """Draw a photo of dark ink on lighter paper: under uneven light, out of focus, with sensor noise."""
    paper, contrast = random.uniform(120, 245), random.uniform(0.3, 0.85)
    lit = paper * (1 - contrast * ink) * light((ink.shape[0], ink.shape[1]), random, darkest)
    soft = Image.fromarray(np.clip(lit, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
    grained = np.asarray(soft, np.float32) + random.normal(0, noise, ink.shape)
    return np.clip(grained, 0, 255).astype(np.uint8)


def _pen_in_cell(digit: Pixels, random: Random) -> Pixels:
    """Draw a digit written with a pen on newsprint: a thin stroke, grid lines, and print shining through the paper."""
    side = int(random.integers(40, 100))
    ink = crop(enlarge(digit, int(side * random.uniform(0.8, 1.1)), random, stroke=0.15))
    cell = _add_grid(place(ink, (max(side, ink.shape[0]), max(side, ink.shape[1])), random), random)
    through = random.normal(0, 1, (cell.shape[0] // 4 + 1, cell.shape[1] // 4 + 1)) > 1
    faint = np.kron(through, np.ones((4, 4)))[: cell.shape[0], : cell.shape[1]] * random.uniform(0, 0.25)
    return _photograph(np.maximum(cell, faint.astype(np.float32)), random, blur=random.uniform(0.3, 1.2))


def _paper_photo(digit: Pixels, random: Random) -> Pixels:
    """Draw a large photo of a sheet of paper, with the digit anywhere on it and deep shadows."""
    shape = (int(random.integers(200, 700)), int(random.integers(200, 700)))
    ink = crop(enlarge(digit, int(min(shape) * random.uniform(0.4, 1)), random, stroke=0.2))
    return _photograph(place(ink, shape, random), random, blur=random.uniform(0, 3), darkest=0.35, noise=6)


def _drawing(digit: Pixels, random: Random) -> Pixels:
    """Draw a digit as on a screen: no noise, thick or thin, a canvas of any shape, one in three light on dark."""
    shape = (int(random.integers(28, 400)), int(random.integers(28, 400)))
    ink = crop(enlarge(digit, int(min(shape) * random.uniform(0.7, 1.2)), random, stroke=0.3))
    ink = ink[: shape[0], : shape[1]]
    level = place(ink, shape, random) * random.uniform(100, 255)
    return (level if random.random() < 1 / 3 else 255 - level).astype(np.uint8)


def _stretch(digit: Pixels, random: Random) -> Pixels:
    """Stretch the ink's bounding box to 16x16 pixels of two levels, without keeping its proportions."""
    ink = crop(enlarge(digit, 112, random))
    small = np.asarray(Image.fromarray((ink * 255).astype(np.uint8)).resize((16, 16), Image.Resampling.BOX))
    return ((small > 127) * 255).astype(np.uint8)  # noqa: PLR2004 - half of white


def _envelope(digit: Pixels, random: Random) -> Pixels:
    """Scale the ink to the full height of 16x16 grey pixels; half of the images are dark on light."""
    ink = crop(enlarge(digit, 112, random, stroke=0.2))
    width = min(16, max(3, round(ink.shape[1] / ink.shape[0] * 16)))
    small = Image.fromarray((ink * 255).astype(np.uint8)).resize((width, 16), Image.Resampling.BOX)
    field = np.zeros((16, 16), np.uint8)
    left = (16 - width) // 2
    field[:, left : left + width] = np.asarray(small.filter(ImageFilter.GaussianBlur(0.5)))
    return field if random.random() < 0.5 else 255 - field  # noqa: PLR2004 - a half


def _steel_pen(digit: Pixels, random: Random) -> Pixels:
    """Draw a digit of an old register: slanted, with thick downstrokes, stains, and parts of neighbouring digits."""
    side = int(random.integers(60, 160))
    ink = _slant(enlarge(digit, side, random, stroke=0.2), random.uniform(0.1, 0.6))
    reach = int(side / 28 * random.uniform(0.3, 1.2)) + 1
    ink = crop(np.maximum.reduce([np.roll(ink, step, axis=1) for step in range(reach)]))
    shape = (int(ink.shape[0] * random.uniform(1.05, 1.4)), int(ink.shape[1] * random.uniform(1.05, 1.5)))
    page = place(ink, shape, random)
    for _ in range(int(random.integers(4))):
        page = np.maximum(page, _neighbour(shape, random))
    return _photograph(page, random, blur=random.uniform(0.3, 1.5), darkest=0.8, noise=7)


def _slant(ink: Values, slope: float) -> Values:
    side = len(ink)
    shear = (1, slope, -slope * side / 2, 0, 1, 0)
    image = Image.fromarray(np.pad(ink, side // 4)).transform(
        (side * 3 // 2, side * 3 // 2), Image.Transform.AFFINE, shear, Image.Resampling.BILINEAR
    )
    return np.asarray(image)


def _neighbour(shape: tuple[int, int], random: Random) -> Values:
    """Draw a short stroke that begins at the left or right edge."""
    page = np.zeros(shape, np.float32)
    size = max(2, min(shape) // 14)
    top, left = int(random.integers(shape[0])), int(random.choice([0, shape[1] - size]))
    length = int(random.integers(1, 4)) * size
    page[top : top + length, left : left + size] = random.uniform(0.4, 1)
    return page


KINDS: dict[str, Kind] = {
    "pen-in-cell": _pen_in_cell,
    "paper-photo": _paper_photo,
    "drawing": _drawing,
    "stretched-16": _stretch,
    "envelope-16": _envelope,
    "steel-pen": _steel_pen,
}
