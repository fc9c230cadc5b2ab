"""What a picture is besides the digit in it: blank, several digits, or a thing rather than a mark on paper.

The network sees one mark, cut out and centred; what was left out of the picture only the normalisation knows.
"""

from math import sqrt
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from digits.images.normalize import SHAPE, find_ink, has_mnist_form, normalize, opencv, place_ink
from digits.images.types import Pixels

if TYPE_CHECKING:
    from digits.images.formats import Mode


NOT_A_DIGIT = 1000.0
"""Added to the novelty of a picture without a mark or with several: far more than a head takes back, which says less
than -20 of one MNIST digit in eleven."""
SHADOW, UNEVEN = 0.04, 0.12
"""Light on paper falls nearly as on a plane; what is left of it is measured as a root mean square, as a share of white.
Ordinary photographs stay below the first, above which a picture is odd; the deepest shadows stay below the second,
above which it is a thing rather than paper."""
_PER_UNEVENNESS = 100.0


class ScreenedImage(NamedTuple):
    """A picture as the network sees it, and what the network does not see.

    Args:
        pixels: the network's input.
        oddity: what to add to its novelty.
        dark_on_light: whether ink is darker than paper, as far as that was looked at.
        contrast: of the page, darkest to lightest, in 0..255; None: that of `pixels`.
    """

    pixels: Pixels
    screening_score: float
    dark_on_light: bool = False
    contrast: int | None = None


def screen(pixels: Pixels, mode: "Mode" = "auto", *, shape: tuple[int, int] = SHAPE) -> ScreenedImage:
    """Normalise a picture as `digits.images.normalize.normalize` does, and say how odd it is.

    Args:
        pixels: (H, W) uint8, 0 is black.
        mode: how to normalise; a picture that is not brought into MNIST's form is odd only when it is blank.
        shape: height and width of the result.
    """
    if mode == "auto" and shape == SHAPE and has_mnist_form(pixels):
        return ScreenedImage(pixels, 0.0)
    if mode == "none":
        seen = normalize(pixels, mode, shape=shape)
        return ScreenedImage(seen, 0.0 if seen.any() else NOT_A_DIGIT)
    ink = find_ink(pixels)
    if ink is None:
        return ScreenedImage(np.zeros(shape, np.uint8), NOT_A_DIGIT)
    uneven = measure_unevenness(ink.coarse_paper)
    odd = _PER_UNEVENNESS * max(0, uneven - SHADOW) + NOT_A_DIGIT * (uneven > UNEVEN or bool(ink.others))
    darkest, lightest, *_ = opencv().minMaxLoc(ink.page)
    return ScreenedImage(place_ink(ink, shape), odd, ink.dark_on_light, int(lightest - darkest))


def measure_unevenness(paper: Pixels) -> float:
    """Give the root mean square of what a plane leaves of (H, W) uint8 paper: 0 to 1, 0 for any even slope of light.

    The least-squares plane over a grid takes from the variance what each axis explains by itself; both follow from the
    picture's moments.
    """
    cv2 = opencv()
    (height, width), moments = paper.shape, cv2.moments(paper)
    count = paper.size
    mean, row, column = (moments[name] / count for name in ("m00", "m01", "m10"))
    left = cv2.norm(paper, cv2.NORM_L2SQR) / count - mean**2
    left -= _explained(row - mean * (height - 1) / 2, height) + _explained(column - mean * (width - 1) / 2, width)
    return sqrt(max(0.0, left)) / 255


def _explained(covariance: float, size: int) -> float:
    """Give the variance that a slope along an axis of so many pixels explains: theirs is (size² - 1) / 12."""
    return 12 * covariance**2 / (size**2 - 1) if size > 1 else 0.0
