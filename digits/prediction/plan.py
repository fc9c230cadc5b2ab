"""A plan of predictions on disk: a folder's listing cut into shards, and the state of each.

A plan is a directory, and all that a worker needs to be told is its path:

    plan.json       a sealed record: folder, model, options, where each shard begins in the listing
    listing         a record an image: size, mtime, inode, path, ended by NUL
    known           in an incremental run, the whole listing with the rows that are known; see `digits.prediction.incremental`, and
                    `digits.prediction.incremental` for a run that replaces rows
    parts/N.part    a shard's rows in the format of the result; in an incremental run, as JSON lines
    parts/N.json    a sealed record with the part's hash and what to count: its presence commits the shard
    parts/N.lock    held by the worker that is at the shard; the kernel drops it when its holder dies
    parts/N.blame   a sealed record of those of the shard's images that killed the process which decoded them
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from digits.errors import CorruptArtifactError
from digits.images.folder import Entry
from digits.model.onnx_model import ModelFiles
from digits.outputs.table import JSON_LINES, Column, Format, columns_of, format_of
from digits.store.files import locked
from digits.store.records import Record, read_record, write_record

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.images.formats import Mode, OtherFormat
    from digits.status import Status

PLAN_FILE = "plan.json"
LISTING_FILE = "listing"
KNOWN_FILE = "known"
MAX_GROUPS = 32
GROUP_IMAGES = 10_000


class Options(NamedTuple):
    """What decides the rows' content: the part of `PredictionConfig` that a worker needs."""

    normalize: "Mode"
    probabilities: bool
    top_k: int
    max_pixels: int
    max_bytes: int
    max_seconds: float
    others: "tuple[OtherFormat, ...]" = ()
    threshold: float = 0


@dataclass(frozen=True)
class IncrementalRows:
    """Rows of an incremental run's table, most of them known from the last run.

    Args:
        rows: number of the table's rows.
        unchanged: number of those that are known.
        settled: whether table and ledger would come out as they are.
        shard_size: number of images in a shard if all rows were predicted.
        sha256: hash of the file of what is known.
        recipe: digest of model, options and code.
        directory: where the new ledger goes.
        listed_at: when the folder was listed, in nanoseconds since the epoch.
        least_certain: images of the last run's ledger, with pixels, as in a shard's seal.
    """

    rows: int
    unchanged: int
    settled: bool
    shard_size: int
    sha256: str
    recipe: str
    directory: Path
    listed_at: int
    least_certain: tuple[Record, ...]

    def as_record(self) -> Record:
        """Return the rows as JSON values."""
        return {**vars(self), "directory": str(self.directory), "least_certain": list(self.least_certain)}

    @classmethod
    def from_record(cls, record: Record) -> Self:
        """Read what `as_record` returned."""
        places = {"directory": Path(record["directory"]), "least_certain": tuple(record["least_certain"])}
        return cls(**{**record, **places})


@dataclass(frozen=True)
class ReplacedRows:
    """Rows of a table of which some are replaced.

    Args:
        rows: number of the table's rows.
        unchanged: number of those that stay.
        shard_size: number of rows in a part of the table.
        sha256: hash of the file of the rows that stay.
        recipe: digest of the table and of the version whose rows are replaced.
        table: hash of the table as it was.
        settled: never, since there are rows to be predicted.
    """

    rows: int
    unchanged: int
    shard_size: int
    sha256: str
    recipe: str
    table: str
    settled: Literal[False] = False

    def as_record(self) -> Record:
        """Return the rows as JSON values."""
        return dict(vars(self))


FormerRows = IncrementalRows | ReplacedRows


