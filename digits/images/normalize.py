"""Normalization: conversion of a grey image of a digit to the form of MNIST's digits, for training and prediction.

MNIST's form (LeCun et al. 1998): light ink on black, 28x28 pixels; the longer side of the ink's box has 20 pixels, and
the ink's centre of mass is at the centre of the image.

`find_ink` separates the ink from the paper:

1. Shrink a large image to the page.
2. On a coarse copy of the page, find the polarity of the ink and the level of the paper at each pixel.
3. Subtract the paper with its shadows, and binarize by Otsu's threshold.
4. Choose the connected parts that are the digit, without frames and specks.
5. Cut these parts out of the page, and stretch their levels so that paper is 0 and full ink 255.
6. Fill hollow strokes and gaps.

`place_ink` reduces a strong slant, broadens thin lines, scales the ink's box and centres it. OpenCV is loaded for the
first image that needs one of these steps.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil, copysign
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

from digits.images.ink.paper import (
    COARSE_SIDE,
    Polarity,
    border_of,
    denoise,
    enlarge,
    estimate_paper,
    factor_of,
    find_polarity,
    has_plain_border,
    is_even,
    measure_strength,
    odd,
    opencv,
    otsu,
    quantile,
    shrink,
    window,
)
from digits.images.ink.parts import Box, Choice, Sheet, choose, erase_edge_lines, find_sheet, has_only_frame
from digits.images.ink.reflections import draw_bridge, find_reflection
from digits.images.ink.regions import find_box, find_enclosed, find_hollow_strokes
from digits.images.types import Pixels

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.images.formats import Mode

SHAPE = (28, 28)
SPEC: Mapping[str, Any] = {"recipe": "mnist", "version": 5, "box": 20, "field": 28, "mode": "auto"}
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
        least_contrast: level of full ink below which a page is blank.
        faint: level of full ink below which the ink is faint, and counts only if the page has little noise.
        over_noise: least ratio of faint full ink to the noise, the mean strength of the page beside the ink.
        box_level: least level of the pixels that determine the ink's box.
        full_ink_quantile: quantile of the strength of the ink that is taken for the level of full ink.
        paper_noise: share of full ink up to which a level is taken for noise of the paper.
        reach: distance from the chosen parts up to which fainter pixels belong to the ink, too.
        margin: width of the surroundings that are cut out of the page with the ink, in pixels of the coarse image.
        strong_slant: slant that nearly all of MNIST's digits stay below, in columns per row.
        most_unslanted: largest reduction of a strong slant, in columns per row.
        large_side: longer side of the page above which the gaps between pieces are filled.
        thinning: scale up to which thin strokes lose their strength when the ink is scaled to its box.
        thin_floor: level of the box up to which a pixel counts as paper in this step.
        thin_quantile: quantile of the other levels that is taken for their strength.
        thin_ink: strength below which strokes are thin.
        pen: width by which thin strokes are broadened, as a share of the longer side of the ink's box.
        soft: deviation of the blur of their edges, as a share of this width.
    """

    box: tuple[int, int] = (18, 20)
    off_centre: float = 0.55
    page_side: int = 160
    least_contrast: int = 12
    faint: int = 24
    over_noise: float = 7.5
    box_level: int = 32
    full_ink_quantile: float = 0.95
    paper_noise: float = 0.1
    reach: int = 2
    margin: int = 2
    strong_slant: float = 0.5
    most_unslanted: float = 0.7
    large_side: int = 32
    thinning: float = 0.5
    thin_floor: int = 16
    thin_quantile: float = 0.8
    thin_ink: int = 150
    pen: float = 0.16
    soft: float = 0.15


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
        glare: whether a reflection may have erased a part of the ink.
    """

    page: Pixels
    coarse_paper: Pixels
    levels: Pixels
    box: Box
    dark_on_light: bool
    others: tuple[Box, ...]
    tight: bool
    glare: bool = False

    @property
    def paper(self) -> Pixels:
        """Page without the ink, (h, w) uint8."""
        return enlarge(self.coarse_paper, self.page)


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


def have_mnist_form(images: Pixels) -> npt.NDArray[np.bool_]:
    """Return `has_mnist_form` of each image: (N, 28, 28) uint8 -> (N,). Many together take a third of the time.

    The array must be contiguous.
    """
    least, greatest = _C.box
    fours = images.view(np.uint32)  # four pixels at once
    rows, columns = np.bitwise_or.reduce(fours, axis=2), np.bitwise_or.reduce(fours, axis=1).view(np.uint8)
    longest = np.maximum(_spans(rows), _spans(columns))
    moments = images.reshape(-1, _MOMENTS.shape[1]).astype(np.float32) @ _MOMENTS.T
    mass, row, column = np.maximum(moments, 1).T.astype(np.float64)
    off_centre = np.maximum(abs(row / mass - SHAPE[0] / 2), abs(column / mass - SHAPE[1] / 2))
    found: npt.NDArray[np.bool_] = (least <= longest) & (longest <= greatest) & (off_centre <= _C.off_centre)
    return found


def _spans(levels: npt.NDArray[np.unsignedinteger[Any]]) -> npt.NDArray[np.int64]:
    """Return the numbers of lines from the first to the last above 0: (N, lines) -> (N,); all lines if none is."""
    inked = levels > 0
    spans: npt.NDArray[np.int64] = inked.shape[1] - inked.argmax(axis=1) - inked[:, ::-1].argmax(axis=1)
    return spans


def _span(content: bytes) -> int:
    """Return the number of lines, of 28 pixels each, from the first to the last that is not black."""
    last = len(content.rstrip(b"\0")) - 1
    first = len(content) - len(content.lstrip(b"\0"))
    return last // 28 - first // 28 + 1


def _scaled(pixels: Pixels, shape: tuple[int, int]) -> Pixels:
    height, width = shape
    image = Image.fromarray(pixels).resize((width, height), Image.Resampling.BILINEAR)
    return np.frombuffer(image.tobytes(), np.uint8).reshape(shape)


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
    page = shrink(pixels, _C.page_side)
    border = border_of(page)
    plain = has_plain_border(border)
    if not plain:
        page = denoise(page, border)
    coarse = shrink(page, COARSE_SIDE)
    smooth = even or plain or is_even(page)
    polarity = find_polarity(coarse, even=smooth)
    sheet = None if even else find_sheet(coarse, polarity)
    if sheet:
        polarity = polarity._replace(dark_on_light=sheet.dark_on_light)
        coarse = _without_surroundings(coarse, sheet, polarity)
    dark_on_light = polarity.dark_on_light
    paper = estimate_paper(coarse, polarity, even=smooth)
    strength = measure_strength(coarse, paper, dark_on_light=dark_on_light)
    mask = otsu(strength)
    if sheet:
        mask &= sheet.inside
    reflection = find_reflection(coarse, paper, mask) if dark_on_light and not smooth else None
    bridge = reflection and reflection.bridge
    if bridge:
        mask = draw_bridge(mask, bridge, full=1)
    cleaned = _Cleaned(mask) if even else _clean(mask, may_have_frame=not (smooth or sheet))
    choice = cleaned and choose(cleaned.mask, strength, may_have_frame=not smooth)
    if cleaned is None or choice is None:
        return None
    choice = choice.without(cleaned.lines)
    factor = factor_of(page, COARSE_SIDE)
    found = _whole_levels(strength, choice) if factor == 1 else _fine_levels(page, paper, choice, dark_on_light)
    if found is None:
        return None
    levels, box = found
    levels = _filled(levels, cleaned.hollow, choice, factor)
    if bridge:
        levels = draw_bridge(levels, bridge, factor, full=255)
    tight = box == (0, 0, *page.shape) and page.shape[0] == page.shape[1]
    others = tuple(_scaled_box(other, factor) for other in choice.others)
    glare = reflection is not None and reflection.hides_strokes(choice.kept)
    return Ink(page, paper, levels, box, dark_on_light, others, tight, glare)


class _Cleaned(NamedTuple):
    """Ink without frames: its mask, the lines of a box that were taken away, and the hollow strokes that are filled."""

    mask: Pixels
    lines: Pixels | None = None
    hollow: Pixels | None = None


def _clean(mask: Pixels, *, may_have_frame: bool) -> _Cleaned | None:
    """Take frames from the ink, and fill hollow strokes; return None if there is only an empty frame."""
    enclosed = find_enclosed(mask)
    lines = enclosed and find_box(mask, enclosed)
    if lines is not None:
        return _Cleaned(mask & ~lines, lines)
    if may_have_frame and erase_edge_lines(rest := mask.copy()):
        return None if has_only_frame(mask) else _Cleaned(rest)
    hollow = enclosed and find_hollow_strokes(mask, enclosed)
    return _Cleaned(mask) if hollow is None else _Cleaned(mask | hollow, hollow=hollow)


def _filled(levels: Pixels, hollow: Pixels | None, choice: Choice, factor: int) -> Pixels:
    """Return the ink with its hollow strokes, including their lines, and the gaps between its pieces filled."""
    cv2 = opencv()
    if hollow is not None:
        inner = cv2.dilate(hollow, window(3)) & choice.kept
        levels[cv2.resize(inner, levels.shape[::-1], interpolation=cv2.INTER_NEAREST) > 0] = 255
    return _closed(levels, choice.bridge * factor) if choice.bridge and max(levels.shape) > _C.large_side else levels


def _without_surroundings(coarse: Pixels, sheet: Sheet, polarity: Polarity) -> Pixels:
    """Return the image with the sheet's level outside the sheet."""
    side = polarity.light if polarity.dark_on_light else 1 - polarity.light
    filled: Pixels = coarse.copy()
    filled[sheet.inside == 0] = quantile(coarse, side & sheet.inside, 0.5)
    return filled


