"""Folder: listing of the files of a folder in byte order, and reading them without following links.

Paths in this module are bytes, as in the operating system, and relative to the folder. Directories are opened one
path component at a time with `O_NOFOLLOW`, so that a link cannot lead out of the folder. A link is only followed if the
user has asked for it (`LinkRule`).
"""

import errno
import fcntl
import os
import re
import stat
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, Self

from digits.errors import UsageError, os_errors_as
from digits.images.decode import DecodeError
from digits.images.formats import HEAD_BYTES
from digits.images.patterns import Selection
from digits.status import FORMULA_STARTS
from digits.store.files import TEMPORARY
from digits.store.sorting import sort_records

DENIED_SIZE = -1
"""Size of a listed file that cannot be examined, because its directory may be listed but not entered."""

MISSING_SIZE = -2
"""Size of a file that the user named but that does not exist."""

_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SPECIAL = re.compile(rb"[\x00-\x1f\x7f%;]|[\x80-\xff]")
"""Bytes of a path that need decoding or escaping."""
_ESCAPED = re.compile(r"[\x00-\x1f\x7f-\x9f%;\udc80-\udcff]")
"""Characters that are written as `%XX`; the last range stands for bytes that are not UTF-8."""
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})?")
_LINK = b"@"
"""Mark of a folder that a link leads to, in the record of a listing."""
LinkRule = Literal["no", "inside", "anywhere"]
"""Links that are followed: none, those to files and folders within the listed folder, or all."""
RESOURCE_ERRORS = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)
"""Error numbers that have nothing to do with the file: this process or the system has run out of a resource."""


class Entry(NamedTuple):
    """Regular file of a folder, as it was when the folder was listed.

    Args:
        path: path relative to the folder.
        size: size in bytes, `DENIED_SIZE` or `MISSING_SIZE`.
        mtime_ns: modification time in nanoseconds since 1970.
        inode: inode number.
    """

    path: bytes
    size: int
    mtime_ns: int
    inode: int


def escape_path(path: bytes) -> str:
    """Return a relative path as text for a table; `unescape_path` returns the bytes.

    Control characters, bytes that are not UTF-8, `%` and `;` are written as `%XX`. A path that starts with `=`, `+`,
    `-`, `@`, one of their full-width forms or `./` gets the prefix `./`. So no cell is taken for a formula, even if a
    spreadsheet takes `;` or a tab for the separator.
    """
    if _SPECIAL.search(path):
        text = _ESCAPED.sub(_percent, path.decode("utf-8", "surrogateescape"))
    else:
        text = path.decode("ascii")
    return f"./{text}" if text.startswith((*FORMULA_STARTS, "./")) else text


def update_escape(text: str) -> str:
    """Return the path in a row of a table as `escape_path` writes it; earlier versions escaped fewer characters."""
    text = text.replace(";", "%3B")
    return f"./{text}" if text.startswith(FORMULA_STARTS) else text


def _percent(match: re.Match[str]) -> str:
    return "".join(f"%{byte:02X}" for byte in match[0].encode("utf-8", "surrogateescape"))


def unescape_path(text: str) -> bytes:
    """Return the path that `escape_path` wrote as text.

    Raises:
        UsageError: if a `%` in the text is not followed by two hexadecimal digits.
    """
    try:
        return _ESCAPE.sub(_byte, text.removeprefix("./").encode())
    except ValueError as error:
        raise UsageError(f"{text!r} is not an escaped path: expected two hexadecimal digits after each %") from error


def _byte(match: re.Match[bytes]) -> bytes:
    return bytes([int(match[1] or b"?", 16)])


class Target(NamedTuple):
    """File or directory that a link leads to.

    Args:
        status: status of the file or directory.
        path: its absolute path without links.
    """

    status: os.stat_result
    path: bytes


