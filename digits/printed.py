"""Printed digits to train on beside handwritten ones: those of the fonts that come with the libraries of training.

Many pictures of digits are of print, and MNIST has none: its ones have no flag and no foot. The fonts are Pillow's own
and matplotlib's that have digits: they are there wherever a network can be trained, and the same on every machine.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from digits.normalization import normalize

if TYPE_CHECKING:
    from PIL import ImageFont

    Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

Bytes = npt.NDArray[np.uint8]

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


def print_digits(class_names: Sequence[str], count: int, *, seed: int, shape: tuple[int, int]) -> tuple[Bytes, Bytes]:
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
        (normalize(render(name, font, random), "mnist", shape=shape), label)
        for font in fonts()
        for label, name in enumerate(class_names)
        for _ in range(count)
    ]
    pixels = np.stack([picture for picture, _ in drawn]) if drawn else np.zeros((0, *shape), np.uint8)
    return pixels, np.array([label for _, label in drawn], np.uint8)


def fonts() -> list[Path | None]:
    """Give the fonts' files, in an order that is the same everywhere; None is the font in Pillow."""
    import matplotlib as mpl

    folder = Path(mpl.get_data_path()) / "fonts" / "ttf"
    return [None, *(file for pattern in _TEXT_FONTS for file in sorted(folder.glob(pattern)))]


def render(text: str, file: Path | None, random: np.random.Generator) -> Bytes:
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
