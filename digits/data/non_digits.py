"""Non-digits: synthetic images without a digit, to train the out-of-distribution score.

A network that was trained on digits only is as confident about a shoe as about a seven. Training with outliers improves
this: D. Hendrycks, M. Mazeika, T. Dietterich: Deep Anomaly Detection with Outlier Exposure, ICLR 2019. The images are
letters and symbols in the fonts of `digits.data.synthetic_digits`, scribbles, signs, objects, noise, lines, and joined
or struck-out digits. No image comes from the datasets on which the rejection of non-digits is measured. Characters that
many readers take for a digit (O, l, S, Z and others) are left out.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from digits.data.objects import draw_object
from digits.data.synthetic_digits import list_fonts, render_text
from digits.images.normalize import normalize
from digits.images.screening import screen
from digits.images.types import Pixels

Values = npt.NDArray[np.float64]
Random = np.random.Generator
Shape = tuple[int, int]
Drawer = Callable[[Pixels, Random], Pixels]

_LETTERS = "ACEFGHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"
_SYMBOLS = "#$%&*+=?@<>~{}ΓΔΘΛΞΠΣΦΨΩαβγδεζηκλμνξπρτφχψωБДЖИЙЛПФЦШЩЭЮЯабдежийклмнптфцшщъыэюя"
_CANVAS = 56
"""Side of a drawing before it is scaled, in pixels."""
_MIN_INK = 32
"""Lowest level of a pixel that counts as ink."""
_SIDE = 20 / 28
"""Longer side of the ink, as a share of the image's side, as in MNIST."""
_MIN_ASPECT = 0.3
"""Smallest ratio of width to height of an object: a narrower one would look like a 1."""


def draw_non_digits(digits: Pixels, count: int, *, seed: int, shape: Shape) -> Pixels:
    """Draw images of the kinds in `KINDS`, at random.

    Args:
        digits: (M, height, width) uint8, images of digits; some kinds show two of them.
        count: number of images to draw.
        seed: random seed of the drawings.
        shape: height and width of the images in pixels.

    Returns:
        (count, *shape) uint8, light ink on black. Most have the size and the centering of MNIST's digits.
    """
    random = np.random.default_rng([seed, 255])
    drawers, weights = zip(*KINDS.values(), strict=True)
    kinds = random.choice(len(drawers), count, p=np.array(weights) / sum(weights))
    drawn = [_draw_with_ink(drawers[kind], digits, random, shape) for kind in kinds]
    return np.stack(drawn) if drawn else np.zeros((0, *shape), np.uint8)


def _draw_with_ink(drawer: Drawer, digits: Pixels, random: Random, shape: Shape) -> Pixels:
    """Draw until the image has ink and, if it shows an object, is wide enough. Normalize 60 % of the objects."""
    while True:
        picture = drawer(digits, random)
        if drawer in _OBJECTS and _chance(random, 0.6):
            picture = normalize(picture, "mnist", shape=shape)
        box = _ink_box(picture)
        if box is not None and (drawer not in _OBJECTS or _is_wide(box)):
            return _fit(picture, picture[box], shape, whole=drawer is _draw_noise and _chance(random, 0.5))


def _chance(random: Random, probability: float) -> bool:
    return bool(random.random() < probability)


def _ink_box(picture: Pixels) -> tuple[slice, slice] | None:
    inked = picture >= _MIN_INK
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


def _is_wide(box: tuple[slice, slice]) -> bool:
    height, width = (int(side.stop - side.start) for side in box)
    return width > _MIN_ASPECT * height


def _fit(picture: Pixels, ink: Pixels, shape: Shape, *, whole: bool) -> Pixels:
    """Scale the ink to the size of a digit and center it by mass, or scale the whole picture to the shape.

    `normalize` does not fit here, because it would keep only one of two digits.
    """
    if whole:
        return np.array(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BILINEAR))
    side = min(shape) * _SIDE
    height, width = (max(1, round(size * side / max(ink.shape))) for size in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX), np.float64)
    top, left = (_corner(small.sum(axis=1 - axis), field) for axis, field in enumerate(shape))
    placed = np.zeros(shape, np.uint8)
    placed[top : top + height, left : left + width] = small * (255 / max(small.max(), 1))
    return placed


