"""The review of a table: the images to look at, their pictures, and the answers in the label log."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from secrets import token_hex
from threading import RLock
from typing import Any, NamedTuple, Self

from digits.data.labels import DIGITS, LABELS, SKIP, Answer, LabelLog, Undo
from digits.errors import CorruptArtifactError, DigitsError, StoreError, UsageError, os_errors_as
from digits.images.archive import Archive, ArchiveListing, is_archive
from digits.images.decode import MIN_SIDE, DecodeError, decode
from digits.images.folder import Entry, entry_for, resolve_source, unescape_path
from digits.images.formats import OTHER_EXTENSIONS, Mode
from digits.images.normalize import normalize
from digits.images.patterns import Selection as Selected
from digits.images.source import Source, open_source
from digits.outputs.drawing import grey_png
from digits.outputs.summary import summary_path
from digits.outputs.table import read_table
from digits.prediction.config import PredictionConfig
from digits.prediction.service import open_model
from digits.review.estimates import ReviewProgress, measure_progress
from digits.review.sampling import Image, QueuedImage, Selection, build_queue
from digits.review.spreadsheet import read_sheet, write_sheet
from digits.status import PREDICTED
from digits.store.artifacts import Store
from digits.store.files import hash_file, write_file
from digits.store.records import read_record

SAMPLE = 200
"""Confident images that are asked about: enough to tell 99 from 96 %."""
_LIMITS = PredictionConfig()


class Pictures(NamedTuple):
    """PNG files of what there is to see of an image: its picture, and what the network sees."""

    whole: bytes
    seen: bytes


class ImportCounts(NamedTuple):
    """What became of a sheet: answers that were appended, and those that were in the log already."""

    new: int
    known: int


class Review:
    """A table under review; any threads.

    Args:
        store: where the label log is, and the models.
        table: as `digits predict` wrote it.
        source: the folder or archive of its images; None: as the summary beside the table says.
        size: of the random sample of confident images.

    Raises:
        UsageError: the table or its images can't be found, or it is not about digits.
        StoreError: the label log can't be read, or is damaged.
    """

    def __init__(self, store: Store, table: Path, *, source: Path | None = None, size: int = SAMPLE) -> None:
        self.table = table
        self.log = LabelLog(store.labels)
        self.selection = self._select(size)
        self._store = store
        self._digest = hash_file(table)
        self._named = source
        self._lock = RLock()
        self._stack = ExitStack()
        self._gone: dict[str, str] = {}
        self._by_hash = {picked.image.sha256: picked for picked in self.queue}

    def __enter__(self) -> Self:
        self._files = self._stack.enter_context(_open(self.source))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def queue(self) -> Sequence[QueuedImage]:
        """The images to look at, in order."""
        return self.selection.queue

    @cached_property
    def source(self) -> Path:
        """The folder or archive of the images."""
        return self._named or _source_of(self.table)

    def progress(self) -> ReviewProgress:
        """Say how far it is, with the answers of others too."""
        with self._lock:
            self.log.refresh()
            return measure_progress(self.selection, self._label_of, is_gone=self._gone.__contains__)

    def first_unanswered(self) -> int:
        """Give the place in the queue of the first image that has no answer; its length where all have."""
        places = (place for place, picked in enumerate(self.queue) if self.answer_to(picked) is None)
        return next(places, len(self.queue))

    def answer_to(self, picked: QueuedImage) -> Answer | None:
        """Give the answer that counts on an image."""
        return self.log.current_answer(picked.image.sha256)

    def history(self, most: int) -> list[Answer]:
        """Give the last answers on images of the queue, the oldest first."""
        with self._lock:
            return [answer for answer in self.log.answers() if answer.sha256 in self._by_hash][-most:]

    def pictures(self, picked: QueuedImage) -> Pictures:
        """Give an image as a person and as the network sees it.

        Only bytes with the hash of the table's row are decoded, so ones that a worker has decoded before, under limits
        of time and memory; what a browser is given is drawn anew from their pixels.

        Raises:
            DecodeError: it is gone, or has changed since it was predicted.
        """
        content = self._content(picked.image)
        pixels = decode(content, max_pixels=_LIMITS.max_pixels, min_side=MIN_SIDE, others=tuple(OTHER_EXTENSIONS))
        return Pictures(grey_png(pixels.pixels), grey_png(normalize(pixels.pixels, self._mode)))

    def answer(self, sha256: str, label: str, *, name: str) -> None:
        """Append an answer to the log; one with a name that is there already changes nothing.

        Raises:
            UsageError: there is no such label, or no such image to review.
            DecodeError: the image is gone or has changed, so nothing can be said of it.
            StoreError: the log can't be written to.
        """
        picked = self._by_hash.get(sha256)
        if picked is None or label not in LABELS:
            raise UsageError(f"expected an image of this review and a label, found {sha256!r} and {label!r}")
        with self._lock:
            if label != SKIP:
                self.log.save_image(sha256, self._content(picked.image))
            self.log.append([self._answer(picked, label, name)])

    def undo(self, answer: str, *, name: str) -> None:
        """Take an answer back, by its name.

        Raises:
            StoreError: the log can't be written to.
        """
        with self._lock:
            self.log.append([Undo(name, _now(), answer)])

    def export(self, path: Path) -> int:
        """Write the queue as a sheet, with the labels that are known; give the number of its rows.

        Raises:
            UsageError: the name does not end in .csv.
            StoreError: it can't be written.
        """
        if path.suffix.lower() != ".csv":
            raise UsageError(f"{path}: expected a name that ends in .csv, found {path.suffix!r}")
        with os_errors_as(StoreError, path, "the sheet could not be written", "choose another path"):
            write_file(path, write_sheet((picked, self._label_of(picked.image.sha256)) for picked in self.queue))
        return len(self.queue)

    def import_sheet(self, path: Path) -> ImportCounts:
        """Append what a sheet says and the log does not; all of it or nothing.

        Raises:
            UsageError: it can't be read, or a row of it can't be meant; the rows are named.
            StoreError: the log can't be written to.
        """
        with os_errors_as(UsageError, path, "the sheet could not be read", "expected an edited sheet"):
            content = path.read_bytes()
        with self._lock:
            self.log.refresh()
            lines = read_sheet(content, name=str(path), fault_of=self._fault)
            new = [line for line in lines if line.label != self._label_of(line.sha256)]
            chosen = [(self._by_hash[line.sha256], line.label) for line in new]
            for picked, label in chosen:
                if label != SKIP:
                    self.log.save_image(picked.image.sha256, self._content(picked.image))
            self.log.append([self._answer(picked, label, token_hex(16)) for picked, label in chosen])
        return ImportCounts(len(new), len(lines) - len(new))

    def _select(self, size: int) -> Selection:
        def is_known(image: Image) -> bool:
            answer = self.log.current_answer(image.sha256)
            return answer is not None and answer.model_version != image.model_version

        return build_queue(_images(self.table), size=size, is_known=is_known)

    def _label_of(self, sha256: str) -> str | None:
        answer = self.log.current_answer(sha256)
        return answer.label if answer else None

    def _fault(self, sha256: str) -> str | None:
        """Say why an image can't be labelled; None where it can."""
        picked = self._by_hash.get(sha256)
        if picked is None:
            return f"this review has no image with the SHA-256 {sha256[:64] or '(none)'!r}"
        try:
            self._content(picked.image)
        except DecodeError as error:
            return f"{picked.image.path}: {error}; empty its label"
        return None

    def _answer(self, picked: QueuedImage, label: str, name: str) -> Answer:
        image, stratum = picked
        return Answer(
            name,
            _now(),
            image.sha256,
            label,
            image.prediction,
            image.confidence,
            image.status,
            image.model_version,
            stratum,
            self._digest,
        )

    def _content(self, image: Image) -> bytes:
        """Give the bytes that were predicted: those that were kept with a label, else those in the folder."""
        kept = self.log.read_image(image.sha256)
        if kept is not None:
            return kept
        with self._lock:
            try:
                content = self._files.read(image.path, image.sha256)
            except DecodeError as error:
                self._gone[image.sha256] = str(error)
                raise
            self._gone.pop(image.sha256, None)
        return content

    @cached_property
    def _mode(self) -> Mode:
        """How the model's images are normalised; that of a model that is gone can only be guessed."""
        try:
            return open_model(self._store, str(self.queue[0].image.model_version)).resolve_mode("auto")
        except DigitsError:
            return "auto"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _images(table: Path) -> Iterator[Image]:
    """Give the rows of a table with a prediction.

    Raises:
        UsageError: a row can't be ours, or is about other classes than digits.
    """
    for number, row in enumerate(read_table(table), 2):
        if row["status"] in PREDICTED:
            yield _image(row, f"{table}, row {number}")


