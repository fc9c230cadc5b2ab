"""Parts: connected parts of the ink, and the choice of those that are the digit.

All images are (H, W) uint8 at the coarse scale; masks are 0 and 1.
"""

from dataclasses import dataclass
from math import hypot, sqrt
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.images.ink.paper import Polarity, Values, border_of, odd, opencv, window
from digits.images.types import Pixels

Box = tuple[int, int, int, int]
"""Top, left, bottom and right of a box; bottom and right are the first row and column outside it."""
Components = npt.NDArray[np.uint16]


@dataclass(frozen=True, slots=True)
class _Constants:
    """Constants of the choice of parts.

    Args:
        edge: width of the zone along each edge in which frames are searched for, as a share of the side.
        line: share of ink above which a row or column is taken for a line of a frame.
        inside: share of a part's area outside the edge zones below which the part is taken for a frame.
        speck: share of the main part's area below which another part is a speck.
        apart: distance from the main part beyond which another part is not joined to it, as a share of its longer side.
        digit: share of the main part's area from which another part may be a second digit.
        most_parts: largest number of parts that get a score, and largest number of pieces of a digit.
        strip: largest width of a strip along an edge, as a share of the image's side.
        large_side: longer side of an image above which such a strip or a long line is no ink, in pixels.
        sheet_ink: share of ink above which the paper is searched for as a sheet inside the image.
        smallest_sheet: least share of the image that the paper of a sheet covers.
        largest_sheet: share of the image above which a sheet is the whole image.
        sheet_paper: least share of paper on a sheet.
        at_border: share of the border from which a sheet is cut off by the edges, so that it may have any corners.
        rectangle: least share that a sheet covers of the smallest rectangle around it.
        frame_rectangle: least share that an empty frame covers of the smallest rectangle around it.
        corners: largest number of corners of a sheet.
        sheet_corners: number of corners of a sheet that is whole.
        straight: least share that the polygon through its corners covers of a sheet.
        corner_distance: largest distance of a sheet's edge from the polygon, as a share of the edge's length.
        jump: least change of the level along the edges where a sheet ends, as a share of all levels there.
        sharp: least change of the level at a sheet's edge, as a share of the difference between sheet and surroundings.
        foreign: largest share of the sheet's own level outside the sheet.
        on_sheet: least side of the ink on a sheet, as a share of the sheet's longer side.
        in_frame: least side of the ink in a frame, as a share of the frame's shorter side.
        ring_ink: largest share that a line around a digit covers of its hull.
        on_hull: least share of the edge of its hull that a line around a digit follows.
        frame_ink: largest share that the lines of an empty frame cover of its box.
        frame_side: least side of an empty frame, as a share of the image's side.
        frame_line: largest width of the lines of an empty frame, as a share of its shorter side.
        line_length: least length of a long line, as a share of the longer side of the image.
        over_digit: least length of a long line, in sides of the longest part beside it.
        least_digit: least side of a digit beside a long line, as a share of the longer side of the image.
        line_ratio: least ratio of a long line's length to its width.
        from_line: least distance of a digit from a long line, as a share of the longer side of the image.
        beside: the same in pixels.
        beside_line: least area of a digit beside a long line, as a share of the line's area.
        digit_height: least side of a second digit, as a share of the height of all parts.
        above: share of the narrower part from which two parts are above each other.
        remnant: largest width of what an edge leaves of another digit, as a share of the main part's side.
        shared: largest share of its width that such a remnant has above or below the main part.
        stroke_gap: largest gap between two pieces of a digit, in stroke widths.
        bridge: width that is added to the largest gap, so that it is closed, in stroke widths.
        piece_width: least stroke width of a piece, in stroke widths of the main part.
    """

    edge: float = 0.12
    line: float = 0.6
    inside: float = 0.15
    speck: float = 0.06
    apart: float = 0.1
    digit: float = 0.3
    most_parts: int = 24
    strip: float = 0.25
    large_side: int = 32
    sheet_ink: float = 0.3
    smallest_sheet: float = 0.15
    largest_sheet: float = 0.98
    sheet_paper: float = 0.7
    at_border: float = 0.2
    rectangle: float = 0.86
    frame_rectangle: float = 0.92
    corners: int = 6
    sheet_corners: int = 4
    straight: float = 0.92
    corner_distance: float = 0.03
    jump: float = 0.25
    sharp: float = 0.4
    foreign: float = 0.15
    on_sheet: float = 0.2
    in_frame: float = 0.3
    ring_ink: float = 0.65
    on_hull: float = 0.9
    frame_ink: float = 0.5
    frame_side: float = 0.7
    frame_line: float = 0.15
    line_length: float = 0.5
    over_digit: float = 1.3
    least_digit: float = 0.2
    line_ratio: float = 6.0
    from_line: float = 0.06
    beside: int = 3
    beside_line: float = 0.2
    digit_height: float = 0.45
    above: float = 0.5
    remnant: float = 0.5
    shared: float = 0.3
    stroke_gap: float = 2.0
    bridge: float = 0.3
    piece_width: float = 0.5


