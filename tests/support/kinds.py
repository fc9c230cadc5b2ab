"""Kinds of pictures that people bring: drawn around digits in MNIST's form, as encoded image files.

They imitate scans, photos and drawings, not any published set, and are used for tests and measurements only. Each
function of `KINDS` draws one picture of its kind with random size, strength, colours and noise.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from digits.images.types import Pixels
from tests.support.handwriting import Lines, Pen, Random, Values, centre_lines, crop, enlarge, length_of, light, trace
from tests.support.scenes import (
    LUMINANCE,
    WHOLE,
    Area,
    Colour,
    Scene,
    Shape,
    blurred,
    dark_colour,
    encode,
    encode_deep,
    encode_image,
    ink_colour,
    paper_colour,
    photographed,
    put,
    scanned,
    shape_of,
)

Draw = Callable[[Pixels, Random], bytes]
"""Function that draws a picture around a digit in MNIST's form, (h, w) uint8, and returns its file."""


class Kind(NamedTuple):
    """Kind of pictures.

    Args:
        variants: functions that draw its pictures, by name; they take turns.
        shows_digit: whether the digit should be read; otherwise the picture should be flagged.
        traces: whether centre lines are drawn, so that digits with blobs cannot be recognized.
    """

    variants: Mapping[str, Draw]
    shows_digit: bool = True
    traces: bool = False


class Picture(NamedTuple):
    """Picture of a kind.

    Args:
        variant: name of the variant.
        content: encoded image file.
        label: digit that it shows; None if it should be flagged.
    """

    variant: str
    content: bytes
    label: int | None


def draw_pictures(kind: str, digits: Sequence[tuple[int, Pixels]], *, seed: int) -> Iterator[Picture]:
    """Draw a picture of a kind around each digit; the same seed gives the same pictures.

    Args:
        kind: a key of `KINDS`.
        digits: labels with digits in MNIST's form, (h, w) uint8.
        seed: random seed.
    """
    number = list(KINDS).index(kind)
    variants = list(KINDS[kind].variants.items())
    for index, (label, digit) in enumerate(digits):
        random = np.random.default_rng([seed, number, index])
        name, draw = variants[index % len(variants)]
        yield Picture(name, draw(digit, random), label if KINDS[kind].shows_digit else None)


def _shape(random: Random, least: int, most: int, *, longest: float = 1.5) -> Shape:
    """Return height and width: the shorter one between two limits, small ones as often as large ones."""
    side = float(np.exp(random.uniform(np.log(least), np.log(most))))
    other = side * random.uniform(1, longest)
    return (int(side), int(other)) if random.random() < 0.4 else (int(other), int(side))


def _written(digit: Pixels, height: float, random: Random) -> Values:
    """Return a digit as written with a pen, whose longer side is a height in pixels."""
    return crop(enlarge(digit, max(12, int(height * 28 / 20)), random, stroke=0.12))


def _digit_in(digit: Pixels, shape: Shape, area: Area, random: Random, *, share: tuple[float, float]) -> Values:
    """Return a digit of a random share of an area's shorter side."""
    room = min((area[2] - area[0]) * shape[0], (area[3] - area[1]) * shape[1])
    return _written(digit, room * random.uniform(*share), random)


def _strip(shape: Shape, edge: int, widths: tuple[float, float], soft: float = 1) -> Values:
    """Return a mask of a strip along an edge (0 top, 1 bottom, 2 left, 3 right), with its widths at both ends."""
    rows, columns = np.indices(shape, np.float32)
    far = (rows, shape[0] - 1 - rows, columns, shape[1] - 1 - columns)[edge]
    along = columns / shape[1] if edge < 2 else rows / shape[0]
    return np.clip((widths[0] + (widths[1] - widths[0]) * along - far) / soft, 0, 1)


def _beside(edges: Mapping[int, float], margin: float = 0.05) -> Area:
    """Return the area that strips of some widths leave, as shares of the sides."""
    top, bottom, left, right = (edges.get(edge, 0) + margin for edge in range(4))
    return top, left, 1 - bottom, 1 - right


def _side(shape: Shape, edge: int) -> int:
    return shape[0] if edge < 2 else shape[1]


