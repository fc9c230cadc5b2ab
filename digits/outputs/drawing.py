"""Drawing: contact sheets, bars and heat maps as PNG, with Pillow only, so that worker processes can use it."""

import base64
import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from digits.images.types import Pixels

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = ImageFont | FreeTypeFont


class Bar(NamedTuple):
    """Bar of a chart: its name, and the share in 0..1 that is its length."""

    name: str
    share: float


class Cell(NamedTuple):
    """Cell of a heat map: its value, or None for an empty cell, and whether it is marked red."""

    value: float | None
    marked: bool


TILE = 112
CELL = (64, 29)
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
    tile: int = TILE,
) -> bytes:
    """Return a PNG of images in rows, each above its caption, on a light background.

    Args:
        images: arrays of (height, width) or (height, width, 3) uint8, of any size; small ones are enlarged without
            smoothing.
        captions: one caption per image; newlines start a new line, and lines that are too wide are shortened.
            Pillow's built-in font covers little more than ASCII.
        columns: number of images per row.
        highlight: one value per image: True for a green frame and caption, False for a red one, None for neither.
        tile: side of the square that an image is fitted into, in pixels.

    Raises:
        ValueError: if there are no images, or the number of captions or highlights differs from the number of images.
    """
    if not images:
        raise ValueError("expected at least one image, found none")
    marks = [None] * len(images) if highlight is None else highlight
    cells = list(zip(images, captions, marks, strict=True))
    lines = max(caption.count("\n") + 1 for caption in captions)
    return _png(_draw(cells, min(columns, len(cells)), tile, lines))


def _draw(cells: Sequence[tuple[Pixels, str, bool | None]], columns: int, tile: int, lines: int) -> "Image":
    from PIL import Image, ImageDraw, ImageFont

    width, row_height = GAP + columns * (tile + GAP), tile + GAP + lines * LINE
    sheet = Image.new("RGB", (width, GAP + math.ceil(len(cells) / columns) * row_height), BACKGROUND)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(TEXT_SIZE)
    for number, (pixels, caption, mark) in enumerate(cells):
        left, top = GAP + number % columns * (tile + GAP), GAP + number // columns * row_height
        _draw_tile(sheet, draw, _fitted(pixels, tile), (left, top, tile), FRAME if mark is None else _colour(mark))
        _draw_caption(draw, caption, font, (left, top + tile + BORDER + 2, tile), _colour(mark))
    return sheet


def _colour(mark: bool | None) -> str:
    if mark is None:
        return INK
    return GOOD if mark else BAD


