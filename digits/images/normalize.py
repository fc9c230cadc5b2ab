"""Any grey picture of a digit into the form that MNIST's digits have: one function for training and prediction.

MNIST's form (LeCun et al. 1998): light ink on black, its box scaled so that the longest side is 20 of 28 pixels, and
its centre of mass at the centre of the field.

The steps, which `find_ink` leaves to be looked at: shrink what is large; at a coarse scale, tell ink from paper by what
stands out from its surroundings, take the paper away, shadows with it, cut at Otsu's threshold, drop frames and specks;
cut what is left out of the page and stretch it from paper to ink. `place` takes a strong slant away, scales and
centres. OpenCV does the work on pixels and is loaded with the first picture that needs it.
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
"""Top, left, bottom, right; the last two are the first row and column outside."""

SHAPE = (28, 28)
SPEC: Mapping[str, Any] = {
    "recipe": "mnist",
    "version": 3,
    "box": 20,
    "field": 28,
    "mode": "auto",
}
"""What is stored with a model, so that its images are always brought into the form it was trained on."""

# What MNIST's form allows, in pixels: the longest side of the box, and how far off the middle the centre of mass is.
_BOX = (18, 20)
_OFF_CENTRE = 0.55
_MOMENTS = np.stack([np.ones((28, 28)), *np.indices((28, 28))]).reshape(3, 784).astype(np.float32)

# The longest side of the page, of the picture in which paper and digit are found, and of that whose medians are taken.
_LARGEST, _COARSE, _COARSEST = 160, 64, 20

# When paper is taken to be of one level: the picture is as small as this, its border differs by as few levels, or two
# levels explain as much of its variance.
_SMALL = 24
_PLAIN = 8
_TWO_LEVELS = 0.97

# Levels of ink: the least at which it is full; below which it has to be as many times stronger than what is around it;
# the least that counts for its box; which share of its levels full ink is not below, and what share of it is noise.
_LEAST_CONTRAST = 12
_FAINT, _OVER_NOISE = 24, 7.5
_LEAST_INK = 32
_FULL_INK = 0.95
_PAPER_NOISE = 0.1

# Levels that keep noise in the dark from counting: the darkest that paper is divided by, and what logarithms start at.
_DARKEST_PAPER = 16
_DARK_NOISE = 32
_LEAST_VARIANCE = 1e-9

# Pixels about the ink that was kept: how far its rims reach, and, in the coarse picture, what is cut out with it.
_REACH = 2
_MARGIN = 2

# Windows, as shares of the longer side: two wider than strokes, the median of the paper, the mean for the polarity.
_STROKE = 0.3
_NARROW_STROKE = 0.2
_NEIGHBOURHOOD = 0.6
_SURROUNDINGS = 0.35

# Frames: how wide a picture's edge is, how much of a row there is ink where it is a line, and how much of a part has to
# be away from the edge, all as shares.
_EDGE = 0.12
_LINE = 0.6
_INSIDE = 0.15

# Parts beside the main one: smaller than this share of its area they are specks, further than this share of its side
# they do not belong to it, and those as large as this share may be another digit. No more are weighed than so many.
_SPECK = 0.06
_APART = 0.1
_DIGIT = 0.3
_MOST_PARTS = 24

# Columns a row: the slant that nearly all of MNIST's digits stay below, and the most that is taken from a stronger one.
_STRONG_SLANT = 0.5
_MOST_UNSLANTED = 0.7


@dataclass(frozen=True, eq=False, slots=True)
class Ink:
    """The ink of a picture, and how it was found.

    Args:
        page: (h, w) uint8, the picture at the size it was looked at.
        coarse_paper: uint8, what it would be without ink, at the scale where that was found; `paper` is at the page's.
        levels: (h, w) uint8, the ink that was kept: 255 where it is full, 0 where there is none.
        box: of the ink that was kept.
        dark_on_light: whether ink is darker than paper.
        others: boxes of what was left out, but is as large as a digit beside this one may be.
        tight: the ink's box is the whole, square picture, so that its proportions may have been lost.
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
        """What the page would be without ink: (h, w) uint8."""
        return _enlarged(self.coarse_paper, self.page)


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
        return pixels if pixels.shape == shape else _scaled(pixels, shape)
    ink = find_ink(pixels)
    return np.zeros(shape, np.uint8) if ink is None else place_ink(ink, shape)


