"""Session: the review of one table, with its queue of images and its answers in the label log."""

import csv
import hashlib
import io
import sys
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
from digits.images.folder import Entry, LinkRule, entry_for, resolve_source, unescape_path
from digits.images.formats import OTHER_EXTENSIONS, Mode
from digits.images.normalize import normalize
from digits.images.pages import place_of
from digits.images.patterns import Selection
from digits.images.source import Source, open_source
from digits.outputs.drawing import grey_png
from digits.outputs.summary import name_page, summary_path
from digits.outputs.table import read_table
from digits.prediction.config import PredictionConfig
from digits.prediction.service import open_model
from digits.review.estimates import ReviewProgress, measure_progress
from digits.review.sampling import PredictedImage, QueuedImage, ReviewQueue, build_queue
from digits.review.spreadsheet import read_sheet, write_sheet
from digits.status import PREDICTED
from digits.store.artifacts import Store
from digits.store.author import this_author
from digits.store.files import hash_file
from digits.store.records import read_record
from digits.store.written import write_own_file

SAMPLE = 200
"""Default number of images in the random sample, enough to distinguish an accuracy of 99 % from one of 96 %."""
_LABEL_COLUMNS = ("sha256", "page", "label")
"""Columns of the rows of `Review.add_labels`."""
_LIMITS = PredictionConfig()
_SHOWN = 69
"""Number of characters of an unknown id that a message shows: those of a hash and a page."""


class Pictures(NamedTuple):
    """Pictures of an image as PNG: the whole image, and the network's input."""

    whole: bytes
    seen: bytes


class ImportCounts(NamedTuple):
    """Number of labels of a spreadsheet that are new, and of labels that were already in the log (`known`)."""

    new: int
    known: int


