"""Normalization: conversion of a grey image of a digit to the form of MNIST's digits, for training and prediction.

MNIST's form (LeCun et al. 1998): light ink on black, 28x28 pixels; the longer side of the ink's box has 20 pixels, and
the ink's centre of mass is at the centre of the image.

`find_ink` separates the ink from the paper:

1. Shrink a large image to the page.
2. On a coarse copy of the page, find the polarity of the ink and the level of the paper at each pixel.
3. Subtract the paper with its shadows, and binarize by Otsu's threshold.
4. Choose the connected parts that are the digit, without frames and specks.
5. Cut these parts out of the page, and stretch their levels so that paper is 0 and full ink 255.

`place_ink` reduces a strong slant, scales the ink's box and centres it. OpenCV is loaded for the first image that needs
one of these steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, copysign, hypot, sqrt
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from digits.images.types import Pixels

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.images.formats import Mode

Values = npt.NDArray[np.float32]
Components = npt.NDArray[np.uint16]
Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a box; bottom and right are the first row and column outside it."""

SHAPE = (28, 28)
SPEC: Mapping[str, Any] = {"recipe": "mnist", "version": 3, "box": 20, "field": 28, "mode": "auto"}
"""Normalization that is stored with a model, so that images are always converted to the form it was trained on."""

_MOMENTS = np.stack([np.ones((28, 28)), *np.indices((28, 28))]).reshape(3, 784).astype(np.float32)
"""Factors of the pixels in the sums for the mass and the first moments along rows and columns."""


@dataclass(frozen=True, slots=True)
class _Constants:
    """Constants of the normalization. Lengths are in pixels, levels are grey levels of 0 to 255.

    Args:
        box: smallest and largest length of the longer side of the ink's box in MNIST's form.
        off_centre: largest distance of the centre of mass from the centre in MNIST's form, along an axis.
        page_side: largest side of the page, the image in which the ink is cut out.
        coarse_side: largest side of the coarse image, in which paper and digit are found.
        median_side: largest side of the image whose medians are computed.
        small_side: largest side of an image whose paper is taken to be even.
        plain_range: largest range of levels along the border of a page whose paper is taken to be even.
        two_levels: least share of the variance that two levels explain in a page whose paper is taken to be even.
        least_contrast: level of full ink below which a page is blank.
        faint: level of full ink below which the ink is faint, and counts only if the page has little noise.
        over_noise: least ratio of faint full ink to the noise, the mean strength of the page beside the ink.
        box_level: least level of the pixels that determine the ink's box.
        full_ink_quantile: quantile of the strength of the ink that is taken for the level of full ink.
        paper_noise: share of full ink up to which a level is taken for noise of the paper.
        darkest_paper: lower limit of the paper's level as a divisor, so that noise in the dark is not amplified.
        dark_noise: level added before taking a logarithm, so that noise in the dark is not amplified.
        least_variance: variance below which the skewness is taken to be 0.
        reach: distance from the chosen parts up to which fainter pixels belong to the ink, too.
        margin: width of the surroundings that are cut out of the page with the ink, in pixels of the coarse image.
        stroke: side of the wide window for morphology, as a share of the longer side; wider than any stroke.
        narrow_stroke: side of the narrow window for morphology, as a share of the longer side.
        neighbourhood: side of the window of the paper's median, as a share of the longer side.
        surroundings: side of the window of the mean for the polarity, as a share of the longer side.
        edge: width of the zone along each edge in which frames are searched for, as a share of the side.
        line: share of ink above which a row or column is taken for a line of a frame.
        inside: share of a part's area outside the edge zones below which the part is taken for a frame.
        speck: share of the main part's area below which another part is a speck.
        apart: distance from the main part beyond which another part is not joined to it, as a share of its longer side.
        digit: share of the main part's area from which another part may be a second digit.
        most_parts: largest number of parts that get a score.
        strong_slant: slant that nearly all of MNIST's digits stay below, in columns per row.
        most_unslanted: largest reduction of a strong slant, in columns per row.
    """

    box: tuple[int, int] = (18, 20)
    off_centre: float = 0.55
    page_side: int = 160
    coarse_side: int = 64
    median_side: int = 20
    small_side: int = 24
    plain_range: int = 8
    two_levels: float = 0.97
    least_contrast: int = 12
    faint: int = 24
    over_noise: float = 7.5
    box_level: int = 32
    full_ink_quantile: float = 0.95
    paper_noise: float = 0.1
    darkest_paper: int = 16
    dark_noise: int = 32
    least_variance: float = 1e-9
    reach: int = 2
    margin: int = 2
    stroke: float = 0.3
    narrow_stroke: float = 0.2
    neighbourhood: float = 0.6
    surroundings: float = 0.35
    edge: float = 0.12
    line: float = 0.6
    inside: float = 0.15
    speck: float = 0.06
    apart: float = 0.1
    digit: float = 0.3
    most_parts: int = 24
    strong_slant: float = 0.5
    most_unslanted: float = 0.7