def has_mnist_form(pixels: Pixels) -> bool:
    """Tell whether a picture needs no normalisation: 28x28, light on black, a box of 20 pixels, centred by mass."""
    if pixels.shape != SHAPE:
        return False
    least, greatest = _BOX
    if not least <= max(_span(pixels.tobytes()), _span(pixels.tobytes("F"))) <= greatest:
        return False
    mass, row, column = map(float, _MOMENTS @ pixels.ravel().astype(np.float32))
    return max(abs(row / mass - SHAPE[0] / 2), abs(column / mass - SHAPE[1] / 2)) <= _OFF_CENTRE


def _span(content: bytes) -> int:
    """Count the lines of 28 pixels from the first to the last that is not black."""
    last = len(content.rstrip(b"\0")) - 1
    first = len(content) - len(content.lstrip(b"\0"))
    return last // 28 - first // 28 + 1


def _scaled(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)


@cache
def opencv() -> Any:
    """Give OpenCV, kept to one thread, as there is one process a CPU; the first call loads it."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


def find_ink(pixels: Pixels, *, even: bool = False) -> Ink | None:
    """Separate the ink of one digit from its paper; None where there is none, as on a blank page.

    Paper, polarity and which parts are the digit are found at a coarse scale, the ink itself at that of the page. The
    paper is one level where the picture shows it to be: a border of one level, or two levels in all; and where the
    picture is small, so cut tightly, and ink may cover most of it. Elsewhere it is whatever surrounds the strokes.

    Args:
        pixels: (H, W) uint8 of any size.
        even: take the paper to be of one level whatever it looks like.
    """
    page = _shrunk(pixels, _LARGEST)
    coarse = _shrunk(page, _COARSE)
    framed = not (even or _is_even(page))
    paper, dark_on_light = _uneven_paper(coarse) if framed else _even_paper(coarse)
    strength = _strength(coarse, paper, dark_on_light)
    chosen = _choose(_mask(strength, framed=framed), strength, framed=framed)
    if chosen is None:
        return None
    kept, others = chosen
    factor = _factor(page, _COARSE)
    found = _whole_levels(strength, kept) if factor == 1 else _fine_levels(page, paper, kept, dark_on_light)
    if found is None:
        return None
    levels, box = found
    tight = box == (0, 0, *page.shape) and page.shape[0] == page.shape[1]
    return Ink(page, paper, levels, box, dark_on_light, tuple(_times(other, factor) for other in others), tight)


def _times(box: Box, factor: int) -> Box:
    top, left, bottom, right = box
    return top * factor, left * factor, bottom * factor, right * factor


def _shrunk(pixels: Pixels, largest: int) -> Pixels:
    """Average a picture down by a whole factor, so that its longer side is at most so long; a rest is cut off."""
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
    """Say by what to divide the sides so that the longer one is at most so long."""
    longest: int = max(pixels.shape)
    return -(-longest // largest)


def _enlarged(coarse: Pixels, page: Pixels) -> Pixels:
    if coarse.shape == page.shape:
        return coarse
    cv2 = opencv()
    larger: Pixels = cv2.resize(coarse, page.shape[::-1], interpolation=cv2.INTER_LINEAR)
    return larger


def _is_even(page: Pixels) -> bool:
    if max(page.shape) <= _SMALL:
        return True
    darkest, lightest, *_ = opencv().minMaxLoc(_border(page))
    return bool(lightest - darkest <= _PLAIN) or _separation(_sampled(page)) >= _TWO_LEVELS


def _sampled(page: Pixels) -> Pixels:
    """Take some of the pixels, as they are: averages would blur two levels into many."""
    factor = _factor(page, _COARSE)
    return page if factor == 1 else page[::factor, ::factor].copy()


def _border(page: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return np.concatenate((page[0], page[-1], page[:, 0], page[:, -1]))


def _otsu(page: Pixels) -> Pixels:
    """Part the pixels in two where that is best, and say which are above: 0 or 1.

    N. Otsu: A threshold selection method from gray-level histograms, IEEE Trans. SMC 9 (1979).
    """
    cv2 = opencv()
    above: Pixels
    _, above = cv2.threshold(page, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
    return above


def _separation(page: Pixels) -> float:
    """Give Otsu's eta, the share of the variance that is between the two parts: 1 where there are but two levels."""
    cv2 = opencv()
    above = _otsu(page)
    (mean,), (deviation,) = cv2.meanStdDev(page)
    upper = cv2.mean(page, mask=above)[0]
    share = cv2.countNonZero(above) / above.size
    between = share * (upper - mean[0]) ** 2 / max(1 - share, 1 / above.size)
    return float(between / deviation[0] ** 2) if deviation[0] else 1.0


