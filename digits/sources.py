"""Sources: what a program can predict, a path, a list of paths or images in memory, as files on disk."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digits.errors import UsageError
from digits.images.folder import escape_path
from digits.model.inputs import each_image, is_path, read_image
from digits.outputs import frame
from digits.prediction import service
from digits.store.artifacts import Store
from digits.store.records import Record, digest_of

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SourceFiles:
    """Source of a prediction as files.

    Args:
        place: folder, archive or single image.
        out: default path of the table; None for the one of the command.
        options: settings that select the files.
        order: place of each path in the result; empty for the order of the table.
    """

    place: Path
    out: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    order: Mapping[str, int] = field(default_factory=dict)

    def table(self, store: Store) -> Path | None:
        """Return the default path of the table; None for that of the command."""
        return self.out or (service.default_table(store, self.place / _digest(self.order)) if self.order else None)

    def sort(self, rows: Iterator[Record]) -> list[Record]:
        """Return the rows of the table in the order of the source."""
        return sorted(rows, key=lambda row: self.order.get(row["path"], 0))

    def sort_frame(self, out: Path) -> "pd.DataFrame":
        """Return the table as a DataFrame, in the order of the source."""
        rows = frame.read_frame(out)
        if not self.order:
            return rows
        return rows.iloc[rows["path"].map(self.order).argsort(kind="stable")].reset_index(drop=True)


def _digest(order: Mapping[str, int]) -> str:
    """Return the name of a list of files: tables of several lists in one folder must not replace each other."""
    return f"{len(order)}-files-{digest_of(sorted(order))[:12]}"


@contextmanager
def source_files(source: Any) -> Iterator[SourceFiles]:
    """Yield a source as files, which exist as long as the context.

    Args:
        source: path of a folder, archive or image; a list of paths; or images in memory, see `digits.model.inputs`.

    Raises:
        UsageError: if there is no image, an image cannot be read, or paths and images are mixed.
    """
    if is_path(source):
        yield SourceFiles(Path(source).expanduser())
        return
    images = list(each_image(source))
    if not images:
        raise UsageError("predict(): found no image in the source; give a folder, paths or images")
    with tempfile.TemporaryDirectory(prefix="digits-") as name:
        yield (_list_paths if is_path(images[0]) else _write_images)(images, Path(name))


def _list_paths(paths: Sequence[Any], place: Path) -> SourceFiles:
    if not all(map(is_path, paths)):
        raise UsageError("predict(): found paths and images in one list; predict them separately")
    names = [os.fsencode(os.path.abspath(Path(path).expanduser())) for path in paths]  # noqa: PTH100 - links stay
    folder = os.path.commonpath([os.path.dirname(name) for name in names])  # noqa: PTH120 - bytes
    listed = place / "files"
    listed.write_bytes(b"\0".join([*names, b""]))
    order: dict[str, int] = {}
    for number, name in enumerate(names):
        order.setdefault(escape_path(os.path.relpath(name, folder)), number)
    return SourceFiles(Path(os.fsdecode(folder)), None, {"files_from": listed, "all_files": True}, order)


def _write_images(images: Sequence[Any], place: Path) -> SourceFiles:
    folder, digits = place / "images", len(str(len(images) - 1))
    folder.mkdir()
    for number, image in enumerate(images):
        content, extension = read_image(image)
        (folder / f"{number:0{digits}}{extension}").write_bytes(content)
    return SourceFiles(folder, place / "predictions.csv")