class DirectoryReader:
    """Reader of a directory tree. It keeps the directory open that was used last.

    Args:
        root: directory at the top of the tree.
        links: links to follow.

    Raises:
        OSError: if the root cannot be opened.
    """

    def __init__(self, root: Path, links: LinkRule = "no") -> None:
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._path, self._directory = b"", self._root
        self._links = links

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._close_directory()
        os.close(self._root)

    def directory(self, path: bytes) -> int:
        """Return a descriptor of a directory below the root. It stays open until another directory is requested.

        Raises:
            OSError: if the directory cannot be opened, or a component of the path is a link that is not followed.
        """
        if path != self._path:
            if not (self._path and path.startswith(self._path + b"/")):
                self._close_directory()
            for part in path[len(self._path) :].split(b"/"):
                self._descend(part)
            self._path = path
        return self._directory

    def file(self, path: bytes) -> int:
        """Open a file for reading and return its descriptor. Opening a FIFO or a device does not wait.

        Raises:
            OSError: if the file cannot be opened, or is reached through a link that is not followed.
        """
        directory, _, name = path.rpartition(b"/")
        return self.open(name, _OPEN_FILE, self.directory(directory))

    def open(self, name: bytes, flags: int, directory: int) -> int:
        """Open a file or directory in an open directory and return its descriptor; follow a link if that is allowed.

        Raises:
            OSError: if it cannot be opened, or is a link that is not followed.
        """
        try:
            return os.open(name, flags, dir_fd=directory)
        except OSError as error:
            if self._links == "no" or error.errno not in (errno.ELOOP, errno.ENOTDIR):
                raise
        descriptor = os.open(name, flags & ~os.O_NOFOLLOW, dir_fd=directory)
        if self._is_allowed(_path_of(descriptor)):
            return descriptor
        os.close(descriptor)
        raise OSError(errno.ELOOP, "the link leads out of the folder", os.fsdecode(name))

    def target(self, name: bytes, directory: int) -> Target | str:
        """Return what a link in an open directory leads to, or the reason to skip it: `link` or `broken-link`."""
        place = b"" if self._links == "no" else _path_of(directory)
        if not place:
            return "link"
        try:
            path = os.path.realpath(os.path.join(place, name), strict=True)  # noqa: PTH118 - bytes
            return Target(os.stat(name, dir_fd=directory), path) if self._is_allowed(path) else "link"
        except OSError as error:
            if error.errno in RESOURCE_ERRORS:
                raise
            return "broken-link"

    def _is_allowed(self, target: bytes) -> bool:
        """Return whether the target of a link, an absolute path without links, may be read."""
        return self._links == "anywhere" or _is_below(target, _path_of(self._root))

    def _close_directory(self) -> None:
        if self._directory != self._root:
            os.close(self._directory)
        self._path, self._directory = b"", self._root

    def _descend(self, part: bytes) -> None:
        if not part:
            return
        try:
            deeper = self.open(part, _OPEN_DIRECTORY, self._directory)
        finally:
            self._close_directory()
        self._directory = deeper


def _path_of(descriptor: int) -> bytes:
    """Return the absolute path of an open file or directory, without links; empty if it is too long for the system."""
    if hasattr(fcntl, "F_GETPATH"):  # macOS
        return fcntl.fcntl(descriptor, fcntl.F_GETPATH, bytes(1024)).rstrip(b"\0")
    try:
        return os.readlink(b"/proc/self/fd/%d" % descriptor)  # noqa: PTH115 - bytes
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return b""


def _is_below(path: bytes, root: bytes) -> bool:
    """Return whether a path is that of a directory or of something in it; False if one of them is not known."""
    return bool(path and root) and (path == root or path.startswith(os.path.join(root, b"")))  # noqa: PTH118 - bytes


_Identity = tuple[int, int]


class _Level(NamedTuple):
    """Directory that is being walked.

    Args:
        path: path with a final `/`.
        identity: device and inode; None if the directory is skipped.
        records: records of the entries that have not been visited yet; see `Listing._scan`.
    """

    path: bytes
    identity: _Identity | None
    records: Iterator[bytes]


class _Place(NamedTuple):
    """Directory whose entries are read.

    Args:
        reader: reader that opened it.
        path: path with a final `/`, relative to the listed folder.
        descriptor: descriptor of the open directory.
        real: absolute path without links; None if no links are followed, so that it is not needed.
    """

    reader: DirectoryReader
    path: bytes
    descriptor: int
    real: bytes | None


