"""Screening: detect blank pages, several digits and photos of objects.

The network sees one digit, cut out and centred. Only the normalization sees the rest of the image, so the screening
scores what the normalization found.
"""

from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from digits.images.ink.paper import opencv
from digits.images.normalize import SHAPE, find_ink, has_mnist_form, normalize, place_ink
from digits.images.types import Pixels

if TYPE_CHECKING:
    from digits.images.formats import Mode


NOT_A_DIGIT = 1000.0
"""Screening score of an image that is blank, has several digits or shows an object. The network's score, to which it is
added, cannot offset it: the lowest network score of MNIST's digits is about -30."""

SHADOW_LIMIT, OBJECT_LIMIT = 0.04, 0.12
"""Limits of `measure_unevenness`. Ordinary photos of paper stay below `SHADOW_LIMIT`; above it, the screening score
rises. The deepest shadows on paper stay below `OBJECT_LIMIT`; an image above it is taken for a photo of an object."""

_SCORE_PER_UNEVENNESS = 100.0
"""Screening score per unit of unevenness above `SHADOW_LIMIT`."""


class ScreenedImage(NamedTuple):
    """Network input with what the screening found in the rest of the image.

    Args:
        pixels: normalized image, (h, w) uint8.
        screening_score: screening's part of the out-of-distribution score (column `novelty`), 0 or more.
        dark_on_light: whether the ink is darker than the paper; false if this was not determined.
        contrast: difference between the lightest and the darkest pixel of the original image, 0 to 255; None if it is
            the same in `pixels`.
    """

    pixels: Pixels
    screening_score: float
    dark_on_light: bool = False
    contrast: int | None = None


def screen(pixels: Pixels, mode: "Mode" = "auto", *, shape: tuple[int, int] = SHAPE) -> ScreenedImage:
    """Normalize an image as `digits.images.normalize.normalize` does, and score how unlike a digit the rest of it is.

    In the mode `auto`, an image in MNIST's form gets the score 0. In the mode `none`, only a blank image gets a score
    above 0.

    Args:
        pixels: greyscale image, (H, W) uint8; 0 is black.
        mode: mode of normalization.
        shape: height and width of the result.
    """
    if mode == "auto" and shape == SHAPE and has_mnist_form(pixels):
        return ScreenedImage(pixels, 0.0)
    if mode == "none":
        scaled = normalize(pixels, mode, shape=shape)
        return ScreenedImage(scaled, 0.0 if scaled.any() else NOT_A_DIGIT)
    ink = find_ink(pixels)
    if ink is None:
        return ScreenedImage(np.zeros(shape, np.uint8), NOT_A_DIGIT)
    uneven = measure_unevenness(ink.coarse_paper)
    is_no_digit = uneven > OBJECT_LIMIT or bool(ink.others) or ink.glare
    score = _SCORE_PER_UNEVENNESS * max(0, uneven - SHADOW_LIMIT) + NOT_A_DIGIT * is_no_digit
    darkest, lightest, *_ = opencv().minMaxLoc(ink.page)
    return ScreenedImage(place_ink(ink, shape), score, ink.dark_on_light, int(lightest - darkest))


def measure_unevenness(paper: Pixels) -> float:
    """Return how unevenly paper is lit: the root mean square deviation from the best-fitting plane, 0 to 1.

    Light on paper falls off nearly linearly, so the result is close to 0 for paper. The plane is the least-squares fit.
    The variance that it explains is the sum of the variances that its slopes along the two axes explain. All of them
    follow from the image's moments.

    Args:
        paper: grey levels of the paper without the ink, (H, W) uint8.
    """
    cv2 = opencv()
    (height, width), moments = paper.shape, cv2.moments(paper)
    count = paper.size
    mean, row, column = (moments[name] / count for name in ("m00", "m01", "m10"))
    rest = cv2.norm(paper, cv2.NORM_L2SQR) / count - mean**2
    rest -= _explained(row - mean * (height - 1) / 2, height) + _explained(column - mean * (width - 1) / 2, width)
    return sqrt(max(0.0, rest)) / 255


def _explained(covariance: float, size: int) -> float:
    """Return the variance that a slope along an axis explains. The variance of the pixel positions is (size² - 1) / 12.

    Args:
        covariance: covariance of grey level and position along the axis.
        size: number of pixels along the axis.
    """
    return 12 * covariance**2 / (size**2 - 1) if size > 1 else 0.0
