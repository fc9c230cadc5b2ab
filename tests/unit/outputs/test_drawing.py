"""Contact sheets: the pixels are where they should be, whatever the images and the captions."""

import base64
import io

import numpy as np
import pytest
from PIL import Image, ImageColor

from digits.outputs.drawing import BACKGROUND, BAD, BORDER, FRAME, GAP, GOOD, INK, LINE, TILE, contact_sheet, data_uri

WHITE = np.full((28, 28), 255, np.uint8)
BLACK = np.zeros((28, 28), np.uint8)
TOLERANCE = 12  # of a channel: the palette has 128 colours


def opened(png: bytes) -> np.ndarray:
    """Return a PNG as (height, width, 3) integers."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def has_colour(pixels: np.ndarray, colour: str) -> bool:
    """Return whether a pixel has a colour."""
    return bool((np.abs(pixels - ImageColor.getrgb(colour)).max(axis=-1) <= TOLERANCE).any())


def cell(pixels: np.ndarray, number: int, columns: int, lines: int = 1) -> np.ndarray:
    """Return the pixels of the tile with this number."""
    left = GAP + number % columns * (TILE + GAP)
    top = GAP + number // columns * (TILE + GAP + lines * LINE)
    return pixels[top : top + TILE, left : left + TILE]


def caption(pixels: np.ndarray, number: int = 0) -> np.ndarray:
    """Return the pixels of the first line under a tile of the first row."""
    left = GAP + number * (TILE + GAP)
    return pixels[GAP + TILE + BORDER : GAP + TILE + GAP + LINE, left : left + TILE]


def test_images_are_drawn_in_rows_in_their_order():
    """White, black, then white again in the second row."""
    sheet = opened(contact_sheet([WHITE, BLACK, WHITE], ["a", "b", "c"], columns=2))
    assert sheet.shape[:2] == (GAP + 2 * (TILE + GAP + LINE), GAP + 2 * (TILE + GAP))
    assert [cell(sheet, number, 2).mean() for number in range(3)] == [255, 0, 255]


def test_a_single_image_makes_a_sheet_of_one_column():
    assert opened(contact_sheet([BLACK], [""], columns=8)).shape[1] == 2 * GAP + TILE


def test_small_images_are_enlarged_without_smoothing():
    """Each pixel becomes a square of its own colour."""
    pixels = np.array([[0, 255], [255, 0]], np.uint8)
    tile = cell(opened(contact_sheet([pixels], [""])), 0, 1)[..., 0]
    assert (tile == np.kron(pixels, np.ones((TILE // 2, TILE // 2), int))).all()


def test_large_images_are_shrunk_into_their_tile():
    """The longer side fills the tile, the ground shows beside the shorter."""
    sheet = opened(contact_sheet([np.zeros((30, 600), np.uint8)], [""]))
    dark = cell(sheet, 0, 1).max(axis=-1) < TOLERANCE
    assert dark.any(axis=0).all()
    assert dark.any(axis=1).sum() == round(30 * TILE / 600)
    assert has_colour(cell(sheet, 0, 1), BACKGROUND)


def test_an_image_one_pixel_wide_stays_visible_when_shrunk():
    tile = cell(opened(contact_sheet([np.zeros((1, 4000), np.uint8)], [""])), 0, 1)
    assert (tile.max(axis=-1) < TOLERANCE).any(axis=1).sum() == 1


def test_arrays_that_are_not_contiguous_are_drawn():
    assert cell(opened(contact_sheet([np.zeros((28, 56), np.uint8)[:, ::2]], [""])), 0, 1).mean() == 0


@pytest.mark.parametrize(("mark", "frame", "ink"), [(True, GOOD, GOOD), (False, BAD, BAD), (None, FRAME, INK)])
def test_a_highlight_colours_frame_and_caption(mark, frame, ink):
    """Green is good, red is bad, grey is neither."""
    sheet = opened(contact_sheet([BLACK], ["HHHH"], highlight=[mark]))
    assert has_colour(sheet[GAP - BORDER : GAP, GAP : GAP + TILE], frame)
    assert has_colour(caption(sheet), ink)


def test_a_highlight_does_not_affect_the_neighbouring_image():
    sheet = opened(contact_sheet([BLACK, BLACK], ["HH", "HH"], highlight=[True, False]))
    assert has_colour(caption(sheet, 0), GOOD)
    assert not has_colour(caption(sheet, 0), BAD)
    assert has_colour(caption(sheet, 1), BAD)


def test_a_caption_of_two_lines_makes_its_row_one_line_higher():
    one, two = (opened(contact_sheet([BLACK] * 2, [text, "x"])) for text in ("a", "a\nb"))
    assert two.shape[0] - one.shape[0] == LINE
    assert has_colour(two[-LINE - GAP :, :TILE], INK)


def test_a_long_caption_is_cut_before_the_next_one():
    sheet = opened(contact_sheet([BLACK] * 2, ["m" * 100, ""], highlight=[True, None]))
    assert has_colour(caption(sheet, 0), GOOD)
    assert not has_colour(caption(sheet, 1), GOOD)


def test_captions_with_control_characters_surrogates_and_missing_glyphs_are_drawn():
    texts = ["a\tb\x00", "\udcff.png", "\u202edlrow", "", "\u6570\u5b57"]
    assert opened(contact_sheet([BLACK] * 5, texts)).std() > 0
    assert contact_sheet([BLACK], ["a\x00b\u202e"]) == contact_sheet([BLACK], ["a?b?"])


def test_the_same_sheet_gives_the_same_bytes_and_noise_stays_small():
    images = list(np.random.default_rng(0).integers(0, 255, (24, 28, 28), np.uint8))
    first, second = (contact_sheet(images, ["4 read as 9\n99.9%"] * 24) for _ in range(2))
    assert first == second
    assert len(first) < 60_000


def test_a_sheet_without_images_or_with_too_few_captions_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([], [])
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([BLACK], ["a", "b"])
    with pytest.raises(ValueError, match="zip"):
        contact_sheet([BLACK], ["a"], highlight=[True, True])


def test_a_data_uri_decodes_to_the_bytes():
    head, _, body = data_uri(b"\x89PNG...").partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(body) == b"\x89PNG..."
