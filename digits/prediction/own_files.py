"""Own files: which existing files a run may overwrite, and the record by which later runs know the files of Digits.

The summary beside a table has, as `files`, the SHA-256 of each file that Digits wrote there: tables, the picture, the
report, and the differences to a second version. A hash is added before its file is renamed into place, next to the hash
of the file that it replaces. So after a kill between the two, the file that exists is known. The summary at the end of
a run has the new hashes only.

Summary and drift record are known by their seal. A summary without `files` is of an earlier version of Digits; then the
table must be as the summary describes it. A table is also known by its ledger, see `digits.prediction.incremental`.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from digits.errors import CorruptArtifactError, UsageError
from digits.outputs.summary import picture_path, report_path, summary_path
from digits.outputs.table import read_table
from digits.outputs.table_diff import shadow_path
from digits.prediction.baselines import record_path
from digits.store.files import locked
from digits.store.records import SEAL, Record, read_record, write_record
from digits.store.written import describe_stranger, hash_of_regular

FILES = "files"
"""Key of the recorded hashes in a summary: a list of hashes for each name of a file."""
FOLDER_SECONDS = 10
"""Longest time to wait for runs with another artifact root into the same folder. Other programs may lock it forever."""


@dataclass(frozen=True)
class OwnFiles:
    """Files at the places that Digits writes for a table, as they are now.

    Args:
        out: path of the table.
        ledgers: directory of the ledgers of this table and its source.
    """

    out: Path
    ledgers: Path

    @cached_property
    def summary(self) -> Record | None:
        """Content of the summary beside the table; None if there is none, or it is damaged."""
        with suppress(OSError, CorruptArtifactError):
            record = read_record(summary_path(self.out))
            return record if "plan" in record else None
        return None

    @cached_property
    def hashes(self) -> dict[str, str]:
        """SHA-256 of each table, and of each file beside it, that Digits wrote and nobody changed, by name."""
        beside = (picture_path(self.out), report_path(self.out), shadow_path(self.out))
        found = {self.out: self._table, **{path: hash_of_regular(path) for path in beside}}
        return {path.name: digest for path, digest in found.items() if digest and self._is_own(path, digest)}

    @cached_property
    def _table(self) -> str:
        return hash_of_regular(self.out)

    def _is_own(self, path: Path, digest: str) -> bool:
        if self.summary is None or (path == self.out and self._has_ledger):
            return self._has_ledger
        if FILES in self.summary:
            return digest in self.summary[FILES].get(path.name, ())
        if path == report_path(self.out):  # no version that kept no hashes wrote reports
            return False
        return path != self.out or is_as_summarized(self.out, self.summary)

    @cached_property
    def _has_ledger(self) -> bool:
        return bool(self._table) and (self.ledgers / f"{self._table}.json").is_file()

    def strangers(self, places: Iterable[Path]) -> Iterator[str]:
        """Yield the existing files at these places that a run must not overwrite, each with the reason."""
        for path in places:
            if os.path.lexists(path) and path.name not in self.hashes:
                yield f"{path} {self._reason(path)}"
        summary, drift = summary_path(self.out), record_path(self.out)
        if self.summary is None and os.path.lexists(summary) and not self._has_ledger:
            yield f"{summary} is damaged, was changed, or was not written by Digits"
        if os.path.lexists(drift) and not _has_seal(drift):
            yield f"{drift} was not written by Digits"

    def _reason(self, path: Path) -> str:
        is_regular = path.is_file() and not path.is_symlink()
        if is_regular and self.summary is None:
            return f"was not written by Digits, or has lost {summary_path(self.out).name}"
        if is_regular and FILES not in (self.summary or {}):
            return f"does not match {summary_path(self.out).name}"
        return describe_stranger(path, known=path.name in (self.summary or {}).get(FILES, ()))


def is_as_summarized(out: Path, summary: Record) -> bool:
    """Return whether a table has the rows that its summary counts, and is not younger than the summary."""
    if out.stat().st_mtime > summary_path(out).stat().st_mtime or Path(summary["out"]).name != out.name:
        return False
    predictions, statuses = Counter[str](), Counter[str]()
    try:
        for row in read_table(out):
            statuses[row["status"]] += 1
            predictions[row["prediction"]] += row["prediction"] is not None
    except UsageError:
        return False
    counts = {name: count for name, count in summary["predictions"].items() if count}
    return (+predictions, statuses, statuses.total()) == (counts, summary["statuses"], summary["images"])


def _has_seal(path: Path) -> bool:
    """Return whether a file is a record of Digits, be it damaged: the next run replaces a damaged drift record."""
    with suppress(OSError):
        return SEAL.encode() in path.read_bytes()
    return False


@contextmanager
def lock_publication(out: Path, work: Path) -> Iterator[None]:
    """Wait until no run is publishing a table, so that all files beside the table are from the same run.

    Runs with another artifact root are waited for in the folder of the table, as far as its file system has locks.

    Args:
        out: path of the table.
        work: directory of the plans.
    """
    folder = out.parent
    with locked(work, flags=os.O_RDONLY), ExitStack() as stack:
        if folder.is_dir() and not folder.samefile(work):
            with suppress(OSError):
                stack.enter_context(locked(folder, flags=os.O_RDONLY, wait=FOLDER_SECONDS))
        yield


def require_own_files(files: OwnFiles, places: Iterable[Path]) -> None:
    """Check that a run which writes these files overwrites none that Digits did not write, or that was changed since.

    The caller has locked the publication.

    Raises:
        UsageError: if it would; the message names each such file.
    """
    if strangers := list(files.strangers(places)):
        raise UsageError(
            f"{' and '.join(strangers)}, so the run stops before it overwrites anything; move it away, choose another "
            "table with --out, or overwrite it with --force (`force` among the options of a deployment)"
        )


def announce(files: OwnFiles, written: Mapping[str, str], summary: Record) -> dict[str, list[str]]:
    """Record the hashes of files that are about to be renamed into place.

    Args:
        files: existing files.
        written: SHA-256 of the new files by name.
        summary: content of the summary, if there is no intact one yet. Its table is not published yet, so it names no
            plan.

    Returns:
        The hashes of all files that Digits wrote beside the table, for the summary at the end of the run.
    """
    former = files.summary or {**summary, "plan": ""}
    others = former.get(FILES, {}) | {name: [digest] for name, digest in files.hashes.items()}
    both = {name: list(dict.fromkeys([digest, *others.get(name, ())])) for name, digest in written.items()}
    write_record(summary_path(files.out), {**former, FILES: others | both})
    return {**others, **{name: [digest] for name, digest in written.items()}}


def announce_more(out: Path, name: str, digest: str) -> None:
    """Record the hash of a further file that is about to be renamed into place, after a call of `announce`.

    Args:
        out: path of the table.
        name: name of the file.
        digest: SHA-256 of its new content.
    """
    record = read_record(summary_path(out))
    known = record[FILES].get(name, ())
    write_record(summary_path(out), {**record, FILES: {**record[FILES], name: list(dict.fromkeys([digest, *known]))}})