_C = _Constants()


@dataclass(frozen=True, eq=False, slots=True)
class Ink:
    """Ink of an image, with the intermediate results of finding it.

    Args:
        page: image at the scale in which the ink was cut out, (h, w) uint8.
        coarse_paper: paper without the ink, uint8 at the coarse scale; `paper` has the page's scale.
        levels: ink of the digit, (h, w) uint8: 255 for full ink, 0 for none.
        box: box of the digit's ink.
        dark_on_light: whether the ink is darker than the paper.
        others: boxes of other parts that are large enough to be a second digit.
        tight: whether the ink fills a square image up to its edges, so that its proportions may have been lost.
    """

    page: Pixels
    coarse_paper: Pixels
    levels: Pixels
    box: Box
    dark_on_light: bool
    others: tuple[Box, ...]
    tight: bool

    @property
    def paper(self) -> Pixels:
        """Page without the ink, (h, w) uint8."""
        return _enlarged(self.coarse_paper, self.page)


def normalize(pixels: Pixels, mode: "Mode" = "auto", *, shape: tuple[int, int] = SHAPE) -> Pixels:
    """Convert an image to the form of a network's input.

    Args:
        pixels: grey image, (H, W) uint8; 0 is black.
        mode: `auto` converts an image to MNIST's form unless it has this form, `mnist` converts every image, `none`
            only scales it to the shape.
        shape: height and width of the result.

    Returns:
        Normalized image of the shape, uint8; all 0 if no ink was found. It is `pixels` itself if nothing changes.
    """
    if mode == "auto" and shape == SHAPE and has_mnist_form(pixels):
        return pixels
    if mode == "none":
        return pixels if pixels.shape == shape else _scaled(pixels, shape)
    ink = find_ink(pixels)
    return np.zeros(shape, np.uint8) if ink is None else place_ink(ink, shape)


def has_mnist_form(pixels: Pixels) -> bool:
    """Return whether an image has MNIST's form: 28x28, light on black, a box of 20 pixels, centred by mass."""
    if pixels.shape != SHAPE:
        return False
    least, greatest = _C.box
    if not least <= max(_span(pixels.tobytes()), _span(pixels.tobytes("F"))) <= greatest:
        return False
    mass, row, column = map(float, _MOMENTS @ pixels.ravel().astype(np.float32))
    return max(abs(row / mass - SHAPE[0] / 2), abs(column / mass - SHAPE[1] / 2)) <= _C.off_centre


def _span(content: bytes) -> int:
    """Return the number of lines, of 28 pixels each, from the first to the last that is not black."""
    last = len(content.rstrip(b"\0")) - 1
    first = len(content) - len(content.lstrip(b"\0"))
    return last // 28 - first // 28 + 1


def _scaled(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)


