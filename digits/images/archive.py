"""Archives of pictures, zip and tar, read where they are: nothing is unpacked to disk, no member leads anywhere.

A member is listed as a file is. The numbers of its entry are the archive's: in a zip the checksum stands for the
modification time, and the inode says where the member is and how it is packed.
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
from digits.images.patterns import HEAD_BYTES, Selection

ARCHIVE_EXTENSIONS = (".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz")
Identity = tuple[int, int, int]
"""An archive's size, modification time and inode."""

_PLACE = struct.Struct(">QQHH")
_LOCAL_HEADER = struct.Struct("<4s22xHH")
_PACKED_HEAD = 4096
_LONGEST_HEADER = 2**20
_ENCRYPTED = 1
_UTF8_NAME = 0x800
_SPARSE = -1
_OPENERS: dict[bytes, Callable[[BinaryIO], Any]] = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
_DAMAGE = (zlib.error, lzma.LZMAError, EOFError, OSError, ValueError)


class Member(NamedTuple):
    """What an archive tells of a member; `kind` is None for a regular file, else the reason to leave it out."""

    name: bytes
    kind: str | None
    size: int
    stamp: int
    place: int


class Container(Protocol):
    """An archive's format."""

    is_sequential: bool
    """Whether members can only be read one after the other."""

    def members(self) -> Iterator[Member]:
        """Give all members; the archive may be read at the one that was given last."""

    def content(self, entry: Entry, count: int) -> bytes:
        """Give the first bytes of a member.

        Raises:
            DecodeError: with the status `unreadable` or `unsupported`.
        """


def is_archive(path: Path) -> bool:
    """Tell an archive by its name."""
    return path.name.lower().endswith(ARCHIVE_EXTENSIONS)


class Archive:
    """An archive that is opened by `with`.

    Args:
        path: its name says which kind it is.
        identity: what it was when it was listed; None to take it as it is.

    Raises:
        OSError: it can't be opened.
        StoreError: it is not the one that was listed.
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
            self._check()
            self.container = Zip(self._file) if self.path.suffix.lower() == ".zip" else Tar(self._file)
            stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read(self, entry: Entry, *, max_bytes: int) -> bytes:
        """Read a listed member.

        Raises:
            DecodeError: with the status `too-large`, `vanished`, `unreadable` or `unsupported`.
            StoreError: the archive has changed.
        """
        if entry.size > max_bytes:
            raise DecodeError("too-large", f"{entry.size} bytes are over the limit of {max_bytes}; raise max_bytes")
        if entry.size == MISSING_SIZE:
            raise DecodeError("vanished", "there is no such member in the archive")
        try:
            return self.container.content(entry, entry.size)
        finally:
            self._check()

    def _check(self) -> None:
        if self._identity_now() != self.identity:
            raise StoreError(f"{self.path}: the archive was changed after it was listed; run the same command again")

    def _identity_now(self) -> Identity:
        status = os.fstat(self._file.fileno())
        return status.st_size, status.st_mtime_ns, status.st_ino


class Zip:
    """A zip file, whose members can be read in any order."""

    is_sequential = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def members(self) -> Iterator[Member]:
        """Give all members, as the central directory has them."""
        with zipfile.ZipFile(self._file) as archive:
            for info in archive.infolist():
                name = info.orig_filename.encode("utf-8" if info.flag_bits & _UTF8_NAME else "cp437")
                place = _PLACE.pack(info.header_offset, info.compress_size, info.compress_type, info.flag_bits)
                yield Member(name, _kind_in_zip(info), info.file_size, info.CRC, int.from_bytes(place))

    def content(self, entry: Entry, count: int) -> bytes:
        """Give the first bytes of a member; the checksum is verified where that is all of it."""
        offset, packed, method, flags = _PLACE.unpack(entry.inode.to_bytes(_PLACE.size))
        if flags & _ENCRYPTED:
            raise DecodeError("unsupported", "it is encrypted in the archive; unpack the archive with its password")
        if method not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2):
            raise DecodeError("unsupported", f"it is packed by method {method} in the archive; unpack the archive")
        whole = count == entry.size
        try:
            self._seek(entry, offset)
            data = self._file.read(min(packed, 2 * count + _PACKED_HEAD))
            content = _unpacked(method, data, count + whole)
        except _DAMAGE as error:
            raise DecodeError("unreadable", "it is damaged in the archive") from error
        if whole and (len(content) != entry.size or zlib.crc32(content) != entry.mtime_ns):
            raise DecodeError("unreadable", "it is damaged in the archive: its checksum is not the one recorded there")
        return content

    def _seek(self, entry: Entry, offset: int) -> None:
        """Go to where a member's bytes are, past a header that must have its name."""
        self._file.seek(offset)
        signature, name, extra = _LOCAL_HEADER.unpack(self._file.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size))
        if signature != b"PK\3\4" or _safe(self._file.read(name)) != entry.path:
            raise ValueError
        self._file.seek(extra, os.SEEK_CUR)