def _corner(mass: Values, field: int) -> int:
    """Return the offset at which a row of masses is centered by mass in a field, limited so that it stays inside."""
    centre = float(mass @ (np.arange(len(mass)) + 0.5)) / max(float(mass.sum()), 1)
    return min(max(round(field / 2 - centre), 0), field - len(mass))


def _draw_letter(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001 - all drawers have the same arguments
    text = _LETTERS if _chance(random, 0.6) else _SYMBOLS
    return _warp(_render(text[int(random.integers(len(text)))], random), random)


def _draw_number(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    return _warp(_render(str(random.integers(10, 1000)), random), random)


def _render(text: str, random: Random) -> Pixels:
    files = list_fonts()
    return render_text(text, files[int(random.integers(len(files)))], random)


def _warp(picture: Pixels, random: Random) -> Pixels:
    """Warp a picture smoothly, like handwriting, by up to an eighth of its side; leave 30 % as they are."""
    if _chance(random, 0.3):
        return picture
    picture = np.pad(picture, max(picture.shape) // 6)
    strength = random.uniform(0, 0.12) * min(picture.shape)
    moved = [
        index + strength * _smooth_noise(random, picture.shape, int(random.integers(2, 5)))
        for index in np.indices(picture.shape)
    ]
    row, column = (
        np.clip(place.round(), 0, size - 1).astype(np.intp) for place, size in zip(moved, picture.shape, strict=True)
    )
    warped: Pixels = picture[row, column]
    return warped


def _smooth_noise(random: Random, shape: tuple[int, ...], cells: int) -> Values:
    """Return noise of about -1 to 1, interpolated from a square grid with `cells` values per side."""
    coarse = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize((shape[1], shape[0]), Image.Resampling.BICUBIC), np.float64)


def _draw_scribble(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    width = int(random.integers(2, 9))
    for _ in range(int(random.integers(2, 6))):
        points = random.uniform(4, _CANVAS - 4, (4, 2))
        line = _curve(points) if _chance(random, 0.6) else points[:2]
        draw.line([tuple(point) for point in line], fill=255, width=width, joint="curve")
    return np.array(image)


def _curve(points: Values) -> Values:
    """Return points on a cubic Bézier curve with these control points: (4, 2) -> (20, 2)."""
    t = np.linspace(0, 1, 20)[:, np.newaxis]
    weights = np.concatenate([(1 - t) ** 3, 3 * (1 - t) ** 2 * t, 3 * (1 - t) * t**2, t**3], axis=1)
    curve: Values = weights @ points
    return curve


def _draw_shape(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Draw one to three filled polygons, ellipses or boxes, with shading or a pattern like that of an object."""
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 4))):
        fill = int(random.integers(60, 256))
        points = random.uniform(2, _CANVAS - 2, (int(random.integers(3, 8)), 2))
        box = [*points.min(axis=0), *points.max(axis=0)]
        kind = int(random.integers(4))
        if kind == 0:
            draw.ellipse(box, fill=fill)
        elif kind == 1:
            draw.rectangle(box, fill=fill)
        else:
            draw.polygon([tuple(point) for point in _sort_by_angle(points)], fill=fill)
    shade = 1 - random.uniform(0, 0.9) * np.abs(_smooth_noise(random, image.size, int(random.integers(2, 12))))
    return (np.asarray(image) * np.clip(shade, 0, 1)).astype(np.uint8)


def _sort_by_angle(points: Values) -> Values:
    """Sort corners by their angle around the center, so that no sides of the polygon cross."""
    offset = points - points.mean(axis=0)
    ordered: Values = points[np.argsort(np.arctan2(offset[:, 1], offset[:, 0]))]
    return ordered


def _draw_symmetric(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Draw a symmetric object, plain, shaded or patterned, with or without limbs and a gap in the middle."""
    nodes = np.linspace(0, 1, int(random.integers(2, 7)))
    half, gap = (
        np.interp(np.linspace(0, 1, _CANVAS), nodes, random.uniform(*range_, len(nodes)).clip(0)) * _CANVAS
        for range_ in ((0.08, 0.5), (-0.3, 0.2))
    )
    across, down = np.abs(np.arange(_CANVAS) - (_CANVAS - 1) / 2), np.arange(_CANVAS)[:, np.newaxis]
    inside = (across < half[:, np.newaxis]) & (across >= gap[:, np.newaxis])
    if _chance(random, 0.5):
        limb = random.uniform(0, 0.4) * _CANVAS + random.uniform(0, 3) * (across - _CANVAS / 10)
        inside |= (down >= limb) & (down < limb + random.uniform(0.08, 0.3) * _CANVAS)
    depth = random.uniform(0, 0.6) * _chance(random, 0.7)
    pattern = random.uniform(0.3, 1) * (1 + depth * _smooth_noise(random, inside.shape, int(random.integers(2, 20))))
    picture = (np.clip(pattern, 0.05, 1) * inside * 255).astype(np.uint8)
    return picture if _chance(random, 0.7) else np.ascontiguousarray(picture.T)


def _draw_object(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Draw an object that is wide enough and that the screening does not recognize as one, and normalize it."""
    while True:
        screened = screen(draw_object(random))
        box = _ink_box(screened.pixels)
        if not screened.screening_score and box is not None and _is_wide(box):
            return screened.pixels


def _draw_noise(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Draw noise of any grain size, with many grey levels or two, dense or sparse."""
    shape = (int(random.integers(12, _CANVAS)), int(random.integers(12, _CANVAS)))
    smooth = _smooth_noise(random, shape, int(random.integers(3, 40))) / 2 + 0.5
    grain = random.uniform(0, 1, shape) if _chance(random, 0.5) else smooth
    grain = np.clip(grain, 0, 1) ** random.uniform(0.5, 4)
    if _chance(random, 0.3):
        grain = (grain > random.uniform(0.3, 0.8)).astype(np.float64)
    return np.pad((grain * 255).astype(np.uint8), int(random.integers(0, 8)))


def _draw_pair(digits: Pixels, random: Random) -> Pixels:
    """Draw two digits that touch, side by side or one above the other."""
    left, right = (digits[int(random.integers(len(digits)))] for _ in range(2))
    height, width = left.shape
    if _chance(random, 0.2):
        return np.concatenate([left[: height - 4], right[4:]])
    apart = int(random.integers(width // 4, width - 4))
    field = np.zeros((height, width + apart), np.uint8)
    field[:, :width] = left
    field[:, apart:] = np.maximum(field[:, apart:], np.roll(right, int(random.integers(-2, 3)), axis=0))
    return field


def _draw_crossed(digits: Pixels, random: Random) -> Pixels:
    """Draw a digit turned by 90 degrees over another digit."""
    first, second = (digits[int(random.integers(len(digits)))] for _ in range(2))
    turned = np.asarray(Image.fromarray(np.rot90(second)).resize(first.shape[::-1]))
    crossed: Pixels = np.maximum(first, turned)
    return crossed


def _draw_struck_out(digits: Pixels, random: Random) -> Pixels:
    """Draw strokes across a digit."""
    digit = Image.fromarray(digits[int(random.integers(len(digits)))])
    digit = digit.resize((_CANVAS, _CANVAS), Image.Resampling.BICUBIC)
    reach, width = random.uniform(0.32, 0.48) * _CANVAS, int(random.integers(2, 7))
    for stroke in _draw_strikes(random):
        points = stroke * reach + random.normal(0, 0.02 * _CANVAS, stroke.shape) + _CANVAS / 2
        ImageDraw.Draw(digit).line([tuple(point) for point in points], fill=255, width=width, joint="curve")
    return np.array(digit)


def _draw_strikes(random: Random) -> list[Values]:
    """Return a cross, two to five nearly parallel strokes, or a zigzag: points (x, y) from about -1 to 1."""
    if _chance(random, 0.4):
        slope = random.uniform(0.7, 1.5)
        return [np.array([(-1, -slope), (1, slope)]), np.array([(-1, slope), (1, -slope)])]
    if _chance(random, 0.6):
        slope, places = random.uniform(-0.7, 0.7), np.linspace(-0.6, 0.6, int(random.integers(2, 6)))
        return [np.array([(-1, place - slope), (1, place + slope)]) for place in places]
    x = np.linspace(-1, 1, int(random.integers(5, 10)))
    return [np.stack([x, np.resize([-1, 1], len(x))], axis=1)]


def _draw_lines(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Draw horizontal bars, corners, crosses and grids, like ruled lines. A vertical bar alone would look like a 1."""
    field = np.zeros((_CANVAS, _CANVAS), np.uint8)
    vertical, horizontal = ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2))[int(random.integers(6))]
    for number in range(vertical + horizontal):
        width = int(random.integers(2, 9))
        place, start = int(random.integers(_CANVAS - width)), int(random.integers(_CANVAS // 3))
        target = field if number < horizontal else field.T
        target[place : place + width, start : _CANVAS - int(random.integers(_CANVAS // 3))] = random.integers(100, 256)
    return field


def _draw_sign(digits: Pixels, random: Random) -> Pixels:  # noqa: ARG001
    """Draw an operator or another sign with a pen. A slash would look like a 1."""
    image, width = Image.new("L", (_CANVAS, _CANVAS)), int(random.integers(1, 8))
    for stroke in _SIGNS[int(random.integers(len(_SIGNS)))]:
        points = (np.reshape(stroke, (-1, 2)) + random.normal(0, 0.04, (len(stroke) // 2, 2))) * _CANVAS
        if len(points) == 1:
            ImageDraw.Draw(image).ellipse([*(points[0] - width), *(points[0] + width)], fill=255)
        ImageDraw.Draw(image).line([tuple(point) for point in points], fill=255, width=width)
    return np.array(image)


_SIGNS = (
    ((0.1, 0.5, 0.9, 0.5), (0.5, 0.1, 0.5, 0.9)),
    ((0.1, 0.5, 0.9, 0.5),),
    ((0.2, 0.2, 0.8, 0.8), (0.8, 0.2, 0.2, 0.8)),
    ((0.1, 0.5, 0.9, 0.5), (0.5, 0.2), (0.5, 0.8)),
    ((0.1, 0.4, 0.9, 0.4), (0.1, 0.6, 0.9, 0.6)),
    ((0.5, 0.5),),
    ((0.15, 0.55, 0.4, 0.85, 0.9, 0.1),),
    ((0.1, 0.1, 0.9, 0.1, 0.9, 0.9, 0.1, 0.9, 0.1, 0.1),),
    ((0.8, 0.1, 0.2, 0.5, 0.8, 0.9),),
    ((0.2, 0.1, 0.8, 0.5, 0.2, 0.9),),
)
"""Strokes of plus, minus, times, divided by, equals, a dot, a tick, a box, less and greater: x and y of each point in
turn, in units of the drawing's side. One point is a dot."""

KINDS: Mapping[str, tuple[Drawer, float]] = {
    "letter": (_draw_letter, 6),
    "number": (_draw_number, 0.5),
    "scribble": (_draw_scribble, 0.5),
    "shape": (_draw_shape, 5),
    "symmetric": (_draw_symmetric, 10),
    "object": (_draw_object, 6),
    "noise": (_draw_noise, 3),
    "pair": (_draw_pair, 1),
    "crossed": (_draw_crossed, 0.5),
    "lines": (_draw_lines, 0.5),
    "sign": (_draw_sign, 1),
    "struck out": (_draw_struck_out, 6),
}
"""Function that draws each kind of non-digit, and the relative frequency of the kind."""
_OBJECTS = (_draw_shape, _draw_symmetric, _draw_noise)
"""Simple kinds that stand for photographs of objects."""