class Review:
    """Review of a table, to be used as a context manager. Thread-safe.

    Args:
        store: artifact store with the label log and the models.
        table: path of a table that `digits predict` wrote.
        source: folder or archive of the images; None for the one in the summary next to the table.
        size: number of images in the random sample of rows with the status `ok`.
        every: whether to review every image with a prediction, whatever labels it has.

    Raises:
        UsageError: if the table or its images cannot be found, or the table has classes that are not digits.
        StoreError: if the label log cannot be read or is damaged.
    """

    def __init__(
        self,
        store: Store,
        table: Path,
        *,
        source: Path | None = None,
        size: int = SAMPLE,
        every: bool = False,
    ) -> None:
        self.table = table
        self.log = LabelLog(store.labels)
        self._queue = self._build_queue(sys.maxsize if every else size, every=every)
        self._store = store
        self._digest = hash_file(table)
        self._given_source = source
        self._lock = RLock()
        self._stack = ExitStack()
        self._gone: dict[str, str] = {}
        self._by_id = {queued.image.id: queued for queued in self.queue}

    def __enter__(self) -> Self:
        self._files = self._stack.enter_context(_open(self.source, _links_of(self.table)))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def queue(self) -> Sequence[QueuedImage]:
        """Images to label, in order."""
        return self._queue.images

    @property
    def left_out(self) -> int:
        """Number of distinct images that were left out, because they have a label from another model version."""
        return self._queue.left_out

    @cached_property
    def source(self) -> Path:
        """Folder or archive of the images."""
        return self._given_source or _source_of(self.table)

    def progress(self) -> ReviewProgress:
        """Return the progress of the review, including answers that other processes have saved."""
        with self._lock:
            self.log.refresh()
            return measure_progress(self._queue, self._label_of, is_gone=self._gone.__contains__)

    def first_unanswered(self) -> int:
        """Return the index in the queue of the first image without an answer; if all have one, the queue's length."""
        places = (place for place, queued in enumerate(self.queue) if self.answer_to(queued) is None)
        return next(places, len(self.queue))

    def answer_to(self, queued: QueuedImage) -> Answer | None:
        """Return the current answer to an image; None if it has none."""
        return self.log.current_answer(queued.image.id)

    def history(self, limit: int) -> list[Answer]:
        """Return the last answers to images of the queue, at most `limit`, oldest first."""
        with self._lock:
            return [answer for answer in self.log.answers() if answer.sha256 in self._by_id][-limit:]

    def pictures(self, queued: QueuedImage) -> Pictures:
        """Return the pictures of an image to show to a person.

        The bytes are decoded only if they have the hash in the table. So a worker has decoded the same bytes before,
        with limits of time and memory. The PNG files are encoded from the decoded pixels, so a browser never receives
        the file itself.

        Raises:
            DecodeError: if the file is missing or has changed since it was predicted.
        """
        content = self._content(queued.image)
        others, place = tuple(OTHER_EXTENSIONS), place_of(content, queued.image.page)
        pixels = decode(content, max_pixels=_LIMITS.max_pixels, min_side=MIN_SIDE, others=others, place=place)
        return Pictures(grey_png(pixels.pixels), grey_png(normalize(pixels.pixels, self._mode)))

    def answer(self, image: str, label: str, *, answer_id: str) -> None:
        """Append an answer to the label log.

        Args:
            image: id of the image, see `digits.data.labels.image_id`.
            label: one of `digits.data.labels.LABELS`.
            answer_id: unique id of the answer; an answer with an id that is already in the log changes nothing.

        Raises:
            UsageError: if the label is unknown or the review has no such image.
            DecodeError: if the file of the image is missing or has changed.
            StoreError: if the log is not writable.
        """
        queued = self._by_id.get(image)
        if queued is None or label not in LABELS:
            raise UsageError(f"expected an image of this review and a label, found {image!r} and {label!r}")
        with self._lock:
            if label != SKIP:
                self.log.save_image(queued.image.sha256, self._content(queued.image))
            self.log.append([self._answer(queued, label, answer_id)])

    def undo(self, answer_id: str, *, undo_id: str) -> None:
        """Undo an answer by its id.

        Args:
            answer_id: id of the answer.
            undo_id: unique id of this entry in the log.

        Raises:
            StoreError: if the log is not writable.
        """
        with self._lock:
            self.log.append([Undo(undo_id, _now(), answer_id, str(this_author()))])

    def export_sheet(self, path: Path, *, force: bool = False) -> int:
        """Write the queue with its labels so far as a spreadsheet, and return the number of rows.

        Args:
            path: file to write.
            force: whether to overwrite a file that Digits did not write or that was changed since.

        Raises:
            UsageError: if the name does not end in `.csv`, or the file is one of somebody else.
            StoreError: if the file cannot be written.
        """
        if path.suffix.lower() != ".csv":
            raise UsageError(f"{path}: expected a name that ends in .csv, found {path.suffix!r}")
        with os_errors_as(StoreError, path, "the spreadsheet could not be written", "choose another path"):
            sheet = write_sheet((queued, self._label_of(queued.image.id)) for queued in self.queue)
            write_own_file(self._store, path, sheet, force=force)
        return len(self.queue)

    def import_sheet(self, path: Path) -> ImportCounts:
        """Append the labels of a spreadsheet to the log, unless they are in it; after an error nothing is appended.

        Raises:
            UsageError: if the file cannot be read or has invalid rows; the message has their numbers.
            StoreError: if the log is not writable.
        """
        with os_errors_as(
            UsageError,
            path,
            "the spreadsheet could not be read",
            "name an exported spreadsheet",
        ):
            content = path.read_bytes()
        return self._import(content, str(path), first_row=2)

    def add_labels(self, rows: Sequence[Mapping[str, Any]]) -> ImportCounts:
        """Append the labels of rows with `sha256`, `label` and `page`, as `import_sheet` does; errors count from 0."""
        file = io.StringIO(newline="")
        sheet = csv.writer(file)
        sheet.writerow(_LABEL_COLUMNS)
        sheet.writerows([row.get(name) for name in _LABEL_COLUMNS] for row in rows)
        return self._import(file.getvalue().encode(), "labels", first_row=0)

    def _import(self, content: bytes, name: str, *, first_row: int) -> ImportCounts:
        with self._lock:
            self.log.refresh()
            lines = read_sheet(content, name=name, fault_of=self._fault, first_row=first_row)
            new = [line for line in lines if line.label != self._label_of(line.image)]
            chosen = [(self._by_id[line.image], line.label) for line in new]
            for queued, label in chosen:
                if label != SKIP:
                    self.log.save_image(queued.image.sha256, self._content(queued.image))
            self.log.append([self._answer(queued, label, token_hex(16)) for queued, label in chosen])
        return ImportCounts(len(new), len(lines) - len(new))

    def _build_queue(self, size: int, *, every: bool) -> ReviewQueue:
        def is_labelled(image: PredictedImage) -> bool:
            answer = self.log.current_answer(image.id)
            return not every and answer is not None and answer.model_version != image.model_version

        return build_queue(_images(self.table), size=size, is_labelled=is_labelled)

    def _label_of(self, image: str) -> str | None:
        answer = self.log.current_answer(image)
        return answer.label if answer else None

    def _fault(self, image: str) -> str | None:
        """Return the reason why an image cannot be labelled; None if it can be."""
        queued = self._by_id.get(image)
        if queued is None:
            return f"this review has no image with the SHA-256 {image[:_SHOWN] or '(none)'!r}"
        try:
            self._content(queued.image)
        except DecodeError as error:
            return f"{name_page(queued.image.path, queued.image.page)}: {error}; clear its label"
        return None

    def _answer(self, queued: QueuedImage, label: str, answer_id: str) -> Answer:
        image, stratum = queued
        return Answer(
            answer_id,
            _now(),
            image.id,
            label,
            image.prediction,
            image.confidence,
            image.status,
            image.model_version,
            stratum,
            self._digest,
            str(this_author()),
        )

    def _content(self, image: PredictedImage) -> bytes:
        """Return the bytes that were predicted: the copy that was saved with a label, else the content of the file."""
        saved = self.log.read_image(image.sha256)
        if saved is not None:
            return saved
        with self._lock:
            try:
                content = self._files.read(image.path, image.sha256)
            except DecodeError as error:
                self._gone[image.id] = str(error)
                raise
            self._gone.pop(image.id, None)
        return content

    @cached_property
    def _mode(self) -> Mode:
        """Normalization mode of the model; `auto` if the model no longer exists."""
        try:
            return open_model(self._store, str(self.queue[0].image.model_version)).resolve_mode("auto")
        except DigitsError:
            return "auto"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _images(table: Path) -> Iterator[PredictedImage]:
    """Yield the rows of a table that have a prediction.

    Raises:
        UsageError: if a row is not as `digits predict` writes it, or has a class that is not a digit.
    """
    for number, row in enumerate(read_table(table), 2):
        if row["status"] in PREDICTED:
            yield _image(row, f"{table}, row {number}")


