"""Images in memory: their content as files, which decodes to the same pixels."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.errors import UsageError
from digits.images.decode import decode
from digits.model.inputs import each_image, read_image

DRAWN = np.arange(256, dtype=np.uint8).reshape(8, 32)


def decoded(image: Any) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return decode(read_image(image).content).pixels


@pytest.mark.parametrize(
    "image",
    [
        DRAWN,
        DRAWN.astype(np.int64),
        DRAWN.astype(np.float64),
        DRAWN / 255,
        DRAWN.astype(np.uint16) * 257,
        DRAWN[..., np.newaxis],
        np.repeat(DRAWN[..., np.newaxis], 3, axis=2),
        np.repeat(DRAWN[..., np.newaxis] / 255, 3, axis=2),
        DRAWN.tolist(),
        Image.fromarray(DRAWN),
        Image.fromarray(DRAWN).convert("RGBA"),
        Image.fromarray(DRAWN).convert("I"),
        Image.fromarray(DRAWN).convert("F"),
        Image.fromarray(DRAWN).convert("CMYK"),
        Image.fromarray(DRAWN).convert("HSV"),
    ],
)
def test_an_image_in_memory_is_decoded_to_its_grey_levels(image: object) -> None:
    """Whatever the type of its values is."""
    found = decoded(image)
    assert found.shape == DRAWN.shape
    assert np.abs(found.astype(int) - DRAWN).max() <= 1


def test_black_and_white_are_the_extremes() -> None:
    assert np.unique(decoded(DRAWN > 99)).tolist() == [0, 255]


def test_the_orientation_and_the_transparency_of_a_picture_are_kept() -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DRAWN).save(file, "JPEG", exif=exif)
    assert decoded(Image.open(file)).shape == (32, 8)
    clear = Image.new("RGBA", (9, 9), (0, 0, 0, 0))
    clear.paste((0, 0, 0, 255), (3, 3, 6, 6))
    assert decoded(clear)[[0, 4], [0, 4]].tolist() == [255, 0]
    assert decoded(clear.convert("PA"))[[0, 4], [0, 4]].tolist() == [255, 0]


def test_the_file_of_a_path_is_read(tmp_path: Path) -> None:
    Image.fromarray(DRAWN).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png") == ((tmp_path / "a.png").read_bytes(), ".png")
    with pytest.raises(UsageError, match=r"b\.png: could not be read .*; expected an image file"):
        read_image(str(tmp_path / "b.png"))


class Tensor:
    """Array of another library."""

    def __array__(self, *_: object, **__: object) -> np.ndarray[Any, Any]:
        return np.zeros((5, 28, 28))


@pytest.mark.parametrize(
    ("images", "count"),
    [
        ("a.png", 1),
        (Path("a.png"), 1),
        (["a.png", "b.png"], 2),
        (np.array(["a.png", "b.png"]), 2),
        (iter([DRAWN, DRAWN]), 2),
        (DRAWN, 1),
        (np.zeros((5, 28, 28)), 5),
        (np.zeros((28, 28, 3)), 1),
        (np.zeros((28, 28, 1)), 1),
        (np.zeros((5, 28, 28, 3)), 5),
        (np.zeros((5, 28, 28)).tolist(), 5),
        (Tensor(), 5),
        (Image.fromarray(DRAWN), 1),
        ([], 0),
    ],
)
def test_single_images_are_told_from_several(images: object, count: int) -> None:
    assert len(list(each_image(images))) == count


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: list(each_image(np.zeros(784))), r"an array of shape \(784,\)"),
        (lambda: list(each_image(7)), "int"),
        (lambda: read_image(None), "NoneType"),
        (lambda: read_image([[1, 2], [3]]), "list"),
        (lambda: read_image(np.zeros((0, 28))), r"an array of shape \(0, 28\)"),
        (lambda: read_image(np.zeros((28, 28, 2))), r"an image of shape \(28, 28, 2\)"),
        (lambda: read_image(np.zeros((2, 28, 28, 3))), r"an image of shape \(2, 28, 28, 3\)"),
        (lambda: read_image(np.zeros((28, 28), complex)), "an array of shape"),
    ],
)
def test_anything_else_is_one_sentence(make: Callable[[], object], found: str) -> None:
    with pytest.raises(UsageError, match=f"expected the path of an image, a Pillow image, an array .*; found {found}"):
        make()
