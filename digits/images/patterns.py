"""Which of the files that are found have a row: patterns, extensions, and what the files begin with."""

import re
from collections.abc import Callable, Iterable, Sequence

from digits.errors import UsageError
from digits.images.formats import EXTENSIONS, OTHER_EXTENSIONS, OtherFormat, has_signature

Head = Callable[[], bytes | None]
"""Gives the first bytes of a file; None when they can't be read."""

HEAD_BYTES = 16
_TOKEN = re.compile(
    r"(?:(?<=/)|\A)\*\*/|/\*\*\Z|\*+|\?|\[(?P<no>[!^]?)(?P<set>\]?[^]]*)\]|\\(?P<escaped>.)|.", re.DOTALL
)


class Selection:
    """What a user wants of a folder.

    Args:
        include: patterns; a file must match one of them, whatever its extension.
        exclude: patterns; what matches one of them is left out.
        all_files: take every file, not only those with an image's extension.
        by_content: take the files that begin as a picture does, whatever their names.
        others: formats whose files are pictures too.

    A pattern without `/` is matched against the names at any depth, one with `/` against the path from the folder on;
    a pattern that matches a folder stands for all that is in it. `*` and `?` do not match `/`, `**` does.

    Raises:
        UsageError: a pattern is malformed.
    """

    def __init__(
        self,
        *,
        include: Iterable[str] = (),
        exclude: Iterable[str] = (),
        all_files: bool = False,
        by_content: bool = False,
        others: Sequence[OtherFormat] = (),
    ) -> None:
        self._includes, self._excludes = _compiled(include), _compiled(exclude)
        self._all_files = all_files or self._includes is not None
        self._by_content = by_content
        self._others = others
        endings = (*EXTENSIONS, *(ending for kind in others for ending in OTHER_EXTENSIONS[kind]))
        self._endings = tuple(ending.encode() for ending in endings)

    def excludes(self, path: bytes) -> bool:
        """Tell whether a file, or a folder (with `/` at its end), is left out with all that is in it."""
        return self._excludes is not None and _matches(self._excludes, path)

    def reason_to_skip(self, path: bytes, head: Head) -> str | None:
        """Say why a file has no row: `excluded`, `not-included` or `other-file`; None when it has one."""
        if self.excludes(path):
            return "excluded"
        if self._includes is not None and not _matches(self._includes, path):
            return "not-included"
        return None if self._is_wanted(path, head) else "other-file"

    def _is_wanted(self, path: bytes, head: Head) -> bool:
        if self._by_content:
            start = head()
            return start is None or has_signature(start, self._others)
        return self._all_files or path.lower().endswith(self._endings)


def _matches(pattern: re.Pattern[str], path: bytes) -> bool:
    return pattern.fullmatch(path.decode("utf-8", "surrogateescape")) is not None


def _compiled(patterns: Iterable[str]) -> re.Pattern[str] | None:
    texts = [f"(?:{_as_expression(pattern)})" for pattern in patterns]
    return re.compile("|".join(texts), re.DOTALL) if texts else None


def _as_expression(pattern: str) -> str:
    """Write a pattern as a regular expression; each byte that is not UTF-8 is one character, in names too."""
    body = pattern.strip("/")
    anywhere = "" if "/" in pattern.rstrip("/") else "(?:.*/)?"
    below = "/.*" if pattern.endswith("/") else "(?:/.*)?"
    expression = anywhere + "".join(map(_as_part, _TOKEN.finditer(body))) + below
    try:
        re.compile(expression)
    except re.error as error:
        raise UsageError(f"the pattern {pattern!r} can't be read: {error}") from error
    if not body:
        raise UsageError(f"the pattern {pattern!r} matches nothing: expected a name or a path, such as '*.png'")
    return expression


def _as_part(match: re.Match[str]) -> str:
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