def _even_paper(page: Pixels) -> tuple[Pixels, bool]:
    """Take the median of the side of the threshold that is paper."""
    light = _otsu(page)
    dark_on_light = _more_light(light) > 0
    side = light if dark_on_light else 1 - light
    return np.full(page.shape, _quantile(page, side, 0.5), np.uint8), dark_on_light


def _more_light(light: Pixels) -> float:
    """Weigh light against dark, the border as much as the whole, as there is more paper than ink: -1 to 1."""
    border = _border(light)
    return float(np.count_nonzero(light) / light.size + np.count_nonzero(border) / border.size - 1)


def _quantile(values: Pixels, mask: Pixels, share: float) -> int:
    """Give the level that a share of the values where the mask is not 0 does not exceed."""
    cumulated = opencv().calcHist([values], [0], mask, [256], [0, 256]).cumsum()
    return int(cumulated.searchsorted(cumulated[-1] * share))


def _uneven_paper(page: Pixels) -> tuple[Pixels, bool]:
    """Estimate the paper under the ink, with the light that falls on it.

    A morphological closing (opening, for light ink) fills strokes in; the smaller of two errs less: one with a window
    wider than any stroke, and one with a narrow window whose rest is removed by a median over most of the picture.
    """
    cv2 = opencv()
    side = max(page.shape)
    dark_on_light = _stands_out_dark(page)
    kind, nearer_ink = (cv2.MORPH_CLOSE, cv2.min) if dark_on_light else (cv2.MORPH_OPEN, cv2.max)
    wide, narrow = (cv2.morphologyEx(page, kind, _window(_odd(side * share))) for share in (_STROKE, _NARROW_STROKE))
    paper: Pixels = nearer_ink(wide, _median(narrow, _NEIGHBOURHOOD))
    return paper, dark_on_light


def _stands_out_dark(page: Pixels) -> bool:
    """Tell whether ink is dark: what stands out from its surroundings is, so the differences are skewed to that side.

    Two measures of the surroundings, a mean and a median, as each fails on other pictures; and the majority.
    Differences are taken of logarithms, as light multiplies.
    """
    cv2 = opencv()
    table = _logarithms()
    values = cv2.LUT(page, table)
    mean = cv2.blur(values, (_odd(max(page.shape) * _SURROUNDINGS),) * 2)
    median = cv2.LUT(_median(page, 1 / 2), table)
    skewness = _skewness(values - mean) + _skewness(values - median)
    return skewness < 0.5 * _more_light(_otsu(page))


@cache
def _logarithms() -> Values:
    return np.log(np.arange(256, dtype=np.float32) + _DARK_NOISE)


def _median(page: Pixels, share: float) -> Pixels:
    """Give the median of each pixel's surroundings, to a share of the picture's side, found at a coarser scale."""
    coarse = _shrunk(page, _COARSEST)
    median: Pixels = opencv().medianBlur(coarse, _odd(max(coarse.shape) * share))
    return _enlarged(median, page)


