"""Any grey picture of a digit into the form that MNIST's digits have: one function for training and prediction.

MNIST's form (LeCun et al. 1998): light ink on black, its box scaled so that the longest side is 20 of 28 pixels, and
its centre of mass at the centre of the field.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.config import Mode

Pixels = npt.NDArray[np.uint8]

SHAPE = (28, 28)
SPEC: Mapping[str, Any] = {
    "recipe": "mnist",
    "version": 1,
    "box": 20,
    "field": 28,
    "mode": "auto",
}
"""What is stored with a model, so that its images are always brought into the form it was trained on."""

_LARGEST = 512
_LEAST_CONTRAST = 24
_LEAST_INK = 32
_BOX = (18, 20)
_OFF_CENTRE = 0.55
_LEVELS = np.arange(256, dtype=np.float64)
_PLACES = np.arange(28, dtype=np.float32)
_ONES = np.ones(28, np.float32)


def normalize(pixels: Pixels, mode: "Mode" = "auto", *, shape: tuple[int, int] = SHAPE) -> Pixels:
    """Bring a picture into the form of a network's input.

    Args:
        pixels: (H, W) uint8, 0 is black.
        mode: `auto` leaves a picture in MNIST's form as it is and brings any other into it, `mnist` brings every one
            into it, `none` only scales it to the shape.
        shape: height and width of the result.

    Returns:
        The shape, uint8; all 0 when there is no ink.
    """
    if mode == "auto" and shape == SHAPE and has_mnist_form(pixels):
        return pixels
    if mode == "none":
        return pixels if pixels.shape == shape else _resize(pixels, shape)
    ink = _ink(_reduce(pixels))
    return np.zeros(shape, np.uint8) if ink is None else _place(ink, shape)


def has_mnist_form(pixels: Pixels) -> bool:
    """Tell whether a picture needs no normalisation: 28x28, light on black, a box of 20 pixels, centred by mass."""
    if pixels.shape != SHAPE:
        return False
    values = pixels.astype(np.float32)
    rows, columns = values @ _ONES, _ONES @ values
    mass = float(rows @ _ONES)
    if not mass:
        return False
    least, greatest = _BOX
    return (
        _is_centred(rows, mass)
        and _is_centred(columns, mass)
        and least <= max(_extent(rows), _extent(columns)) <= greatest
    )


def _is_centred(profile: npt.NDArray[np.float32], mass: float) -> bool:
    return abs(float(profile @ _PLACES) / mass - len(profile) / 2) <= _OFF_CENTRE


def _extent(profile: npt.NDArray[np.float32]) -> int:
    inked = profile.nonzero()[0]
    return int(inked[-1] - inked[0]) + 1


def _resize(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)


def _reduce(pixels: Pixels) -> Pixels:
    """Average a large picture down by a whole factor: what follows needs no more than some hundred pixels a side."""
    factor = -(-max(pixels.shape) // _LARGEST)
    return pixels if factor == 1 else np.asarray(Image.fromarray(pixels).reduce(factor))


def _ink(pixels: Pixels) -> Pixels | None:
    """Separate ink from its background: (H, W) uint8, ink near 255 and background 0, cropped to the ink's box."""
    histogram = np.bincount(pixels.ravel(), minlength=256)
    threshold = _otsu(histogram)
    if _is_dark_on_light(pixels, threshold):
        pixels, histogram, threshold = 255 - pixels, histogram[::-1], 254 - threshold
    if not histogram[threshold + 1 :].any():
        return None
    background = _median_level(histogram[: threshold + 1])
    foreground = threshold + 1 + _median_level(histogram[threshold + 1 :])
    if foreground - background < _LEAST_CONTRAST:
        return None
    return _crop(_stretch(pixels, background, foreground))


def _otsu(histogram: npt.NDArray[np.int64]) -> int:
    """Find the level that best parts a histogram in two: the last one of the darker part."""
    below = np.cumsum(histogram)
    total = below[-1]
    moment = np.cumsum(histogram * _LEVELS)
    weight = below * (total - below)
    gap = moment[-1] * below - moment * total
    between = np.divide(gap * gap, weight, out=np.zeros(256), where=weight > 0)
    return min(int(between.argmax()), 254)


def _is_dark_on_light(pixels: Pixels, threshold: int) -> bool:
    """Decide by majority, in which the border counts as much as the whole: there is more paper than ink."""
    light = pixels > threshold
    border = np.concatenate((light[0], light[-1], light[:, 0], light[:, -1]))
    return float(light.mean()) + float(border.mean()) > 1


def _median_level(histogram: npt.NDArray[np.int64]) -> int:
    cumulated = np.cumsum(histogram)
    return int(np.searchsorted(cumulated, (cumulated[-1] + 1) // 2))


def _crop(ink: Pixels) -> Pixels:
    inked = ink >= _LEAST_INK
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _stretch(pixels: Pixels, background: int, foreground: int) -> Pixels:
    """Map the background to 0 and the ink to 255; a little above the background is noise or paper, and 0 too."""
    floor = background + (foreground - background) * 0.15
    levels = np.clip((_LEVELS - floor) * (255 / (foreground - floor)), 0, 255).astype(np.uint8)
    return levels[pixels]


def _place(ink: Pixels, shape: tuple[int, int]) -> Pixels:
    """Scale the ink's box to the size that MNIST's have, and set its centre of mass at the field's centre."""
    scale = min(shape) * SPEC["box"] / SPEC["field"] / max(ink.shape)
    height, width = (max(1, round(side * scale)) for side in ink.shape)
    box = _resize(np.ascontiguousarray(ink), (height, width))
    top, left = _offset(box.sum(axis=1), shape[0]), _offset(box.sum(axis=0), shape[1])
    field = np.zeros(shape, np.uint8)
    field[top : top + height, left : left + width] = box
    return field


def _offset(profile: npt.NDArray[np.uint64], length: int) -> int:
    """Say where a box begins whose mass is to be centred, without leaving the field."""
    centre = float(profile @ np.arange(len(profile))) / max(float(profile.sum()), 1)
    return min(max(round(length / 2 - centre), 0), length - len(profile))