@contextmanager
def _temporary_file(directory: Path | None) -> Iterator[BinaryIO]:
    """Open an unnamed temporary file, and ignore errors on closing it, which a full disk causes."""
    file = tempfile.TemporaryFile(buffering=0, dir=directory)  # noqa: SIM115 - `with` would raise the error on closing
    try:
        yield file
    finally:
        with suppress(OSError):
            file.close()


class Listing:
    """Listing of the regular files of a folder: iterate over it to get an `Entry` per file, in byte order of the paths.

    Args:
        root: folder to list.
        recursive: whether to list subfolders.
        selection: files to list; by default those with the extension of an image.
        own_files: files and directories to skip, because Digits writes them.
        links: links to follow. A folder that several links lead to is listed once through a link, for the first of
            them in the order of the walk.
        scratch: directory for the temporary file in which the names of a very large folder are sorted; None for the
            system's directory for temporary files.

    The counter `skipped` has the number of skipped files and folders by reason: `link` (not followed), `broken-link`
    (leads nowhere), `fifo`, `socket`, `device`, `other-file` (not the extension of an image), `system-file` and
    `excluded` (a folder counts once), `not-included`, `sub-folder` (not listed, because `recursive` is false),
    `unreadable-folder`, `vanished` (a folder that disappeared while it was listed), `loop` (a folder inside itself, or
    one that another link led to), `output` (one of `own_files`).
    """

    def __init__(  # noqa: PLR0913 - one argument per option
        self,
        root: Path,
        *,
        recursive: bool = True,
        selection: Selection | None = None,
        own_files: Iterable[Path] = (),
        links: LinkRule = "no",
        scratch: Path | None = None,
    ) -> None:
        self.root = root
        self.skipped: Counter[str] = Counter()
        self._recursive = recursive
        self._selection = selection or Selection()
        self._own_files = OwnFiles(root, own_files)
        self._links = links
        self._scratch = scratch
        self._linked: set[_Identity] = set()

    def __iter__(self) -> Iterator[Entry]:
        self.skipped.clear()
        self._linked.clear()
        with DirectoryReader(self.root, self._links) as reader, _temporary_file(self._scratch) as scratch:
            yield from self._walk(reader, scratch)

    def _walk(self, reader: DirectoryReader, scratch: BinaryIO) -> Iterator[Entry]:
        """Walk depth first, without recursion: a folder may be nested deeper than Python's stack allows."""
        ancestors: set[_Identity | None] = set()
        levels = [self._scan(reader, scratch, b"", ancestors)]
        while levels:
            directory, identity, records = levels[-1]
            record = next(records, None)
            if record is None:
                levels.pop()
                ancestors.discard(identity)
                continue
            name, _, numbers = record.partition(b"\0")
            if name.endswith(b"/"):
                levels.append(self._scan(reader, scratch, directory + name, ancestors, is_link=numbers == _LINK))
            else:
                yield Entry(directory + name, *map(int, numbers.split()))

    def _scan(
        self,
        reader: DirectoryReader,
        scratch: BinaryIO,
        directory: bytes,
        ancestors: set[_Identity | None],
        *,
        is_link: bool = False,
    ) -> _Level:
        """Read a directory, and return it with the sorted records of its entries.

        The record of a file is its name, NUL, size, modification time and inode. The record of a folder is its name,
        `/` and NUL, and `_LINK` if a link leads to it. Sorted records have the order of the paths.
        """
        try:
            descriptor = reader.directory(directory.rstrip(b"/"))
            status = os.fstat(descriptor)
            identity = (status.st_dev, status.st_ino)
            if identity in ancestors or (is_link and identity in self._linked):
                return self._skip_directory("loop", directory)
            self._linked.update([identity] if is_link else [])
            place = _Place(reader, directory, descriptor, None if self._links == "no" else _path_of(descriptor))
            with os.scandir(descriptor) as entries:
                records = sort_records(filter(None, (self._record(each, place) for each in entries)), scratch)
        except PermissionError:
            return self._skip_directory("unreadable-folder", directory)
        except (FileNotFoundError, NotADirectoryError):
            return self._skip_directory("vanished", directory)
        ancestors.add(identity)
        return _Level(directory, identity, records)

    def _skip_directory(self, reason: str, directory: bytes) -> _Level:
        self.skipped[reason] += 1
        return _Level(directory, None, iter(()))

    def _record(self, entry: os.DirEntry[str], place: _Place) -> bytes | None:
        name = os.fsencode(entry.name)
        target = place.reader.target(name, place.descriptor) if entry.is_symlink() else None
        reason = self._reason_to_skip(entry, name, place, target)
        if reason is not None:
            self.skipped[reason] += 1
            return None
        if isinstance(target, Target):
            return _target_record(target, name)
        if entry.is_dir(follow_symlinks=False):
            return name + b"/\0"
        return _file_record(entry, name)

    def _reason_to_skip(
        self, entry: os.DirEntry[str], name: bytes, place: _Place, target: Target | str | None
    ) -> str | None:
        path = place.path + name
        if self._own_files(place.path, name) or (place.real and self._own_files.holds(place.real, name)):
            return "output"
        if isinstance(target, Target):
            return self._reason_to_skip_target(target, path, place)
        if isinstance(target, str):
            return target
        if entry.is_dir(follow_symlinks=False):
            return self._reason_to_skip_directory(path + b"/")
        if not entry.is_file(follow_symlinks=False):
            return _type_of_special(entry)
        return self._selection.reason_to_skip(path, lambda: read_head(name, place.descriptor))

    def _reason_to_skip_target(self, target: Target, path: bytes, place: _Place) -> str | None:
        if self._own_files.holds(*os.path.split(target.path)):
            return "output"
        if stat.S_ISDIR(target.status.st_mode):
            return self._reason_to_skip_directory(path + b"/")
        if not stat.S_ISREG(target.status.st_mode):
            return name_file_type(target.status.st_mode)
        return self._selection.reason_to_skip(path, lambda: read_head(target.path, place.descriptor))

    def _reason_to_skip_directory(self, directory: bytes) -> str | None:
        return self._selection.reason_to_skip_folder(directory) or (None if self._recursive else "sub-folder")


