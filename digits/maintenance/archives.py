"""Archives of files: a tar file compressed with Zstandard, whose last member lists all others with their hashes.

The files are read by `tar --zstd -x`, too. Reading is stricter than that: only regular files are accepted, and a long
name or a large file of a hostile archive cannot fill memory or disk.
"""

import hashlib
import os
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

from digits.errors import CorruptArtifactError, StoreError, UsageError, os_errors_as
from digits.extras import require_extra
from digits.progress import Bar
from digits.store.records import Record, decode_record, encode_record

CONTENTS = "contents.json"
"""Name of the last member: a sealed record with the SHA-256 and the size of every other member."""
CHUNK_BYTES = 2**20
MAX_NAME_BYTES = 4096
MAX_FILES = 1_000_000
MAX_CONTENTS_BYTES = 2**28
"""Largest size of `CONTENTS`, enough for `MAX_FILES` files with names of usual length."""


class Member(NamedTuple):
    """Regular file in an archive: its name, its size in bytes, and the time of its last change."""

    name: str
    size: int
    modified: float


class ArchiveWriter:
    """Writer of an archive.

    Args:
        file: file to write to; it is not closed.
    """

    def __init__(self, file: BinaryIO) -> None:
        require_extra("pyarrow", "a backup")
        import pyarrow as pa

        self._stream = pa.CompressedOutputStream(pa.PythonFile(_NeverClosed(file), "w"), "zstd")
        self.files: dict[str, Record] = {}

    def add(self, member: Member, source: BinaryIO) -> str:
        """Add a file, and return its SHA-256.

        Args:
            member: name, size and time of the file.
            source: content of the file; what follows after `member.size` bytes is not read.

        Raises:
            StoreError: if the content is shorter than `member.size`.
        """
        digest = hashlib.sha256()
        self._stream.write(_header(member))
        left = member.size
        while left:
            chunk = source.read(min(left, CHUNK_BYTES))
            if not chunk:
                raise StoreError(f"{member.name}: the file became shorter while it was read; run the command again")
            digest.update(chunk)
            self._stream.write(chunk)
            left -= len(chunk)
        self._stream.write(bytes(-member.size % tarfile.BLOCKSIZE))
        self.files[member.name] = {"sha256": digest.hexdigest(), "bytes": member.size}
        return digest.hexdigest()

    def finish(self, about: Record) -> None:
        """Write the list of the files, with further values, and the end of the archive."""
        content = encode_record({**about, "files": self.files})
        self._stream.write(_header(Member(CONTENTS, len(content), 0)))
        self._stream.write(content + bytes(-len(content) % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
        self._stream.close()


class _NeverClosed:
    """File that stays open when pyarrow closes it, because its writer syncs it afterwards.

    After an error, pyarrow writes the end of the stream when the file is closed already; that is ignored.
    """

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, content: bytes) -> int:
        return len(content) if self._file.closed else self._file.write(content)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _header(member: Member) -> bytes:
    about = tarfile.TarInfo(member.name)
    about.size, about.mtime, about.mode = member.size, int(member.modified), 0o600
    return about.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


class ArchiveReader:
    """Reader of an archive, to be used as a context manager. It reads each file once, in order, and checks its hash.

    Args:
        path: path of the archive.

    Raises:
        UsageError: if the file cannot be read.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.about: Record = {}
        """Values that `ArchiveWriter.finish` wrote; empty until all files are read."""
        self._found: dict[str, Record] = {}
        self._reported = 0

    def __enter__(self) -> Self:
        require_extra("pyarrow", "a backup")
        import pyarrow as pa

        with os_errors_as(UsageError, self.path, "the backup could not be read", "name a file of `digits backup`"):
            self._file = self.path.open("rb")
            self.megabytes = self._file.seek(0, os.SEEK_END) // 2**20 + 1
            self._file.seek(0)
        self._stream: Any = pa.CompressedInputStream(pa.PythonFile(self._file, "r"), "zstd")
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def track(self, bar: Bar) -> None:
        """Report the compressed megabytes that were read to a progress bar with the total `megabytes`."""
        self._report(bar, self._file.tell() // 2**20)

    def close(self, bar: Bar) -> None:
        """Report the end of the archive to a progress bar."""
        self._report(bar, self.megabytes)
        bar.close()

    def _report(self, bar: Bar, done: int) -> None:
        bar.advance(done - self._reported)
        self._reported = done

    def files(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        """Yield each file with the chunks of its content, which must be read before the next file.

        The hashes are compared after the last file, so that nothing may be used before the iteration has ended.

        Raises:
            CorruptArtifactError: if the archive is damaged, truncated, or has a member that is not a regular file.
        """
        for member, content in self._members():
            if self.about:
                raise self.damage(f"{member.name} follows the list of files")
            if member.name == CONTENTS:
                self.about = self._contents(member, content)
            else:
                yield member, self._hashed(member, content)
        self._compare()

    def damage(self, problem: str) -> CorruptArtifactError:
        """Return the error for a damaged archive."""
        return CorruptArtifactError(f"{self.path}: not an intact backup: {problem}; nothing was restored; use another")

    def _members(self) -> Iterator[tuple[Member, Iterator[bytes]]]:
        for _ in range(MAX_FILES + 1):
            header = self._read(tarfile.BLOCKSIZE)
            if header == bytes(tarfile.BLOCKSIZE):
                return
            member = self._member(header)
            yield member, self._content(member.size)
        raise self.damage(f"it has more than {MAX_FILES:,} files")

    def _member(self, header: bytes) -> Member:
        about = self._parse(header)
        if about.type == tarfile.GNUTYPE_LONGNAME:
            if about.size > MAX_NAME_BYTES:
                raise self.damage(f"it has a name of {about.size:,} bytes")
            name = b"".join(self._content(about.size)).rstrip(b"\0").decode("utf-8", "surrogateescape")
            about = self._parse(self._read(tarfile.BLOCKSIZE))
            about.name = name
        if about.type != tarfile.REGTYPE:
            raise self.damage(f"{about.name} is not a regular file")
        return Member(about.name, about.size, about.mtime)

    def _parse(self, header: bytes) -> tarfile.TarInfo:
        try:
            about = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        except tarfile.TarError as error:
            raise self.damage(str(error)) from error
        if about.size < 0:
            raise self.damage(f"{about.name} has a negative size")
        return about

    def _content(self, size: int) -> Iterator[bytes]:
        left = size
        while left:
            chunk = self._read(min(left, CHUNK_BYTES))
            left -= len(chunk)
            yield chunk
        self._read(-size % tarfile.BLOCKSIZE)

    def _read(self, count: int) -> bytes:
        try:
            content: bytes = self._stream.read(count) if count else b""
        except (OSError, ValueError) as error:
            raise self.damage(str(error)) from error
        if len(content) < count:
            raise self.damage("it is truncated")
        return content

    def _hashed(self, member: Member, content: Iterator[bytes]) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for chunk in content:
            digest.update(chunk)
            yield chunk
        if member.name in self._found:
            raise self.damage(f"{member.name} occurs twice")
        self._found[member.name] = {"sha256": digest.hexdigest(), "bytes": member.size}

    def _contents(self, member: Member, content: Iterator[bytes]) -> Record:
        if member.size > MAX_CONTENTS_BYTES:
            raise self.damage(f"its list of files has {member.size:,} bytes")
        try:
            return decode_record(b"".join(content), name=CONTENTS)
        except (CorruptArtifactError, RecursionError) as error:
            raise self.damage("its list of files is damaged") from error

    def _compare(self) -> None:
        listed = self.about.get("files")
        if not isinstance(listed, dict):
            raise self.damage("it has no list of files")
        differing = sorted(name for name in {*listed, *self._found} if listed.get(name) != self._found.get(name))
        if differing:
            raise self.damage(f"{differing[0]} is missing, not listed, or has another hash")
