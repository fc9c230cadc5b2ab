"""Degraded digits: digits as bad scans, photos and forms show them, normalized like images to predict.

A digit is drawn small or large on paper of any level: faint, noisy, soft or in two levels, with thick, thin, broken,
dotted or hollow strokes, and with an underline, a frame or parts of neighbouring digits beside it. The normalization
removes most of this. What it leaves should not be taken for something else than a digit.
"""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from digits.images.normalize import normalize
from digits.images.types import Pixels

Values = npt.NDArray[np.float32]
Random = np.random.Generator
Indices = npt.NDArray[np.intp]
Change = Callable[[Values, int, Pixels, Random], Values]
"""Function that changes a picture: its ink, (H, W) float32 from 0 to 1; the height of the digit's field; digits to draw
beside it; the random generator."""

Group = tuple[tuple[int, int], Sequence[Change]]
"""Smallest and largest height of a digit's field, which is 1.4 times as high as the digit, in pixels, and the changes
of which one is made; what occurs twice is chosen twice as often."""

_ROOM = (1.0, 1.6)
"""Smallest and largest side of a picture, in units of the height of the digit's field."""
_LINE = (0.01, 0.07)
"""Smallest and largest width of a line, in units of the height of the digit's field."""
_CONTRAST = (20, 230)
"""Smallest and largest difference of grey levels between ink and paper."""
_MAX_NOISE = 0.1
"""Largest standard deviation of noise, in units of the contrast."""


def degrade_digits(
    digits: Pixels, count: int, *, seed: int, shape: tuple[int, int], whole: bool = False
) -> tuple[Pixels, Indices]:
    """Draw degraded copies of digits at random, and normalize them.

    Args:
        digits: (M, height, width) uint8, digits in MNIST's form, or images of something else.
        count: number of copies.
        seed: random seed of the choice and of the drawings.
        shape: height and width of the copies in pixels.
        whole: whether to leave all strokes whole.

    Returns:
        Pixels in MNIST's form, (count, *shape) uint8, and the position of each copy's digit, (count,). Some copies no
        longer resemble their digit.
    """
    random = np.random.default_rng([seed, 252])
    chosen = random.integers(len(digits), size=count)
    groups = GROUPS[:WHOLE] if whole else GROUPS
    copies = [normalize(_draw(digits, number, groups, random), "mnist", shape=shape) for number in chosen]
    return np.stack(copies) if copies else np.zeros((0, *shape), np.uint8), chosen


def _draw(digits: Pixels, number: int, groups: Sequence[Group], random: Random) -> Pixels:
    """Draw a digit and what is around it, as a photo or scan shows it: (H, W) uint8."""
    sizes, changes = groups[int(random.integers(len(groups)))]
    height = round(float(np.exp(random.uniform(*np.log(sizes)))))
    change = changes[int(random.integers(len(changes)))]
    return _photograph(change(_place(digits[number], height, random), height, digits, random), height, random)


def _place(digit: Pixels, height: int, random: Random) -> Values:
    """Place a digit at random in an empty picture: (H, W) float32, ink is 1."""
    field = _resize(digit, height)
    room = [int(height * (factor - 1)) for factor in random.uniform(*_ROOM, 2)]
    before = [int(random.integers(space + 1)) for space in room]
    return np.pad(field, [(start, space - start) for start, space in zip(before, room, strict=True)])


def _resize(digit: Pixels, height: int) -> Values:
    import cv2

    method = cv2.INTER_AREA if height < len(digit) else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(digit.astype(np.float32) / 255, (height, height), interpolation=method).clip(0, 1))


