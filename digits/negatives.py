"""Pictures that are no digits, to train on: a network that never saw any is as sure of a shoe as of a seven.

D. Hendrycks, M. Mazeika, T. Dietterich: Deep Anomaly Detection with Outlier Exposure, ICLR 2019. What is drawn is
letters and signs in the fonts of `digits.printed`, scribbles, shapes, noise and joined digits: kinds of marks, none of
the sets on which rejection is measured. Characters that are digits to many readers (O, l, S, Z, ...) are left out.
"""

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from digits.normalization import normalize
from digits.printed import fonts, render

Bytes = npt.NDArray[np.uint8]
Values = npt.NDArray[np.float64]
Random = np.random.Generator
Shape = tuple[int, int]

_LETTERS = "ACEFGHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"
_SIGNS = "#$%&*+=?@<>~{}"
_OTHER_SCRIPTS = "ΓΔΘΛΞΠΣΦΨΩαβγδεζηκλμνξπρτφχψωБДЖИЙЛПФЦШЩЭЮЯабдежийклмнптфцшщъыэюя"
_CANVAS = 56
_SIZES = (24, 56)
_LEAST_INK = 32
_ONE = 0.3
_WHOLE = 0.5
_NORMALISED = 0.6


def draw_negatives(digits: Bytes, count: int, *, seed: int, shape: Shape) -> Bytes:
    """Draw pictures that are no digits.

    Args:
        digits: (M, height, width) uint8 of digits, to be joined to pairs.
        count: how many.
        seed: the same seed gives the same pictures.
        shape: height and width of a picture.

    Returns:
        (count, *shape) uint8 in MNIST's form, each with ink.
    """
    random = np.random.default_rng([seed, 255])
    makers, shares = zip(*KINDS.values(), strict=True)
    kinds = random.choice(len(makers), count, p=np.array(shares) / sum(shares))
    drawn = [_with_ink(makers[kind], digits, random, shape) for kind in kinds]
    return np.stack(drawn) if drawn else np.zeros((0, *shape), np.uint8)


def _with_ink(maker: "Maker", digits: Bytes, random: Random, shape: Shape) -> Bytes:
    while True:
        picture = maker(digits, random)
        if maker not in _MARKS and random.random() < _NORMALISED:
            picture = normalize(picture, "mnist", shape=shape)
        box = _box_of(picture)
        if box is not None and (maker in _MARKS or box[1].stop - box[1].start > _ONE * (box[0].stop - box[0].start)):
            return _placed(picture, picture[box], shape, whole=maker is _noise and random.random() < _WHOLE)


def _box_of(picture: Bytes) -> tuple[slice, slice] | None:
    inked = picture >= _LEAST_INK
    rows, columns = np.flatnonzero(inked.any(axis=1)), np.flatnonzero(inked.any(axis=0))
    return (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)) if len(rows) else None


def _placed(picture: Bytes, ink: Bytes, shape: Shape, *, whole: bool) -> Bytes:
    """Scale the ink so that its longer side is that of a digit, centred by mass, or the picture to the whole field.

    Not `normalize`, which would keep one digit of two.
    """
    if whole:
        return np.array(Image.fromarray(picture).resize(shape[::-1], Image.Resampling.BILINEAR))
    side = round(min(shape) * 20 / 28)
    height, width = (max(1, round(size * side / max(ink.shape))) for size in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BOX), np.float64)
    mass = small.sum() or 1.0
    corner = [
        int(np.clip(round(field / 2 - float((small.sum(axis=1 - axis) * (np.arange(size) + 0.5)).sum()) / mass), 0, field - size))
        for axis, (field, size) in enumerate(zip(shape, small.shape, strict=True))
    ]
    field = np.zeros(shape, np.uint8)
    field[corner[0] : corner[0] + height, corner[1] : corner[1] + width] = small * (255 / max(small.max(), 1))
    return field


