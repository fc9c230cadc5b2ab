"""Sorting: an external merge sort of byte strings with bounded memory."""

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import BinaryIO

RECORDS_PER_RUN = 32_768
"""Number of records that are sorted in memory at a time."""

RECORDS_PER_BLOCK = 256
"""Number of records that are read back at a time."""


def sort_records(records: Iterable[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Return an iterator over records in byte order, by an external merge sort with bounded memory.

    Args:
        records: records to sort; all are read before this function returns.
        file: unbuffered temporary file to which sorted runs are appended; must stay open while the result is iterated.

    Raises:
        OSError: if the file cannot be written or read.
    """
    source, runs = iter(records), list[Iterator[bytes]]()
    run = sorted(islice(source, RECORDS_PER_RUN))
    while len(run) == RECORDS_PER_RUN:
        runs.append(_spill(run, file))
        run = sorted(islice(source, RECORDS_PER_RUN))
    return merge(*runs, run) if runs else iter(run)


def _spill(run: Sequence[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Append a run to the file, and return an iterator that reads it back."""
    start = file.seek(0, os.SEEK_END)
    blocks = [run[first : first + RECORDS_PER_BLOCK] for first in range(0, len(run), RECORDS_PER_BLOCK)]
    sizes = [write_block(file, _encode(block)) for block in blocks]
    return _read(file, start, sizes)


def _encode(block: Sequence[bytes]) -> bytes:
    """Return a block of records as bytes: their number, the length of each, and the records."""
    return b"".join([array("I", [len(block), *map(len, block)]).tobytes(), *block])


def write_block(file: BinaryIO, content: bytes) -> int:
    """Write all bytes of a block, and return their number."""
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return len(content)


def _read(file: BinaryIO, start: int, sizes: Iterable[int]) -> Iterator[bytes]:
    for size in sizes:
        yield from _decode(os.pread(file.fileno(), size, start))
        start += size


def _decode(content: bytes) -> Iterator[bytes]:
    width = array("I").itemsize
    end = width * (int.from_bytes(content[:width], sys.byteorder) + 1)
    for length in array("I", content[width:end]):
        yield content[end : end + length]
        end += length
