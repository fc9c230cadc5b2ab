"""Inputs: images in memory, as Pillow images or arrays, and their content as that of an image file.

So they are decoded, normalized and predicted exactly as files are.
"""

import io
from collections.abc import Iterable, Iterator
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from digits.errors import UsageError, os_errors_as

if TYPE_CHECKING:
    from PIL import Image

_GREY, _COLOUR = 2, 3
"""Numbers of dimensions of an image as an array."""
_CHANNELS = (1, 3, 4)
"""Numbers of channels of an image in colour, or of one grey channel."""
_IN_PNG = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")
_IN_TIFF = ("I", "F", "CMYK", "LAB", "YCbCr")
_LUMA = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in the brightness (ITU-R 601-2), as Pillow's."""
EXPECTED = (
    "the path of an image, a Pillow image, an array of shape (height, width) for grey or (height, width, 3 or 4) for "
    "colours, or several of them as a list or as an array with one more dimension"
)


class ImageContent(NamedTuple):
    """Content of an image file, and the extension of its format."""

    content: bytes
    extension: str


def is_path(value: object) -> bool:
    """Return whether a value is the path of a file."""
    return isinstance(value, str | PathLike)


def each_image(images: Any) -> Iterator[Any]:
    """Yield the single images of an image or of several; see `EXPECTED`.

    A three-dimensional array is one image in colour if its last dimension is 1, 3 or 4, otherwise a stack of grey ones.
    """
    if is_path(images) or _is_picture(images):
        yield images
    elif isinstance(images, Iterable) and not _is_numeric(images):
        yield from images
    else:
        array = _array(images)
        yield from [array] if _is_single(array) else array


def read_image(image: Any) -> ImageContent:
    """Return the content of one image.

    Raises:
        UsageError: if it is no image, or its file cannot be read.
    """
    if is_path(image):
        path = Path(image).expanduser()
        with os_errors_as(UsageError, path, "could not be read", "expected an image file"):
            return ImageContent(path.read_bytes(), path.suffix)
    return _encode(image if _is_picture(image) else _picture_of(_array(image)))


def _is_picture(value: object) -> bool:
    """Return whether a value is a Pillow image, without importing Pillow."""
    return hasattr(value, "getbands") and hasattr(value, "save")


def _is_numeric(value: Any) -> bool:
    """Return whether a value is an array of numbers, of any library, or nested lists of numbers."""
    if hasattr(value, "__array__"):
        return np.asarray(value).dtype.kind in "biuf"
    first: Any = next(iter(value), None) if isinstance(value, list | tuple) else None
    return isinstance(first, int | float) or (isinstance(first, list | tuple) and _is_numeric(first))


def _array(value: Any) -> npt.NDArray[Any]:
    try:
        array = np.asarray(value)
    except ValueError:
        array = np.array(None)
    if array.dtype.kind not in "biuf" or array.ndim not in range(_GREY, _COLOUR + 2) or not array.size:
        found = f"an array of shape {array.shape}" if hasattr(value, "__array__") else f"{type(value).__name__}"
        raise UsageError(f"expected {EXPECTED}; found {found}")
    return array


def _is_single(array: npt.NDArray[Any]) -> bool:
    return array.ndim == _GREY or (array.ndim == _COLOUR and array.shape[-1] in _CHANNELS)


def _picture_of(array: npt.NDArray[Any]) -> "Image.Image":
    """Return an array as a Pillow image; colours of other types than uint8 become grey levels."""
    from PIL import Image

    if not _is_single(array):
        raise UsageError(f"expected {EXPECTED}; found an image of shape {array.shape}")
    if array.dtype == bool:
        array = array * np.uint8(255)
    if array.shape[_GREY:] == (1,):
        array = array[:, :, 0]
    elif array.ndim == _COLOUR and array.dtype != np.uint8:
        array = array[:, :, :3] @ _LUMA
    if array.dtype not in (np.uint8, np.uint16):
        array = array.astype(np.float32)
    return Image.fromarray(np.ascontiguousarray(array))


def _encode(picture: "Image.Image") -> ImageContent:
    from PIL import ImageOps

    file = io.BytesIO()
    with os_errors_as(UsageError, "image", "could not be read", "open it again"):
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in _IN_TIFF:
            upright.save(file, "TIFF")
            return ImageContent(file.getvalue(), ".tif")
        if upright.mode not in _IN_PNG:
            upright = upright.convert("RGBA" if upright.has_transparency_data else "RGB")
        upright.save(file, "PNG", compress_level=1)
        return ImageContent(file.getvalue(), ".png")
