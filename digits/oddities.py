"""What a picture is besides the digit in it: blank, several digits, or a thing rather than a mark on paper.

The network sees one mark, cut out and centred; what was left out of the picture only the normalisation knows.
"""

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.normalization import SHAPE, find_ink, has_mnist_form, normalize, place

if TYPE_CHECKING:
    from digits.config import Mode

Pixels = npt.NDArray[np.uint8]

NO_DIGIT = 20.0
"""Added to the novelty of a picture without a mark or with several: more than any network takes back."""
SHADOW, UNEVEN = 0.04, 0.12
"""Light on paper falls nearly as on a plane; what is left of it is measured as a root mean square, as a share of white.
Ordinary photographs stay below the first, above which a picture is odd; the deepest shadows stay below the second,
above which it is a thing rather than paper."""
_PER_UNEVENNESS = 100.0
_MOST_PIXELS = 32


class Look(NamedTuple):
    """A picture as the network sees it, and what to add to its novelty for what the network does not see."""

    pixels: Pixels
    oddity: float


def look(pixels: Pixels, mode: "Mode" = "auto", *, shape: tuple[int, int] = SHAPE) -> Look:
    """Normalise a picture as `digits.normalization.normalize` does, and say how odd it is.

    Args:
        pixels: (H, W) uint8, 0 is black.
        mode: how to normalise; a picture that is not brought into MNIST's form is odd only when it is blank.
        shape: height and width of the result.
    """
    if mode == "none" or (mode == "auto" and shape == SHAPE and has_mnist_form(pixels)):
        seen = normalize(pixels, mode, shape=shape)
        return Look(seen, 0.0 if seen.any() else NO_DIGIT)
    ink = find_ink(pixels)
    if ink is None:
        return Look(np.zeros(shape, np.uint8), NO_DIGIT)
    uneven = unevenness(ink.paper)
    odd = _PER_UNEVENNESS * max(0, uneven - SHADOW) + NO_DIGIT * (uneven > UNEVEN or bool(ink.others))
    return Look(place(ink, shape), odd)


def unevenness(paper: Pixels) -> float:
    """Give the root mean square of what a plane leaves of (H, W) uint8 paper: 0 to 1, 0 for any even slope of light."""
    if paper.min() == paper.max():
        return 0.0
    step = max(1, min(paper.shape) // _MOST_PIXELS)
    values = paper[::step, ::step].astype(np.float32) / 255
    rows, columns = (np.linspace(-1, 1, size, dtype=np.float32) for size in values.shape)
    values -= values.mean()
    values -= _slope(values.mean(axis=1), rows)[:, np.newaxis] + _slope(values.mean(axis=0), columns)
    return float(np.sqrt((values**2).mean()))


def _slope(means: npt.NDArray[np.float32], along: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    slope: npt.NDArray[np.float32] = along * ((means @ along) / max(float(along @ along), 1e-9))
    return slope