def read_head(name: bytes, directory: int) -> bytes | None:
    """Return the first bytes of a file in an open directory, or with an absolute path; None if it cannot be read."""
    try:
        descriptor = os.open(name, _OPEN_FILE, dir_fd=directory)
        try:
            return os.read(descriptor, HEAD_BYTES)
        finally:
            os.close(descriptor)
    except OSError:
        return None


class OwnFiles:
    """Files in a folder that Digits writes: the given ones, and the temporary files that will replace them.

    Args:
        root: folder.
        paths: files and directories. Those outside the folder matter only to what links lead to (`holds`).
    """

    def __init__(self, root: Path, paths: Iterable[Path]) -> None:
        base = os.path.join(os.path.realpath(os.fsencode(root)), b"")  # noqa: PTH118 - bytes
        self._real = {_resolve_parent(path) for path in paths}
        self._paths = {path[len(base) :] for path in self._real if path.startswith(base)}

    def __call__(self, directory: bytes, name: bytes) -> bool:
        """Return whether Digits writes a file or a directory.

        Args:
            directory: directory that contains it, relative to the folder, with a final `/` unless empty.
            name: its name.
        """
        return bool(self._paths) and _is_written(self._paths, directory, name)

    def holds(self, directory: bytes, name: bytes) -> bool:
        """Return whether Digits writes a file or a directory, or a directory that contains it.

        Args:
            directory: absolute path of the directory that contains it, without links.
            name: its name.
        """
        path = os.path.join(directory, name)  # noqa: PTH118 - bytes
        return _is_written(self._real, os.path.join(directory, b""), name) or any(  # noqa: PTH118 - bytes
            path.startswith(own + b"/") for own in self._real
        )

    def contains(self, path: bytes) -> bool:
        """Return whether a path is inside one of these directories."""
        return any(path.startswith(own + b"/") for own in self._paths)