def _image(row: Mapping[str, Any], place: str) -> PredictedImage:
    if row["prediction"] not in DIGITS:
        raise UsageError(f"{place}: expected a digit, found the class {row['prediction']!r}; review a table of digits")
    try:
        return PredictedImage(
            bytes.fromhex(row["sha256"]).hex(),
            row["path"],
            row["status"],
            row["prediction"],
            float(row["confidence"]),
            None if row["novelty"] is None else float(row["novelty"]),
            int(row["model_version"]),
            row["page"],
        )
    except (TypeError, ValueError) as error:
        raise UsageError(f"{place}: expected a row as `digits predict` writes it, but: {error}") from error


def _source_of(table: Path) -> Path:
    """Return the folder or archive of a table's images, from the summary next to the table.

    Raises:
        UsageError: if the summary is missing or damaged, or the images are missing.
    """
    summary = summary_path(table)
    try:
        source = Path(read_record(summary)["source"])
    except (OSError, CorruptArtifactError, KeyError) as error:
        problem = "is missing" if isinstance(error, OSError) else "is damaged"
        raise UsageError(
            f"{summary}: the summary, which has the path of the images, {problem}; use --images"
        ) from error
    if not source.exists():
        raise UsageError(f"{source}: the images that {summary.name} refers to are missing; use --images")
    return source


def _links_of(table: Path) -> LinkRule:
    """Return the links that were followed when a table was predicted, from the summary next to it; `no` without one."""
    try:
        links: LinkRule = read_record(summary_path(table)).get("follow_links", "no")
    except (OSError, CorruptArtifactError):
        return "no"
    return links


class _Files:
    """Files of a folder or an archive, opened by the paths in a table."""

    def __init__(self, source: Source, entry_for: Callable[[bytes], Entry]) -> None:
        self._source = source
        self._entry_of = entry_for

    def read(self, path: str, sha256: str) -> bytes:
        """Return the content of a file.

        Raises:
            DecodeError: if the file is missing, cannot be read, or has another hash.
        """
        try:
            content = self._source.read(self._entry_of(unescape_path(path)), max_bytes=_LIMITS.max_bytes)
        except (OSError, KeyError, UsageError) as error:
            raise DecodeError("vanished", "the file is missing") from error
        if hashlib.sha256(content).hexdigest() != sha256:
            raise DecodeError("changed", "the file has changed since it was predicted")
        return content


@contextmanager
def _open(source: Path, links: LinkRule) -> Iterator[_Files]:
    """Open a folder, an archive, or the folder of a single image.

    Raises:
        UsageError: if it cannot be opened.
    """
    root, name = resolve_source(source)
    if name is None or not is_archive(source):
        with open_source(root, None, links) as folder:
            yield _Files(folder, lambda path: entry_for(root, path, links))
        return
    with Archive(source) as archive:
        members = {
            entry.path: entry
            for entry in ArchiveListing(archive, selection=Selection(all_files=True, system_files=True))
        }
        yield _Files(archive, members.__getitem__)