def _skewness(values: Values) -> float:
    flat = values.ravel()
    count = len(flat)
    mean, square, cube = float(flat.mean()), float(flat @ flat) / count, float((flat * flat) @ flat) / count
    variance = square - mean**2
    return (cube - 3 * mean * square + 2 * mean**3) / variance**1.5 if variance > _LEAST_VARIANCE else 0.0


def _odd(length: float) -> int:
    return max(3, int(length) | 1)


@cache
def _window(side: int) -> Pixels:
    return np.ones((side, side), np.uint8)


def _strength(page: Pixels, paper: Pixels, dark_on_light: bool) -> Pixels:
    """Say by how much each pixel differs from its paper towards the ink; in shadow, as much as it would in light."""
    cv2 = opencv()
    if not dark_on_light:
        lighter: Pixels = cv2.subtract(page, paper)
        return lighter
    usual = cv2.mean(paper)[0]
    lit: Pixels = cv2.divide(cv2.subtract(paper, page), np.maximum(paper, _DARKEST_PAPER), scale=usual)
    return lit


def _mask(strength: Pixels, *, framed: bool) -> Pixels:
    mask = _otsu(strength)
    if framed:
        _erase_edge_lines(mask)
    return mask


def _erase_edge_lines(mask: Pixels) -> None:
    """Erase, in place, rows and columns near an edge that are ink for the most part, and what is outside of them."""
    cv2 = opencv()
    for side, axis in ((mask, 1), (mask.T, 0)):
        sums = cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().tolist()
        near, most = max(1, int(len(side) * _EDGE)), _LINE * side.shape[1]
        first = max((line + 1 for line in range(near) if sums[line] > most), default=0)
        last = max((line + 1 for line in range(near) if sums[-1 - line] > most), default=0)
        side[:first] = side[len(side) - last :] = 0


def _choose(mask: Pixels, strength: Pixels, *, framed: bool) -> tuple[Pixels, tuple[Box, ...]] | None:
    """Keep the connected part with the most ink, central and not along the border, and parts of some size close to it.

    Returns:
        (h, w) uint8 of 0 and 1, and the boxes of parts left out that are large; None where there is no ink.
    """
    cv2 = opencv()
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    if count == 1:
        return None
    if count == 2:  # noqa: PLR2004 - paper and one part
        return mask, ()
    parts = _parts(labels, strength, stats, centres, framed=framed)
    main = max(parts, key=lambda part: part.score)
    reach = _APART * max(main.box[2] - main.box[0], main.box[3] - main.box[1])
    others = [part for part in parts if part is not main and not part.frame]
    near = [part for part in others if part.area >= _SPECK * main.area and _gap(part.box, main.box) <= reach]
    kept: npt.NDArray[np.bool_] = labels == main.label
    for part in near:
        kept |= labels == part.label
    large = tuple(part.box for part in others if part.area >= _DIGIT * main.area and part not in near)
    return kept.view(np.uint8), large


class _Part(NamedTuple):
    """A connected part of the ink; `frame` says that hardly a pixel of it is not close to an edge of the picture."""

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
    framed: bool,
) -> list[_Part]:
    """Weigh the ink of each part: half as much in a corner, less the longer it is in contact with the border.

    Where there are very many, as in noise, only the largest count.
    """
    count, (height, width) = len(stats), labels.shape
    rows, columns = (max(2, int(side * _EDGE)) for side in labels.shape)
    inside = np.bincount(labels[rows:-rows, columns:-columns].ravel(), minlength=count).tolist()
    border = np.bincount(_border(labels), minlength=count).tolist()
    ink = np.bincount(labels.ravel(), strength.ravel(), count).tolist()
    sizes, middles = stats.tolist(), centres.tolist()
    largest = sorted(range(1, count), key=lambda label: -sizes[label][4])[:_MOST_PARTS]
    parts = []
    for label in sorted(largest):
        (left, top, wide, high, area), (across, down) = sizes[label], middles[label]
        off = hypot(across / width - 0.5, down / height - 0.5) / sqrt(0.5)
        frame = framed and inside[label] < _INSIDE * area
        score = ink[label] * (1 - off / 2) / (1 + 2 * border[label] / max(wide, high)) * (0.1 if frame else 1)
        parts.append(_Part(label, (top, left, top + high, left + wide), area, frame, score))
    return parts


