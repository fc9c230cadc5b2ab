"""Label log: the answers of reviewers, one line with a checksum per answer, appended and never rewritten.

    <root>/labels/log.jsonl         answers and cancellations of answers, in the order of writing
    <root>/labels/images/<sha256>   content of each labelled image, written before its answer

A line is valid once its newline is written. A partial line, left by a killed process, is ignored, and removed by the
next writer.
"""

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from digits.errors import CorruptArtifactError, StoreError, os_errors_as
from digits.store.artifacts import create_root
from digits.store.files import locked, sync_directory, write_file
from digits.store.records import Record, canonical_json, decode_record, digest_of, sealed

DIGITS = tuple("0123456789")
NOT_A_DIGIT, SKIP = "not-a-digit", "skip"
LABELS = (*DIGITS, NOT_A_DIGIT, SKIP)
"""Labels that a reviewer can give to an image."""
LOG_FILE, IMAGES = "log.jsonl", "images"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """Answer of a reviewer about one image.

    Args:
        id: identifier chosen by the sender, so that an answer that is sent twice counts once.
        when: time of the answer, ISO 8601 in UTC.
        sha256: SHA-256 of the image file, or the id of its page, see `image_id`.
        label: label given by the reviewer, one of `LABELS`.
        prediction: class predicted by the model.
        confidence: confidence of the prediction.
        status: status of the image's row in the table.
        model_version: number of the model version in the registry.
        selection: reason why the image was shown: `uncertain`, `not-a-digit` or `sample`.
        table: SHA-256 of the table under review.
        by: user and machine of the review, `anna@scanner`; empty for answers of earlier versions of Digits.
    """

    id: str
    when: str
    sha256: str
    label: str
    prediction: str
    confidence: float
    status: str
    model_version: int
    selection: str
    table: str
    by: str = ""


@dataclass(frozen=True)
class Undo:
    """Entry that cancels an earlier answer: `undoes` is the answer's `id`, `by` as in `Answer`."""

    id: str
    when: str
    undoes: str
    by: str = ""


Entry = Answer | Undo


def image_id(sha256: str, page: int | None) -> str:
    """Return the id of an image in the log: the SHA-256 of its file, followed by `-` and its page, if any."""
    return sha256 if page is None else f"{sha256}-{page}"


def file_and_page(image: str) -> tuple[str, int | None]:
    """Return the SHA-256 of the file and the page of an image, by its id."""
    sha256, _, page = image.partition("-")
    return sha256, int(page) if page else None


@dataclass(frozen=True)
class LabelSnapshot:
    """Current labels of the label log at one moment.

    Args:
        images: directory of the image files, each named by its SHA-256.
        labels: digit of each labelled image by its id (`image_id`), sorted by id.
        not_digits: number of images labelled as no digit.
        skipped: number of images that the reviewers skipped.
        changed: number of images that were labelled again with another label.
    """

    images: Path
    labels: Mapping[str, str]
    not_digits: int = 0
    skipped: int = 0
    changed: int = 0

    @property
    def digest(self) -> str:
        """The SHA-256 of the labels. It does not depend on when they were given."""
        return digest_of(sorted(self.labels.items()))


