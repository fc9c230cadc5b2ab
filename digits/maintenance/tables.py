"""Tables: the prediction tables below an artifact root, with the files that Digits writes beside them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from digits.outputs.summary import picture_path, removed_rows_paths, report_path, summary_path
from digits.outputs.table_diff import shadow_path
from digits.prediction.baselines import record_path
from digits.store.artifacts import Store
from digits.store.records import read_record


@dataclass(frozen=True)
class PublishedTable:
    """Prediction table, known by the summary beside it.

    Args:
        path: path of the table, which may be missing.
        source: folder or archive that was predicted.
        out: path of the table when it was written.
    """

    path: Path
    source: Path
    out: Path

    def files(self) -> list[Path]:
        """Return the existing files that Digits wrote; the table and the summary are the last ones."""
        beside = (picture_path(self.path), report_path(self.path), shadow_path(self.path), record_path(self.path))
        paths = (*beside, *removed_rows_paths(self.path), self.path, summary_path(self.path))
        return [path for path in paths if path.is_file()]


def read_tables(store: Store) -> Iterator[PublishedTable]:
    """Yield the prediction tables below the artifact root.

    Raises:
        CorruptArtifactError: if a summary is damaged.
    """
    return map(read_table_of, summaries(store))


def summaries(store: Store) -> Iterator[Path]:
    """Return the summaries of the prediction tables below the artifact root."""
    return (path for path in sorted(store.predictions.rglob("*.summary.json")) if not path.name.startswith("."))


def read_table_of(summary: Path) -> PublishedTable:
    """Return the table of a summary.

    Raises:
        CorruptArtifactError: if the summary is damaged.
    """
    record = read_record(summary)
    out = Path(record["out"])
    return PublishedTable(summary.with_name(out.name), Path(record["source"]), out)