def _image(row: Mapping[str, Any], place: str) -> Image:
    if row["prediction"] not in DIGITS:
        raise UsageError(f"{place}: only digits can be reviewed, found the class {row['prediction']!r}")
    try:
        return Image(
            bytes.fromhex(row["sha256"]).hex(),
            row["path"],
            row["status"],
            row["prediction"],
            float(row["confidence"]),
            None if row["novelty"] is None else float(row["novelty"]),
            int(row["model_version"]),
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place}: expected a row as `digits predict` writes it, but: {error}") from error


def _source_of(table: Path) -> Path:
    """Find out where a table's images are.

    Raises:
        UsageError: nothing beside the table says so, or they are not there any more.
    """
    summary = summary_path(table)
    try:
        source = Path(read_record(summary)["source"])
    except (OSError, CorruptArtifactError, KeyError) as error:
        said = "is not there" if isinstance(error, OSError) else "is damaged"
        raise UsageError(f"{summary}: it should say where the images are, but {said}; give --images") from error
    if not source.exists():
        raise UsageError(f"{source}: the images were there, says {summary.name}, but are not; give --images")
    return source


class _Files:
    """A folder or an archive whose images are found by the paths of a table."""

    def __init__(self, source: Source, entry_for: Callable[[bytes], Entry]) -> None:
        self._source = source
        self._entry_of = entry_for

    def read(self, path: str, sha256: str) -> bytes:
        """Read an image.

        Raises:
            DecodeError: it is gone, can't be read, or is not the one that has this hash.
        """
        try:
            content = self._source.read(self._entry_of(unescape_path(path)), max_bytes=_LIMITS.max_bytes)
        except (OSError, KeyError, UsageError) as error:
            raise DecodeError("vanished", "the file is not there any more") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DecodeError("changed", "the file has changed since it was predicted")
        return content


@contextmanager
def _open(source: Path) -> Iterator[_Files]:
    """Open a folder, an archive, or the folder of a single image.

    Raises:
        UsageError: it can't be opened.
    """
    root, name = resolve_source(source)
    if name is None or not is_archive(source):
        with open_source(root, None) as folder:
            yield _Files(folder, lambda path: entry_for(root, path))
        return
    with Archive(source) as archive:
        members = {entry.path: entry for entry in ArchiveListing(archive, selection=Selected(all_files=True))}
        yield _Files(archive, members.__getitem__)