def _dark_strip(digit: Pixels, random: Random) -> bytes:
    """Draw a table, a book's spine or a shadow along one edge."""
    shape, edge = _shape(random, 90, 600), int(random.integers(4))
    share, lean = random.uniform(0.05, 0.2), random.uniform(0.7, 1) if random.random() < 0.3 else 1
    width, scene = share * _side(shape, edge), Scene(shape, random)
    soft = random.uniform(0.3, 0.9) * width if random.random() < 0.3 else random.uniform(1, 3)
    ends = (width, width * lean) if random.random() < 0.5 else (width * lean, width)
    area = _beside({edge: share})
    scene.cover(_strip(shape, edge, ends, soft), dark_colour(random))
    scene.write(_digit_in(digit, shape, area, random, share=(0.35, 0.85)), area)
    return scene.finish()


def _printed_frame(digit: Pixels, random: Random) -> bytes:
    """Draw a cell that was cut out along its printed frame: lines at one to four edges."""
    shape, scene_edges = _shape(random, 40, 300), random.permutation(4)[: int(random.integers(1, 5))]
    width = max(1.0, min(shape) * random.uniform(0.008, 0.035))
    scene, tone = Scene(shape, random), random.uniform(10, 110)
    for edge in scene_edges.tolist():
        ends = (width, width * random.uniform(0.5, 1.5)) if random.random() < 0.3 else (width, width)
        scene.cover(_strip(shape, edge, ends), tone)
    area = _beside({}, margin=0.08)
    scene.write(_digit_in(digit, shape, area, random, share=(0.5, 0.95)), area)
    return scene.finish()


def _frame(shape: Shape, random: Random, inset: tuple[float, float], width: int) -> Values:
    """Return a mask of a closed frame, drawn by hand or printed, inset from the edges by shares of the shorter side."""
    jitter = random.uniform(0, 0.015) * min(shape)
    near = random.uniform(*inset) * min(shape) + width / 2
    corners = np.array(
        [(near, near), (shape[1] - near, near), (shape[1] - near, shape[0] - near), (near, shape[0] - near)]
    )
    mask = np.zeros(shape, np.uint8)
    points = np.rint((corners + random.normal(0, 1, (4, 2)) * jitter) * 16).astype(np.int32)
    cv2.polylines(mask, [points.reshape(-1, 1, 2)], True, 255, width, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def _framed_scene(random: Random) -> tuple[Scene, Area]:
    shape = _shape(random, 50, 400)
    width = max(1, round(shape[1] * random.uniform(0.008, 0.06)))
    scene = Scene(shape, random)
    colour = random.uniform(15, 120) if random.random() < 0.7 else ink_colour(random)
    inset = random.uniform(0.02, 0.12)
    scene.cover(_frame(shape, random, (inset, inset), width), colour)
    margin = (inset * min(shape) + width) * 1.25 + 2
    return scene, (margin / shape[0], margin / shape[1], 1 - margin / shape[0], 1 - margin / shape[1])


def _inset_frame(digit: Pixels, random: Random) -> bytes:
    """Draw a digit in a closed frame that is inset from the edges."""
    scene, area = _framed_scene(random)
    scene.write(_digit_in(digit, scene.shape, area, random, share=(0.5, 0.85)), area)
    return scene.finish()


def _empty_cell(digit: Pixels, random: Random) -> bytes:
    """Draw a framed cell without a digit: its frame is inset, or at some of the edges."""
    if random.random() < 0.6:
        scene, _ = _framed_scene(random)
        return scene.finish()
    shape = _shape(random, 40, 300)
    scene, tone, width = Scene(shape, random), random.uniform(10, 110), min(shape) * random.uniform(0.01, 0.05)
    for edge in random.permutation(4)[: int(random.integers(2, 5))].tolist():
        scene.cover(_strip(shape, edge, (max(1.0, width), max(1.0, width))), tone)
    return scene.finish()


def _sheet(digit: Pixels, random: Random) -> bytes:
    """Draw a photo of a sheet of paper on a darker table."""
    shape = _shape(random, 150, 600)
    scene, inset = Scene(shape, random, paper=dark_colour(random)), random.uniform(0.03, 0.16)
    _add_grain(scene, random)
    sheet = _quadrilateral(shape, random, inset, inset * 0.4)
    scene.cover(sheet, paper_colour(random))
    area = _beside({}, margin=inset * 1.4 + 0.05)
    scene.write(_digit_in(digit, shape, area, random, share=(0.4, 0.9)), area)
    return scene.finish("photo", "photo", "scan")


def _add_grain(scene: Scene, random: Random) -> None:
    """Add the grain of wood to a table."""
    height, width = scene.shape
    lines = random.normal(0, random.uniform(0, 8), (1, width) if random.random() < 0.5 else (height, 1))
    scene.pixels += lines[:, :, np.newaxis].astype(np.float32)


def _quadrilateral(shape: Shape, random: Random, inset: float, jitter: float) -> Values:
    shares = np.array([(inset, inset), (1 - inset, inset), (1 - inset, 1 - inset), (inset, 1 - inset)])
    points = (shares + random.uniform(-jitter, jitter, (4, 2))) * (shape[1], shape[0])
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(points * 16).astype(np.int32).reshape(-1, 1, 2)], 255, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def _graph_paper(digit: Pixels, random: Random) -> bytes:
    """Draw a digit on graph paper with strong lines."""
    shape = _shape(random, 120, 600)
    scene, period = Scene(shape, random), min(shape) * random.uniform(0.08, 0.3)
    width = max(1.0, period * random.uniform(0.02, 0.08))
    colours = ((140, 170, 215), (170, 200, 170), (225, 170, 130), (150, 150, 150), (110, 140, 200), (200, 160, 190))
    scene.cover(_grid(shape, random, period, width), np.array(colours[int(random.integers(len(colours)))]))
    scene.write(_digit_in(digit, shape, WHOLE, random, share=(0.35, 0.9)))
    return scene.finish()


