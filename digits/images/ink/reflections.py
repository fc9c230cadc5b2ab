"""Reflections: bright spots that erase a part of the ink, and bridges across them.

All masks are (h, w) uint8 of 0 and 1 at the coarse scale.
"""

from dataclasses import dataclass
from math import sqrt
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from digits.images.ink.paper import border_of, opencv, quantile, window
from digits.images.types import Pixels

_ENDS = 2
"""Number of ends of one stroke."""
_SHIFT = 4
"""Fractional bits of coordinates that are passed to OpenCV."""


@dataclass(frozen=True, slots=True)
class _Constants:
    """Constants of the search for reflections. Lengths are in pixels, levels are grey levels of 0 to 255.

    Args:
        over_paper: least difference of a reflection's level from the paper around it.
        glaring: least difference of its brightest pixel from the lightest paper.
        smallest: least area of a reflection.
        largest: largest share of the image that it covers.
        at_edge: longest side of a reflection at the edges of the image, as a share of the root of its area.
        around: width of the window that reaches from a reflection to the ink.
        beside: width of the window that reaches from an end of a stroke to where it has its full width.
        doubled: width by which twice the largest distance from the paper is wider than a stroke, on average.
        hiding: area of a reflection above which it may hide strokes, in squares of the longer side of the ink's box.
    """

    over_paper: int = 30
    glaring: int = 24
    smallest: int = 4
    largest: float = 0.1
    at_edge: float = 1.2
    around: int = 5
    beside: int = 9
    doubled: float = 0.5
    hiding: float = 0.2


_C = _Constants()


class Bridge(NamedTuple):
    """Straight line between two pixels (row, column) of the ink, with its width."""

    start: tuple[int, int]
    end: tuple[int, int]
    width: float


class Reflection(NamedTuple):
    """Reflection that touches the ink.

    Args:
        spot: mask of the reflection and of its surroundings.
        ends: number of separate parts of the ink at the reflection.
        bridge: line between the ends, if there are two; more than two can be joined in several ways.
    """

    spot: Pixels
    ends: int
    bridge: Bridge | None

    def hides_strokes(self, kept: Pixels) -> bool:
        """Return whether more of the digit may be erased than a part of one stroke.

        Args:
            kept: mask of the digit.
        """
        _, _, width, height = opencv().boundingRect(kept)
        is_large = np.count_nonzero(self.spot) > _C.hiding * max(width, height) ** 2
        return self.ends > _ENDS or bool(is_large)


def find_reflection(page: Pixels, paper: Pixels, mask: Pixels) -> Reflection | None:
    """Return the reflection that touches the ink, None if there is none.

    Args:
        page: image, uint8.
        paper: its paper without the ink, uint8.
        mask: mask of all ink.
    """
    spot = _find_spot(page, paper)
    if spot is None:
        return None
    count, labels = opencv().connectedComponents(spot & mask, connectivity=8)
    ends = count - 1
    return Reflection(spot, ends, _bridge(mask, labels) if ends == _ENDS else None) if ends else None


def _find_spot(page: Pixels, paper: Pixels) -> Pixels | None:
    """Return the mask of a spot, and of its surroundings, that is brighter than the paper around it and elsewhere.

    What has a long side at the edges of the image is rather a part of the page that is not in a shadow.
    """
    cv2 = opencv()
    spot = cv2.threshold(cv2.subtract(page, paper), _C.over_paper, 1, cv2.THRESH_BINARY)[1]
    area = cv2.countNonZero(spot)
    if not _C.smallest <= area <= _C.largest * spot.size:
        return None
    lightest = quantile(page, np.ones_like(page), 1 - _C.largest)
    if page[spot > 0].max() < lightest + _C.glaring or np.count_nonzero(border_of(spot)) > _C.at_edge * sqrt(area):
        return None
    around: Pixels = cv2.dilate(spot, window(_C.around))
    return around


def _bridge(mask: Pixels, labels: npt.NDArray[np.int32]) -> Bridge:
    """Return the line between the nearest pixels of the parts with the labels 1 and 2, as wide as the thinner one."""
    cv2 = opencv()
    parts = [(labels == number).view(np.uint8) for number in (1, 2)]
    first, second = map(np.argwhere, parts)
    lengths = np.hypot(*(first[:, np.newaxis] - second).transpose(2, 0, 1))
    nearest = np.unravel_index(lengths.argmin(), lengths.shape)
    (top, left), (bottom, right) = first[nearest[0]].tolist(), second[nearest[1]].tolist()
    thick = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    width = 2 * min(float(thick[cv2.dilate(part, window(_C.beside)) > 0].max()) for part in parts) - _C.doubled
    return Bridge((top, left), (bottom, right), width)


def draw_bridge(image: Pixels, bridge: Bridge, factor: int = 1, *, full: int) -> Pixels:
    """Return ink or a mask with a bridge.

    Args:
        image: ink or mask, (H, W) uint8.
        bridge: bridge at the coarse scale.
        factor: number of pixels of `image` per coarse pixel.
        full: level of the bridge: 255, or 1 in a mask.
    """
    cv2 = opencv()
    start, end = (
        [round(((place + 0.5) * factor - 0.5) * (1 << _SHIFT)) for place in reversed(point)]
        for point in (bridge.start, bridge.end)
    )
    kind = cv2.LINE_AA if full > 1 else cv2.LINE_8
    drawn: Pixels = cv2.line(image.copy(), start, end, full, max(1, round(bridge.width * factor)), kind, _SHIFT)
    return drawn
