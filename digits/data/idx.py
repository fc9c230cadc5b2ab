"""Files of labelled images as arrays: the IDX files of MNIST, and `.npz` files like that of Keras."""

import gzip
import io
import zipfile
import zlib
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from digits.errors import DataError
from digits.images.types import Labels, Pixels

Payloads = dict[str, bytes]
"""The content of IDX files, uncompressed, by name."""

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2**34
"""No larger file is read where the caller names no limit."""


def read_idx_files(folder: Path, *, limit: int = MAX_BYTES) -> Payloads:
    """Read the four IDX files of a folder, with or without `.gz`; `limit` is in bytes, of each one's content.

    Raises:
        DataError: one is missing, damaged or over the limit.
    """
    found = {name: find_idx_file(folder, name) for name in IDX_FILES}
    if missing := [name for name, path in found.items() if path is None]:
        which = "no IDX file" if len(missing) == len(found) else f"no {' and no '.join(missing)}"
        raise DataError(f"there is {which} in {folder}, neither as it is nor with .gz")
    return {name: _read_idx_file(path, limit) for name, path in found.items() if path is not None}


def find_idx_file(folder: Path, name: str) -> Path | None:
    """Find an IDX file in a folder, by either spelling of its name (`-idx3`, `.idx3`), with or without `.gz`."""
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _read_idx_file(path: Path, limit: int) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return read_bounded(file, limit)
    except (EOFError, zlib.error, gzip.BadGzipFile, DataError) as error:
        raise DataError(f"{path.name}: {error}") from error


def decompress(content: bytes, limit: int) -> bytes:
    """Unpack gzip in memory; what is not packed (a server or a proxy may have unpacked it) is given as it is.

    More than `limit` bytes are a DataError, damage is an OSError, EOFError or zlib.error.
    """
    if not content.startswith(GZIP_MAGIC):
        return content
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return read_bounded(file, limit)


def read_bounded(file: "IO[bytes] | gzip.GzipFile", limit: int) -> bytes:
    """Read a file to its end; more than `limit` bytes is a DataError."""
    content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"there are more than {limit:,} bytes in it, which is the limit")
    return content


def parse_idx(name: str, content: bytes) -> Pixels:
    """Give the array in an IDX file: (N, height, width) uint8 for images, (N,) uint8 for labels.

    The format: two zeros, 8 for unsigned bytes, the number of axes, their lengths as big-endian uint32, the values.

    Raises:
        DataError: it is not such a file, or longer or shorter than it says.
    """
    axes = 3 if "images" in name else 1
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise DataError(f"{name}: not an IDX file of bytes with {axes} axes; it begins with {content[:4].hex(' ')}")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", count=axes, offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{name}: {shape} values make {expected:,} bytes, found {len(content):,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def to_idx(array: Pixels) -> bytes:
    """Give the content of the IDX file for an array of uint8."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def read_npz(path: Path) -> tuple[Pixels, Labels, Pixels, Labels]:
    """Give x_train, y_train, x_test and y_test of an `.npz` file, as uint8 of whatever shapes they have.

    Raises:
        DataError: it is not such a file, one is missing, or holds other numbers than integers from 0 to 255.
    """
    if not zipfile.is_zipfile(path):
        raise DataError("not an .npz file, which is a zip archive of arrays; write it with numpy.savez_compressed")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = sorted(archive)
            arrays = {key: np.asarray(archive[key]) for key in NPZ_KEYS if key in archive}
    except (ValueError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"not a readable .npz file of plain arrays: {error}") from error
    if missing := [key for key in NPZ_KEYS if key not in arrays]:
        raise DataError(f"{', '.join(missing)} not in it, only {', '.join(found) or 'nothing'}")
    x_train, y_train, x_test, y_test = (_as_bytes(key, arrays[key]) for key in NPZ_KEYS)
    return x_train, y_train, x_test, y_test


def _as_bytes(name: str, array: npt.NDArray[Any]) -> Pixels:
    """Take integers of any width as bytes where each fits."""
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() <= np.iinfo(np.uint8).max):
        raise DataError(f"{name} is {array.dtype}, expected integers from 0 to 255; save it with .astype('uint8')")
    return array.astype(np.uint8, copy=False)
