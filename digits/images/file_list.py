"""Lists of files that a user gives instead of having the whole folder listed, as `find -print0` writes them."""

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from digits.errors import UsageError, os_errors_as
from digits.images.folder import (
    DENIED_SIZE,
    MISSING_SIZE,
    RESOURCE_ERRORS,
    DirectoryReader,
    Entry,
    OwnFiles,
    name_file_type,
    read_head,
)
from digits.images.patterns import Selection

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
STANDARD_INPUT = Path("-")


def read_file_list(source: Path) -> list[bytes]:
    """Read one path a line, or paths ended by NUL where there is any NUL; `-` is the standard input.

    Raises:
        UsageError: it can't be read.
    """
    with os_errors_as(UsageError, source, "could not be read", "expected a list of files"):
        content = sys.stdin.buffer.read() if source == STANDARD_INPUT else source.read_bytes()
    return [name for name in content.split(b"\0" if b"\0" in content else b"\n") if name]


class FileList:
    """Lists named files of a folder in the order of their paths' bytes, each once, like `digits.images.folder.Listing`.

    Args:
        root: the folder.
        names: paths from the folder on, or absolute ones below it.
        aliases: other absolute paths of the folder, as the user wrote it.
        recursive: whether to take what is in sub-folders.
        selection: which of the files to take.
        ours: files and directories to leave out, such as our own output.

    A file that is not there is listed, since it was asked for: its row says so. The reasons in `skipped` are those of
    `Listing`, `folder`, and `outside` for a name that leads out of the folder; a name that leads through a link counts
    as `link`.
    """

    def __init__(  # noqa: PLR0913 - what a listing is told, and the names
        self,
        root: Path,
        names: Iterable[bytes],
        *,
        aliases: Iterable[Path] = (),
        recursive: bool = True,
        selection: Selection | None = None,
        ours: Iterable[Path] = (),
    ) -> None:
        self.root = root
        self.skipped: Counter[str] = Counter()
        self._names = names
        self._bases = [os.path.normpath(os.fsencode(base)) for base in (root, *aliases)]
        self._recursive = recursive
        self._selection = selection or Selection(all_files=True)
        self._ours = OwnFiles(root, ours)

    def __iter__(self) -> Iterator[Entry]:
        self.skipped.clear()
        with DirectoryReader(self.root) as beneath:
            for path in sorted({self._below(name) for name in self._names}):
                found = self._entry(beneath, path)
                if isinstance(found, Entry):
                    yield found
                else:
                    self.skipped[found] += 1

    def entry(self, beneath: DirectoryReader, path: bytes) -> Entry:
        """Give the file of a path from the folder on; one that is not taken is as missing as one that is not there."""
        found = self._entry(beneath, self._below(path))
        return found if isinstance(found, Entry) else Entry(path, MISSING_SIZE, 0, 0)

    def _below(self, name: bytes) -> bytes:
        """Give a name as a path from the folder on, as short as it can be; one that leads out of it begins with `/`."""
        path = os.path.normpath(name)
        if path.startswith(b"//"):  # which POSIX lets stand
            path = path[1:]
        for base in self._bases:
            if path == base or path.startswith(base.rstrip(b"/") + b"/"):
                return path[len(base) :].lstrip(b"/")
        if path == b".." or path.startswith((b"../", b"/")):
            return b"/" + path
        return b"" if path == b"." else path

    def _entry(self, beneath: DirectoryReader, path: bytes) -> Entry | str:
        directory, _, name = path.rpartition(b"/")
        if path.startswith(b"/"):
            return "outside"
        if not path:
            return "folder"
        if self._ours(directory and directory + b"/", name) or self._ours.holds(path):
            return "output"
        if directory and not self._recursive:
            return "sub-folder"
        try:
            descriptor = beneath.directory(directory)
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            return self._unreachable(path, error)
        reason = _reason_to_skip(status) or self._selection.reason_to_skip(path, lambda: read_head(name, descriptor))
        return reason or Entry(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def _unreachable(self, path: bytes, error: OSError) -> Entry | str:
        """Have a row for a file that is not there or is closed to us, but nothing for one behind a link."""
        if error.errno in RESOURCE_ERRORS:
            raise error
        parts = path.split(b"/")
        above = [os.path.join(self._bases[0], *parts[:count]) for count in range(1, len(parts))]  # noqa: PTH118 - bytes
        if any(map(os.path.islink, above)):
            return "link"
        reason = self._selection.reason_to_skip(path, lambda: None)
        denied = isinstance(error, PermissionError)
        return reason or Entry(path, DENIED_SIZE if denied else MISSING_SIZE if error.errno in _MISSING else 0, 0, 0)


def _reason_to_skip(status: os.stat_result) -> str | None:
    if stat.S_ISREG(status.st_mode):
        return None
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return "link" if stat.S_ISLNK(status.st_mode) else name_file_type(status.st_mode)
