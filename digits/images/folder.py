"""Folders that anybody may have filled: what is in them, names that always come back, and reading without surprises.

Paths are bytes in here, as the kernel has them, and relative to the folder. Nothing below the folder is reached
through a link: directories are opened one part at a time, each without following.
"""

import errno
import os
import re
import stat
import sys
import tempfile
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from heapq import merge
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, Self

from digits.errors import UsageError, os_errors_as
from digits.images.decode import DecodeError
from digits.images.patterns import HEAD_BYTES, Selection
from digits.store.files import TEMPORARY

DENIED_SIZE = -1
"""The size of a file in the listing whose directory may be read, but not entered."""

MISSING_SIZE = -2
"""The size of a file that a user asked for by its name, but that is not there."""

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = re.compile(rb"[\x00-\x1f\x7f%]|[\x80-\xff]")
_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f%\udc80-\udcff]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
RESOURCE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
_NEEDS_DOT = ("=", "+", "-", "@", "./")


class Entry(NamedTuple):
    """A regular file of a folder, as it was when the folder was listed."""

    path: bytes
    size: int
    mtime_ns: int
    inode: int


def escape_path(path: bytes) -> str:
    """Write a relative path so that no cell starts a formula and every name comes back.

    `%XX` stands for control characters, bytes that are not UTF-8, and `%`; `./` is put before a path that starts with
    `=`, `+`, `-`, `@` or `./`.
    """
    if _SPECIAL.search(path):
        text = _ESCAPED.sub(_percent, path.decode("utf-8", "surrogateescape"))
    else:
        text = path.decode("ascii")
    return f"./{text}" if text.startswith(_NEEDS_DOT) else text


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def unescape_path(text: str) -> bytes:
    """Give back the bytes of a path that `escape_path` wrote.

    Raises:
        UsageError: a `%` in it is not followed by two hexadecimal digits.
    """
    try:
        return _ESCAPE.sub(_byte, text.removeprefix("./").encode())
    except ValueError as error:
        raise UsageError(f"{text!r} is not an escaped path: expected %XX, two hexadecimal digits, for %") from error


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1] or b"?", 16)])


