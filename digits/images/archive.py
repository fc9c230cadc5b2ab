"""Archive: listing and reading of the images in a zip or tar file without unpacking it to disk.

A member of an archive is described by an `Entry`, like a file of a folder, but two of the fields have other meanings.
In a zip file, `mtime_ns` is the member's checksum, and `inode` encodes its position and compression. In a tar file,
`mtime_ns` is its modification time in seconds, and `inode` is the position of its content.
"""

import bz2
import errno
import gzip
import lzma
import os
import stat
import struct
import tarfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, Self, cast

from digits.errors import StoreError, UsageError
from digits.images.decode import DecodeError
from digits.images.folder import MISSING_SIZE, Entry, name_file_type
from digits.images.formats import HEAD_BYTES
from digits.images.patterns import Selection

ARCHIVE_EXTENSIONS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
Identity = tuple[int, int, int]
"""Size, modification time in nanoseconds, and inode of an archive."""

_POSITION = struct.Struct(">QQHH")
"""Fields of a zip member that `Entry.inode` encodes: offset of the local header, compressed size, method and flags."""
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_PACKED_HEAD = 4096
"""Number of compressed bytes that are read in addition to twice the number of requested bytes."""
_LONGEST_HEADER = 2**20
_ENCRYPTED = 1
_UTF8_NAME = 0x800
_SPARSE = -1
"""Value of `Entry.inode` for a sparse file, whose content is not in one piece."""
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_DAMAGE = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)
"""Errors on reading a damaged member."""


class Member(NamedTuple):
    """Member of an archive.

    Args:
        name: name of the member, which may be unsafe to unpack.
        kind: None for a regular file, otherwise the reason to skip the member.
        size: size of its content in bytes.
        stamp: checksum in a zip file, modification time in seconds in a tar file.
        position: position of the content, as in the entry's `inode`; see the module's docstring.
    """

    name: bytes
    kind: str | None
    size: int
    stamp: int
    position: int


class Container(Protocol):
    """Reader of an archive format."""

    is_sequential: bool
    """Whether members are read fastest in the order of the archive."""

    def members(self) -> Iterator[Member]:
        """Yield all members. While one is yielded, its content may be read."""

    def content(self, entry: Entry, count: int) -> bytes:
        """Return the first bytes of a member.

        Args:
            entry: entry of the member.
            count: number of bytes.

        Raises:
            DecodeError: with the status `unreadable` or `unsupported`.
        """


def is_archive(path: Path) -> bool:
    """Return whether a path has the extension of an archive."""
    return path.name.lower().endswith(ARCHIVE_EXTENSIONS)


class Archive:
    """Archive of images; a context manager that opens and closes the file.

    Args:
        path: path of the archive; its extension determines the format.
        identity: identity of the archive when it was listed; None if it has not been listed.

    Raises:
        OSError: if it cannot be opened.
        StoreError: if it changed after it was listed.
    """

    container: Container
    identity: Identity

    def __init__(self, path: Path, identity: Identity | None = None) -> None:
        self.path = path
        self._listed = identity

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._file = stack.enter_context(self.path.open("rb"))
            self.identity = self._listed or self._identity_now()
            self._require_unchanged()
            self.container = Zip(self._file) if self.path.suffix.lower() == ".zip" else Tar(self._file)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """Return the content of a listed member.

        Args:
            entry: entry of the member.
            max_bytes: largest size to read.

        Raises:
            DecodeError: with the status `too-large`, `vanished`, `unreadable` or `unsupported`.
            StoreError: if the archive changed after it was listed.
        """
        if entry.size > max_bytes:
            raise DecodeError("too-large", f"{entry.size} bytes are over the limit of {max_bytes}; raise max_bytes")
        if entry.size == MISSING_SIZE:
            raise DecodeError("vanished", "there is no such member in the archive")
        try:
            return self.container.content(entry, entry.size)
        finally:
            self._require_unchanged()

    def _require_unchanged(self) -> None:
        if self._identity_now() != self.identity:
            raise StoreError(f"{self.path}: the archive changed after it was listed; run the same command again")

    def _identity_now(self) -> Identity:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns, status.st_ino


class Zip:
    """Reader of a zip file, whose members can be read in any order.

    Args:
        file: open zip file.
    """

    is_sequential = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def members(self) -> Iterator[Member]:
        """Yield all members in the order of the central directory."""
        with zipfile.ZipFile(self._file) as archive:
            for info in archive.infolist():
                name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")
                position = _POSITION.pack(info.header_offset, info.compress_size, info.compress_type, info.flag_bits)
                yield Member(name, _kind_in_zip(info), info.file_size, info.CRC, int.from_bytes(position))

    def content(self, entry: Entry, count: int) -> bytes:
        """Return the first bytes of a member. If these are all of its bytes, its checksum is verified."""
        offset, packed, method, flags = _POSITION.unpack(entry.inode.to_bytes(_POSITION.size))
        if flags & _ENCRYPTED:
            raise DecodeError("unsupported", "it is encrypted in the archive; unpack the archive with its password")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            raise DecodeError("unsupported", f"it is packed by method {method} in the archive; unpack the archive")
        whole = count == entry.size
        try:
            self._seek(entry, offset)
            data = self._file.read(min(packed, 2 * count + _PACKED_HEAD))
            content = _unpack(method, data, count + whole)
        except _DAMAGE as error:
            raise DecodeError("unreadable", "it is damaged in the archive") from error
        if whole and (len(content) != entry.size or zlib.crc32(content) != entry.mtime_ns):
            raise DecodeError("unreadable", "it is damaged in the archive: its checksum is not the one recorded there")
        return content

    def _seek(self, entry: Entry, offset: int) -> None:
        """Move to the start of a member's content, after checking that its local header has its name."""
        self._file.seek(offset)
        signature, name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size))
        if signature != b"PK\3\4" or _to_safe_path(self._file.read(name)) != entry.path:
            raise ValueError
        self._file.seek(extra, os.SEEK_CUR)