def _draw_tile(sheet: "Image", draw: "ImageDraw", image: "Image", place: tuple[int, int, int], frame: str) -> None:
    left, top, tile = place
    draw.rectangle((left - BORDER, top - BORDER, left + tile + BORDER - 1, top + tile + BORDER - 1), fill=frame)
    draw.rectangle((left, top, left + tile - 1, top + tile - 1), fill=BACKGROUND)
    sheet.paste(image, (left + (tile - image.width) // 2, top + (tile - image.height) // 2))


def _fitted(pixels: Pixels, tile: int) -> "Image":
    """Return the image enlarged by a whole factor, or reduced, so that its longer side is at most `tile` pixels."""
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    factor = tile / max(image.size)
    if factor >= 1:
        return image.resize((image.width * int(factor), image.height * int(factor)), Image.Resampling.NEAREST)
    size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
    return image.resize(size, Image.Resampling.BOX)


def _draw_caption(draw: "ImageDraw", caption: str, font: "Font", place: tuple[int, int, int], colour: str) -> None:
    left, top, tile = place
    for number, line in enumerate(caption.split("\n")):
        text = _cut(line, font, tile + GAP - BORDER)
        draw.text((left + tile // 2, top + number * LINE), text, fill=colour, font=font, anchor="ma")


def grey_png(pixels: Pixels, *, largest: int = 640) -> bytes:
    """Return (height, width) uint8 pixels as a PNG, reduced if its longer side exceeds `largest` pixels."""
    from PIL import Image

    picture, buffer = Image.fromarray(pixels), io.BytesIO()
    picture.thumbnail((largest, largest))
    picture.save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()


def with_bars(sheet: bytes, bars: Sequence[Bar]) -> bytes:
    """Return a PNG of a contact sheet with one bar per share below it; the longest bar is green.

    Args:
        sheet: contact sheet, a PNG.
        bars: names and shares, in 0..1.
    """
    from PIL import Image, ImageDraw, ImageFont

    above = Image.open(io.BytesIO(sheet)).convert("RGB")
    whole = Image.new("RGB", (above.width, above.height + len(bars) * LINE + GAP), BACKGROUND)
    whole.paste(above)
    draw, font = ImageDraw.Draw(whole), ImageFont.load_default(TEXT_SIZE)
    greatest = max(bar.share for bar in bars)
    name_width, length = whole.width // 5, whole.width * 3 // 5
    for number, (name, share) in enumerate(bars):
        top = above.height + number * LINE
        colour = GOOD if share == greatest else INK
        draw.text((name_width - GAP, top), _cut(name, font, name_width - 2 * GAP), fill=colour, font=font, anchor="ra")
        end = name_width + max(BORDER, round(length * share))
        draw.rectangle((name_width, top + BORDER, end, top + LINE - BORDER), fill=colour)
        draw.text((end + GAP // 2, top), f"{share:.1%}", fill=colour, font=font)
    return _png(whole)


def heat_map(rows: Sequence[str], columns: Sequence[str], cells: Sequence[Sequence[Cell]]) -> bytes:
    """Return a PNG of numbers in rows and columns: larger numbers have darker cells, and marked cells are red.

    Args:
        rows: names of the rows.
        columns: names of the columns, each split into two lines at `T`, as in an ISO 8601 date and time.
        cells: one cell per column, for each row.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default(TEXT_SIZE)
    left = GAP + round(max(font.getlength(name) for name in rows)) + GAP
    top = GAP + 2 * LINE
    size = (left + len(columns) * CELL[0] + GAP, top + len(rows) * CELL[1] + GAP)
    sheet = Image.new("RGB", size, BACKGROUND)
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(columns):
        for line, text in enumerate(name.split("T")):
            place = (left + number * CELL[0] + CELL[0] // 2, GAP // 2 + line * LINE)
            draw.text(place, text, fill=INK, font=font, anchor="ma")
    for row, (name, values) in enumerate(zip(rows, cells, strict=True)):
        draw.text((left - GAP, top + row * CELL[1] + BORDER), name, fill=INK, font=font, anchor="ra")
        for column, cell in enumerate(values):
            _draw_cell(draw, cell, font, (left + column * CELL[0], top + row * CELL[1]))
    return _png(sheet)


def _draw_cell(draw: "ImageDraw", cell: Cell, font: "Font", place: tuple[int, int]) -> None:
    if cell.value is None:
        return
    left, top = place
    grey = 235 - round(100 * min(cell.value, 1))
    ground = BAD if cell.marked else f"#{grey:02x}{grey:02x}{grey:02x}"
    draw.rectangle((left + 1, top + 1, left + CELL[0] - 2, top + CELL[1] - 2), fill=ground)
    colour = BACKGROUND if cell.marked else INK
    draw.text((left + CELL[0] // 2, top + BORDER), f"{cell.value:.2f}", fill=colour, font=font, anchor="ma")


def _cut(line: str, font: "Font", width: int) -> str:
    text = "".join(character if character.isprintable() else "?" for character in line)
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _png(sheet: "Image") -> bytes:
    """Return a PNG with a palette, which has a third of the size and looks the same for such sheets."""
    from PIL import Image

    buffer = io.BytesIO()
    sheet.quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def data_uri(png: bytes) -> str:
    """Return a PNG as a data URI, with which pages and reports embed their pictures."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