class DirectoryReader:
    """Opens what is below a directory, never through a link; remembers the directory opened last.

    Raises:
        OSError: the directory itself can't be opened.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path, self._directory = b"", self._root

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._forget()
        os.close(self._root)

    def directory(self, path: bytes) -> int:
        """Give a descriptor of a directory, which stays open until another one is asked for."""
        if path != self._path:
            if not (self._path and path.startswith(self._path + b"/")):
                self._forget()
            for part in path[len(self._path) :].split(b"/"):
                self._descend(part)
            self._path = path
        return self._directory

    def file(self, path: bytes) -> int:
        """Open a file for reading; a FIFO or a device is opened too, but never waited for."""
        directory, _, name = path.rpartition(b"/")
        return os.open(name, _OPEN_FILE, dir_fd=self.directory(directory))

    def _forget(self) -> None:
        if self._directory != self._root:
            os.close(self._directory)
        self._path, self._directory = b"", self._root

    def _descend(self, part: bytes) -> None:
        if not part:
            return
        try:
            deeper = os.open(part, _OPEN_DIRECTORY, dir_fd=self._directory)
        finally:
            self._forget()
        self._directory = deeper


_Identity = tuple[int, int]


class _Level(NamedTuple):
    """A directory that is being walked: its path (with `/` at its end), its device and inode, what is left in it."""

    path: bytes
    identity: _Identity | None
    records: Iterator[bytes]


@contextmanager
def _put_aside(directory: Path | None) -> Iterator[BinaryIO]:
    """Have a temporary file; that a full disk lets it go with an error does not matter."""
    file = tempfile.TemporaryFile(buffering=0, dir=directory)  # noqa: SIM115 - which would raise what close does
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


class Listing:
    """Lists the regular files of a folder in the order of their paths' bytes, and counts what is left out by reason.

    Args:
        root: the folder.
        recursive: whether to descend.
        selection: which files to take.
        ours: files and directories to leave out, such as our own output.
        scratch: a directory for what a folder of very many files has to put aside while it is sorted; None: that for
            temporary files.

    The reasons in `skipped`: `link`, `fifo`, `socket`, `device`, `other-file` (no image's extension), `excluded` (a
    folder with all that is in it counts once), `not-included`, `sub-folder` (not descended into), `unreadable-folder`,
    `vanished` (a folder, while it was listed), `loop`, `output`.
    """

    def __init__(
        self,
        root: Path,
        *,
        recursive: bool = True,
        selection: Selection | None = None,
        ours: Iterable[Path] = (),
        scratch: Path | None = None,
    ) -> None:
        self.root = root
        self.skipped: Counter[str] = Counter()
        self._recursive = recursive
        self._selection = selection or Selection()
        self._ours = OwnFiles(root, ours)
        self._scratch = scratch

    def __iter__(self) -> Iterator[Entry]:
        self.skipped.clear()
        with DirectoryReader(self.root) as beneath, _put_aside(self._scratch) as aside:
            yield from self._walk(beneath, aside)

    def _walk(self, beneath: DirectoryReader, aside: BinaryIO) -> Iterator[Entry]:
        """Walk in depth, without recursion: a folder may be nested deeper than Python's stack."""
        above: set[_Identity | None] = set()
        levels = [self._scan(beneath, aside, b"", above)]
        while levels:
            directory, identity, records = levels[-1]
            record = next(records, None)
            if record is None:
                levels.pop()
                above.discard(identity)
                continue
            name, _, numbers = record.partition(b"\0")
            if numbers:
                yield Entry(directory + name, *map(int, numbers.split()))
            else:
                levels.append(self._scan(beneath, aside, directory + name, above))

    def _scan(
        self, beneath: DirectoryReader, aside: BinaryIO, directory: bytes, above: set[_Identity | None]
    ) -> _Level:
        """Read one directory into records that sort as the paths do: a name, NUL, and a file's numbers."""
        try:
            descriptor = beneath.directory(directory.rstrip(b"/"))
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino)
            if identity in above:
                return self._left_out("loop", directory)
            with os.scandir(descriptor) as entries:
                records = sort_records(
                    filter(None, (self._record(each, directory, descriptor) for each in entries)), aside
                )
        except PermissionError:
            return self._left_out("unreadable-folder", directory)
        except (FileNotFoundError, NotADirectoryError):
            return self._left_out("vanished", directory)
        above.add(identity)
        return _Level(directory, identity, records)

    def _left_out(self, reason: str, directory: bytes) -> _Level:
        self.skipped[reason] += 1
        return _Level(directory, None, iter(()))

    def _record(self, entry: os.DirEntry[str], directory: bytes, descriptor: int) -> bytes | None:
        name = os.fsencode(entry.name)
        reason = self._reason_to_skip(entry, name, directory, descriptor)
        if reason is not None:
            self.skipped[reason] += 1
            return None
        if entry.is_dir(follow_symlinks=False):
            return name + b"/\0"
        return _file_record(entry, name)

    def _reason_to_skip(self, entry: os.DirEntry[str], name: bytes, directory: bytes, descriptor: int) -> str | None:
        if self._ours(directory, name):
            return "output"
        if entry.is_symlink():
            return "link"
        if entry.is_dir(follow_symlinks=False):
            return self._reason_to_stay_out(directory + name + b"/")
        if not entry.is_file(follow_symlinks=False):
            return _special(entry)
        return self._selection.reason_to_skip(directory + name, lambda: read_head(name, descriptor))

    def _reason_to_stay_out(self, directory: bytes) -> str | None:
        if self._selection.excludes(directory):
            return "excluded"
        return None if self._recursive else "sub-folder"


def read_head(name: bytes, directory: int) -> bytes | None:
    """Give the first bytes of a file in an open directory; None when it can't be read."""
    try:
        descriptor = os.open(name, _OPEN_FILE, dir_fd=directory)
        try:
            return os.read(descriptor, HEAD_BYTES)
        finally:
            os.close(descriptor)
    except OSError:
        return None


class OwnFiles:
    """Tells our own files below a folder: the given ones, and the temporary files that are renamed to them."""

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        base = os.path.join(os.path.realpath(os.fsencode(root)), b"")  # noqa: PTH118 - bytes
        real = [_real_place(path) for path in paths]
        self._paths = {path[len(base) :] for path in real if path.startswith(base)}

    def __call__(self, directory: bytes, name: bytes) -> bool:
        """Tell whether a name in a directory (with `/` at its end) is ours."""
        if not self._paths:
            return False
        temporary = TEMPORARY.fullmatch(name)
        if temporary:
            return any(path.startswith(directory + temporary[1]) for path in self._paths)
        return directory + name in self._paths

    def holds(self, path: bytes) -> bool:
        """Tell whether a path is in one of our directories."""
        return any(path.startswith(ours + b"/") for ours in self._paths)


def _real_place(path: Path) -> bytes:
    """Resolve the links on the way to a path, but not the path itself: a rename would replace a link."""
    directory, name = os.path.split(os.path.abspath(os.fsencode(path)))  # noqa: PTH100 - bytes
    return os.path.join(os.path.realpath(directory), name)  # noqa: PTH118 - bytes