@dataclass(frozen=True)
class Plan:
    """A folder's listing cut into shards; see `Plan.open`.

    Args:
        path: its directory; the name is the digest of what was asked for.
        source: the folder, or the archive.
        archive: the archive's size, modification time and inode; None for a folder.
        out: the file that the result will be.
        model: as it was when the plan was made.
        options: what decides the rows' content.
        offsets: where each shard begins in the listing, and where the last one ends.
        shard_size: images a shard, but for the last.
        images: the number of images to predict: all rows, or in an incremental run those that are not known.
        skipped: what the folder holds besides, counted by reason.
        former: rows of a former table that an incremental run or one that replaces rows goes on from.
        listing_sha256: hash of the listing's file.
    """

    path: Path
    source: Path
    archive: tuple[int, int, int] | None
    out: Path
    model: ModelFiles
    options: Options
    offsets: tuple[int, ...]
    shard_size: int
    images: int
    skipped: Mapping[str, int]
    former: FormerRows | None = None
    listing_sha256: str = ""

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a plan from its directory.

        Raises:
            CorruptArtifactError: its record was damaged.
            FileNotFoundError: there is none, or it has been carried out.
        """
        record = read_record(path / PLAN_FILE)
        return cls(
            path=path,
            source=Path(record["source"]),
            archive=tuple(record["archive"]) if record["archive"] else None,
            out=Path(record["out"]),
            model=_model_from(record["model"]),
            options=Options(**{**record["options"], "others": tuple(record["options"]["others"])}),
            offsets=tuple(record["offsets"]),
            shard_size=record["shard_size"],
            images=record["images"],
            skipped=record["skipped"],
            former=_former_from(record["former"]) if record["former"] else None,
            listing_sha256=record["listing_sha256"],
        )

    def write(self) -> None:
        """Write the plan's record into its directory."""
        names = ("archive", "offsets", "shard_size", "images", "listing_sha256")
        record = {name: getattr(self, name) for name in names}
        model = {**asdict(self.model), "onnx": str(self.model.onnx)}
        places = {"source": str(self.source), "out": str(self.out)}
        former = self.former.as_record() if self.former else None
        described = {"model": model, "options": self.options._asdict(), "skipped": dict(self.skipped), "former": former}
        write_record(self.path / PLAN_FILE, {**record, **places, **described})

    @property
    def digest(self) -> str:
        """What was asked for: folder, listing, model, options, result."""
        return self.path.name

    @property
    def is_up_to_date(self) -> bool:
        """Whether the table of an incremental run is what it would be, so that there is nothing to do."""
        return self.former is not None and self.former.settled

    @property
    def shards(self) -> range:
        """The shards' numbers."""
        return range(len(self.offsets) - 1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """The table's columns."""
        classes = len(self.model.class_names)
        return columns_of(classes=classes, probabilities=self.options.probabilities, top_k=self.options.top_k)

    @property
    def format(self) -> Format:
        """The parts' format."""
        return JSON_LINES if self.former else self.table_format

    @property
    def table_format(self) -> Format:
        """The result's format."""
        return format_of(self.out)

    @property
    def rows(self) -> int:
        """The number of the table's rows."""
        return self.former.rows if self.former else self.images

    def entries(self, shard: int) -> list[Entry]:
        """Give the files of a shard."""
        start, end = self.offsets[shard : shard + 2]
        with (self.path / LISTING_FILE).open("rb") as file:
            file.seek(start)
            return [decode_entry(record) for record in file.read(end - start).split(b"\0")[:-1]]

    def part_path(self, shard: int, suffix: str) -> Path:
        """Give the path of one of a shard's files."""
        return self.path / "parts" / f"{shard:06d}{suffix}"

    def is_committed(self, shard: int) -> bool:
        """Tell whether a shard's part is there and sealed."""
        return self.part_path(shard, ".json").exists()

    def is_free(self, shard: int) -> bool:
        """Tell whether a shard is waiting to be worked on, now."""
        with self.claim(shard) as mine:
            return mine

    def pending_shards(self) -> list[int]:
        """Give the shards that are not committed."""
        return [shard for shard in self.shards if not self.is_committed(shard)]

    def groups(self, processes: int) -> list[range]:
        """Cut the shards into groups of neighbours, each a task's work.

        There are two a process, so that none is long alone at the end, or more where they would be long to wait for.
        """
        count = max(2 * processes, min(MAX_GROUPS, self.images // GROUP_IMAGES))
        size = -(-len(self.shards) // count) or 1
        return [self.shards[first : first + size] for first in self.shards[::size]]

    def images_in(self, shard: int) -> int:
        """Give the number of a shard's images."""
        return min(self.shard_size, self.images - shard * self.shard_size)

    def exists(self) -> bool:
        """Tell whether the plan is still there: it goes when its result is in place."""
        return (self.path / PLAN_FILE).exists()

    def uncommit(self, shard: int) -> None:
        """Have a shard made again."""
        self.part_path(shard, ".json").unlink(missing_ok=True)

    def failed_images(self, shard: int) -> dict[int, "Status"]:
        """Give those of a shard's images that must not be decoded again, each with its status."""
        try:
            record = read_record(self.part_path(shard, ".blame"))
        except (FileNotFoundError, CorruptArtifactError):
            return {}
        return {int(number): status for number, status in record["images"].items()}

    def record_failure(self, shard: int, number: int, status: "Status") -> None:
        """Have an image not decoded again: its process was killed by it, and so was the next one's."""
        images = {**self.failed_images(shard), number: status}
        write_record(self.part_path(shard, ".blame"), {"images": {str(key): images[key] for key in sorted(images)}})

    @contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        """Try to become the one that works on a shard; False when it is done, or another living process has it."""
        if self.is_committed(shard):
            yield False
            return
        with locked(self.part_path(shard, ".lock"), wait=False) as lock:
            yield lock.held and not self.is_committed(shard)


def _former_from(record: Record) -> FormerRows:
    return ReplacedRows(**record) if "table" in record else IncrementalRows.from_record(record)


def _model_from(record: Record) -> ModelFiles:
    shape = (int(record["input_shape"][0]), int(record["input_shape"][1]))
    names = tuple(record["class_names"])
    return ModelFiles(**{**record, "onnx": Path(record["onnx"]), "input_shape": shape, "class_names": names})


def encode_entry(entry: Entry) -> bytes:
    """Write a listing's record."""
    return b"%d %d %d %b\0" % (entry.size, entry.mtime_ns, entry.inode, entry.path)


def decode_entry(record: bytes) -> Entry:
    """Read a listing's record, without its NUL."""
    size, mtime_ns, inode, path = record.split(b" ", 3)
    return Entry(path, int(size), int(mtime_ns), int(inode))


def remove_plan(path: Path) -> None:
    """Make a plan vanish at once, then delete it."""
    trash = path.with_name(f"tmp-{secrets.token_hex(8)}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