def _letter(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001 - makers are called alike
    text = _LETTERS if random.random() < 0.6 else _SIGNS + _OTHER_SCRIPTS
    return _warped(_printed(text[int(random.integers(len(text)))], random), random)


def _number(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001
    return _warped(_printed(str(random.integers(10, 1000)), random), random)


def _printed(text: str, random: Random) -> Bytes:
    files = fonts()
    return render(text, files[int(random.integers(len(files)))], random)


def _warped(picture: Bytes, random: Random) -> Bytes:
    """Bend a picture smoothly, as a hand would: displacements of up to a tenth of its side."""
    if random.random() < 0.3:
        return picture
    height, width = picture.shape
    pad = max(height, width) // 6
    picture = np.pad(picture, pad)
    height, width = picture.shape
    rows, columns = np.mgrid[:height, :width].astype(np.float64)
    strength = random.uniform(0, 0.12) * min(height, width)
    rows += strength * _smooth(random, (height, width), int(random.integers(2, 5)))
    columns += strength * _smooth(random, (height, width), int(random.integers(2, 5)))
    row, column = (np.clip(v.round(), 0, n - 1).astype(np.intp) for v, n in ((rows, height), (columns, width)))
    return picture[row, column]


def _smooth(random: Random, shape: Shape, cells: int) -> Values:
    """Give noise that varies over so many cells a side, in -1 to 1."""
    coarse = Image.fromarray(random.uniform(-1, 1, (cells, cells)).astype(np.float32))
    return np.asarray(coarse.resize(shape[::-1], Image.Resampling.BICUBIC), np.float64)


def _scribble(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    width = int(random.integers(2, 9))
    for _ in range(int(random.integers(2, 6))):
        points = _curve(random.uniform(4, _CANVAS - 4, (4, 2)) if random.random() < 0.6 else _segment(random))
        draw.line([tuple(point) for point in points], fill=255, width=width, joint="curve")
    return np.array(image)


def _segment(random: Random) -> Values:
    ends = random.uniform(4, _CANVAS - 4, (2, 2))
    return np.stack([ends[0], ends[0], ends[1], ends[1]])


def _curve(points: Values) -> Values:
    """Give a cubic Bezier curve through its ends: (4, 2) -> (20, 2)."""
    t = np.linspace(0, 1, 20)[:, np.newaxis]
    a, b, c, d = points
    return (1 - t) ** 3 * a + 3 * (1 - t) ** 2 * t * b + 3 * (1 - t) * t**2 * c + t**3 * d


def _shape(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001
    """A filled polygon, ellipse or box, or a few, shaded or patterned as a thing is."""
    image = Image.new("L", (_CANVAS, _CANVAS))
    draw = ImageDraw.Draw(image)
    for _ in range(int(random.integers(1, 4))):
        fill = int(random.integers(60, 256))
        corners = random.uniform(2, _CANVAS - 2, (2, 2))
        box = [*corners.min(axis=0), *corners.max(axis=0)]
        kind = random.integers(4)
        if kind == 0:
            draw.ellipse(box, fill=fill)
        elif kind == 1:
            draw.rectangle(box, fill=fill)
        else:
            points = random.uniform(2, _CANVAS - 2, (int(random.integers(3, 8)), 2))
            around = points - points.mean(axis=0)
            order = np.argsort(np.arctan2(around[:, 1], around[:, 0]))
            draw.polygon([tuple(point) for point in points[order]], fill=fill)
    shade = 1 - random.uniform(0, 0.9) * np.abs(_smooth(random, (_CANVAS, _CANVAS), int(random.integers(2, 12))))
    return (np.asarray(image) * np.clip(shade, 0, 1)).astype(np.uint8)


def _garment(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001
    """A symmetric outline, plain, shaded or patterned, with or without limbs and a gap: clothes, vessels, insects."""
    rows = np.linspace(0, 1, _CANVAS)
    nodes = np.linspace(0, 1, int(random.integers(2, 7)))
    half = np.interp(rows, nodes, random.uniform(0.08, 0.5, len(nodes))) * _CANVAS
    gap = np.interp(rows, nodes, random.uniform(-0.3, 0.2, len(nodes)).clip(0)) * _CANVAS
    across = np.abs(np.arange(_CANVAS) - (_CANVAS - 1) / 2)
    inside = (across < half[:, np.newaxis]) & (across >= gap[:, np.newaxis])
    if random.random() < 0.5:  # sleeves
        start, slope, thick = random.uniform(0, 0.4), random.uniform(0, 3), random.uniform(0.08, 0.3)
        top = (start + slope * (across / _CANVAS - 0.1))[np.newaxis] * _CANVAS
        depth = np.arange(_CANVAS)[:, np.newaxis]
        inside |= (depth >= top) & (depth < top + thick * _CANVAS)
    level, depth_of = random.uniform(0.3, 1), random.uniform(0, 0.6) * (random.random() < 0.7)
    texture = level * (1 + depth_of * _smooth(random, (_CANVAS, _CANVAS), int(random.integers(2, 20))))
    picture = (np.clip(texture, 0.05, 1) * inside * 255).astype(np.uint8)
    return picture if random.random() < 0.7 else np.ascontiguousarray(picture.T)


def _noise(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001
    """Grains of any size over a field or a part of it, all levels or few, dense or sparse."""
    shape = (int(random.integers(12, _CANVAS)), int(random.integers(12, _CANVAS)))
    cells = int(random.integers(3, 40))
    grain = random.uniform(0, 1, shape) if random.random() < 0.5 else _smooth(random, shape, cells) / 2 + 0.5
    bent = np.clip(grain, 0, 1) ** random.uniform(0.5, 4)
    if random.random() < 0.3:
        bent = (bent > random.uniform(0.3, 0.8)).astype(np.float64)
    return np.pad((bent * 255).astype(np.uint8), int(random.integers(0, 8)))


def _pair(digits: Bytes, random: Random) -> Bytes:
    """Two digits that touch, side by side or one above the other."""
    left, right = (digits[int(random.integers(len(digits)))] for _ in range(2))
    height, width = left.shape
    apart = int(random.integers(width // 4, width - 4))
    field = np.zeros((height, width + apart), np.uint8)
    field[:, :width] = left
    field[:, apart:] = np.maximum(field[:, apart:], np.roll(right, int(random.integers(-2, 3)), axis=0))
    return field if random.random() < 0.8 else np.concatenate([left[: height - 4], right[4:]])


def _part(digits: Bytes, random: Random) -> Bytes:
    """A lying digit over another one, or an upright one over it."""
    first, second = (digits[int(random.integers(len(digits)))] for _ in range(2))
    if random.random() < 0.7:
        return np.maximum(first, np.ascontiguousarray(np.rot90(second)))
    return np.maximum(first, second)


def _lines(digits: Bytes, random: Random) -> Bytes:  # noqa: ARG001
    """Lying bars, corners, crosses, frames and grids: what rulings and shadows leave; an upright one is a 1."""
    field = np.zeros((_CANVAS, _CANVAS), np.uint8)
    upright, lying = ((0, 2), (1, 1), (1, 2), (2, 1), (2, 2), (3, 2))[int(random.integers(6))]
    for number in range(upright + lying):
        width = int(random.integers(2, 9))
        place, start = int(random.integers(_CANVAS - width)), int(random.integers(_CANVAS // 3))
        target = field if number < lying else field.T
        target[place : place + width, start : _CANVAS - int(random.integers(_CANVAS // 3))] = random.integers(100, 256)
    return field


Maker = Callable[[Bytes, Random], Bytes]
KINDS: Mapping[str, tuple[Maker, float]] = {
    "letter": (_letter, 4),
    "number": (_number, 0.5),
    "scribble": (_scribble, 1),
    "shape": (_shape, 5),
    "garment": (_garment, 10),
    "noise": (_noise, 2),
    "pair": (_pair, 1),
    "part": (_part, 0.5),
    "lines": (_lines, 1),
}
_MARKS = (_letter, _number, _scribble, _pair, _part, _lines)