def _file_record(entry: os.DirEntry[str], name: bytes) -> bytes | None:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError:
        return b"%b\0%d 0 0" % (name, DENIED_SIZE)
    return b"%b\0%d %d %d" % (name, status.st_size, status.st_mtime_ns, status.st_ino)


def _special(entry: os.DirEntry[str]) -> str:
    try:
        return name_file_type(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return "vanished"


def name_file_type(mode: int) -> str:
    """Name what is neither a file, a folder nor a link."""
    return "fifo" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def resolve_source(source: Path) -> tuple[Path, bytes | None]:
    """Find what a user named: a folder, or the folder of a single file and the file's name in it.

    Raises:
        UsageError: it isn't there, can't be read, or is neither a folder nor a regular file.
    """
    real = Path(os.path.realpath(source))
    remedy = "expected a folder or an archive of images or one image"
    with os_errors_as(UsageError, source, "could not be opened", remedy):
        mode = real.stat().st_mode
        if stat.S_ISDIR(mode):
            os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
            return real, None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{source}: expected a folder or an archive of images or one image, found neither")
    return real.parent, os.fsencode(real.name)


def entry_for(root: Path, name: bytes) -> Entry:
    """Describe a single file as a listing does."""
    status = os.lstat(os.path.join(os.fsencode(root), name))  # noqa: PTH118 - bytes
    return Entry(name, status.st_size, status.st_mtime_ns, status.st_ino)


def read_entry(beneath: DirectoryReader, entry: Entry, *, max_bytes: int) -> bytes:
    """Read a listed file, if it is still the one that was listed.

    Raises:
        DecodeError: with the status `too-large`, `changed`, `vanished`, `denied` or `unreadable`.
        OSError: no file can be opened at all now.
    """
    if entry.size > max_bytes:
        raise DecodeError("too-large", f"{entry.size} bytes are over the limit of {max_bytes}; raise max_bytes")
    if entry.size == MISSING_SIZE:
        raise DecodeError("vanished", "there was no such file when the files were listed")
    try:
        descriptor = beneath.file(entry.path)
        try:
            return _read_unchanged(descriptor, entry)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in RESOURCE_ERRORS:
            raise
        raise _as_status(error) from error


def _read_unchanged(descriptor: int, entry: Entry) -> bytes:
    before = os.fstat(descriptor)
    if not stat.S_ISREG(before.st_mode) or not _is_listed(before, entry):
        raise DecodeError("changed", "the file was changed after the folder was listed; run again")
    content = os.read(descriptor, entry.size + 1)
    while 0 < len(content) < entry.size:
        more = os.read(descriptor, entry.size + 1 - len(content))
        if not more:
            break
        content += more
    if len(content) != entry.size or not _is_listed(os.fstat(descriptor), entry):
        raise DecodeError("changed", "the file was changed while it was read; run again")
    return content


def _is_listed(status: os.stat_result, entry: Entry) -> bool:
    return (status.st_size, status.st_mtime_ns, status.st_ino) == entry[1:]


def _as_status(error: OSError) -> DecodeError:
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return DecodeError("vanished", "the file was removed after the folder was listed")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DecodeError("denied", "no permission to read the file")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return DecodeError("changed", "the file was replaced by something else after the folder was listed; run again")
    return DecodeError("unreadable", f"the file can't be read: {error.strerror}")


RECORDS_PER_RUN = 32_768
"""Records that are sorted at once, in memory."""

RECORDS_PER_BLOCK = 256
"""Records of a run that are read back at once."""


def sort_records(records: Iterable[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Take all records, then give them in the order of their bytes while at most a run and some blocks are in memory.

    Args:
        records: are read to their end before this returns.
        file: an unbuffered temporary one, to which runs are appended; it must outlive the iterator.

    Raises:
        OSError: the file can't be written to, or read back.
    """
    source, runs = iter(records), list[Iterator[bytes]]()
    run = sorted(islice(source, RECORDS_PER_RUN))
    while len(run) == RECORDS_PER_RUN:
        runs.append(_spilled(run, file))
        run = sorted(islice(source, RECORDS_PER_RUN))
    return merge(*runs, run) if runs else iter(run)


def _spilled(run: Sequence[bytes], file: BinaryIO) -> Iterator[bytes]:
    """Write a run behind all that is in the file; give the way to read it."""
    start = file.seek(0, os.SEEK_END)
    blocks = [run[first : first + RECORDS_PER_BLOCK] for first in range(0, len(run), RECORDS_PER_BLOCK)]
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