def _kind_in_zip(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if info.is_dir() or stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISLNK(mode):
        return "link"
    return name_file_type(mode) if stat.S_IFMT(mode) not in (0, stat.S_IFREG) else None


def _unpack(method: int, data: bytes, count: int) -> bytes:
    """Return the first bytes of compressed data, and unpack no more than these."""
    if method == zipfile.ZIP_STORED:
        return data[:count]
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, count)
    return bz2.BZ2Decompressor().decompress(data, count)


class Tar:
    """Reader of a tar file, compressed or not. A compressed file is decompressed from its start to reach a member.

    Args:
        file: open tar file.
    """

    def __init__(self, file: BinaryIO) -> None:
        start = file.read(2)
        file.seek(0)
        opener = _OPENERS.get(start)
        self.is_sequential = opener is not None
        self._stream: BinaryIO = opener(file) if opener else file

    def members(self) -> Iterator[Member]:
        """Yield all members in the order of the archive."""
        bounded = cast(BinaryIO, _BoundedReader(self._stream))
        with tarfile.open(fileobj=bounded, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # the list would grow with every member
                name = info.name.encode("utf-8", "surrogateescape")
                position = _SPARSE if info.issparse() else info.offset_data
                yield Member(name, _kind_in_tar(info), info.size, int(info.mtime), position)
            self._check_end(archive.offset)

    def _check_end(self, offset: int) -> None:
        """Check that the last member ends where the archive ends: `tarfile` stops silently at a damaged header."""
        self._stream.seek(offset)
        if self._stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"the header at byte {offset} is damaged")

    def content(self, entry: Entry, count: int) -> bytes:
        """Return the first bytes of a member."""
        if entry.inode == _SPARSE:
            raise DecodeError("unsupported", "it is a sparse file in the archive; unpack the archive")
        try:
            self._stream.seek(entry.inode)
            content = self._stream.read(count)
        except _DAMAGE as error:
            raise DecodeError("unreadable", "it is damaged in the archive") from error
        if len(content) < min(count, entry.size):
            raise DecodeError("unreadable", "the archive ends before it does")
        return content


class _BoundedReader:
    """Stream that refuses large reads, so that `tarfile` does not load a header of any length into memory."""

    def __init__(self, stream: BinaryIO) -> None:
        self.seek, self.tell, self._stream = stream.seek, stream.tell, stream

    def read(self, size: int) -> bytes:
        if size > _LONGEST_HEADER:
            raise ValueError(f"it has a header of {size} bytes")
        return self._stream.read(size)


def _kind_in_tar(info: tarfile.TarInfo) -> str | None:
    if info.isreg():
        return None
    if info.isdir():
        return "folder"
    return "link" if info.issym() or info.islnk() else "fifo" if info.isfifo() else "device"


def _to_safe_path(name: bytes) -> bytes | None:
    """Return a member's name without `.` and empty components, None if unpacking it could write to another place."""
    if name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
        return None
    path = os.path.normpath(name)
    return None if path == b"." else path


class ArchiveListing:
    """Listing of the regular members of an archive: iterate over it to get an `Entry` per member.

    The entries come in byte order of the paths, those of a compressed tar file in the order of the archive. The counter
    `skipped` has the number of skipped members by reason: those of `digits.images.folder.Listing`, `folder`,
    `unsafe-name` (absolute, or with `..` or NUL) and `duplicate`. Of several members with the same path, the last one
    is listed, because it would replace the others if the archive were unpacked.

    Args:
        archive: open archive.
        recursive: whether to list members in folders.
        selection: members to list; by default those with the extension of an image.

    Raises:
        UsageError: on iteration, if the archive is damaged.
    """

    def __init__(self, archive: Archive, *, recursive: bool = True, selection: Selection | None = None) -> None:
        self.skipped: Counter[str] = Counter()
        self._archive = archive
        self._recursive = recursive
        self._selection = selection or Selection()

    def __iter__(self) -> Iterator[Entry]:
        self.skipped.clear()
        found: dict[bytes, Entry] = {}
        try:
            for member in self._archive.container.members():
                self._add(member, found)
        except Exception as error:  # `zipfile` and `tarfile` raise many kinds of errors on damaged archives
            raise _to_usage_error(self._archive.path, error) from error
        is_sequential = self._archive.container.is_sequential
        yield from sorted(found.values(), key=lambda entry: (entry.inode if is_sequential else 0, entry.path))

    def _add(self, member: Member, found: dict[bytes, Entry]) -> None:
        path = _to_safe_path(member.name)
        entry = Entry(path or b"", member.size, member.stamp, member.position)
        reason = member.kind or ("unsafe-name" if path is None else self._reason_to_skip(entry))
        if reason is None and entry.path in found:
            self.skipped["duplicate"] += 1
        if reason is None:
            found[entry.path] = entry
        else:
            self.skipped[reason] += 1

    def _reason_to_skip(self, entry: Entry) -> str | None:
        if not self._recursive and b"/" in entry.path:
            return "sub-folder"
        return self._selection.reason_to_skip(entry.path, lambda: self._head(entry))

    def _head(self, entry: Entry) -> bytes | None:
        try:
            return self._archive.container.content(entry, min(entry.size, HEAD_BYTES))
        except DecodeError:
            return None


def _to_usage_error(path: Path, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOMEM, errno.EMFILE):
        return error
    reason = str(error) or type(error).__name__
    return UsageError(f"{path}: expected an intact zip or tar archive, found a damaged one ({reason}); create it again")
