"""Paper: polarity of the ink, level of the paper at each pixel, and strength of the ink over it.

All images are (H, W) uint8, at the scale of the page or coarser. OpenCV is loaded by the first function that needs it.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels

Values = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class _Constants:
    """Constants of the search for the paper. Lengths are in pixels, levels are grey levels of 0 to 255.

    Args:
        coarse_side: largest side of the coarse image, in which paper and digit are found.
        median_side: largest side of the image whose medians are computed.
        small_side: largest side of an image whose paper is taken to be even.
        plain_range: largest range of levels along the border of a page whose paper is taken to be even.
        two_levels: least share of the variance that two levels explain in a page whose paper is taken to be even.
        least_side: least side of a page from which noise is removed.
        noise: share of the range of levels from which noise is removed.
        grain: median of the noise as a share of its standard deviation, as the median of 3x3 pixels shows it.
        darkest_paper: lower limit of the paper's level as a divisor, so that noise in the dark is not amplified.
        only_noise: median of the noise, as a share of the range of levels, above which a page shows nothing but noise.
        dark_noise: level added before taking a logarithm, so that noise in the dark is not amplified.
        least_variance: variance below which the skewness is taken to be 0.
        stroke: side of the wide window for morphology, as a share of the longer side; wider than any stroke.
        narrow_stroke: side of the narrow window for morphology, as a share of the longer side.
        neighbourhood: side of the window of the paper's median, as a share of the longer side.
        surroundings: side of the window of the mean for the polarity, as a share of the longer side.
    """

    coarse_side: int = 64
    median_side: int = 20
    small_side: int = 24
    plain_range: int = 8
    two_levels: float = 0.97
    least_side: int = 3
    noise: float = 0.05
    grain: float = 0.6
    only_noise: float = 0.075
    darkest_paper: int = 16
    dark_noise: int = 32
    least_variance: float = 1e-9
    stroke: float = 0.3
    narrow_stroke: float = 0.2
    neighbourhood: float = 0.6
    surroundings: float = 0.35


_C = _Constants()
COARSE_SIDE = _C.coarse_side


class Polarity(NamedTuple):
    """Polarity of the ink, and what was seen of it.

    Args:
        dark_on_light: whether the ink is darker than the paper.
        light: mask of the pixels above Otsu's threshold.
        share: share of these pixels.
        border_share: share of these pixels along the edges.
    """

    dark_on_light: bool
    light: Pixels
    share: float
    border_share: float


@cache
def opencv() -> Any:
    """Load OpenCV and limit it to one thread, since there is one worker process per CPU. Return the module."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def shrink(pixels: Pixels, largest: int) -> Pixels:
    """Shrink an image by a whole factor so that its longer side is at most `largest`, and cut off the remainder."""
    height, width = pixels.shape
    factor = factor_of(pixels, largest)
    if factor == 1:
        return pixels
    rows, columns = max(1, height // factor), max(1, width // factor)
    whole = pixels[: rows * factor, : columns * factor]
    cv2 = opencv()
    smaller: Pixels = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return smaller


def has_plain_border(border: Pixels) -> bool:
    """Return whether the border of a page has one level."""
    darkest, lightest, *_ = opencv().minMaxLoc(border)
    return bool(lightest - darkest <= _C.plain_range)


def denoise(page: Pixels, border: Pixels) -> Pixels:
    """Return a small page without the noise of its pixels; the page itself if it has little noise, or two levels.

    A page of nothing but noise also stays as it is: without its grain, it would look like a scribble.
    The noise is measured along the border first, which takes less time than in the whole page.
    """
    if max(page.shape) > _C.coarse_side or min(page.shape) < _C.least_side:
        return page
    cv2 = opencv()
    darkest, lightest, *_ = cv2.minMaxLoc(page)
    levels = lightest - darkest
    least = _C.noise * levels
    if cv2.norm(border[1:], border[:-1], cv2.NORM_L1) < least * border.size:
        return page
    grain = quantile(cv2.absdiff(page, cv2.medianBlur(page, 3)), np.ones_like(page), 0.5)
    if not _C.grain * least <= grain <= _C.only_noise * levels:
        return page
    smooth: Pixels = cv2.GaussianBlur(page, (3, 3), 0)
    return smooth


def factor_of(pixels: Pixels, largest: int) -> int:
    """Return the whole factor by which to divide the sides so that the longer one is at most `largest`."""
    longest: int = max(pixels.shape)
    return -(-longest // largest)


def enlarge(coarse: Pixels, page: Pixels) -> Pixels:
    """Return a coarse image at the size of the page."""
    if coarse.shape == page.shape:
        return coarse
    cv2 = opencv()
    larger: Pixels = cv2.resize(coarse, page.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return larger


def is_even(page: Pixels) -> bool:
    """Return whether the paper of a page is taken to have one level, although its border has several."""
    return max(page.shape) <= _C.small_side or _separation(_sample(page)) >= _C.two_levels


def _sample(page: Pixels) -> Pixels:
    """Return every n-th pixel of a large page. Averages, as in `shrink`, would turn two levels into many."""
    factor = factor_of(page, _C.coarse_side)
    return page if factor == 1 else page[::factor, ::factor].copy()


def border_of(page: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the pixels along the four edges, in the order of a walk around the image."""
    return np.concatenate((page[0], page[:, -1], page[-1, ::-1], page[::-1, 0]))


def otsu(page: Pixels) -> Pixels:
    """Binarize an image: 1 above the best threshold, 0 below.

    Source: N. Otsu, A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    cv2 = opencv()
    above: Pixels
    _, above = cv2.threshold(page, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return above


def _separation(page: Pixels) -> float:
    """Return Otsu's eta, the share of the variance that the two classes explain: 1 for an image with two levels."""
    cv2 = opencv()
    above = otsu(page)
    (mean,), (deviation,) = cv2.meanStdDev(page)
    upper = cv2.mean(page, mask=above)[0]
    share = cv2.countNonZero(above) / above.size
    between = share * (upper - mean[0]) ** 2 / max(1 - share, 1 / above.size)
    return float(between / deviation[0] ** 2) if deviation[0] else 1.0


def quantile(values: Pixels, mask: Pixels, share: float) -> int:
    """Return the quantile of the values where the mask is not 0."""
    cumulated = opencv().calcHist([values], [0], mask, [256], [0, 256]).cumsum()
    return int(cumulated.searchsorted(cumulated[-1] * share))


def find_polarity(page: Pixels, *, even: bool) -> Polarity:
    """Return the polarity of a page whose paper is even, or that may have shadows.

    There is more paper than ink. The border, which is nearly all paper, has as much weight as the whole image.
    """
    light = otsu(page)
    border = border_of(light)
    share, border_share = np.count_nonzero(light) / light.size, np.count_nonzero(border) / border.size
    balance = share + border_share - 1
    return Polarity(bool(balance > 0 if even else _skew(page) < 0.5 * balance), light, share, border_share)


def _skew(page: Pixels) -> float:
    """Return how much ink that is lighter than the paper, or darker (below 0), skews the levels.

    Dark ink skews the differences of pixels from their surroundings to the negative side. The surroundings are measured
    by a mean and by a median, which fail on different images. The differences are those of logarithms, because
    illumination multiplies the levels.
    """
    cv2 = opencv()
    table = _logarithms()
    values = cv2.LUT(page, table)
    mean = cv2.blur(values, (odd(max(page.shape) * _C.surroundings),) * 2)
    median = cv2.LUT(_median(page, 1 / 2), table)
    return _skewness(values - mean) + _skewness(values - median)


@cache
def _logarithms() -> Values:
    return np.log(np.arange(256, dtype=np.float32) + _C.dark_noise)


def _median(page: Pixels, share: float) -> Pixels:
    """Return the median around each pixel at a coarser scale; the window is a share of the longer side."""
    coarse = shrink(page, _C.median_side)
    median: Pixels = opencv().medianBlur(coarse, odd(max(coarse.shape) * share))
    return enlarge(median, page)


def _skewness(values: Values) -> float:
    flat = values.ravel()
    count = len(flat)
    mean, square, cube = float(flat.mean()), float(flat @ flat) / count, float((flat * flat) @ flat) / count
    variance = square - mean**2
    return (cube - 3 * mean * square + 2 * mean**3) / variance**1.5 if variance > _C.least_variance else 0.0


def odd(length: float) -> int:
    """Return an odd window side of at least 3."""
    return max(3, int(length) | 1)


@cache
def window(side: int) -> Pixels:
    """Return a square window for morphology."""
    return np.ones((side, side), np.uint8)


def estimate_paper(page: Pixels, polarity: Polarity, *, even: bool) -> Pixels:
    """Return the paper at each pixel, without the ink and with its shadows."""
    return _even_paper(page, polarity) if even else _uneven_paper(page, dark_on_light=polarity.dark_on_light)


def _even_paper(page: Pixels, polarity: Polarity) -> Pixels:
    """Return paper of one level, the median of the pixels that are not ink."""
    side = polarity.light if polarity.dark_on_light else 1 - polarity.light
    return np.full(page.shape, quantile(page, side, 0.5), np.uint8)


def _uneven_paper(page: Pixels, *, dark_on_light: bool) -> Pixels:
    """Return the paper at each pixel, with its shadows.

    A morphological closing removes dark strokes, an opening removes light ones. There are two estimates: one with a
    window wider than any stroke, and one with a narrow window, followed by a median over most of the image that removes
    the strokes that are left. At each pixel, the estimate nearer to the ink is used, because it errs less.
    """
    cv2 = opencv()
    side = max(page.shape)
    kind, nearer_ink = (cv2.MORPH_CLOSE, cv2.min) if dark_on_light else (cv2.MORPH_OPEN, cv2.max)
    wide, narrow = (cv2.morphologyEx(page, kind, window(odd(side * share))) for share in (_C.stroke, _C.narrow_stroke))
    paper: Pixels = nearer_ink(wide, _median(narrow, _C.neighbourhood))
    return paper


def measure_strength(page: Pixels, paper: Pixels, *, dark_on_light: bool) -> Pixels:
    """Return how much darker than its paper each pixel is, or lighter if the ink is. Shadows do not weaken dark ink."""
    cv2 = opencv()
    if not dark_on_light:
        lighter: Pixels = cv2.subtract(page, paper)
        return lighter
    usual = cv2.mean(paper)[0]
    lit: Pixels = cv2.divide(cv2.subtract(paper, page), np.maximum(paper, _C.darkest_paper), scale=usual)
    return lit
