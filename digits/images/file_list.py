"""File list: the files that a user names in a list, such as the output of `find -print0`."""

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
    LinkRule,
    OwnFiles,
    Target,
    name_file_type,
    read_head,
)
from digits.images.patterns import Selection

_MISSING = (errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG)
"""Error numbers of a file that does not exist."""
STANDARD_INPUT = Path("-")
"""Path that stands for standard input."""


def read_file_list(source: Path) -> list[bytes]:
    """Return the paths in a list: one per line, or each ended by NUL if the list contains any NUL.

    Args:
        source: file that holds the list; `-` is standard input.

    Raises:
        UsageError: if the file cannot be read.
    """
    with os_errors_as(UsageError, source, "could not be read", "expected a list of files, one path per line"):
        content = sys.stdin.buffer.read() if source == STANDARD_INPUT else source.read_bytes()
    return [name for name in content.split(b"\0" if b"\0" in content else b"\n") if name]


class FileList:
    """Listing of named files: iterate over it to get an `Entry` per file, in byte order of the paths, without repeats.

    A named file that does not exist is listed too, with the size `MISSING_SIZE`, so that the table has a row for it.
    The counter `skipped` has the number of skipped paths by reason: those of `digits.images.folder.Listing`, `folder`
    for a folder, and `outside` for a path that leads out of the folder. A path that leads through a link counts as
    `link`.

    Args:
        root: folder.
        names: paths of the files, relative to the folder or absolute.
        aliases: other absolute paths of the folder, such as the one that the user named, which may contain links.
        recursive: whether to list files in subfolders.
        selection: files to list; by default all.
        own_files: files and directories to skip, because Digits writes them.
        links: links to follow.
    """

    def __init__(  # noqa: PLR0913 - the arguments of `Listing` and the names
        self,
        root: Path,
        names: Iterable[bytes],
        *,
        aliases: Iterable[Path] = (),
        recursive: bool = True,
        selection: Selection | None = None,
        own_files: Iterable[Path] = (),
        links: LinkRule = "no",
    ) -> None:
        self.root = root
        self.skipped: Counter[str] = Counter()
        self._names = names
        self._bases = [os.path.normpath(os.fsencode(base)) for base in (root, *aliases)]
        self._recursive = recursive
        self._selection = selection or Selection(all_files=True)
        self._own_files = OwnFiles(root, own_files)
        self._links = links

    def __iter__(self) -> Iterator[Entry]:
        self.skipped.clear()
        with DirectoryReader(self.root, self._links) as reader:
            for path in sorted({self._relative_path(name) for name in self._names}):
                found = self._entry(reader, path)
                if isinstance(found, Entry):
                    yield found
                else:
                    self.skipped[found] += 1

    def entry(self, reader: DirectoryReader, path: bytes) -> Entry:
        """Return the entry of a file. If the file is skipped, it is reported as missing.

        Args:
            reader: reader of the folder.
            path: path relative to the folder.
        """
        found = self._entry(reader, self._relative_path(path))
        return found if isinstance(found, Entry) else Entry(path, MISSING_SIZE, 0, 0)

    def _relative_path(self, name: bytes) -> bytes:
        """Return the normalized path of a name, relative to the folder, or with a leading `/` if it leads out of it."""
        path = os.path.normpath(name)
        if path.startswith(b"//"):  # `normpath` keeps two leading slashes, as POSIX allows
            path = path[1:]
        for base in self._bases:
            if path == base or path.startswith(base.rstrip(b"/") + b"/"):
                return path[len(base) :].lstrip(b"/")
        if path == b".." or path.startswith((b"../", b"/")):
            return b"/" + path
        return b"" if path == b"." else path

    def _entry(self, reader: DirectoryReader, path: bytes) -> Entry | str:
        """Return the entry of a file, or the reason to skip it."""
        directory, _, name = path.rpartition(b"/")
        if path.startswith(b"/"):
            return "outside"
        if not path:
            return "folder"
        if self._own_files(directory and directory + b"/", name) or self._own_files.contains(path):
            return "output"
        if directory and not self._recursive:
            return "sub-folder"
        try:
            descriptor = reader.directory(directory)
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
        except OSError as error:
            return self._entry_without_status(path, error)
        target = reader.target(name, descriptor) if stat.S_ISLNK(status.st_mode) else Target(status, name)
        return target if isinstance(target, str) else self._entry_of_target(target, path, descriptor)

    def _entry_of_target(self, target: Target, path: bytes, descriptor: int) -> Entry | str:
        """Return the entry of a file, or the reason to skip it; a link may lead to it."""
        status = target.status
        if self._own_files.holds(*os.path.split(target.path)):
            return "output"
        reason = _reason_to_skip(status) or self._selection.reason_to_skip(
            path, lambda: read_head(target.path, descriptor)
        )
        return reason or Entry(path, status.st_size, status.st_mtime_ns, status.st_ino)

    def _entry_without_status(self, path: bytes, error: OSError) -> Entry | str:
        """Return the entry of a file that cannot be examined, or the reason to skip it, such as a link in its path."""
        if error.errno in RESOURCE_ERRORS:
            raise error
        parts = path.split(b"/")
        parents = [os.path.join(self._bases[0], *parts[:count]) for count in range(1, len(parts))]  # noqa: PTH118 - bytes
        if any(map(os.path.islink, parents)):
            return "link"
        reason = self._selection.reason_to_skip(path, lambda: None)
        denied = isinstance(error, PermissionError)
        return reason or Entry(path, DENIED_SIZE if denied else MISSING_SIZE if error.errno in _MISSING else 0, 0, 0)


def _reason_to_skip(status: os.stat_result) -> str | None:
    if stat.S_ISREG(status.st_mode):
        return None
    if stat.S_ISDIR(status.st_mode):
        return "folder"
    return name_file_type(status.st_mode)