_C = _Constants()


class Choice(NamedTuple):
    """Parts that are the digit.

    Args:
        kept: mask of the chosen parts.
        left_out: mask of all other ink; None if there is none.
        others: boxes of other parts that are large enough to be a second digit.
        bridge: size of the window that closes the gaps between the pieces of the digit, 0 if it has none.
    """

    kept: Pixels
    left_out: Pixels | None
    others: tuple[Box, ...]
    bridge: float = 0.0

    def without(self, lines: Pixels | None) -> "Choice":
        """Return the choice with lines that are no part of the digit."""
        if lines is None:
            return self
        return self._replace(left_out=lines if self.left_out is None else self.left_out | lines)


class Sheet(NamedTuple):
    """Sheet that covers a part of the image: mask of its inside, and whether the ink on it is darker than the sheet."""

    inside: Pixels
    dark_on_light: bool


class _Part(NamedTuple):
    """Connected part of the ink. `frame` is true if nearly all of it is close to an edge of the image."""

    label: int
    box: Box
    area: int
    frame: bool
    score: float

    @property
    def side(self) -> int:
        """Longer side of the box."""
        return max(self.box[2] - self.box[0], self.box[3] - self.box[1])

    @property
    def shorter_side(self) -> int:
        """Shorter side of the box."""
        return min(self.box[2] - self.box[0], self.box[3] - self.box[1])


def find_sheet(page: Pixels, polarity: Polarity) -> Sheet | None:
    """Return the sheet of paper with the digit, if something else runs along the edges of the image.

    A sheet is a convex area of one side of Otsu's threshold with ink of the other side inside. Of a light and a dark
    one, the inner one is the sheet.
    """
    at_border, share = polarity.border_share, polarity.share
    if not polarity.dark_on_light:
        at_border, share = 1 - at_border, 1 - share
    if at_border == 1 and share >= 1 - _C.sheet_ink:
        return None
    if 0 < at_border < 1 and not _has_jump(border_of(page)):
        return None
    light = polarity.light
    found = [
        Sheet(inside, dark_on_light)
        for dark_on_light, side in ((True, light), (False, 1 - light))
        if (inside := _inside_of_sheet(page, side)) is not None
    ]
    return min(found, key=lambda sheet: np.count_nonzero(sheet.inside), default=None)


def _has_jump(border: Pixels) -> bool:
    """Return whether the level along the edges changes from one pixel to the next but one, and not only gradually."""
    cv2 = opencv()
    darkest, lightest, *_ = cv2.minMaxLoc(border)
    return bool(cv2.norm(border[2:], border[:-2], cv2.NORM_INF) >= _C.jump * (lightest - darkest))


