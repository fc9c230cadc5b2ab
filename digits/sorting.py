"""Sorting more records than memory should hold: sorted runs wait in a file, and are merged as they are read."""

import os
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import BinaryIO

RUN = 32_768
"""Records that are sorted at once, in memory."""

BLOCK = 256
"""Records of a run that are read back at once."""


def in_order(records: Iterable[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Take all records, then give them in the order of their bytes while at most a run and some blocks are in memory.

    Args:
        records: are read to their end before this returns.
        file: an unbuffered temporary one, to which runs are appended; it must outlive the iterator.

    Raises:
        OSError: the file can't be written to, or read back.
    """
    source, runs = iter(records), list[Iterator[bytes]]()
    run = sorted(islice(source, RUN))
    while len(run) == RUN:
        runs.append(_spilled(run, file))
        run = sorted(islice(source, RUN))
    return merge(*runs, run) if runs else iter(run)


def _spilled(run: Sequence[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Write a run behind all that is in the file; give the way to read it."""
    start = file.seek(0, os.SEEK_END)
    blocks = [run[first : first + BLOCK] for first in range(0, len(run), BLOCK)]
    sizes = [_write(file, _encoded(block)) for block in blocks]
    return _read(file, start, sizes)


def _encoded(block: Sequence[bytes]) -> bytes:
    """Give the number of records, the length of each, and the records."""
    return b"".join([array("I", [len(block), *map(len, block)]).tobytes(), *block])


def _write(file: BinaryIO, content: bytes) -> int:
    left = memoryview(content)
    while left:
        left = left[file.write(left) :]
    return len(content)


def _read(file: BinaryIO, start: int, sizes: Iterable[int]) -> Iterator[bytes]:
    for size in sizes:
        yield from _decoded(os.pread(file.fileno(), size, start))
        start += size


def _decoded(content: bytes) -> Iterator[bytes]:
    width = array("I").itemsize
    end = width * (int.from_bytes(content[:width], sys.byteorder) + 1)
    for length in array("I", content[width:end]):
        yield content[end : end + length]
        end += length
