"""Handwriting: ink of digits at any size, drawn from digits in MNIST's form, for tests and measurements.

Ink is an array of (H, W) float32: 1 for full ink, 0 for paper.
"""

from collections import deque
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from digits.images.types import Pixels

Values = npt.NDArray[np.floating]
Random = np.random.Generator

_THINNED_SIDE = 140
"""Side in pixels at which a digit is thinned to its centre lines."""
_STEP = 0.012
"""Mean distance of two neighbouring points of a centre line, as a share of the digit's height."""
_BLOB = 1.8
"""Least ratio of the widest part of a stroke to its usual width that is a blob, such as a filled loop."""
_INK = 0.3
"""Least value of a pixel that belongs to the box of the ink."""
_SHIFT = 4
"""Fractional bits of coordinates that are passed to OpenCV."""


def enlarge(digit: Pixels, side: int, random: Random, *, stroke: float = 0) -> Values:
    """Enlarge a digit as if it had been written at that size, with sharp edges.

    Args:
        digit: digit in MNIST's form, (h, w) uint8.
        side: height and width of the result, in pixels.
        random: random generator.
        stroke: largest change of the grey level that becomes the edge, as a share of white, which changes the stroke.
    """
    image = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    level = 0.45 - random.uniform(-stroke, stroke)
    edges = (np.asarray(image, np.float32) / 255 - level) * min(side / 28, 8) * 2 + 0.5
    return np.clip(edges, 0, 1)


def crop(ink: Values) -> Values:
    """Return the box of the ink."""
    rows, columns = np.flatnonzero((ink > _INK).any(axis=1)), np.flatnonzero((ink > _INK).any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] if len(rows) else ink


def place(ink: Values, shape: tuple[int, int], random: Random) -> Values:
    """Place ink at a random position in an empty field that is large enough for it."""
    field = np.zeros(shape, np.float32)
    top, left = (int(random.integers(max(1, space - size + 1))) for space, size in zip(shape, ink.shape, strict=True))
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return field


def light(shape: tuple[int, int], random: Random, darkest: float) -> Values:
    """Return uneven light as factors for each pixel: a gradient in any direction, and the soft edge of a shadow."""
    rows, columns = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in shape), indexing="ij")
    angle, position, depth = random.uniform(0, 2 * np.pi), random.uniform(-0.8, 0.8), random.uniform(0, 1 - darkest)
    along = rows * np.float32(np.sin(angle)) + columns * np.float32(np.cos(angle))
    shadow = 1 / (1 + np.exp((along - position) * random.uniform(2, 25)))
    return (1 - depth * shadow) * (1 - 0.1 * along).astype(np.float32)


class Lines(NamedTuple):
    """Centre lines of a digit as a graph.

    Args:
        points: positions (row, column), (N, 2) float32; 1 is the height of the digit.
        pairs: indices of neighbouring points, (M, 2).
        steps: number of points from an end of the line to each point, (N,).
    """

    points: npt.NDArray[np.float32]
    pairs: npt.NDArray[np.intp]
    steps: npt.NDArray[np.intp]


def centre_lines(digit: Pixels) -> Lines:
    """Return the smoothed centre lines of a digit in MNIST's form."""
    ink = crop(enlarge(digit, _THINNED_SIDE, np.random.default_rng(0)))
    pixels = np.argwhere(thin(ink > 0.5))
    index = {(int(row), int(column)): number for number, (row, column) in enumerate(pixels)}
    pairs = [
        (number, other)
        for (row, column), number in index.items()
        for down, right in ((0, 1), (1, -1), (1, 0), (1, 1))
        if (other := index.get((row + down, column + right))) is not None
    ]
    graph = np.array(pairs, np.intp).reshape(-1, 2)
    points = _smoothed(pixels.astype(np.float32), graph) / np.float32(len(ink))
    return Lines(points, graph, _steps(len(points), graph))


def has_blobs(digit: Pixels) -> bool:
    """Return whether a digit in MNIST's form has blobs, such as filled loops, which its centre lines do not show."""
    ink = enlarge(digit, _THINNED_SIDE, np.random.default_rng(0)) > 0.5
    widths = cv2.distanceTransform(ink.astype(np.uint8), cv2.DIST_L2, 5)[thin(ink)]
    return bool(widths.max() > _BLOB * np.median(widths))


