"""The label log: what people say of images, one sealed line an answer, appended and never rewritten.

    <root>/labels/log.jsonl         the answers and what was taken back, in order
    <root>/labels/images/<sha256>   the bytes of each image that has an answer, written before it

A line counts once its newline is there: what a kill leaves of a line is passed over, and cut off by the next writer.
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
from digits.store.files import locked, sync_directory, write_file
from digits.store.records import Record, canonical_json, decode_record, digest_of, sealed

DIGITS = tuple("0123456789")
NOT_A_DIGIT, SKIP = "not-a-digit", "skip"
LABELS = (*DIGITS, NOT_A_DIGIT, SKIP)
LOG_FILE, IMAGES = "log.jsonl", "images"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Answer:
    """What somebody said of an image.

    Args:
        id: made by whoever asked, so that an answer that is sent twice counts once.
        when: ISO 8601, UTC.
        sha256: of the image file's bytes.
        label: one of `LABELS`.
        prediction: the model's class.
        confidence: the model's.
        status: of the row in the table.
        model_version: the registry's number.
        selection: why the image was asked about: `uncertain`, `not-a-digit`, or `sample`.
        table: the SHA-256 of the table.
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


@dataclass(frozen=True)
class Undo:
    """An answer is taken back."""

    id: str
    when: str
    undoes: str


Entry = Answer | Undo


@dataclass(frozen=True)
class LabelSnapshot:
    """The labels that count, as they were at one moment.

    Args:
        images: where their files are, each named by its SHA-256.
        labels: SHA-256 -> digit, in the order of the hashes.
        not_digits: images that show no digit.
        skipped: images about which nobody could say anything.
        changed: images whose label another answer has replaced.
    """

    images: Path
    labels: Mapping[str, str]
    not_digits: int = 0
    skipped: int = 0
    changed: int = 0

    @property
    def digest(self) -> str:
        """The SHA-256 of the labels, whenever and by whomever they were given."""
        return digest_of(sorted(self.labels.items()))


@dataclass
class LabelLog:
    """The label log in a directory, which is made when it is needed; one thread at a time, any number of processes.

    Raises:
        CorruptArtifactError: a line was damaged after it was written; it is named.
        StoreError: the log can't be read.
    """

    directory: Path
    _end: int = 0
    _lines: int = 0
    _answers: dict[str, Answer] = field(default_factory=dict)
    _of_image: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    _known: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.refresh()

    @property
    def path(self) -> Path:
        """The file."""
        return self.directory / LOG_FILE

    def refresh(self) -> None:
        """Read what was appended since the last time, by us or by others."""
        with self._errors("could not be read"), suppress(FileNotFoundError), self.path.open("rb") as file:
            self._catch_up(file.fileno())

    def current_answer(self, sha256: str) -> Answer | None:
        """Give the answer on an image that counts: the last one that was not taken back."""
        ids = self._of_image.get(sha256)
        return self._answers[ids[-1]] if ids else None

    def answers(self) -> list[Answer]:
        """Give the answers that count, one an image, the oldest first."""
        last = {ids[-1] for ids in self._of_image.values() if ids}
        return [answer for id_, answer in self._answers.items() if id_ in last]

    def snapshot(self) -> LabelSnapshot:
        """Give the labels that count now."""
        counting = {answer.sha256: answer.label for answer in self.answers()}
        said = list(counting.values())
        return LabelSnapshot(
            self.directory / IMAGES,
            {sha256: label for sha256, label in sorted(counting.items()) if label in DIGITS},
            not_digits=said.count(NOT_A_DIGIT),
            skipped=said.count(SKIP),
            changed=sum(len({self._answers[id_].label for id_ in ids}) > 1 for ids in self._of_image.values()),
        )

    def append(self, entries: Sequence[Entry]) -> None:
        """Append what is not in the log yet, by its id; durable when this returns.

        Raises:
            StoreError: the disk is full or can't be written to; nothing was appended.
        """
        with self._errors("could not be written to"), self._locked() as descriptor:
            self._catch_up(descriptor)
            new = list({entry.id: entry for entry in entries if entry.id not in self._known}.values())
            _cut_off(descriptor, self._end)
            written = b"".join(map(_encode, new))
            _write(descriptor, written, self._end)
            self._end += len(written)
            self._lines += len(new)
            for entry in new:
                self._take(entry)

    def save_image(self, sha256: str, content: bytes) -> None:
        """Keep the bytes of an image, by their hash."""
        place = self.directory / IMAGES / sha256
        if not place.exists():
            with self._errors("could not be written to"):
                write_file(place, content)

    def read_image(self, sha256: str) -> bytes | None:
        """Give the bytes of an image that was kept and is whole; None for any other."""
        try:
            content = (self.directory / IMAGES / sha256).read_bytes()
        except OSError:
            return None
        return content if hashlib.sha256(content).hexdigest() == sha256 else None

    @contextmanager
    def _locked(self) -> Iterator[int]:
        """Open the log for appending, alone; the kernel drops the lock when its holder dies."""
        self.directory.mkdir(parents=True, exist_ok=True)
        with locked(self.path, flags=os.O_RDWR | os.O_APPEND | os.O_CREAT) as lock:
            if not self._end:
                sync_directory(self.directory)
            yield lock.descriptor

    def _errors(self, problem: str) -> AbstractContextManager[None]:
        remedy = "free space, or check who may read and write it"
        return os_errors_as(StoreError, self.path, f"the label log {problem}", remedy)

    def _catch_up(self, descriptor: int) -> None:
        size = os.fstat(descriptor).st_size
        if size < self._end:
            raise CorruptArtifactError(
                f"{self.path}: the label log is shorter than it was: {size} bytes, expected {self._end} or more; "
                "restore it from a backup"
            )
        content = _read(descriptor, self._end, size)
        *lines, tail = content.split(b"\n")
        for number, line in enumerate(lines, self._lines + 1):
            self._take(self._decoded(line, number))
        if _is_damage(tail):
            raise self._damaged(self._lines + len(lines) + 1)
        self._lines += len(lines)
        self._end += len(content) - len(tail)

    def _decoded(self, line: bytes, number: int) -> Entry:
        try:
            record = decode_record(line, name=LOG_FILE)
            return Undo(**record) if "undoes" in record else Answer(**record)
        except (CorruptArtifactError, TypeError) as error:
            raise self._damaged(number) from error

    def _damaged(self, number: int) -> CorruptArtifactError:
        return CorruptArtifactError(
            f"{self.path}: line {number} was damaged after it was written; restore the log from a backup, or take the "
            "line out, which loses that one answer"
        )

    def _take(self, entry: Entry) -> None:
        self._known.add(entry.id)
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


def _is_damage(tail: bytes) -> bool:
    """Tell a last line whose newline was damaged from one that was not written to its end: that holds no object."""
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


def _cut_off(descriptor: int, end: int) -> None:
    """Cut off what a kill has left of a line."""
    torn = os.fstat(descriptor).st_size - end
    if torn:
        logger.warning("the label log ended in %d bytes of an answer that was never finished; they were cut off", torn)
        os.ftruncate(descriptor, end)


def _write(descriptor: int, content: bytes, end: int) -> None:
    """Append all of it or nothing."""
    try:
        while content:
            content = content[os.write(descriptor, content) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, end)
        raise