@cache
def opencv() -> Any:
    """Load OpenCV and limit it to one thread, since there is one worker process per CPU. Return the module."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def find_ink(pixels: Pixels, *, even: bool = False) -> Ink | None:
    """Return the ink of one digit without its paper, None if there is no ink, as on a blank page.

    Paper, polarity and the parts that are the digit are found at a coarse scale, the ink itself at the page's scale.
    The paper is taken to be even (of one level) if the border of the image has one level, if the image has only two
    levels, or if it is small, so that ink may cover most of it. Otherwise the paper is estimated at each pixel, and the
    image may show a frame around the digit.

    Args:
        pixels: grey image, (H, W) uint8 of any size.
        even: whether to take the paper to be even in any case.
    """
    page = _shrunk(pixels, _C.page_side)
    coarse = _shrunk(page, _C.coarse_side)
    uneven = not (even or _is_even(page))
    paper, dark_on_light = _uneven_paper(coarse) if uneven else _even_paper(coarse)
    strength = _strength(coarse, paper, dark_on_light)
    chosen = _choose(_mask(strength, may_have_frame=uneven), strength, may_have_frame=uneven)
    if chosen is None:
        return None
    kept, others = chosen
    factor = _factor(page, _C.coarse_side)
    found = _whole_levels(strength, kept) if factor == 1 else _fine_levels(page, paper, kept, dark_on_light)
    if found is None:
        return None
    levels, box = found
    tight = box == (0, 0, *page.shape) and page.shape[0] == page.shape[1]
    return Ink(page, paper, levels, box, dark_on_light, tuple(_scaled_box(other, factor) for other in others), tight)


def _scaled_box(box: Box, factor: int) -> Box:
    top, left, bottom, right = box
    return top * factor, left * factor, bottom * factor, right * factor


def _shrunk(pixels: Pixels, largest: int) -> Pixels:
    """Shrink an image by a whole factor so that its longer side is at most `largest`, and cut off the remainder."""
    height, width = pixels.shape
    factor = _factor(pixels, largest)
    if factor == 1:
        return pixels
    rows, columns = max(1, height // factor), max(1, width // factor)
    whole = pixels[: rows * factor, : columns * factor]
    cv2 = opencv()
    smaller: Pixels = cv2.resize(whole, (columns, rows), interpolation=cv2.INTER_AREA)
    return smaller


def _factor(pixels: Pixels, largest: int) -> int:
    """Return the whole factor by which to divide the sides so that the longer one is at most `largest`."""
    longest: int = max(pixels.shape)
    return -(-longest // largest)


def _enlarged(coarse: Pixels, page: Pixels) -> Pixels:
    if coarse.shape == page.shape:
        return coarse
    cv2 = opencv()
    larger: Pixels = cv2.resize(coarse, page.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return larger


def _is_even(page: Pixels) -> bool:
    if max(page.shape) <= _C.small_side:
        return True
    darkest, lightest, *_ = opencv().minMaxLoc(_border(page))
    return bool(lightest - darkest <= _C.plain_range) or _separation(_sampled(page)) >= _C.two_levels


def _sampled(page: Pixels) -> Pixels:
    """Return every n-th pixel of a large page. Averages, as in `_shrunk`, would turn two levels into many."""
    factor = _factor(page, _C.coarse_side)
    return page if factor == 1 else page[::factor, ::factor].copy()


def _border(page: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((page[0], page[-1], page[:, 0], page[:, -1]))


def _otsu(page: Pixels) -> Pixels:
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
    above = _otsu(page)
    (mean,), (deviation,) = cv2.meanStdDev(page)
    upper = cv2.mean(page, mask=above)[0]
    share = cv2.countNonZero(above) / above.size
    between = share * (upper - mean[0]) ** 2 / max(1 - share, 1 / above.size)
    return float(between / deviation[0] ** 2) if deviation[0] else 1.0


def _even_paper(page: Pixels) -> tuple[Pixels, bool]:
    """Return paper of one level, the median of the pixels that are not ink, and whether the ink is darker."""
    light = _otsu(page)
    dark_on_light = _more_light(light) > 0
    side = light if dark_on_light else 1 - light
    return np.full(page.shape, _quantile(page, side, 0.5), np.uint8), dark_on_light


def _more_light(light: Pixels) -> float:
    """Return the balance of light and dark pixels, -1 to 1; if it is above 0, the light ones are probably the paper.

    There is more paper than ink. The border, which is nearly all paper, has as much weight as the whole image.
    """
    border = _border(light)
    return float(np.count_nonzero(light) / light.size + np.count_nonzero(border) / border.size - 1)


def _quantile(values: Pixels, mask: Pixels, share: float) -> int:
    """Return the quantile of the values where the mask is not 0."""
    cumulated = opencv().calcHist([values], [0], mask, [256], [0, 256]).cumsum()
    return int(cumulated.searchsorted(cumulated[-1] * share))


def _uneven_paper(page: Pixels) -> tuple[Pixels, bool]:
    """Return the paper at each pixel, with its shadows, and whether the ink is darker.

    A morphological closing removes dark strokes, an opening removes light ones. There are two estimates: one with a
    window wider than any stroke, and one with a narrow window, followed by a median over most of the image that removes
    the strokes that are left. At each pixel, the estimate nearer to the ink is used, because it errs less.
    """
    cv2 = opencv()
    side = max(page.shape)
    dark_on_light = _stands_out_dark(page)
    kind, nearer_ink = (cv2.MORPH_CLOSE, cv2.min) if dark_on_light else (cv2.MORPH_OPEN, cv2.max)
    wide, narrow = (
        cv2.morphologyEx(page, kind, _window(_odd(side * share))) for share in (_C.stroke, _C.narrow_stroke)
    )
    paper: Pixels = nearer_ink(wide, _median(narrow, _C.neighbourhood))
    return paper, dark_on_light


def _stands_out_dark(page: Pixels) -> bool:
    """Return whether the ink is darker than the paper.

    Dark ink skews the differences of pixels from their surroundings to the negative side. The surroundings are measured
    by a mean and by a median, which fail on different images. The balance of light and dark pixels also counts. The
    differences are those of logarithms, because illumination multiplies the levels.
    """
    cv2 = opencv()
    table = _logarithms()
    values = cv2.LUT(page, table)
    mean = cv2.blur(values, (_odd(max(page.shape) * _C.surroundings),) * 2)
    median = cv2.LUT(_median(page, 1 / 2), table)
    skewness = _skewness(values - mean) + _skewness(values - median)
    return skewness < 0.5 * _more_light(_otsu(page))


@cache
def _logarithms() -> Values:
    return np.log(np.arange(256, dtype=np.float32) + _C.dark_noise)


def _median(page: Pixels, share: float) -> Pixels:
    """Return the median around each pixel at a coarser scale; the window is a share of the longer side."""
    coarse = _shrunk(page, _C.median_side)
    median: Pixels = opencv().medianBlur(coarse, _odd(max(coarse.shape) * share))
    return _enlarged(median, page)


def _skewness(values: Values) -> float:
    flat = values.ravel()
    count = len(flat)
    mean, square, cube = float(flat.mean()), float(flat @ flat) / count, float((flat * flat) @ flat) / count
    variance = square - mean**2
    return (cube - 3 * mean * square + 2 * mean**3) / variance**1.5 if variance > _C.least_variance else 0.0


def _odd(length: float) -> int:
    return max(3, int(length) | 1)


@cache
def _window(side: int) -> Pixels:
    return np.ones((side, side), np.uint8)


def _strength(page: Pixels, paper: Pixels, dark_on_light: bool) -> Pixels:
    """Return how much darker than its paper each pixel is, or lighter if the ink is. Shadows do not weaken dark ink."""
    cv2 = opencv()
    if not dark_on_light:
        lighter: Pixels = cv2.subtract(page, paper)
        return lighter
    usual = cv2.mean(paper)[0]
    lit: Pixels = cv2.divide(cv2.subtract(paper, page), np.maximum(paper, _C.darkest_paper), scale=usual)
    return lit


def _mask(strength: Pixels, *, may_have_frame: bool) -> Pixels:
    mask = _otsu(strength)
    if may_have_frame:
        _erase_edge_lines(mask)
    return mask


def _erase_edge_lines(mask: Pixels) -> None:
    """Erase, in place, lines of a frame near the edges: rows and columns that are mostly ink, and all outside them."""
    cv2 = opencv()
    for side, axis in ((mask, 1), (mask.T, 0)):
        sums = cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().tolist()
        near, most = max(1, int(len(side) * _C.edge)), _C.line * side.shape[1]
        first = max((line + 1 for line in range(near) if sums[line] > most), default=0)
        last = max((line + 1 for line in range(near) if sums[-1 - line] > most), default=0)
        side[:first] = side[len(side) - last :] = 0


def _choose(mask: Pixels, strength: Pixels, *, may_have_frame: bool) -> tuple[Pixels, tuple[Box, ...]] | None:
    """Choose the main connected part, the one with the highest score, and the parts close to it that are not specks.

    Returns:
        Mask of the chosen parts, (h, w) uint8 of 0 and 1, and the boxes of other large parts; None if there is no ink.
    """
    cv2 = opencv()
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    if count == 1:
        return None
    if count == 2:  # noqa: PLR2004 - paper and one part
        return mask, ()
    parts = _parts(labels, strength, stats, centres, may_have_frame=may_have_frame)
    main = max(parts, key=lambda part: part.score)
    reach = _C.apart * max(main.box[2] - main.box[0], main.box[3] - main.box[1])
    others = [part for part in parts if part is not main and not part.frame]
    near = [part for part in others if part.area >= _C.speck * main.area and _gap(part.box, main.box) <= reach]
    kept: npt.NDArray[np.bool_] = labels == main.label
    for part in near:
        kept |= labels == part.label
    large = tuple(part.box for part in others if part.area >= _C.digit * main.area and part not in near)
    return kept.view(np.uint8), large


class _Part(NamedTuple):
    """Connected part of the ink. `frame` is true if nearly all of it is close to an edge of the image."""

    label: int
    box: Box
    area: int
    frame: bool
    score: float


def _parts(
    labels: Components,
    strength: Pixels,
    stats: npt.NDArray[np.int32],
    centres: npt.NDArray[np.float64],
    *,
    may_have_frame: bool,
) -> list[_Part]:
    """Return the largest parts with their scores.

    The score is the amount of ink. It is reduced for a part away from the centre, by half in a corner, for a part that
    touches the border of the image, and to a tenth for a frame. An image of noise has very many parts, so only the
    largest get a score.
    """
    count, (height, width) = len(stats), labels.shape
    rows, columns = (max(2, int(side * _C.edge)) for side in labels.shape)
    inside = np.bincount(labels[rows:-rows, columns:-columns].ravel(), minlength=count).tolist()
    border = np.bincount(_border(labels), minlength=count).tolist()
    ink = np.bincount(labels.ravel(), strength.ravel(), count).tolist()
    sizes, middles = stats.tolist(), centres.tolist()
    largest = sorted(range(1, count), key=lambda label: -sizes[label][4])[: _C.most_parts]
    parts = []
    for label in sorted(largest):
        (left, top, wide, high, area), (across, down) = sizes[label], middles[label]
        off = hypot(across / width - 0.5, down / height - 0.5) / sqrt(0.5)
        frame = may_have_frame and inside[label] < _C.inside * area
        score = ink[label] * (1 - off / 2) / (1 + 2 * border[label] / max(wide, high)) * (0.1 if frame else 1)
        parts.append(_Part(label, (top, left, top + high, left + wide), area, frame, score))
    return parts


def _gap(box: Box, other: Box) -> int:
    """Return the number of pixels between two boxes, along the axis on which they are further apart."""
    return max(box[0] - other[2], box[1] - other[3], other[0] - box[2], other[1] - box[3])


def _whole_levels(strength: Pixels, kept: Pixels) -> tuple[Pixels, Box] | None:
    levels = _levels(strength, kept)
    return None if levels is None else (levels, _box_of(levels))


def _fine_levels(page: Pixels, paper: Pixels, kept: Pixels, dark_on_light: bool) -> tuple[Pixels, Box] | None:
    """Return `_levels` and their box at the page's scale, computed for the surroundings of the chosen parts only."""
    cv2 = opencv()
    factor = _factor(page, _C.coarse_side)
    left, top, width, height = cv2.boundingRect(kept)
    rows = slice(max(0, top - _C.margin), min(top + height + _C.margin, len(kept)))
    columns = slice(max(0, left - _C.margin), min(left + width + _C.margin, kept.shape[1]))
    window = slice(rows.start * factor, rows.stop * factor), slice(columns.start * factor, columns.stop * factor)
    cut = page[window]
    strength = _strength(cut, _enlarged(paper[rows, columns], cut), dark_on_light)
    near = cv2.resize(kept[rows, columns], cut.shape[::-1], interpolation=cv2.INTER_NEAREST)
    levels = _levels(strength, near, factor)
    if levels is None:
        return None
    whole = np.zeros_like(page)
    whole[window] = levels
    top, left, bottom, right = _box_of(levels)
    down, across = window[0].start, window[1].start
    return whole, (top + down, left + across, bottom + down, right + across)