def _grid(shape: Shape, random: Random, period: float, width: float) -> Values:
    rows, columns = np.indices(shape, np.float32)
    lean, (down, across) = random.normal(0, 0.01), random.uniform(0, period, 2)
    lines = [
        np.abs((place + start) % period - period / 2)
        for place, start in ((rows + lean * columns, down), (columns - lean * rows, across))
    ]
    return np.asarray(np.clip(width / 2 - np.minimum(lines[0], lines[1]) + 0.5, 0, 1))


def _encircled(digit: Pixels, random: Random) -> bytes:
    """Draw a digit that somebody encircled."""
    shape = _shape(random, 80, 400, longest=1.3)
    ink = _digit_in(digit, shape, WHOLE, random, share=(0.3, 0.5))
    scene, colour = Scene(shape, random), ink_colour(random)
    stroke = max(1, round(max(ink.shape) * random.uniform(0.05, 0.13)))
    scene.written = _centred(ink, shape)
    scene.cover(scene.written, colour)
    scene.cover(_ring(shape, shape_of(ink), random, stroke), colour)
    return scene.finish()


def _centred(ink: Values, shape: Shape) -> Values:
    field = np.zeros(shape, np.float32)
    top, left = ((space - size) // 2 for space, size in zip(shape, ink.shape, strict=True))
    field[top : top + ink.shape[0], left : left + ink.shape[1]] = ink
    return field


def _ring(shape: Shape, inner: Shape, random: Random, width: int) -> Values:
    """Return a mask of a wobbly ring around a box at the centre, closed or nearly closed."""
    angles = np.linspace(0, 2 * np.pi * random.uniform(0.96, 1.06), 60) + random.uniform(0, 2 * np.pi)
    reach = float(np.hypot(inner[0], inner[1])) / 2 + width
    most = min(shape) / 2 - width
    radius = min(most, reach * random.uniform(1.05, 1.35)) * (1 + random.uniform(0, 0.04) * np.sin(2 * angles + 1))
    points = np.stack([shape[1] / 2 + radius * np.cos(angles), shape[0] / 2 + radius * np.sin(angles)], axis=1)
    mask = np.zeros(shape, np.uint8)
    cv2.polylines(mask, [np.rint(points * 16).astype(np.int32).reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255


def _one_pixel_pen(digit: Pixels, random: Random) -> bytes:
    """Draw a digit with a pen of one pixel in a large drawing."""
    shape = _shape(random, 180, 640, longest=1.3)
    height = int(min(shape) * random.uniform(0.5, 0.85))
    ink = trace(centre_lines(digit), height, Pen(1, smooth=random.random() < 0.5))
    scene = Scene(shape, random, paper=np.full(3, 255.0))
    scene.write(ink, colour=ink_colour(random) if random.random() < 0.3 else np.zeros(3))
    return scene.finish("drawing", "drawing", "drawing", "scan")


def _scanner_border(digit: Pixels, random: Random) -> bytes:
    """Draw a scan with the black of the scanner's lid along two edges."""
    shape, scene_edges = _shape(random, 120, 600), random.permutation(4)[:2].tolist()
    shares = {edge: float(random.uniform(0.02, 0.12)) for edge in scene_edges}
    scene = Scene(shape, random)
    for edge, share in shares.items():
        width = share * _side(shape, edge)
        scene.cover(_strip(shape, edge, (width, width * random.uniform(0.8, 1.2)), 2), random.uniform(2, 40))
    area = _beside({edge: share * 1.2 for edge, share in shares.items()})
    scene.write(_digit_in(digit, shape, area, random, share=(0.4, 0.85)), area)
    return scene.finish("scan", "scan", "photo")


def _pen_beside(digit: Pixels, random: Random) -> bytes:
    """Draw a photo with a pen in view that lies beside the digit, longer than it and wider than its strokes."""
    shape = _shape(random, 150, 600)
    scene, from_left = Scene(shape, random), random.random() < 0.5
    area = (0.06, 0.42, 0.94, 0.94) if from_left else (0.06, 0.06, 0.94, 0.58)
    ink = _digit_in(digit, shape, area, random, share=(0.5, 0.9))
    top, lean = random.uniform(-0.1, 0.1) * shape[0], random.normal(0, 0.08) * shape[1]
    length = max(1.3 * len(ink), random.uniform(0.8, 1.1) * shape[0])
    middle = (0.2 if from_left else 0.8) * shape[1]
    ends = np.array([(middle - lean, top), (middle + lean, top + length)])
    pen, width = _pen(shape, ends, max(4, max(ink.shape) * random.uniform(0.12, 0.2)))
    scene.cover(blurred(np.roll(pen, int(width) // 3, (0, 1)), width / 4) * 0.35, 60)
    colour = ink_colour(random) if random.random() < 0.7 else random.uniform(20, 200, 3)
    scene.cover(pen, colour)
    scene.cover(_pen(shape, ends, width * 0.2)[0], np.clip(colour + random.uniform(0, 80), 0, 255))
    scene.write(ink, area)
    return scene.finish("photo")


def _pen(shape: Shape, ends: npt.NDArray[np.float64], width: float) -> tuple[Values, float]:
    """Return a mask of a pen with a tip, and its width."""
    along = (ends[1] - ends[0]) / np.hypot(*(ends[1] - ends[0]))
    side, shoulder = np.array([-along[1], along[0]]) * width / 2, ends[1] - along * width * 2
    outline = np.array([ends[0] - side, shoulder - side, ends[1], shoulder + side, ends[0] + side])
    mask = np.zeros(shape, np.uint8)
    cv2.fillPoly(mask, [np.rint(outline * 16).astype(np.int32).reshape(-1, 1, 2)], 255, cv2.LINE_AA, 4)
    return mask.astype(np.float32) / 255, width


def _sheet_edge(digit: Pixels, random: Random) -> bytes:
    """Draw a photo in which the sheet of paper ends, at an angle, with a table beyond it."""
    shape, edge = _shape(random, 150, 600), int(random.integers(4))
    scene, shares = Scene(shape, random), random.uniform(0.08, 0.35, 2)
    ends = (shares[0] * _side(shape, edge), shares[1] * _side(shape, edge))
    scene.cover(_strip(shape, edge, ends, 2), dark_colour(random))
    area = _beside({edge: float(shares.max())})
    scene.write(_digit_in(digit, shape, area, random, share=(0.5, 0.95)), area)
    return scene.finish("photo")


def _page(digit: Pixels | None, random: Random) -> Values:
    """Return the colours of a scan or photo with a digit, or of a blank scan, 0 to 255."""
    shape = _shape(random, 60, 500)
    scene = Scene(shape, random)
    if digit is not None:
        scene.write(_digit_in(digit, shape, WHOLE, random, share=(0.4, 0.9)))
    is_photo = digit is not None and random.random() < 0.3
    return np.clip(photographed(scene.pixels, random) if is_photo else scanned(scene.pixels, random), 0, 255)


def _deep(top: int, *, in_colour: bool = False) -> Callable[[Pixels | None, Random], bytes]:
    """Return a function that draws a page with samples from 0 to `top` in 16 bit."""

    def draw(digit: Pixels | None, random: Random) -> bytes:
        page = _page(digit, random)
        samples = np.rint((page if in_colour else page @ LUMINANCE) * (top / 255)).astype(np.uint16)
        form = "PNG" if random.random() < 0.5 else "TIFF"
        return encode_deep(samples, form) if in_colour else encode_image(Image.fromarray(samples), form)

    return draw


def _blank(draw: Callable[[Pixels | None, Random], bytes]) -> Draw:
    return lambda _, random: draw(None, random)


def _equal_brightness(digit: Pixels, random: Random) -> bytes:
    """Draw ink and paper of equal brightness and different colours, such as red on green."""
    shape = _shape(random, 60, 400)
    paper, ink = _equal_colours(random)
    scene = Scene(shape, random, paper=paper)
    scene.write(_digit_in(digit, shape, WHOLE, random, share=(0.4, 0.9)), colour=ink)
    if random.random() < 0.5:
        return scene.finish("drawing")
    return encode(scanned(scene.pixels, random), "PNG")


def _equal_colours(random: Random) -> tuple[Colour, Colour]:
    while True:
        paper, other = random.uniform(20, 235, 3), random.uniform(0, 255, 3)
        ink = other + (paper - other) @ LUMINANCE + random.uniform(-3, 3)
        if ink.min() >= 0 and ink.max() <= 255 and np.abs(ink - paper).max() > 70:
            return paper, ink


def _light_on_transparent(digit: Pixels, random: Random) -> bytes:
    """Draw white or pale ink on a transparent background, as drawing programs export it."""
    shape = _shape(random, 60, 400)
    ink = put(_digit_in(digit, shape, WHOLE, random, share=(0.4, 0.9)), shape, WHOLE, random)
    alpha = np.rint(ink * 255).astype(np.uint8)
    colour = np.full(3, 255) if random.random() < 0.6 else random.integers(243, 256, 3)
    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[(alpha > 0) if random.random() < 0.5 else ...] = colour
    image = Image.fromarray(np.dstack([pixels, alpha]))
    form = int(random.integers(3))
    return encode_image(
        image.convert("LA") if form == 0 else image,
        "WEBP" if form == 1 else "PNG",
        **({"lossless": 1} if form == 1 else {}),
    )


def _glare(digit: Pixels, random: Random) -> bytes:
    """Draw a photo with a reflection that erases part of a stroke."""
    shape = _shape(random, 120, 500)
    scene = Scene(shape, random, paper=np.full(3, random.uniform(150, 215)))
    scene.write(_digit_in(digit, shape, WHOLE, random, share=(0.5, 0.9)))
    inked = np.argwhere(scene.written > 0.5)
    row, column = inked[int(random.integers(len(inked)))]
    extent = np.ptp(inked, axis=0).max() * random.uniform(0.04, 0.1)
    rows, columns = np.indices(shape, np.float32)
    angle, stretch = random.uniform(0, np.pi), random.uniform(1, 3)
    along = (rows - row) * np.sin(angle) + (columns - column) * np.cos(angle)
    across = (rows - row) * np.cos(angle) - (columns - column) * np.sin(angle)
    spot = np.clip(1.6 * np.exp(-((along / stretch) ** 2 + across**2) / (2 * extent**2)), 0, 1)
    scene.cover(spot, 253)
    return scene.finish("photo")


def _hollow(digit: Pixels, random: Random) -> bytes:
    """Draw the outline of a digit with broad strokes."""
    shape = _shape(random, 100, 400)
    height = int(min(shape) * random.uniform(0.6, 0.85))
    pen = max(7, int(height * random.uniform(0.13, 0.2)))
    outer = trace(centre_lines(digit), height - pen, Pen(pen))
    line = max(1, int(pen * random.uniform(0.1, 0.22)))
    padded = np.pad(outer, line)
    inner = cv2.erode(padded, np.ones((2 * line + 1, 2 * line + 1), np.uint8))
    scene = Scene(shape, random)
    scene.write(np.asarray(padded - inner))
    return scene.finish()


def _struck_out(digit: Pixels, random: Random) -> bytes:
    """Draw a digit that was struck out with one to three strokes, or crossed out."""
    shape = _shape(random, 80, 400)
    scene, area = Scene(shape, random), (0.15, 0.15, 0.85, 0.85)
    ink = _digit_in(digit, shape, area, random, share=(0.6, 0.95))
    colour = scene.write(ink, area)
    rows, columns = (np.flatnonzero((scene.written > 0.3).any(axis=axis)) for axis in (1, 0))
    box = np.array([(columns[0], rows[0]), (columns[-1], rows[-1])], np.float64)
    for stroke in _strikes(box, max(ink.shape), random):
        mask = np.zeros(shape, np.uint8)
        width = max(1, round(max(ink.shape) * random.uniform(0.05, 0.1)))
        cv2.polylines(
            mask, [np.rint(stroke * 16).astype(np.int32).reshape(-1, 1, 2)], False, 255, width, cv2.LINE_AA, 4
        )
        scene.cover(mask.astype(np.float32) / 255, colour)
    return scene.finish()


def _strikes(box: npt.NDArray[np.float64], height: int, random: Random) -> list[npt.NDArray[np.float64]]:
    """Return the ends of strokes across a box: a cross, or two or three nearly parallel strokes."""
    reach = height * 0.12
    (left, top), (right, bottom) = box[0] - reach, box[1] + reach
    if random.random() < 0.4:
        return [np.array([(left, top), (right, bottom)]), np.array([(left, bottom), (right, top)])]
    slope = random.uniform(-0.6, 0.6) * (bottom - top)
    middles = np.linspace(0.3, 0.7, int(random.integers(2, 4))) * (bottom - top) + top
    return [np.array([(left, middle + slope / 2), (right, middle - slope / 2)]) for middle in middles]


def _traced(lines: Lines, random: Random, share: float, pen: Callable[[int, int], Pen]) -> bytes:
    """Draw lines with a pen, made from its width, a share of the digit's height, and from this height in pixels."""
    shape = _shape(random, 60, 400)
    height = int(min(shape) * random.uniform(0.55, 0.85))
    width = max(2, round(height * share))
    scene = Scene(shape, random)
    scene.write(trace(lines, height - width, pen(width, height - width)))
    return scene.finish()


def _dotted(digit: Pixels, random: Random) -> bytes:
    """Draw a digit of at most about 24 dots."""
    lines, gap = centre_lines(digit), random.uniform(0.1, 0.8)
    apart = max(random.uniform(0.08, 0.14), length_of(lines) / 22)
    return _traced(lines, random, apart / (1 + gap), lambda width, height: Pen(width, on=0, off=apart * height))


def _broken(digit: Pixels, random: Random) -> bytes:
    """Draw a digit with broken strokes."""
    gap, dash, share = random.uniform(0.1, 0.8), random.uniform(0.25, 0.6), random.uniform(0.06, 0.12)

    def pen(width: int, height: int) -> Pen:
        return Pen(width, on=height * dash, off=width * (1 + gap) + 1)

    return _traced(centre_lines(digit), random, share, pen)


def _detached_bar(digit: Pixels, random: Random) -> bytes:
    """Draw a digit whose uppermost part is detached from the rest."""
    shape = _shape(random, 60, 400)
    ink = _digit_in(digit, shape, WHOLE, random, share=(0.55, 0.9))
    cut, gap = int(len(ink) * random.uniform(0.22, 0.38)), max(1, int(len(ink) * random.uniform(0.02, 0.07)))
    parted = np.concatenate([ink[:cut], np.zeros((gap, ink.shape[1]), np.float32), ink[cut:]])
    scene = Scene(shape, random)
    scene.write(parted)
    return scene.finish()


def _small_noisy(digit: Pixels, random: Random) -> bytes:
    """Draw a small grey picture with noise, as a webcam takes it."""
    shape = _shape(random, 22, 60, longest=1.3)
    paper, contrast = random.uniform(90, 230), random.uniform(0.25, 0.7)
    ink = put(_digit_in(digit, shape, WHOLE, random, share=(0.6, 1)), shape, WHOLE, random)
    levels = paper * (1 - contrast * ink) * light(shape, random, 0.85)
    noisy = blurred(levels, random.uniform(0.2, 0.5)) + random.normal(
        0, paper * contrast * random.uniform(0.05, 0.2), shape
    )
    return encode(noisy, "PNG")


def _remnants(digit: Pixels, random: Random) -> bytes:
    """Draw a digit that was cut out of a row of digits, with remnants of its neighbours at the left and right edge."""
    height = int(np.exp(random.uniform(np.log(28), np.log(220))))
    ink = _written(digit, height, random)
    room = int(height * random.uniform(0.15, 0.3))
    shape = (ink.shape[0] + 2 * int(height * random.uniform(0.05, 0.25)), ink.shape[1] + 2 * room)
    scene, written = Scene(shape, random), _centred(ink, shape)
    for flip in random.permutation(2)[: int(random.integers(1, 3))].tolist():
        other = _written(np.rot90(digit, 2 * int(random.integers(2))), height * random.uniform(0.8, 1.1), random)
        seen = max(1, min(int(room * random.uniform(0.3, 1.05)), int(0.4 * other.shape[1])))
        top = max(0, min(shape[0] - len(other), int((shape[0] - len(other)) / 2 + random.normal(0, 0.06) * height)))
        part = other[: shape[0], -seen:]
        edge = written[top : top + len(part), :seen] if flip else written[top : top + len(part), -seen:]
        np.maximum(edge, part[: len(edge)] if flip else other[: len(edge), :seen], out=edge)
    scene.cover(written, ink_colour(random))
    return scene.finish()


def _thick(digit: Pixels, random: Random) -> bytes:
    """Draw a digit with a very thick pen that leaves its holes open."""
    shape, lines = _shape(random, 40, 400), centre_lines(digit)
    height = int(min(shape) * random.uniform(0.65, 0.92))
    width = max(3, int(height * random.uniform(0.15, 0.26)))
    holes = _holes(trace(lines, height, Pen(1)))
    while width > 3 and _holes(trace(lines, height - width, Pen(width))) != holes:
        width = int(width * 0.85)
    scene = Scene(shape, random)
    scene.write(trace(lines, height - width, Pen(width)))
    return scene.finish()


def _holes(ink: Values) -> int:
    """Return the number of holes that are larger than specks."""
    paper = (np.pad(ink, 1) < 0.5).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(paper, connectivity=4)
    return int((stats[1:, cv2.CC_STAT_AREA] > 0.004 * ink.size).sum())


def _crossing(digit: Pixels, random: Random) -> bytes:
    """Draw a digit that crosses one or two lines of its box."""
    shape = _shape(random, 70, 400, longest=1.2)
    scene, width = Scene(shape, random), max(1, round(min(shape) * random.uniform(0.008, 0.025)))
    inset = random.uniform(0.14, 0.22)
    scene.cover(_frame(shape, random, (inset, inset), width), random.uniform(20, 130))
    height = min(shape) * (1 - 2 * inset) * random.uniform(0.75, 0.95)
    ink, reach = _written(digit, height, random), inset - random.uniform(0.04, 0.1)
    area = [(side - size) / 2 / side for side, size in zip(shape, ink.shape, strict=True)]
    top, left = (reach if random.random() < 0.7 else area[0]), (reach if random.random() < 0.3 else area[1])
    scene.write(ink, (top, left, top, left))
    return scene.finish()


_DEEP = {
    "10 bit": _deep(1023),
    "12 bit": _deep(4095),
    "8 bit in 16": _deep(255),
    "12 bit, colour": _deep(4095, in_colour=True),
}
KINDS: Mapping[str, Kind] = {
    "dark strip": Kind({"": _dark_strip}),
    "printed frame": Kind({"": _printed_frame}),
    "inset frame": Kind({"": _inset_frame}),
    "sheet on table": Kind({"": _sheet}),
    "graph paper": Kind({"": _graph_paper}),
    "encircled": Kind({"": _encircled}),
    "one-pixel pen": Kind({"": _one_pixel_pen}, traces=True),
    "at the edges": Kind({"scanner border": _scanner_border, "pen beside": _pen_beside, "sheet edge": _sheet_edge}),
    "deep samples": Kind({**_DEEP, "16 bit": _deep(65535)}),
    "deep and blank": Kind({name: _blank(draw) for name, draw in _DEEP.items()}, shows_digit=False),
    "no brightness": Kind({"equal brightness": _equal_brightness, "light, transparent": _light_on_transparent}),
    "damaged stroke": Kind({"glare": _glare, "hollow": _hollow}, traces=True),
    "struck out": Kind({"": _struck_out}, shows_digit=False),
    "pieces": Kind({"dotted": _dotted, "broken": _broken, "detached bar": _detached_bar}, traces=True),
    "small and noisy": Kind({"": _small_noisy}),
    "remnants": Kind({"": _remnants}),
    "thick ink": Kind({"": _thick}, traces=True),
    "crosses its box": Kind({"": _crossing}),
    "empty cell": Kind({"": _empty_cell}, shows_digit=False),
}
