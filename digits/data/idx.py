"""Dataset file formats: the IDX files of MNIST, and `.npz` files with the arrays of `keras.datasets`."""

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
"""Uncompressed content of IDX files, by name."""

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
"""Names of the four IDX files, as published."""
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
"""Names of the arrays in an `.npz` file, in the order of `IDX_FILES`."""
GZIP_MAGIC = b"\x1f\x8b"
MAX_BYTES = 2**34
"""Default limit of the size of a file in bytes."""


def read_idx_files(folder: Path, *, limit: int = MAX_BYTES) -> Payloads:
    """Read the four IDX files of a folder, with or without `.gz`.

    Args:
        folder: folder that contains the files.
        limit: largest uncompressed size of a file in bytes.

    Raises:
        DataError: if a file is missing, damaged or exceeds the limit.
    """
    found = {name: find_idx_file(folder, name) for name in IDX_FILES}
    if missing := [name for name, path in found.items() if path is None]:
        which = "no IDX file" if len(missing) == len(found) else f"no {' and no '.join(missing)}"
        raise DataError(f"there is {which} in {folder}, with or without .gz")
    return {name: _read_idx_file(path, limit) for name, path in found.items() if path is not None}


def find_idx_file(folder: Path, name: str) -> Path | None:
    """Return the path of an IDX file in a folder, or None. Its name may have `.idx` for `-idx`, and a final `.gz`."""
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
    """Decompress gzip data in memory, and return other data as it is: a server or proxy may have decompressed it.

    Raises:
        DataError: if the decompressed data has more than `limit` bytes.
        OSError, EOFError, zlib.error: if the data is damaged.
    """
    if not content.startswith(GZIP_MAGIC):
        return content
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return read_bounded(file, limit)


def read_bounded(file: "IO[bytes] | gzip.GzipFile", limit: int) -> bytes:
    """Read a file to its end.

    Raises:
        DataError: if it has more than `limit` bytes.
    """
    content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"the content exceeds the limit of {limit:,} bytes")
    return content


def parse_idx(name: str, content: bytes) -> Pixels:
    """Return the array in an IDX file: (N, height, width) uint8 for images, (N,) uint8 for labels.

    The format is: two zero bytes, 8 for unsigned bytes, the number of axes, their lengths as big-endian uint32, and the
    values. See http://yann.lecun.com/exdb/mnist/.

    Args:
        name: name of the file; it decides whether images or labels are expected.
        content: uncompressed content of the file.

    Raises:
        DataError: if the content is not an IDX file of that kind, or if its length does not match its header.
    """
    axes = 3 if "images" in name else 1
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise DataError(
            f"{name}: expected an IDX file of unsigned bytes with {axes} axes, found a file that begins with "
            f"{content[:4].hex(' ')}"
        )
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", count=axes, offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{name}: expected {expected:,} bytes for the shape {shape}, found {len(content):,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def encode_idx(array: Pixels) -> bytes:
    """Return the content of the IDX file of a uint8 array."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def read_npz(path: Path) -> tuple[Pixels, Labels, Pixels, Labels]:
    """Read x_train, y_train, x_test and y_test of an `.npz` file, as uint8 arrays; shapes are not checked.

    Raises:
        DataError: if the file is not an `.npz` file, or if an array is missing or has values other than integers from
            0 to 255.
    """
    if not zipfile.is_zipfile(path):
        raise DataError("not an .npz file (a zip archive of arrays); write it with numpy.savez_compressed")
    try:
        with np.load(path, allow_pickle=False) as archive:
            found = sorted(archive)
            arrays = {key: np.asarray(archive[key]) for key in NPZ_KEYS if key in archive}
    except (ValueError, EOFError, MemoryError, NotImplementedError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"not a readable .npz file of plain arrays: {error}") from error
    if missing := [key for key in NPZ_KEYS if key not in arrays]:
        raise DataError(f"missing arrays: {', '.join(missing)}; found {', '.join(found) or 'no arrays'}")
    x_train, y_train, x_test, y_test = (_to_uint8(key, arrays[key]) for key in NPZ_KEYS)
    return x_train, y_train, x_test, y_test


def _to_uint8(name: str, array: npt.NDArray[Any]) -> Pixels:
    """Convert an array of integers of any width to uint8, if all values fit."""
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() <= np.iinfo(np.uint8).max):
        raise DataError(f"{name} is {array.dtype}, expected integers from 0 to 255; save it with .astype('uint8')")
    return array.astype(np.uint8, copy=False)