def _scaled_box(box: Box, factor: int) -> Box:
    top, left, bottom, right = box
    return top * factor, left * factor, bottom * factor, right * factor


def _whole_levels(strength: Pixels, choice: Choice) -> tuple[Pixels, Box] | None:
    levels = _levels(strength, choice.kept, choice.left_out)
    return None if levels is None else (levels, _box_of(levels))


def _fine_levels(page: Pixels, paper: Pixels, choice: Choice, dark_on_light: bool) -> tuple[Pixels, Box] | None:
    """Return `_levels` and their box at the page's scale, computed for the surroundings of the chosen parts only."""
    cv2 = opencv()
    factor = factor_of(page, COARSE_SIDE)
    kept = choice.kept
    left, top, width, height = cv2.boundingRect(kept)
    rows = slice(max(0, top - _C.margin), min(top + height + _C.margin, len(kept)))
    columns = slice(max(0, left - _C.margin), min(left + width + _C.margin, kept.shape[1]))
    view = slice(rows.start * factor, rows.stop * factor), slice(columns.start * factor, columns.stop * factor)
    cut = page[view]
    strength = measure_strength(cut, enlarge(paper[rows, columns], cut), dark_on_light=dark_on_light)
    near = cv2.resize(kept[rows, columns], cut.shape[::-1], interpolation=cv2.INTER_NEAREST)
    far = (
        None
        if choice.left_out is None
        else cv2.resize(choice.left_out[rows, columns], cut.shape[::-1], interpolation=cv2.INTER_NEAREST)
    )
    levels = _levels(strength, near, far, factor)
    if levels is None:
        return None
    whole = np.zeros_like(page)
    whole[view] = levels
    top, left, bottom, right = _box_of(levels)
    down, across = view[0].start, view[1].start
    return whole, (top + down, left + across, bottom + down, right + across)