@dataclass
class LabelLog:
    """Label log in a directory, which is created when needed.

    Any number of processes may use a log at the same time, but only one thread may use an instance.

    Raises:
        CorruptArtifactError: if a line was damaged after it was written.
        StoreError: if the log cannot be read.
    """

    directory: Path
    _end: int = 0
    _lines: int = 0
    _answers: dict[str, Answer] = field(default_factory=dict)
    _of_image: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _ids: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def path(self) -> Path:
        """The log file."""
        return self.directory / LOG_FILE

    def refresh(self) -> None:
        """Read the lines that were appended since the last read, by any process."""
        with self._errors("could not be read"), suppress(FileNotFoundError), self.path.open("rb") as file:
            self._read_new_lines(file.fileno())

    def current_answer(self, image: str) -> Answer | None:
        """Return the current answer about an image, by its id: the last one that was not undone, or None."""
        ids = self._of_image.get(image)
        return self._answers[ids[-1]] if ids else None

    def answers(self) -> list[Answer]:
        """Return the current answers, one per image, oldest first."""
        last = {ids[-1] for ids in self._of_image.values() if ids}
        return [answer for id_, answer in self._answers.items() if id_ in last]

    def snapshot(self) -> LabelSnapshot:
        """Return the current labels."""
        current = {answer.sha256: answer.label for answer in self.answers()}
        labels = list(current.values())
        return LabelSnapshot(
            self.directory / IMAGES,
            {image: label for image, label in sorted(current.items()) if label in DIGITS},
            not_digits=labels.count(NOT_A_DIGIT),
            skipped=labels.count(SKIP),
            changed=sum(len({self._answers[id_].label for id_ in ids}) > 1 for ids in self._of_image.values()),
        )

    def append(self, entries: Sequence[Entry]) -> None:
        """Append the entries whose id is not in the log yet. They are durable when the method returns.

        Raises:
            StoreError: if the disk is full or cannot be written to; then nothing was appended.
        """
        with self._errors("could not be written to"), self._locked() as descriptor:
            self._read_new_lines(descriptor)
            new = list({entry.id: entry for entry in entries if entry.id not in self._ids}.values())
            _remove_partial_line(descriptor, self._end)
            written = b"".join(map(_encode, new))
            _write(descriptor, written, self._end)
            self._end += len(written)
            self._lines += len(new)
            for entry in new:
                self._apply(entry)

    def save_image(self, sha256: str, content: bytes) -> None:
        """Save the content of an image file under its SHA-256.

        Raises:
            StoreError: if the disk is full or cannot be written to.
        """
        path = self.directory / IMAGES / sha256
        if not path.exists():
            with self._errors("could not be written to"):
                create_root(self.directory.parent)
                write_file(path, content)

    def read_image(self, sha256: str) -> bytes | None:
        """Return the content of a saved image file, or None if it is missing or damaged."""
        try:
            content = (self.directory / IMAGES / sha256).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the log for appending, with an exclusive lock that the kernel releases if the process dies."""
        create_root(self.directory.parent)
        self.directory.mkdir(exist_ok=True)
        with locked(self.path, flags=os.O_RDWR | os.O_APPEND | os.O_CREAT) as lock:
            if not self._end:
                sync_directory(self.directory)
            yield lock.descriptor

    def _errors(self, problem: str) -> AbstractContextManager[None]:
        remedy = "free disk space, or check that you may read and write it"
        return os_errors_as(StoreError, self.path, f"the label log {problem}", remedy)

    def _read_new_lines(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise CorruptArtifactError(
                f"{self.path}: the label log became shorter: expected at least {self._end} bytes, found {size}; "
                "restore it from a backup"
            )
        content = _read(descriptor, self._end, size)
        *lines, tail = content.split(b"\n")
        for number, line in enumerate(lines, self._lines + 1):
            self._apply(self._decode(line, number))
        if _is_damaged_line(tail):
            raise self._damage_error(self._lines + len(lines) + 1)
        self._lines += len(lines)
        self._end += len(content) - len(tail)

    def _decode(self, line: bytes, number: int) -> Entry:
        try:
            record = decode_record(line, name=LOG_FILE)
            return Undo(**record) if "undoes" in record else Answer(**record)
        except (CorruptArtifactError, TypeError) as error:
            raise self._damage_error(number) from error

    def _damage_error(self, number: int) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{self.path}: line {number} was damaged after it was written; restore the log from a backup, or delete "
            "the line, which loses that one answer"
        )

    def _apply(self, entry: Entry) -> None:
        self._ids.add(entry.id)
        if isinstance(entry, Answer):
            self._answers[entry.id] = entry
            self._of_image[entry.sha256].append(entry.id)
        elif entry.undoes in self._answers:
            ids = self._of_image[self._answers[entry.undoes].sha256]
            if entry.undoes in ids:
                ids.remove(entry.undoes)


def _encode(entry: Entry) -> bytes:
    record: Record = vars(entry)
    return canonical_json(sealed(record)) + b"\n"


def _is_damaged_line(tail: bytes) -> bool:
    """Return whether the text after the last newline is a complete line with a damaged newline.

    Such a line contains a whole JSON object followed by the damaged newline. A partial line does not.
    """
    with suppress(ValueError):
        _, end = json.JSONDecoder().raw_decode(tail.decode("ascii", "replace"))
        return int(end) < len(tail)
    return False


def _read(descriptor: int, start: int, end: int) -> bytes:
    parts = []
    while start < end and (part := os.pread(descriptor, end - start, start)):
        parts.append(part)
        start += len(part)
    return b"".join(parts)


def _remove_partial_line(descriptor: int, end: int) -> None:
    """Truncate the log after its last complete line, if a killed process left a partial line."""
    size = os.fstat(descriptor).st_size - end
    if size:
        logger.warning("removed %d bytes of an incomplete answer from the end of the label log", size)
        os.ftruncate(descriptor, end)


def _write(descriptor: int, content: bytes, end: int) -> None:
    """Append the whole content, or nothing."""
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise
