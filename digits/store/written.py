"""Written files: which files that a user named Digits may overwrite, and the record by which later commands know them.

An existing file is overwritten only if Digits wrote it and nobody has changed it since. For each path there is a record
below `Store.written` with the SHA-256 of what Digits wrote there. A hash is added before its file is renamed into
place, next to the former one. So after a kill between the two, the file that exists is known.
"""

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from digits.errors import CorruptArtifactError, UsageError
from digits.store.artifacts import Store
from digits.store.files import hash_file, write_file
from digits.store.records import digest_of, read_record, write_record


def hash_of_regular(path: Path) -> str:
    """Return the SHA-256 of a regular file; empty if there is none, or a link in its place."""
    return hash_file(path) if path.is_file() and not path.is_symlink() else ""


def describe_stranger(path: Path, *, known: bool) -> str:
    """Return why a file is not overwritten, as the end of a sentence.

    Args:
        path: existing file.
        known: whether Digits has written a file there.
    """
    if path.is_symlink():
        return "is a link"
    if not path.is_file():
        return "is no file"
    return "was changed after Digits wrote it" if known else "was not written by Digits"


def require_own_file(store: Store, path: Path) -> None:
    """Check that a command which writes this file overwrites none that Digits did not write, or that was changed since.

    Raises:
        UsageError: if it would.
    """
    known = _known_hashes(_record_of(store, path))
    if os.path.lexists(path) and hash_of_regular(path) not in known:
        raise UsageError(
            f"{path} {describe_stranger(path, known=bool(known))}, so nothing was written; move it away, name another "
            "file, or overwrite it with --force"
        )


def write_own_file(store: Store, path: Path, content: bytes, *, force: bool = False) -> None:
    """Write a file that a user named, and record its hash.

    Args:
        store: artifact store, which has the record.
        path: file to write.
        content: new content.
        force: whether to overwrite whatever is at the path.

    Raises:
        UsageError: if the file exists, and Digits did not write it or it was changed since, without `force`.
        OSError: if the file cannot be written.
    """
    if not force:
        require_own_file(store, path)
    record, new = _record_of(store, path), hashlib.sha256(content).hexdigest()
    former = [found] if (found := hash_of_regular(path)) in _known_hashes(record) else []
    with suppress(OSError):  # without a record, for example in a root that is read-only, the file is somebody else's
        write_record(record, {"path": ascii(str(path.absolute())), "sha256": [new, *former]})
    write_file(path, content)


def _record_of(store: Store, path: Path) -> Path:
    place = path.parent.resolve() / path.name
    return store.written / f"{digest_of(ascii(str(place)))[:32]}.json"


def _known_hashes(record: Path) -> list[str]:
    with suppress(OSError, CorruptArtifactError):
        return list(read_record(record)["sha256"])
    return []