def _is_written(paths: set[bytes], directory: bytes, name: bytes) -> bool:
    temporary = TEMPORARY.fullmatch(name)
    if temporary:
        return any(path.startswith(directory + temporary[1]) for path in paths)
    return directory + name in paths


def _resolve_parent(path: Path) -> bytes:
    """Return a path with the links in its directory resolved, but not the last component: a rename replaces a link."""
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


def _target_record(target: Target, name: bytes) -> bytes:
    status = target.status
    if stat.S_ISDIR(status.st_mode):
        return name + b"/\0" + _LINK
    return b"%b\0%d %d %d" % (name, status.st_size, status.st_mtime_ns, status.st_ino)


def _type_of_special(entry: os.DirEntry[str]) -> str:
    try:
        return name_file_type(entry.stat(follow_symlinks=False).st_mode)
    except OSError:
        return "vanished"


def name_file_type(mode: int) -> str:
    """Return the name of a file type that is neither regular file, directory nor link: `fifo`, `socket` or `device`."""
    return "fifo" if stat.S_ISFIFO(mode) else "socket" if stat.S_ISSOCK(mode) else "device"


def resolve_source(source: Path) -> tuple[Path, bytes | None]:
    """Return the folder that a path names and None, or the folder and the name of the single file that it names.

    Raises:
        UsageError: if the path does not exist, cannot be read, or is neither a folder nor a regular file.
    """
    real = Path(os.path.realpath(source))
    remedy = "expected a folder or an archive of images or one image"
    with os_errors_as(UsageError, source, "could not be opened", remedy):
        mode = real.stat().st_mode
        if stat.S_ISDIR(mode):
            os.close(os.open(real, os.O_RDONLY | os.O_DIRECTORY))
            return real, None
    if not stat.S_ISREG(mode):
        raise UsageError(f"{source}: {remedy}, found a {name_file_type(mode)}")
    return real.parent, os.fsencode(real.name)


def entry_for(root: Path, name: bytes, links: LinkRule = "no") -> Entry:
    """Return the entry of a single file, as a listing does. Whether a link may be followed is checked on reading.

    Args:
        root: folder of the file.
        name: name of the file.
        links: links to follow.
    """
    path = os.path.join(os.fsencode(root), name)  # noqa: PTH118 - bytes
    status = os.lstat(path) if links == "no" else os.stat(path)  # noqa: PTH116 - bytes
    return Entry(name, status.st_size, status.st_mtime_ns, status.st_ino)


def read_entry(reader: DirectoryReader, entry: Entry, *, max_bytes: int) -> bytes:
    """Return the content of a listed file, if it has not changed since it was listed.

    Args:
        reader: reader of the listed folder.
        entry: entry of the file.
        max_bytes: largest size to read.

    Raises:
        DecodeError: with the status `too-large`, `changed`, `vanished`, `denied` or `unreadable`.
        OSError: if file descriptors or memory have run out (`RESOURCE_ERRORS`). Then no file can be opened.
    """
    if entry.size > max_bytes:
        raise DecodeError("too-large", f"{entry.size} bytes are over the limit of {max_bytes}; raise max_bytes")
    if entry.size == MISSING_SIZE:
        raise DecodeError("vanished", "there was no such file when the files were listed")
    try:
        descriptor = reader.file(entry.path)
        try:
            return _read_unchanged(descriptor, entry)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno in RESOURCE_ERRORS:
            raise
        raise _to_decode_error(error) from error


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


def _to_decode_error(error: OSError) -> DecodeError:
    if error.errno in (errno.ENOENT, errno.ESTALE):
        return DecodeError("vanished", "the file was removed after the folder was listed")
    if error.errno in (errno.EACCES, errno.EPERM):
        return DecodeError("denied", "no permission to read the file")
    if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.ENXIO):
        return DecodeError("changed", "the file was replaced by something else after the folder was listed; run again")
    return DecodeError("unreadable", f"the file can't be read: {error.strerror}")