def _levels(strength: Pixels, kept: Pixels, reach: int = _C.reach) -> Pixels | None:
    """Stretch the strength near the chosen parts so that paper is 0 and full ink 255; return None if it is too faint.

    Faint ink is accepted if the rest of the page is so smooth that it cannot be noise. Levels a little above the paper
    are noise and become 0.
    """
    cv2 = opencv()
    full = _quantile(strength, kept, _C.full_ink_quantile)
    near = cv2.dilate(kept, _window(2 * max(_C.reach, reach) + 1))
    if full < _C.least_contrast or (full < _C.faint and full < _C.over_noise * cv2.mean(strength, mask=1 - near)[0]):
        return None
    floor = int(full * _C.paper_noise)
    above = np.maximum(strength, floor) - floor
    levels: Pixels = cv2.multiply(above, near, scale=255 / (full - floor))
    return levels


def _box_of(levels: Pixels) -> Box:
    cv2 = opencv()
    _, ink = cv2.threshold(levels, _C.box_level - 1, 1, cv2.THRESH_BINARY)
    left, top, width, height = cv2.boundingRect(ink)
    return top, left, top + height, left + width


def place_ink(ink: Ink, shape: tuple[int, int] = SHAPE) -> Pixels:
    """Scale the ink's box to MNIST's size, and place its centre of mass at the centre of an empty image.

    If the ink fills a square image, its box was probably stretched to the square, as in some datasets. It then gets the
    width that MNIST's boxes have.

    Args:
        ink: ink of a digit.
        shape: height and width of the result.

    Returns:
        Normalized image of the shape, uint8.
    """
    cv2 = opencv()
    top, left, bottom, right = ink.box
    cut = _upright(ink.levels[top:bottom, left:right])
    scale = min(shape) * SPEC["box"] / SPEC["field"] / max(cut.shape)
    height = max(1, round(cut.shape[0] * scale))
    width = max(1, round(cut.shape[1] * scale * (_usual_width(cut) if ink.tight else 1)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    box = cv2.resize(cut, (width, height), interpolation=how)
    centre = cv2.moments(box)
    top, left = _offset(centre, "m01", height, shape[0]), _offset(centre, "m10", width, shape[1])
    field = np.zeros(shape, np.uint8)
    field[top : top + height, left : left + width] = box
    return field


def _upright(levels: Pixels) -> Pixels:
    """Reduce a strong slant to one that MNIST's digits have, and return the ink within its box.

    The slant is that of the least-squares line through the ink's rows, from the second moments.
    """
    cv2 = opencv()
    moments = cv2.moments(levels)
    slant = moments["mu11"] / moments["mu02"] if moments["mu02"] else 0.0
    if abs(slant) <= _C.strong_slant:
        return levels
    excess = copysign(min(abs(slant) - _C.strong_slant, _C.most_unslanted), slant)
    height, width = levels.shape
    room = ceil(abs(excess) * height)
    start = room if excess > 0 else 0
    shear = np.array([[1, -excess, start], [0, 1, 0]], np.float32)
    sheared = cv2.warpAffine(levels, shear, (width + room, height))
    top, left, bottom, right = _box_of(sheared)
    return sheared[top:bottom, left:right] if bottom > top else levels


def _usual_width(levels: Pixels) -> float:
    """Estimate the original width of a stretched box, as a share of its height, from the share that ink fills.

    The narrower the box was, the more of the stretched one the ink fills. The power law is the least-squares fit to
    MNIST's training digits.
    """
    share = float(levels.mean()) / 255
    return float(min(1.0, 0.44 * share**-0.43))


def _offset(moments: Mapping[str, float], axis: str, size: int, length: int) -> int:
    """Return the position along an axis at which a box is centred by mass, limited so that the box is in the image."""
    centre = moments[axis] / max(moments["m00"], 1)
    return min(max(round(length / 2 - centre), 0), length - size)
