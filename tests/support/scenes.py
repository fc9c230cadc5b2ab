"""Scenes: drawings, scans and photos under construction, for the pictures of `tests.support.kinds`."""

import io

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

from tests.support.handwriting import Random, Values, light

Colour = npt.NDArray[np.floating]
"""Red, green and blue, 0 to 255: (3,)."""
Area = tuple[float, float, float, float]
"""Top, left, bottom and right of an area as shares of the sides."""
Shape = tuple[int, int]
WHOLE: Area = (0.06, 0.06, 0.94, 0.94)
LUMINANCE = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness."""


class Scene:
    """Picture under construction: (H, W, 3) of 0 to 255."""

    def __init__(self, shape: Shape, random: Random, *, paper: Colour | None = None) -> None:
        self.random, self.shape = random, shape
        self.pixels = np.empty((*shape, 3), np.float32)
        self.pixels[:] = paper_colour(random) if paper is None else paper
        self.written = np.zeros(shape, np.float32)

    def cover(self, mask: Values, colour: Colour | float) -> None:
        """Paint a colour where the mask is 1."""
        self.pixels += (np.asarray(colour, np.float32) - self.pixels) * mask[:, :, np.newaxis]

    def write(self, ink: Values, area: Area = WHOLE, *, colour: Colour | None = None) -> Colour:
        """Write ink somewhere in an area, and return its colour."""
        colour = ink_colour(self.random) if colour is None else colour
        self.written = put(ink, self.shape, area, self.random)
        self.cover(self.written * self.random.uniform(0.85, 1), colour)
        return colour

    def finish(self, *looks: str) -> bytes:
        """Return the file of a picture with one of these looks: `drawing`, `scan`, `photo`; by default, any of them."""
        look = str(self.random.choice(looks or ("drawing", "scan", "photo")))
        if look == "drawing":
            return encode(self.pixels, "PNG")
        grey = self.random.random() < 0.3
        pixels = self.pixels @ LUMINANCE if grey else self.pixels
        pixels = photographed(pixels, self.random) if look == "photo" else scanned(pixels, self.random)
        lossless = look == "scan" and self.random.random() < 0.5
        return encode(pixels, "PNG") if lossless else encode(pixels, "JPEG", quality=int(self.random.integers(75, 96)))


def encode(pixels: npt.NDArray[np.floating], form: str, **options: int) -> bytes:
    """Encode levels of 0 to 255, (H, W) or (H, W, 3), as an image file of 8 bit."""
    return encode_image(Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8)), form, **options)


def encode_image(image: Image.Image, form: str, **options: int) -> bytes:
    """Return the file of an image in a format of Pillow."""
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def encode_deep(samples: npt.NDArray[np.uint16], form: str) -> bytes:
    """Encode colours of 16 bit, (H, W, 3), as a PNG or TIFF, which Pillow cannot write."""
    _, content = cv2.imencode({"PNG": ".png", "TIFF": ".tif"}[form], samples[:, :, ::-1])
    return content.tobytes()


def scanned(pixels: Values, random: Random) -> Values:
    """Add the blur and the noise of a scanner."""
    return blurred(pixels, random.uniform(0.2, 0.8)) + random.normal(0, random.uniform(0.5, 3), pixels.shape)


def photographed(pixels: Values, random: Random) -> Values:
    """Add the uneven light, the blur and the noise of a photo."""
    field = light(shape_of(pixels), random, random.uniform(0.7, 1))
    lit = pixels * (field[:, :, np.newaxis] if pixels.ndim == 3 else field)
    blur = random.uniform(0.3, 0.3 + min(pixels.shape[:2]) / 300)
    return blurred(lit, blur) + random.normal(0, random.uniform(1, 5), pixels.shape)


def shape_of(pixels: Values) -> Shape:
    """Return height and width."""
    return int(pixels.shape[0]), int(pixels.shape[1])


def blurred(pixels: Values, sigma: float) -> Values:
    """Blur by a Gauss function of a standard deviation in pixels."""
    return np.asarray(cv2.GaussianBlur(pixels, (0, 0), max(sigma, 0.01)))


def paper_colour(random: Random) -> Colour:
    """Return white or another light colour."""
    if random.random() < 0.3:
        return np.full(3, 255.0)
    return np.clip(random.uniform(200, 253) + random.normal(0, 4, 3), 0, 255)


def ink_colour(random: Random) -> Colour:
    """Return the colour of a black, blue, red or green pen, or of a pencil."""
    pens = ((20, 20, 25), (25, 35, 120), (40, 60, 150), (15, 15, 60), (150, 30, 35), (20, 90, 60), (80, 80, 85))
    return np.clip(np.array(pens[int(random.integers(len(pens)))]) + random.normal(0, 8, 3), 0, 255)


def dark_colour(random: Random) -> Colour:
    """Return the colour of a table, a scanner's lid or a shadow."""
    tones = ((10, 10, 10), (30, 30, 32), (70, 55, 45), (95, 70, 50), (60, 60, 70), (45, 60, 50))
    return np.clip(np.array(tones[int(random.integers(len(tones)))]) + random.normal(0, 6, 3), 0, 255)


def put(ink: Values, shape: Shape, area: Area, random: Random) -> Values:
    """Place ink at a random position within an area of an empty field."""
    (top, left), (bottom, right) = (
        (int(area[0] * shape[0]), int(area[1] * shape[1])),
        (int(area[2] * shape[0]), int(area[3] * shape[1])),
    )
    ink = ink[: shape[0], : shape[1]]
    down = min(int(random.integers(top, max(top + 1, bottom - ink.shape[0]))), shape[0] - ink.shape[0])
    across = min(int(random.integers(left, max(left + 1, right - ink.shape[1]))), shape[1] - ink.shape[1])
    field = np.zeros(shape, np.float32)
    field[down : down + ink.shape[0], across : across + ink.shape[1]] = ink
    return field