def _inside_of_sheet(page: Pixels, side: Pixels) -> Pixels | None:
    """Return the inside of the largest connected part of one side of the threshold, if it is a sheet with a digit."""
    cv2 = opencv()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(side, connectivity=4, ltype=cv2.CV_16U)
    if len(stats) == 1:
        return None
    best = 1 + int(stats[1:, 4].argmax())
    if stats[best, 4] < _C.smallest_sheet * side.size:
        return None
    paper = (labels == best).view(np.uint8)
    hull = cv2.convexHull(cv2.findNonZero(paper))
    whole = _filled(hull, paper)
    if not (_is_mostly_paper(paper, side, whole) and _has_straight_edges(hull, paper) and _ends_sharply(page, whole)):
        return None
    inside: Pixels = cv2.erode(whole, window(3), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return inside if _has_digit(inside & (1 - side), inside) else None


def _is_mostly_paper(paper: Pixels, side: Pixels, whole: Pixels) -> bool:
    """Return whether a sheet is not the whole image, is mostly paper, and what is outside it is not."""
    covered, outside = np.count_nonzero(whole), 1 - whole
    return bool(
        covered <= _C.largest_sheet * whole.size
        and np.count_nonzero(paper) >= _C.sheet_paper * covered
        and np.count_nonzero(side & outside) <= _C.foreign * np.count_nonzero(outside)
    )


def _has_straight_edges(hull: Any, paper: Pixels) -> bool:
    """Return whether a hull is a rectangle, or a polygon of few corners that the edges of the image cut off."""
    cv2 = opencv()
    corners = cv2.approxPolyDP(hull, _C.corner_distance * cv2.arcLength(hull, True), True)
    border = border_of(paper)
    if len(corners) > _C.corners or cv2.contourArea(corners) < _C.straight * cv2.contourArea(hull):
        return False
    cut_off = bool(np.count_nonzero(border) >= _C.at_border * border.size)
    return cut_off or len(corners) == _C.sheet_corners or fills_rectangle(hull, paper, _C.rectangle)


def _ends_sharply(page: Pixels, whole: Pixels) -> bool:
    """Return whether the level changes at the edge of a sheet, and not gradually as in a shadow."""
    cv2 = opencv()
    outside, inside = 1 - whole, cv2.erode(whole, window(3), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    rims = outside & cv2.dilate(whole, window(3)), inside & cv2.dilate(1 - inside, window(3))
    (near, within), (far, middle) = (
        tuple(cv2.mean(page, mask)[0] for mask in pair) for pair in (rims, (outside, inside))
    )
    return bool(abs(within - near) >= _C.sharp * abs(middle - far))


def fills_rectangle(hull: Any, like: Pixels, share: float) -> bool:
    """Return whether a hull covers a share of the smallest rectangle around it, which may be tilted."""
    _, (across, down), _ = opencv().minAreaRect(hull)
    return bool(np.count_nonzero(_filled(hull, like)) >= share * (across + 1) * (down + 1))


def _filled(hull: Any, like: Pixels) -> Pixels:
    """Return the mask of a convex hull, in the shape of another mask."""
    mask = np.zeros_like(like)
    opencv().fillConvexPoly(mask, hull, 1)
    return mask


def _has_digit(ink: Pixels, inside: Pixels) -> bool:
    """Return whether the largest part of the ink on a sheet is not too small, and does not reach the sheet's edge."""
    cv2 = opencv()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(ink, connectivity=8)
    if len(stats) == 1:
        return False
    best = 1 + int(stats[1:, 4].argmax())
    _, _, width, height = cv2.boundingRect(inside)
    rim = inside & ~cv2.erode(inside, window(3), borderType=cv2.BORDER_CONSTANT, borderValue=0)
    large = max(stats[best, 2:4]) >= _C.on_sheet * max(width, height)
    return bool(large and not (labels[rim > 0] == best).any())


def erase_edge_lines(mask: Pixels) -> bool:
    """Erase, in place, lines of a frame near the edges: rows and columns that are mostly ink, and all outside them.

    Returns:
        Whether there are such lines.
    """
    cv2 = opencv()
    found = False
    for side, axis in ((mask, 1), (mask.T, 0)):
        sums = cv2.reduce(mask, axis, cv2.REDUCE_SUM, dtype=cv2.CV_32S).ravel().tolist()
        near, most = max(1, int(len(side) * _C.edge)), _C.line * side.shape[1]
        first = max((line + 1 for line in range(near) if sums[line] > most), default=0)
        last = max((line + 1 for line in range(near) if sums[-1 - line] > most), default=0)
        side[:first] = side[len(side) - last :] = 0
        found = found or bool(first or last)
    return found


def choose(mask: Pixels, strength: Pixels, *, may_have_frame: bool) -> Choice | None:
    """Choose the main connected part, the one with the highest score, and the parts close to it that are not specks.

    Returns:
        The chosen parts; None if there is no ink, or only an empty frame.
    """
    cv2 = opencv()
    count, labels, stats, centres = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    if count == 1:
        return None
    if count == 2:  # noqa: PLR2004 - paper and one part
        nothing = _runs_along_edge(stats[1], mask) or _is_empty_frame(mask, mask, stats[1])
        return None if nothing else Choice(mask, None, ())
    along = {number for number in range(1, count) if _runs_along_edge(stats[number], mask)}
    if len(along) == count - 1:
        return None
    parts = _score_parts(labels, strength, stats, centres, may_have_frame=may_have_frame)
    parts = [part for part in parts if part.label not in along] or parts
    framing = [part for part in parts if _encloses_another(part, parts, labels) or _is_long_line(part, parts, labels)]
    parts = [part for part in parts if part not in framing] or parts
    main = max(parts, key=lambda part: part.score)
    if not framing and _is_empty_frame(mask, _mask_of([main], labels), stats[main.label]):
        return None
    others = [part for part in parts if part is not main and not part.frame]
    thick = cv2.distanceTransform(mask, cv2.DIST_L2, 3)
    stroke = 2 * float(thick[labels == main.label].max())
    high = max(part.box[2] for part in parts) - min(part.box[0] for part in parts)
    large = [part for part in others if _is_second_digit(part, main, high, stroke)]
    pieces = [part for part in others if part not in large]
    kept, gap = _join_pieces(main, pieces, labels, thick, stroke)
    bridge = gap + _C.bridge * stroke if gap else 0.0
    unwanted = [*framing, *large, *(part for part in parts if part.frame and part is not main)]
    left_out = _mask_of(unwanted, labels)
    others = [part for part in large if not _is_remnant(part, main, mask.shape[1])]
    return Choice(kept, left_out, tuple(part.box for part in others), bridge)


def _runs_along_edge(size: npt.NDArray[np.int32], page: Pixels) -> bool:
    """Return whether a part is a strip along one edge of a large image, from corner to corner."""
    left, top, wide, high, _ = size.tolist()
    (height, width), along = page.shape, False
    if wide == width:
        along = high <= _C.strip * height and (top == 0 or top + high == height)
    elif high == height:
        along = wide <= _C.strip * width and (left == 0 or left + wide == width)
    return along and max(height, width) > _C.large_side


def _is_second_digit(part: _Part, main: _Part, high: int, stroke: float) -> bool:
    """Return whether a part is not a piece of the main part, but large enough to be a digit beside it."""
    gap = _gap(part.box, main.box)
    if part.area < _C.digit * main.area or part.side < _C.digit_height * high or gap <= _C.apart * main.side:
        return False
    shared = min(part.box[3], main.box[3]) - max(part.box[1], main.box[1])
    stacked = shared >= _C.above * min(part.box[3] - part.box[1], main.box[3] - main.box[1])
    return not (stacked and gap <= _C.stroke_gap * stroke)


def _is_remnant(part: _Part, main: _Part, width: int) -> bool:
    """Return whether a part is what an edge of the image has left of another digit: it stands beside the main part."""
    _, left, _, right = part.box
    beside = (left == 0 < main.box[1]) or (right == width > main.box[3])
    shared = min(right, main.box[3]) - max(left, main.box[1])
    return beside and right - left <= _C.remnant * main.side and shared <= _C.shared * (right - left)


def _touches_edge(box: Box, page: Pixels) -> bool:
    return box[0] == 0 or box[1] == 0 or box[2] == page.shape[0] or box[3] == page.shape[1]


def _join_pieces(
    main: _Part, pieces: list[_Part], labels: Components, thick: Values, stroke: float
) -> tuple[Pixels, float]:
    """Return the mask of the main part and of the pieces closer to it than some stroke widths, and the largest gap."""
    reach = _C.apart * main.side
    remnants = [one for one in pieces if _is_remnant(one, main, labels.shape[1])]
    near = [one for one in pieces if one.area >= _C.speck * main.area and _gap(one.box, main.box) <= reach]
    near = [one for one in near if one not in remnants]
    whole = _mask_of([main, *near], labels)
    least = _C.piece_width * stroke
    waiting = [one for one in pieces if one not in near and _thickness(one, labels, thick) >= least]
    if labels.max() > _C.most_parts:
        return whole, 0.0
    cv2 = opencv()
    kept, gap = whole, 0.0
    if near:
        distance = cv2.distanceTransform(1 - _mask_of([main], labels), cv2.DIST_L2, 3)
        gap = max(
            one for one in (0.0, *(_distance(part, labels, distance) for part in near)) if one <= _C.stroke_gap * stroke
        )
    while waiting:
        distance = cv2.distanceTransform(1 - kept, cv2.DIST_L2, 3)
        gaps = {one: _distance(one, labels, distance) for one in waiting}
        joined = [one for one in waiting if gaps[one] <= _C.stroke_gap * stroke]
        at_edge = [one for one in joined if _touches_edge(one.box, kept)]
        if at_edge and gap:
            return whole, 0.0
        joined = [one for one in joined if one not in at_edge]
        if not joined:
            break
        gap = max(gap, *(gaps[one] for one in joined))
        kept = kept | _mask_of(joined, labels)
        waiting = [one for one in waiting if one not in joined and one not in at_edge]
    return kept, gap


def _mask_of(parts: list[_Part], labels: Components) -> Pixels:
    mask: npt.NDArray[np.bool_] = np.isin(labels, [part.label for part in parts])
    return mask.view(np.uint8)


def _thickness(part: _Part, labels: Components, thick: Values) -> float:
    top, left, bottom, right = part.box
    return 2 * float(thick[top:bottom, left:right][labels[top:bottom, left:right] == part.label].max())


def _distance(part: _Part, labels: Components, distance: Values) -> float:
    top, left, bottom, right = part.box
    return float(distance[top:bottom, left:right][labels[top:bottom, left:right] == part.label].min())


def _is_long_line(line: _Part, parts: list[_Part], labels: Components) -> bool:
    """Return whether a part is a straight line, longer than any digit beside it: a pen, or the edge of a sheet."""
    whole = max(labels.shape)
    beside = [part for part in parts if part is not line and part.area > _C.beside_line * line.area]
    longest = max((part.side for part in beside), default=0)
    if (
        whole <= _C.large_side
        or longest < _C.least_digit * whole
        or line.side < max(_C.line_length * whole, _C.over_digit * longest)
    ):
        return False
    cv2 = opencv()
    mask = _mask_of([line], labels)
    _, sides, _ = cv2.minAreaRect(cv2.findNonZero(mask))
    if max(sides) + 1 < _C.line_ratio * (min(sides) + 1):
        return False
    distance = cv2.distanceTransform(1 - mask, cv2.DIST_L2, 3)
    return bool(min(_distance(part, labels, distance) for part in beside) > max(_C.beside, _C.from_line * whole))


def _encloses_another(ring: _Part, parts: list[_Part], labels: Components) -> bool:
    """Return whether a part is a closed line around another large part."""
    least = _C.in_frame * ring.shorter_side
    inner = [part for part in parts if _is_inside(part.box, ring.box) and part.side >= least]
    if not inner:
        return False
    line = _mask_of([ring], labels)
    filled = fill_hull(line)
    is_line = bool(ring.area <= _C.ring_ink * np.count_nonzero(filled))
    return is_line and any(filled[labels == part.label].all() for part in inner) and _follows_hull(line, filled)


def _follows_hull(line: Pixels, filled: Pixels) -> bool:
    """Return whether a line is nearly everywhere on the edge of its hull, as a frame or a circle is, but no 8."""
    cv2 = opencv()
    edge = filled & cv2.dilate(1 - filled, window(3), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return bool(np.count_nonzero(edge & cv2.dilate(line, window(3))) >= _C.on_hull * np.count_nonzero(edge))


def fill_hull(mask: Pixels) -> Pixels:
    """Return the mask of the convex hull of a mask."""
    cv2 = opencv()
    return _filled(cv2.convexHull(cv2.findNonZero(mask)), mask)


def has_only_frame(mask: Pixels) -> bool:
    """Return whether the ink is nothing but a rectangle of lines along the edges of the image."""
    cv2 = opencv()
    _, labels, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8, ltype=cv2.CV_16U)
    best = 1 + int(stats[1:, 4].argmax()) if len(stats) > 1 else 0
    return bool(best) and _is_empty_frame(mask, (labels == best).view(np.uint8), stats[best])


def _is_empty_frame(mask: Pixels, frame: Pixels, size: npt.NDArray[np.int32]) -> bool:
    """Return whether a part is an empty rectangle of lines along the edges of the image."""
    wide, high, area = int(size[2]), int(size[3]), int(size[4])
    height, width = frame.shape
    if wide < _C.frame_side * width or high < _C.frame_side * height or area > _C.frame_ink * wide * high:
        return False
    cv2 = opencv()
    hull = cv2.convexHull(cv2.findNonZero(frame))
    lines = window(odd(2 * _C.frame_line * min(wide, high)))
    inside = cv2.erode(_filled(hull, frame), lines, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return fills_rectangle(hull, frame, _C.frame_rectangle) and not (inside & mask).any()


def _is_inside(box: Box, other: Box) -> bool:
    return box[0] > other[0] and box[1] > other[1] and box[2] < other[2] and box[3] < other[3]


def _score_parts(
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
    border = np.bincount(border_of(labels), minlength=count).tolist()
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
