"""Patterns: selection of the files of a folder by patterns, extensions and first bytes."""

import re
from collections.abc import Callable, Iterable, Sequence

from digits.errors import UsageError
from digits.images.formats import EXTENSIONS, OTHER_EXTENSIONS, OtherFormat, has_signature, reason_of

Head = Callable[[], bytes | None]
"""Function that returns the first bytes of a file, or None if the file cannot be read."""

_TOKEN = re.compile(
    r"(?:(?<=/)|\A)\*\*/|/\*\*\Z|\*+|\?|\[(?P<no>[!^]?)(?P<set>\]?[^]]*)\]|\\(?P<escaped>.)|.", re.DOTALL
)
"""Parts of a pattern: wildcards, sets of characters, escaped characters and single characters."""

_SYSTEM_FOLDERS = (
    *("__MACOSX", ".AppleDouble", ".AppleDB", ".Spotlight-V100", ".DocumentRevisions-V100", ".TemporaryItems"),
    *(".fseventsd", ".Trash", ".Trashes", ".Trash-*", "$RECYCLE.BIN", "$Recycle.Bin", "System Volume Information"),
    *("@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot", ".@__thumb", ".wdmc", "lost+found"),
    *(".thumbnails", ".thumbs", ".sh_thumbnails", ".snapshot", ".snapshots", "~snapshot", ".zfs"),
    *(".git", ".hg", ".svn", ".dvc", ".ipynb_checkpoints", ".stversions", ".dropbox.cache"),
)
"""Folders of macOS, Windows, Linux, network storage, version control, notebooks and file synchronization. They contain
thumbnails, metadata, deleted files and copies."""
_SYSTEM_FILES = ("._*", ".DS_Store", "Thumbs.db", "thumbs.db", "ehthumbs.db", "desktop.ini")
"""Files of macOS and Windows. `._NAME` holds the metadata of the file NAME where the file system cannot."""


def is_system_file(path: bytes) -> bool:
    """Return whether an operating system, a storage device or a program adds such a file or folder to those of users.

    Args:
        path: path relative to the folder that the user named; the path of a folder has a final `/`.
    """
    return _SYSTEM.fullmatch(path) is not None


class Selection:
    """Selection of the files of a folder.

    A pattern without `/` is matched against names at any depth, a pattern with `/` against the path relative to the
    folder. A pattern that matches a folder applies to everything in it. `*` and `?` do not match `/`; `**` does.

    Args:
        include: patterns, one of which a file must match. Its extension then does not matter.
        exclude: patterns of the files and folders to leave out; they take precedence over `include`.
        all_files: whether to select every file, not only those with the extension of an image.
        by_content: whether to select the files that begin with the signature of an image format, whatever their names.
        others: formats to select besides `FORMATS`.
        system_files: whether to select system files too; see `is_system_file`.

    Raises:
        UsageError: if a pattern is malformed.
    """

    def __init__(  # noqa: PLR0913 - one argument per option
        self,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        all_files: bool = False,
        by_content: bool = False,
        others: Sequence[OtherFormat] = (),
        system_files: bool = False,
    ) -> None:
        self._includes, self._excludes = _compile(include), _compile(exclude)
        self._all_files = all_files or self._includes is not None
        self._by_content = by_content
        self._others = others
        self._system_files = system_files
        extensions = (*EXTENSIONS, *(extension for kind in others for extension in OTHER_EXTENSIONS[kind]))
        self._extensions = tuple(extension.encode() for extension in extensions)

    def excludes(self, path: bytes) -> bool:
        """Return whether a path matches an exclude pattern; the path of a folder has a final `/`."""
        return self._excludes is not None and _matches(self._excludes, path)

    def reason_to_skip_folder(self, path: bytes) -> str | None:
        """Return why a folder is not read, `excluded` or `system-file`; None if it is read.

        Args:
            path: path relative to the folder that is listed, with a final `/`.
        """
        if self.excludes(path):
            return "excluded"
        return "system-file" if not self._system_files and is_system_file(path) else None

    def reason_to_skip(self, path: bytes, head: Head) -> str | None:
        """Return why a file is not selected, or None if it is selected.

        Args:
            path: path relative to the folder.
            head: function that returns the first bytes of the file; called only if they are needed.

        Returns:
            `excluded`, `system-file`, `not-included`, a reason of `digits.images.formats.reason_of`, or None.
        """
        if reason := self.reason_to_skip_folder(path):
            return reason
        if self._includes is not None and not _matches(self._includes, path):
            return "not-included"
        return None if self._is_image(path, head) else reason_of(path)

    def _is_image(self, path: bytes, head: Head) -> bool:
        if self._by_content:
            start = head()
            return start is None or has_signature(start, self._others)
        return self._all_files or path.lower().endswith(self._extensions)


def _matches(pattern: re.Pattern[str], path: bytes) -> bool:
    return pattern.fullmatch(path.decode("utf-8", "surrogateescape")) is not None


def _compile(patterns: Iterable[str]) -> re.Pattern[str] | None:
    texts = [f"(?:{_to_expression(pattern)})" for pattern in patterns]
    return re.compile("|".join(texts), re.DOTALL) if texts else None


def _to_expression(pattern: str) -> str:
    """Return the regular expression of a pattern, for paths in which each byte that is not UTF-8 is one character."""
    body = pattern.strip("/")
    anywhere = "" if "/" in pattern.rstrip("/") else "(?:.*/)?"
    below = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    expression = anywhere + "".join(map(_to_part, _TOKEN.finditer(body))) + below
    try:
        re.compile(expression)
    except re.error as error:
        raise UsageError(f"the pattern {pattern!r} is malformed: {error}") from error
    if not body:
        raise UsageError(f"the pattern {pattern!r} matches nothing: expected a name or a path, such as '*.png'")
    return expression


def _to_part(match: re.Match[str]) -> str:
    text = match[0]
    if match["set"]:
        members = re.sub(r"([\\\[\]&~|^])", r"\\\1", match["set"])
        return f"[^/{members}]" if match["no"] else f"(?!/)[{members}]"
    if text == "**/":
        return "(?:.*/)?"
    if text == "/**":
        return "/.+"
    if text.startswith("*"):
        return ".*" if text == "**" else "[^/]*"
    return "[^/]" if text == "?" else re.escape(match["escaped"] or text)


def _system_pattern() -> re.Pattern[bytes]:
    """Return the pattern of the paths of system files, and of all paths in system folders."""
    folders, files = (
        "|".join(re.escape(name).replace(r"\*", "[^/]*") for name in names)
        for names in (_SYSTEM_FOLDERS, _SYSTEM_FILES)
    )
    return re.compile(f"(?:.*/)?(?:(?:{folders})/.*|(?:{files}))".encode(), re.DOTALL)


_SYSTEM = _system_pattern()