def _levels(strength: Pixels, kept: Pixels, left_out: Pixels | None, reach: int = _C.reach) -> Pixels | None:
    """Stretch the strength near the chosen parts so that paper is 0 and full ink 255; return None if it is too faint.

    Faint ink is accepted if the rest of the page is so smooth that it cannot be noise. Levels a little above the paper
    are noise and become 0.
    """
    cv2 = opencv()
    full = quantile(strength, kept, _C.full_ink_quantile)
    near = cv2.dilate(kept, window(2 * max(_C.reach, reach) + 1))
    if full < _C.least_contrast or (full < _C.faint and full < _C.over_noise * cv2.mean(strength, mask=1 - near)[0]):
        return None
    if left_out is not None:
        near &= ~cv2.dilate(left_out & ~kept, window(3)) | kept
    floor = int(full * _C.paper_noise)
    above = np.maximum(strength, floor) - floor
    levels: Pixels = cv2.multiply(above, near, scale=255 / (full - floor))
    return levels


def _closed(levels: Pixels, bridge: float) -> Pixels:
    """Return the ink of a digit in pieces with the gaps between them filled, but not the holes of a piece."""
    cv2 = opencv()
    side = odd(bridge)
    closed = cv2.morphologyEx(levels, cv2.MORPH_CLOSE, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side)))
    _, labels = cv2.connectedComponents((levels < _C.box_level).view(np.uint8), connectivity=4)
    holes = np.isin(labels, border_of(labels), invert=True)
    return np.where(holes, levels, closed)


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
    box = _scaled_to_box(cut, shape, tight=ink.tight)
    if max(cut.shape) * _C.thinning >= max(box.shape) and _is_thin(box):
        box = _scaled_to_box(_broadened(cut), shape, tight=ink.tight)
    height, width = box.shape
    centre = cv2.moments(box)
    top, left = _offset(centre, "m01", height, shape[0]), _offset(centre, "m10", width, shape[1])
    field = np.zeros(shape, np.uint8)
    field[top : top + height, left : left + width] = box
    return field


def _scaled_to_box(cut: Pixels, shape: tuple[int, int], *, tight: bool) -> Pixels:
    """Scale the ink's box to MNIST's size."""
    cv2 = opencv()
    scale = min(shape) * SPEC["box"] / SPEC["field"] / max(cut.shape)
    height = max(1, round(cut.shape[0] * scale))
    width = max(1, round(cut.shape[1] * scale * (_usual_width(cut) if tight else 1)))
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    box: Pixels = cv2.resize(cut, (width, height), interpolation=how)
    return box


def _is_thin(box: Pixels) -> bool:
    """Return whether the strokes in a box of MNIST's size are thinner than a pixel."""
    full = quantile(box, opencv().threshold(box, _C.thin_floor, 1, opencv().THRESH_BINARY)[1], _C.thin_quantile)
    return 0 < full < _C.thin_ink


def _broadened(cut: Pixels) -> Pixels:
    """Return ink whose thin strokes are as broad as a pen's."""
    cv2 = opencv()
    width = odd(_C.pen * max(cut.shape))
    padded = cv2.copyMakeBorder(cut, width, width, width, width, cv2.BORDER_CONSTANT)
    broad = cv2.dilate(padded, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))
    broad = cv2.GaussianBlur(broad, (0, 0), _C.soft * width)
    top, left, bottom, right = _box_of(broad)
    inked: Pixels = broad[top:bottom, left:right]
    return inked


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