def _kind_in_zip(info: zipfile.ZipInfo) -> str | None:
    mode = info.external_attr >> 16
    if info.is_dir() or stat.S_ISDIR(mode):
        return "folder"
    if stat.S_ISLNK(mode):
        return "link"
    return name_file_type(mode) if stat.S_IFMT(mode) not in (0, stat.S_IFREG) else None


def _unpacked(method: int, data: bytes, count: int) -> bytes:
    """Unpack so many bytes and no more, whatever the data would swell to."""
    if method == zipfile.ZIP_STORED:
        return data[:count]
    if method == zipfile.ZIP_DEFLATED:
        return zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, count)
    return bz2.BZ2Decompressor().decompress(data, count)


class Tar:
    """A tar file, compressed or not; a compressed one is read from its start to each member, so best in order."""

    def __init__(self, file: BinaryIO) -> None:
        start = file.read(2)
        file.seek(0)
        opener = _OPENERS.get(start)
        self.is_sequential = opener is not None
        self._stream: BinaryIO = opener(file) if opener else file

    def members(self) -> Iterator[Member]:
        """Give all members in their order."""
        guarded = cast(BinaryIO, _Guarded(self._stream))
        with tarfile.open(fileobj=guarded, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
            while (info := archive.next()) is not None:
                archive.members.clear()  # type: ignore[attr-defined]  # they would be kept for ever
                name = info.name.encode("utf-8", "surrogateescape")
                place = _SPARSE if info.issparse() else info.offset_data
                yield Member(name, _kind_in_tar(info), info.size, int(info.mtime), place)
            self._check_end(archive.offset)

    def _check_end(self, offset: int) -> None:
        """See that the members ended where the archive does: `tarfile` stops at a damaged header without a word."""
        self._stream.seek(offset)
        if self._stream.read(tarfile.BLOCKSIZE).strip(b"\0"):
            raise ValueError(f"the header at byte {offset} is damaged")

    def content(self, entry: Entry, count: int) -> bytes:
        """Give the first bytes of a member."""
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


class _Guarded:
    """Keeps `tarfile` from reading headers of any length into memory."""

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


def _safe(name: bytes) -> bytes | None:
    """Give a member's name without `.` and empty parts; None where unpacking it could write elsewhere."""
    if name.startswith(b"/") or b".." in name.split(b"/") or b"\0" in name:
        return None
    path = os.path.normpath(name)
    return None if path == b"." else path


class ArchiveListing:
    """Lists the regular members of an archive, like `digits.images.folder.Listing`: by path, each path once.

    Args:
        archive: where they are.
        recursive: whether to take what is in folders.
        selection: which members to take.

    A compressed tar's members are listed in the order of the archive. The reasons in `skipped` are those of `Listing`,
    `folder`, `unsafe-name` (absolute, with `..` or NUL), and `duplicate`: of several members of one name the last one
    counts, which would replace the others if the archive were unpacked.
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
                self._take(member, found)
        except Exception as error:  # both libraries raise nearly anything on damaged archives
            raise _unreadable(self._archive.path, error) from error
        is_sequential = self._archive.container.is_sequential
        yield from sorted(found.values(), key=lambda entry: (entry.inode if is_sequential else 0, entry.path))

    def _take(self, member: Member, found: dict[bytes, Entry]) -> None:
        path = _safe(member.name)
        entry = Entry(path or b"", member.size, member.stamp, member.place)
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


def _unreadable(path: Path, error: Exception) -> Exception:
    if isinstance(error, OSError) and error.errno in (errno.EIO, errno.ENOMEM, errno.EMFILE):
        return error
    return UsageError(f"{path}: expected a zip or tar archive that is whole, but: {error or type(error).__name__}")
