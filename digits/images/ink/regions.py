"""Regions: areas of paper that the ink encloses, inside hollow strokes or in a box around the digit.

All masks are (h, w) uint8 of 0 and 1 at the coarse scale.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.images.ink.paper import border_of, opencv, window
from digits.images.ink.parts import fill_hull, fills_rectangle
from digits.images.types import Pixels


@dataclass(frozen=True, slots=True)
class _Constants:
    """Constants of the search for regions.

    Args:
        least_side: longer side of an image from which regions are searched for, in pixels.
        no_regions: number of labels of an image whose paper is in one piece.
        least_area: least area of a region, in pixels.
        least_stroke: least width of a hollow stroke, in pixels.
        long_strip: area, in squares of the width, from which a hollow stroke may be narrower than the lines around it.
        width: largest width of a hollow stroke, as a share of the longer side of its box.
        length: least area of a hollow stroke, in squares of its width.
        evenness: least mean distance from its edges, as a share of the largest; 1/2 in a strip of one width.
        convex: share of its hull from which the outline of an area around other ink is a ring, and no stroke.
        compact: share of its box above which an area is no hollow stroke, unless the box is long.
        long_box: least ratio of the sides of a long box.
        box_side: least side of a box, as a share of the image's side.
        box_paper: least share of paper in a box.
        rectangle: least share that a box covers of the smallest rectangle around it.
        box_line: largest width of a box's lines, as a share of its shorter side.
        least_ink: least side of the ink in a box, as a share of the box's shorter side.
        crossed: largest share of a box's outline that ink crosses.
    """

    least_side: int = 32
    no_regions: int = 2
    least_area: int = 12
    least_stroke: float = 2.0
    long_strip: float = 14.0
    width: float = 0.34
    length: float = 3.2
    evenness: float = 0.36
    convex: float = 0.95
    compact: float = 0.65
    long_box: float = 3.0
    box_side: float = 0.3
    box_paper: float = 0.45
    rectangle: float = 0.92
    box_line: float = 0.12
    least_ink: float = 0.2
    crossed: float = 0.35


_C = _Constants()


class Enclosed(NamedTuple):
    """Areas of paper that ink encloses: their labels, and the sizes of all labels as OpenCV returns them."""

    labels: npt.NDArray[np.int32]
    numbers: tuple[int, ...]
    stats: npt.NDArray[np.int32]


def find_enclosed(mask: Pixels) -> Enclosed | None:
    """Return the areas of paper that do not reach the edges of the image; None if there are none."""
    if max(mask.shape) <= _C.least_side:
        return None
    cv2 = opencv()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(1 - mask, connectivity=4)
    if len(stats) <= _C.no_regions:
        return None
    open_ones, areas = {0, *border_of(labels).tolist()}, stats[:, 4].tolist()
    numbers = tuple(n for n, area in enumerate(areas) if area >= _C.least_area and n not in open_ones)
    return Enclosed(labels, numbers, stats) if numbers else None


def find_hollow_strokes(mask: Pixels, enclosed: Enclosed) -> Pixels | None:
    """Return the mask of the paper inside strokes of which only the outline is drawn; None if there is none."""
    numbers = [number for number in enclosed.numbers if not _is_compact(enclosed.stats[number])]
    if not numbers:
        return None
    cv2 = opencv()
    line = 2 * float(cv2.distanceTransform(mask, cv2.DIST_L2, 3).max())
    depth = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    sides = {number: max(enclosed.stats[number, 2:4]) for number in numbers}
    hollow = [number for number in numbers if _is_strip(depth[enclosed.labels == number], line, sides[number])]
    hollow = [number for number in hollow if not _is_ring((enclosed.labels == number).view(np.uint8))]
    return np.isin(enclosed.labels, hollow).view(np.uint8) if hollow else None


def _is_compact(size: npt.NDArray[np.int32]) -> bool:
    """Return whether an area is no strip, because it fills its box and the box is not long."""
    _, _, width, height, area = size.tolist()
    return bool(area > _C.compact * width * height and max(width, height) < _C.long_box * min(width, height))


def _is_strip(depth: npt.NDArray[np.float32], line: float, side: int) -> bool:
    """Return whether an area has the same width everywhere, and is long.

    Args:
        depth: distances of the area's pixels from its edges.
        line: width of the lines around it.
        side: longer side of the area's box.
    """
    deepest = float(depth.max())
    width, evenness = 2 * deepest - 1, float(depth.mean()) / deepest
    return bool(
        (width >= max(_C.least_stroke, line) or len(depth) >= _C.long_strip * width**2)
        and width <= _C.width * side
        and len(depth) >= _C.length * width**2
        and evenness >= _C.evenness
    )


def _is_ring(area: Pixels) -> bool:
    """Return whether an area lies around other ink in a convex line, such as a circle around a digit."""
    cv2 = opencv()
    outlines, levels = cv2.findContours(area, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    outline, has_ink = max(outlines, key=cv2.contourArea), len(levels[0]) > 1
    return has_ink and cv2.contourArea(outline) >= _C.convex * cv2.contourArea(cv2.convexHull(outline))


def find_box(mask: Pixels, enclosed: Enclosed) -> Pixels | None:
    """Return the lines of a box around the digit, which the digit may touch or cross; None if there is no box."""
    cv2 = opencv()
    boxes = enclosed.stats[list(enclosed.numbers)]
    width, height = ((boxes[:, axis] + boxes[:, 2 + axis]).max() - boxes[:, axis].min() for axis in (0, 1))
    if width < _C.box_side * mask.shape[1] or height < _C.box_side * mask.shape[0]:
        return None
    paper = np.isin(enclosed.labels, enclosed.numbers).view(np.uint8)
    inside = fill_hull(paper)
    if np.count_nonzero(paper) < _C.box_paper * np.count_nonzero(inside):
        return None
    hull = cv2.convexHull(cv2.findNonZero(paper))
    if not (fills_rectangle(hull, inside, _C.rectangle) and _has_ink(mask, inside, min(width, height))):
        return None
    reach = max(1, round(_C.box_line * min(width, height)))
    around = _grown(inside, reach + 1) & ~_grown(inside, reach)
    if np.count_nonzero(mask & around) > _C.crossed * np.count_nonzero(around):
        return None
    lines = mask & _grown(inside, reach) & ~inside
    thickness = 1 + round(np.count_nonzero(lines) / cv2.arcLength(hull, True))
    core = mask & cv2.erode(inside, window(5), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    crossings = _grown(core, thickness + 2) & _grown(mask & ~_grown(inside, reach), reach + 1)
    return mask & ~_connected_to(core, mask & ~(lines & ~crossings))


def _connected_to(core: Pixels, mask: Pixels) -> Pixels:
    """Return the parts of a mask that have pixels in the core."""
    _, labels = opencv().connectedComponents(mask, connectivity=8)
    wanted = np.unique(labels[core > 0])
    return np.isin(labels, wanted[wanted > 0]).view(np.uint8)


def _grown(mask: Pixels, reach: int) -> Pixels:
    grown: Pixels = opencv().dilate(mask, window(2 * reach + 1))
    return grown


def _has_ink(mask: Pixels, inside: Pixels, side: int) -> bool:
    """Return whether there is a digit in a box whose shorter side is given."""
    cv2 = opencv()
    core = mask & cv2.erode(inside, window(3), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    _, _, width, height = cv2.boundingRect(core)
    return bool(max(width, height) >= _C.least_ink * side)