def _smoothed(points: npt.NDArray[np.float32], pairs: npt.NDArray[np.intp]) -> npt.NDArray[np.float32]:
    degree = np.bincount(pairs.ravel(), minlength=len(points))[:, np.newaxis]
    for _ in range(6):
        sums = np.zeros_like(points)
        np.add.at(sums, pairs[:, 0], points[pairs[:, 1]])
        np.add.at(sums, pairs[:, 1], points[pairs[:, 0]])
        points = np.where(degree > 1, (points + sums / np.maximum(degree, 1)) / 2, points).astype(np.float32)
    return points


def _steps(count: int, pairs: npt.NDArray[np.intp]) -> npt.NDArray[np.intp]:
    """Return the length of the shortest path from an end of each connected line to each of its points."""
    near: list[list[int]] = [[] for _ in range(count)]
    for one, other in pairs.tolist():
        near[one].append(other)
        near[other].append(one)
    steps = np.full(count, -1, np.intp)
    for start in sorted(range(count), key=lambda number: len(near[number])):
        waiting = deque([start] if steps[start] < 0 else [])
        steps[start] = max(steps[start], 0)
        while waiting:
            number = waiting.popleft()
            for other in near[number]:
                if steps[other] < 0:
                    steps[other] = steps[number] + 1
                    waiting.append(other)
    return steps


def thin(ink: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Thin ink to lines of one pixel.

    Source: T. Y. Zhang and C. Y. Suen, A fast parallel algorithm for thinning digital patterns, CACM 27 (1984).
    """
    image = np.pad(ink, 1).astype(np.uint8)
    around = ((1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1))
    left, changed = int(image.sum()), True
    while changed:
        for first, second in (((0, 2, 4), (2, 4, 6)), ((0, 2, 6), (0, 4, 6))):
            ring = np.stack([np.roll(image, shift, (0, 1)) for shift in around])
            count, starts = ring.sum(axis=0), ((ring == 0) & (np.roll(ring, -1, 0) == 1)).sum(axis=0)
            border = (ring[list(first)].min(axis=0) == 0) & (ring[list(second)].min(axis=0) == 0)
            image[(count >= 2) & (count <= 6) & (starts == 1) & border] = 0
        changed, left = int(image.sum()) < left, int(image.sum())
    return image[1:-1, 1:-1].astype(bool)


def length_of(lines: Lines) -> float:
    """Return the length of lines in heights of the digit."""
    ends = lines.points[lines.pairs]
    return float(np.hypot(*(ends[:, 0] - ends[:, 1]).T).sum())


class Pen(NamedTuple):
    """Pen that traces a line. Lengths are in pixels.

    Args:
        width: width of the line.
        on: length of each dash between the centres of its ends; 0 draws dots.
        off: distance between the ends of two dashes; 0 draws a whole line.
        smooth: whether the edges of the line have levels of grey.
    """

    width: int
    on: float = 1
    off: float = 0
    smooth: bool = True


def trace(lines: Lines, height: int, pen: Pen) -> Values:
    """Trace the centre lines of a digit of a height in pixels with a pen, and return its box."""
    width, on, off, smooth = pen
    points = lines.points * height + (width + 2)
    canvas = np.zeros(np.ceil(points.max(axis=0) + width + 2).astype(int), np.uint8)
    kind = cv2.LINE_AA if smooth else cv2.LINE_8
    along = lines.steps * (height * _STEP)
    drawn = (along % (on + off) <= on) if off else np.ones(len(points), bool)
    fixed = np.rint(points[:, ::-1] * (1 << _SHIFT)).astype(np.int32)
    for one, other in lines.pairs[drawn[lines.pairs].all(axis=1)].tolist():
        cv2.line(canvas, fixed[one].tolist(), fixed[other].tolist(), 255, width, kind, _SHIFT)
    if off and not on:
        _dot(canvas, points, along, off, width)
    return crop(canvas.astype(np.float32) / 255)


def _dot(canvas: Pixels, points: npt.NDArray[np.float32], along: Values, apart: float, width: int) -> None:
    """Draw a dot at each point that is far enough from all others, in the order of the line."""
    chosen: list[npt.NDArray[np.float32]] = []
    for number in np.argsort(along, kind="stable"):
        if all(np.hypot(*(points[number] - other)) >= apart for other in chosen):
            chosen.append(points[number])
            centre = np.rint(points[number][::-1] * (1 << _SHIFT)).astype(int).tolist()
            cv2.circle(canvas, centre, (width << _SHIFT) // 2, 255, -1, cv2.LINE_AA, _SHIFT)
