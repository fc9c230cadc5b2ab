"""Sheets of small images with captions, as PNG: made with Pillow alone, so that a prediction worker can."""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = ImageFont | FreeTypeFont

Pixels = npt.NDArray[np.uint8]
TILE = 112
GAP = 18
BORDER = 3
TEXT_SIZE = 18
LINE = 23
COLOURS = 128
BACKGROUND, INK, FRAME, GOOD, BAD = "#fafaf7", "#26292e", "#d9d8d2", "#1a7f5a", "#c2410c"


def contact_sheet(
    images: Sequence[Pixels],
    captions: Sequence[str],
    *,
    columns: int = 8,
    highlight: Sequence[bool | None] | None = None,
) -> bytes:
    """Draw images in rows, each over its caption, on a light ground.

    Args:
        images: (height, width) uint8 each, of any sizes; small ones are enlarged without smoothing.
        captions: one an image; split at newlines, cut where too wide; Pillow's own font knows little but ASCII.
        columns: images a row.
        highlight: one an image: True for a green frame and caption, False for a red one, None for neither.

    Returns:
        A PNG.

    Raises:
        ValueError: there are no images, or not as many captions or highlights.
    """
    if not images:
        raise ValueError("a sheet needs at least one image, found none")
    marks = [None] * len(images) if highlight is None else highlight
    cells = list(zip(images, captions, marks, strict=True))
    lines = max(caption.count("\n") + 1 for caption in captions)
    return _png(_draw(cells, min(columns, len(cells)), TILE + GAP + lines * LINE))


def _draw(cells: Sequence[tuple[Pixels, str, bool | None]], columns: int, row_height: int) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    width = GAP + columns * (TILE + GAP)
    sheet = Image.new("RGB", (width, GAP + math.ceil(len(cells) / columns) * row_height), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_SIZE)
    for number, (pixels, caption, mark) in enumerate(cells):
        left, top = GAP + number % columns * (TILE + GAP), GAP + number // columns * row_height
        _draw_tile(sheet, draw, pixels, (left, top), FRAME if mark is None else _colour(mark))
        _draw_caption(draw, caption, font, (left + TILE // 2, top + TILE + BORDER + 2), _colour(mark))
    return sheet


def _colour(mark: bool | None) -> str:
    if mark is None:
        return INK
    return GOOD if mark else BAD


def _draw_tile(sheet: "Image", draw: "ImageDraw", pixels: Pixels, corner: tuple[int, int], frame: str) -> None:
    left, top = corner
    draw.rectangle((left - BORDER, top - BORDER, left + TILE + BORDER - 1, top + TILE + BORDER - 1), fill=frame)
    draw.rectangle((left, top, left + TILE - 1, top + TILE - 1), fill=BACKGROUND)
    tile = _fitted(pixels)
    sheet.paste(tile, (left + (TILE - tile.width) // 2, top + (TILE - tile.height) // 2))


def _fitted(pixels: Pixels) -> "Image":
    """Enlarge by a whole factor, or shrink, so that the longer side is at most a tile's."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = TILE / max(image.size)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BOX)


def _draw_caption(draw: "ImageDraw", caption: str, font: "Font", top: tuple[int, int], colour: str) -> None:
    for number, line in enumerate(caption.split("\n")):
        text = _cut(line, font, TILE + GAP - BORDER)
        draw.text((top[0], top[1] + number * LINE), text, fill=colour, font=font, anchor="ma")


def _cut(line: str, font: "Font", width: int) -> str:
    text = "".join(character if character.isprintable() else "?" for character in line)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _png(sheet: "Image") -> bytes:
    """Give a PNG with a palette: a third of the bytes, and the eye sees no difference on such sheets."""
    from PIL import Image

    buffer = io.BytesIO()
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Give a PNG as the text of a link, for pages and reports that must hold their own pictures."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