def _gap(box: Box, other: Box) -> int:
    """Count the pixels between two boxes, along the axis where they are further apart."""
    return max(box[0] - other[2], box[1] - other[3], other[0] - box[2], other[1] - box[3])


def _whole_levels(strength: Pixels, kept: Pixels) -> tuple[Pixels, Box] | None:
    levels = _levels(strength, kept)
    return None if levels is None else (levels, _box_of(levels))


def _fine_levels(page: Pixels, paper: Pixels, kept: Pixels, dark_on_light: bool) -> tuple[Pixels, Box] | None:
    """Give `_levels` at the page's scale, and their box, of a cut about what was kept so that little is computed."""
    cv2 = opencv()
    factor = _factor(page, _COARSE)
    left, top, width, height = cv2.boundingRect(kept)
    rows = slice(max(0, top - _MARGIN), min(top + height + _MARGIN, len(kept)))
    columns = slice(max(0, left - _MARGIN), min(left + width + _MARGIN, kept.shape[1]))
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


def _levels(strength: Pixels, kept: Pixels, reach: int = _REACH) -> Pixels | None:
    """Map the paper to 0 and full ink to 255, in reach of what was kept; None where even that is too faint to be ink.

    Faint ink counts where the rest of the page is smooth, so that it can't be noise. A little above the paper is
    noise, and 0 too.
    """
    cv2 = opencv()
    full = _quantile(strength, kept, _FULL_INK)
    near = cv2.dilate(kept, _window(2 * max(_REACH, reach) + 1))
    if full < _LEAST_CONTRAST or (full < _FAINT and full < _OVER_NOISE * cv2.mean(strength, mask=1 - near)[0]):
        return None
    floor = int(full * _PAPER_NOISE)
    above = np.maximum(strength, floor) - floor
    levels: Pixels = cv2.multiply(above, near, scale=255 / (full - floor))
    return levels


def _box_of(levels: Pixels) -> Box:
    cv2 = opencv()
    _, ink = cv2.threshold(levels, _LEAST_INK - 1, 1, cv2.THRESH_BINARY)
    left, top, width, height = cv2.boundingRect(ink)
    return top, left, top + height, left + width


def place_ink(ink: Ink, shape: tuple[int, int] = SHAPE) -> Pixels:
    """Scale the ink's box to the size that MNIST's have, and set its centre of mass at the field's centre.

    Where ink fills a square picture from edge to edge, its box was probably stretched to it, as some sets do; it gets
    the width that MNIST's boxes have.
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
    """Take from a strong slant what is more than nearly all of MNIST's digits have, and cut anew.

    The slant is that of the least-squares line through the ink's rows, from the second moments.
    """
    cv2 = opencv()
    moments = cv2.moments(levels)
    slant = moments["mu11"] / moments["mu02"] if moments["mu02"] else 0.0
    if abs(slant) <= _STRONG_SLANT:
        return levels
    excess = copysign(min(abs(slant) - _STRONG_SLANT, _MOST_UNSLANTED), slant)
    height, width = levels.shape
    room = ceil(abs(excess) * height)
    start = room if excess > 0 else 0
    shear = np.array([[1, -excess, start], [0, 1, 0]], np.float32)
    sheared = cv2.warpAffine(levels, shear, (width + room, height))
    top, left, bottom, right = _box_of(sheared)
    return sheared[top:bottom, left:right] if bottom > top else levels


def _usual_width(levels: Pixels) -> float:
    """Guess how wide a box was, as a share of its height: ink fills the more of a stretched one, the narrower it was.

    The power law is the least-squares fit to MNIST's training digits.
    """
    share = float(levels.mean()) / 255
    return float(min(1.0, 0.44 * share**-0.43))


def _offset(moments: Mapping[str, float], axis: str, size: int, length: int) -> int:
    """Say where a box begins whose mass is to be centred, without leaving the field."""
    centre = moments[axis] / max(moments["m00"], 1)
    return min(max(round(length / 2 - centre), 0), length - size)