def _keep(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001 - as all changes
    return ink


def _soften(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    return _blur(ink, height * random.uniform(0.02, 0.07))


def _underline(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Draw a line below the digit, which may touch it."""
    lowest = int(np.flatnonzero((ink > 0.3).any(axis=1)).max(initial=0))  # noqa: PLR2004 - well above the blur
    _draw_line(ink, max(0, lowest + round(height * random.uniform(-0.05, 0.15))), height, random)
    return ink


def _draw_line(ink: Values, row: int, height: int, random: Random) -> None:
    width = max(1, round(height * random.uniform(*_LINE)))
    np.maximum(ink[row : row + width], random.uniform(0.4, 1), out=ink[row : row + width])


def _frame(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Draw lines along one to four edges, at a small distance from them."""
    sides = (ink, ink[::-1], ink.T, ink.T[::-1])
    for side in random.permutation(4)[: int(random.integers(1, 5))]:
        _draw_line(sides[side], int(random.integers(height // 12 + 1)), height, random)
    return ink


def _add_neighbours(ink: Values, height: int, digits: Pixels, random: Random) -> Values:
    """Draw the beginning of another digit at the right edge, its mirror image at the left edge, or both."""
    for page in (ink, ink[:, ::-1])[int(random.integers(2)) :: int(random.integers(1, 3))]:
        field = _resize(digits[int(random.integers(len(digits)))], height)
        reach, top = round(height * random.uniform(0.2, 0.45)), int(random.integers(len(ink) - height + 1))
        edge = page[top : top + height, -reach:]
        np.maximum(edge, field[:, : edge.shape[1]], out=edge)
    return ink


def _thicken(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    import cv2

    side = 2 * max(1, round(height * random.uniform(0.02, 0.09))) + 1
    return np.asarray(cv2.dilate(ink, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (side, side))), np.float32)


def _thin(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Make strokes thinner, as long as a quarter of the ink is left."""
    import cv2

    least = (ink > 0.5).sum() / 4  # noqa: PLR2004 - half of full ink
    for _ in range(int(random.integers(1, 6))):
        thinner = cv2.erode(ink, np.ones((3, 3), np.uint8))
        if (thinner > 0.5).sum() < least:  # noqa: PLR2004
            break
        ink = thinner.astype(np.float32)
    return ink


def _dot(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Leave dots of the strokes."""
    period, angle = height * random.uniform(0.08, 0.15), random.uniform(0, np.pi)
    rows, columns = np.indices(ink.shape) * (2 * np.pi / period)
    along, across = np.cos(angle) * columns + np.sin(angle) * rows, np.cos(angle) * rows - np.sin(angle) * columns
    dots = np.cos(along) + np.cos(across) > random.uniform(-1.2, -0.2)
    return ink * _blur(dots.astype(np.float32), max(height / 60, 0.3))


def _break(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Cut one to four gaps across strokes."""
    rows, columns = np.indices(ink.shape)
    for row, column in _choose_inked(ink, int(random.integers(1, 5)), random):
        angle, width = random.uniform(0, np.pi), height * random.uniform(0.015, 0.05)
        distance = np.abs(np.cos(angle) * (columns - column) + np.sin(angle) * (rows - row))
        near = (columns - column) ** 2 + (rows - row) ** 2 < (0.12 * height) ** 2
        ink[near & (distance < width)] = 0
    return ink


def _choose_inked(ink: Values, count: int, random: Random) -> npt.NDArray[np.intp]:
    """Return the row and column of pixels with ink: at most `count`, (N, 2)."""
    inked = np.argwhere(ink > 0.5)  # noqa: PLR2004 - half of full ink
    return inked[random.integers(len(inked), size=count)] if len(inked) else inked


def _hollow(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Leave the outlines of the strokes."""
    import cv2

    thickness = max(1, round(height * random.uniform(0.02, 0.05)))
    inner = cv2.erode((ink > 0.4).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=thickness)  # noqa: PLR2004
    return ink * (1 - inner)


def _fade(ink: Values, height: int, digits: Pixels, random: Random) -> Values:  # noqa: ARG001
    """Make a stroke pale around one point, like a reflection."""
    rows, columns = np.indices(ink.shape)
    for row, column in _choose_inked(ink, 1, random):
        extent = 2 * (height * random.uniform(0.05, 0.16)) ** 2
        spot = np.exp(-((rows - row) ** 2 + (columns - column) ** 2) / extent)
        ink = (ink * (1 - random.uniform(0.5, 1) * spot)).astype(np.float32)
    return ink


_SMALL = (7, 24), (_keep, _keep, _keep, _soften, _add_neighbours, _frame)
_USUAL = (20, 64), (_keep, _underline, _frame, _frame, _add_neighbours, _soften, _thicken, _thicken)
_STROKES = (24, 64), (_dot, _break, _hollow, _fade)
_LARGE = (44, 90), (_thin,)
GROUPS: Sequence[Group] = (_SMALL, _SMALL, _USUAL, _USUAL, _STROKES, _LARGE)
"""Groups of changes, of which one is chosen. A digit of a few pixels has no room for some changes."""
WHOLE = 4
"""Number of groups, the first ones, whose changes leave strokes whole."""


def _photograph(ink: Values, height: int, random: Random) -> Pixels:
    """Return a picture of the ink on paper: blurred, with noise, of any contrast; one in five has two levels."""
    if random.integers(5) == 0:
        soft = _blur(ink, height * random.uniform(0.01, 0.06))
        values = (soft > random.uniform(0.15, 0.5)).astype(np.float32)
    else:
        values = _blur(ink, random.uniform(0.1, 1.2))
        values += random.normal(0, random.uniform(0, _MAX_NOISE) * random.integers(2), values.shape).astype(np.float32)
    contrast = float(np.exp(random.uniform(*np.log(_CONTRAST))))
    dark = random.uniform(10, 245 - contrast)
    levels = np.clip(dark + contrast * (values if random.integers(4) == 0 else 1 - values), 0, 255)
    return np.asarray(levels).astype(np.uint8)


def _blur(ink: Values, deviation: float) -> Values:
    import cv2

    return np.asarray(cv2.GaussianBlur(ink, (0, 0), deviation), np.float32)
