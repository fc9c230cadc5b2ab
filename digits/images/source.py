"""Source: read listed images from a folder or an archive through one interface."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from digits.images.folder import DirectoryReader, Entry, LinkRule, read_entry


class Source(Protocol):
    """Folder or archive whose listed images can be read."""

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """Return the content of a listed image.

        Args:
            entry: entry of the image.
            max_bytes: largest size to read.

        Raises:
            DecodeError: if the image cannot be read; the error holds the status of its row.
            StoreError: if the archive changed after it was listed.
        """


class _Folder(DirectoryReader):
    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        return read_entry(self, entry, max_bytes=max_bytes)


@contextmanager
def open_source(path: Path, archive: tuple[int, int, int] | None, links: LinkRule = "no") -> Iterator[Source]:
    """Open a folder or an archive for reading.

    Args:
        path: path of the folder or archive.
        archive: identity of the archive when it was listed, as in `Archive.identity`; None for a folder.
        links: links in a folder to follow.

    Raises:
        OSError: if it cannot be opened.
        StoreError: if the archive changed after it was listed.
    """
    if archive is None:
        with _Folder(path, links) as folder:
            yield folder
        return
    from digits.images.archive import Archive

    with Archive(path, archive) as opened:
        yield opened
