"""Where a plan's images are read from: a folder, or an archive."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from digits.images.folder import DirectoryReader, Entry, read_entry


class Source(Protocol):
    """Gives the bytes of what was listed."""

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """Read an image.

        Raises:
            DecodeError: it can't be read; the error holds the status of its row.
            StoreError: nothing can be read as it was listed.
        """


class _Folder(DirectoryReader):
    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        return read_entry(self, entry, max_bytes=max_bytes)


@contextmanager
def open_source(path: Path, archive: tuple[int, int, int] | None) -> Iterator[Source]:
    """Open a folder, or the archive that has this identity.

    Raises:
        OSError: it can't be opened.
        StoreError: the archive is not the one that was listed.
    """
    if archive is None:
        with _Folder(path) as folder:
            yield folder
        return
    from digits.images.archive import Archive

    with Archive(path, archive) as opened:
        yield opened
