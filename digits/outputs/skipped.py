"""Skipped files: sentences about the files of a source that have no row, from their numbers by reason."""

from collections.abc import Iterator, Mapping

from digits.images.formats import extra_of
from digits.wording import choose, count

NOTHING_READ = 9
"""Exit code of a command that found no image, or none that can be read."""

_KINDS = {"heic-file": "HEIC", "avif-file": "AVIF", "pdf-file": "PDF"}
"""Names of the formats that extras read, by the reason of the skipped files."""
_ARCHIVES = {"7z-archive": "7z", "rar-archive": "RAR", "zip-archive": "zip", "tar-archive": "tar"}
_REASONS = {
    "link": ("link was not followed", "links were not followed"),
    "broken-link": ("link leads nowhere", "links lead nowhere"),
    "system-file": ("system file was left out", "system files were left out"),
    "other-file": ("other file is no image", "other files are no images"),
    "excluded": ("file or folder was excluded", "files or folders were excluded"),
    "not-included": ("file matches no include pattern", "files match no include pattern"),
    "sub-folder": ("subfolder was not read", "subfolders were not read"),
    "unreadable-folder": ("folder could not be read", "folders could not be read"),
    "vanished": ("file or folder vanished during the listing", "files or folders vanished during the listing"),
    "loop": ("folder is read already", "folders are read already"),
    "output": ("file is an output of Digits", "files are outputs of Digits"),
    "folder": ("entry is a folder", "entries are folders"),
    "fifo": ("pipe is no file", "pipes are no files"),
    "socket": ("socket is no file", "sockets are no files"),
    "device": ("device is no file", "devices are no files"),
    "outside": ("path leads out of the folder", "paths lead out of the folder"),
    "unsafe-name": ("name is unsafe", "names are unsafe"),
    "duplicate": ("member was replaced by a later one", "members were replaced by later ones"),
}
"""Sentences about one file and about several files, by the reason for which they are skipped."""


def describe_nothing(skipped: Mapping[str, int]) -> str:
    """Return why a source had no image: `0 images; 2 HEIC and 1 PDF need digits[heif,pdf]; 5 links were not followed`.

    Args:
        skipped: number of skipped files by reason.
    """
    return f"0 images; {describe_skipped(skipped) or 'there are no files'}"


def describe_skipped(skipped: Mapping[str, int]) -> str:
    """Return numbers of skipped files by reason as one line, first the files that could be read."""
    return "; ".join(_parts({reason: count for reason, count in skipped.items() if count}))


def _parts(skipped: Mapping[str, int]) -> Iterator[str]:
    needing = {reason: count for reason, count in skipped.items() if extra_of(reason)}
    if needing:
        extras = sorted({str(extra_of(reason)) for reason in needing})
        verb = choose(sum(needing.values()), "needs", "need")
        yield f"{_counted(needing, _KINDS)} {verb} digits[{','.join(extras)}]"
    if archives := {reason: count for reason, count in skipped.items() if reason in _ARCHIVES}:
        verb = choose(sum(archives.values()), "archive was", "archives were")
        yield f"{_counted(archives, _ARCHIVES)} {verb} not opened"
    for reason, number in sorted(skipped.items(), key=lambda item: _RANK.get(item[0], len(_RANK))):
        if reason not in {**needing, **archives}:
            one, several = _REASONS.get(reason, (f"{_KINDS.get(reason, reason)} was skipped",) * 2)
            yield count(number, one, several)


_RANK = {reason: rank for rank, reason in enumerate(_REASONS)}


def _counted(counts: Mapping[str, int], names: Mapping[str, str]) -> str:
    """Return counts with names as a list: `2 HEIC, 1 AVIF and 1 PDF`."""
    *most, last = [f"{counts[reason]:,} {name}" for reason, name in names.items() if reason in counts]
    return f"{', '.join(most)} and {last}" if most else last
