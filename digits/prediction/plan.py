"""Plan of a prediction: a directory with a folder's listing, cut into shards, and the state of each shard.

The path of the directory is all a worker needs. The directory holds:

    plan.json       a sealed record (`digits.store.records`): source, model, options, and the offset of each shard in
                    the listing
    listing         one record per image to predict: size, mtime, inode, path, ended by NUL
    known           only if the run keeps rows of an earlier table: one record per file of the new table, with its rows
                    if they are kept; see `digits.prediction.incremental.RowReuse`
    parts/N.part    the part file of shard N: its rows in the format of the table, or as JSON lines if rows are kept; a
                    file with several pages has one row per page
    parts/N.json    the commit record of shard N: a sealed record with the hash of the part file and the counts of the
                    shard; the shard is committed when this file exists
    parts/N.lock    locked by the worker that predicts the shard; the kernel releases the lock when the worker dies
    parts/N.blame   a sealed record of the images and pages of shard N that must not be decoded again, because each of
                    them ended two worker processes
"""

import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple, Self

from digits.errors import CorruptArtifactError
from digits.images.folder import Entry
from digits.model.drift import Bins
from digits.model.onnx_model import OnnxModel
from digits.outputs.table import JSON_LINES, Column, Format, columns_of, format_of
from digits.prediction.limits import Position
from digits.store.files import locked
from digits.store.records import Record, read_record, write_record

if TYPE_CHECKING:  # a worker process must not load pydantic
    from digits.images.folder import LinkRule
    from digits.images.formats import Mode, OtherFormat
    from digits.images.pages import PageChoice
    from digits.outputs.table import CsvDialect
    from digits.status import Status

PLAN_FILE = "plan.json"
LISTING_FILE = "listing"
KNOWN_FILE = "known"
MAX_GROUPS = 32
"""Largest number of groups of shards. If two groups per process are more than this, there are two per process."""
GROUP_IMAGES = 10_000
"""Number of images per group of shards in a large folder."""


class Options(NamedTuple):
    """Options that determine the contents of the rows: the part of `PredictionConfig` that a worker needs.

    `others` are the additional formats to read (`PredictionConfig.other_formats`). A prediction with a confidence below
    `threshold` gets the status `uncertain`. `pages` are the pages to read of a file with several,
    and `links` the links to follow. `dialect` is that of a CSV table.
    """

    normalize: "Mode"
    probabilities: bool
    top_k: int
    max_pixels: int
    max_bytes: int
    max_seconds: float
    others: "tuple[OtherFormat, ...]" = ()
    threshold: float = 0
    pages: "PageChoice" = "all"
    links: "LinkRule" = "no"
    dialect: "CsvDialect" = "standard"


@dataclass(frozen=True)
class IncrementalRows:
    """Summary of the rows that an incremental run reuses from the last run's table.

    Args:
        rows: number of files with rows in the new table.
        unchanged: number of rows that are reused.
        settled: whether the new table and ledger would equal the existing ones.
        shard_size: number of files per shard if all rows were predicted.
        sha256: SHA-256 of the plan's file `known`.
        recipe: digest of model, options and code.
        directory: directory of the ledgers.
        listed_at: time of the listing, in nanoseconds since the epoch.
        least_certain: least certain images of the last run, with their pixels, as in a shard's commit record.
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
        """Return the summary from a record of `as_record`."""
        places = {"directory": Path(record["directory"]), "least_certain": tuple(record["least_certain"])}
        return cls(**{**record, **places})


@dataclass(frozen=True)
class ReplacedRows:
    """Summary of the rows that a run keeps when it replaces the rows of one model version.

    Args:
        rows: number of rows of the table.
        unchanged: number of rows that are kept.
        shard_size: number of rows per part of the table file.
        sha256: SHA-256 of the plan's file `known`.
        recipe: digest of the table and of the model version whose rows are replaced.
        table: SHA-256 of the table before the run.
        settled: always False, since there are rows to predict.
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
    """Plan: a folder's listing, cut into shards. `Plan.open` reads one from its directory.

    Args:
        path: directory of the plan; its name is the digest of the request.
        source: folder or archive of the images.
        archive: size, modification time and inode of the archive; None for a folder.
        out: path of the table.
        model: exported model.
        options: options that determine the contents of the rows.
        offsets: byte offsets at which the shards begin in the listing, and the end of the last shard.
        shard_size: number of files per shard; the last shard may have fewer.
        images: number of files to predict: all of the table, except those whose rows are kept from an earlier table.
        skipped: number of skipped files and folders by reason.
        former: summary of the rows that are kept from an earlier table; None if the run keeps none.
        listing_sha256: SHA-256 of the listing.
        bins: bins in which features of the images are counted, see `digits.model.drift`; empty if none are.
        command: command that makes the same table.
        force: whether this run may overwrite files that Digits did not write; it is not stored with the plan.
        report: whether this run writes a page beside the table; it is not stored with the plan either.
    """

    path: Path
    source: Path
    archive: tuple[int, int, int] | None
    out: Path
    model: OnnxModel
    options: Options
    offsets: tuple[int, ...]
    shard_size: int
    images: int
    skipped: Mapping[str, int]
    former: FormerRows | None = None
    listing_sha256: str = ""
    bins: Bins = field(default_factory=dict)
    command: str = ""
    force: bool = field(default=False, compare=False)
    report: bool = field(default=True, compare=False)

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read a plan from its directory.

        Raises:
            CorruptArtifactError: if the record is damaged.
            FileNotFoundError: if there is no such plan; a plan is removed when its table is published.
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
            bins=record.get("bins", {}),
            command=record.get("command", ""),
        )

    def write(self) -> None:
        """Write the plan's record into its directory."""
        names = ("archive", "offsets", "shard_size", "images", "listing_sha256", "command")
        record = {name: getattr(self, name) for name in names}
        model = {**asdict(self.model), "onnx": str(self.model.onnx)}
        places = {"source": str(self.source), "out": str(self.out)}
        former = self.former.as_record() if self.former else None
        counts = {"skipped": dict(self.skipped), "bins": self.bins}
        described = {"model": model, "options": self.options._asdict(), "former": former, **counts}
        write_record(self.path / PLAN_FILE, {**record, **places, **described})

    @property
    def digest(self) -> str:
        """Digest of the request: source, listing, model, options and table."""
        return self.path.name

    @property
    def is_up_to_date(self) -> bool:
        """Whether an incremental run would leave its table as it is, so that there is nothing to do."""
        return self.former is not None and self.former.settled

    @property
    def shards(self) -> range:
        """Numbers of the shards."""
        return range(len(self.offsets) - 1)

    @property
    def columns(self) -> tuple[Column, ...]:
        """Columns of the table."""
        classes = len(self.model.class_names)
        return columns_of(classes=classes, probabilities=self.options.probabilities, top_k=self.options.top_k)

    @property
    def format(self) -> Format:
        """Format of the part files."""
        return JSON_LINES if self.former else self.table_format

    @property
    def table_format(self) -> Format:
        """Format of the table."""
        return format_of(self.out, self.options.dialect)

    @property
    def rows(self) -> int:
        """Number of files with rows in the table; only workers know how many pages a file has."""
        return self.former.rows if self.former else self.images

    def entries(self, shard: int) -> list[Entry]:
        """Return the entries of a shard's images."""
        start, end = self.offsets[shard : shard + 2]
        with (self.path / LISTING_FILE).open("rb") as file:
            file.seek(start)
            return [decode_entry(record) for record in file.read(end - start).split(b"\0")[:-1]]

    def part_path(self, shard: int, suffix: str) -> Path:
        """Return the path of one of a shard's files, by its suffix."""
        return self.path / "parts" / f"{shard:06d}{suffix}"

    def is_committed(self, shard: int) -> bool:
        """Return whether the part file of a shard is complete."""
        return self.part_path(shard, ".json").exists()

    def is_free(self, shard: int) -> bool:
        """Return whether a shard is neither committed nor claimed by a living process."""
        with self.claim(shard) as claimed:
            return claimed

    def pending_shards(self) -> list[int]:
        """Return the shards that are not committed."""
        return [shard for shard in self.shards if not self.is_committed(shard)]

    def groups(self, processes: int) -> list[range]:
        """Cut the shards into groups of neighbours, one group per task.

        There are two groups per process, so that no process works alone for long at the end, and more for a large
        folder.
        """
        count = max(2 * processes, min(MAX_GROUPS, self.images // GROUP_IMAGES))
        size = -(-len(self.shards) // count) or 1
        return [self.shards[first : first + size] for first in self.shards[::size]]

    def images_in(self, shard: int) -> int:
        """Return the number of a shard's images."""
        return min(self.shard_size, self.images - shard * self.shard_size)

    def exists(self) -> bool:
        """Return whether the plan still exists; it is removed when its table is published."""
        return (self.path / PLAN_FILE).exists()

    def uncommit(self, shard: int) -> None:
        """Remove the commit record of a shard, so that the shard is predicted again."""
        self.part_path(shard, ".json").unlink(missing_ok=True)

    def failed_images(self, shard: int) -> dict[Position, "Status"]:
        """Return the images of a shard that must not be decoded again, with their statuses."""
        try:
            record = read_record(self.part_path(shard, ".blame"))
        except (FileNotFoundError, CorruptArtifactError):
            return {}
        return {Position(*map(int, key.split())): status for key, status in record["images"].items()}

    def record_failure(self, shard: int, position: Position, status: "Status") -> None:
        """Record the status of an image that ended two worker processes, so that no worker decodes it again."""
        images = {**self.failed_images(shard), position: status}
        named = {f"{key.number} {key.page}": images[key] for key in sorted(images)}
        write_record(self.part_path(shard, ".blame"), {"images": named})

    @contextmanager
    def claim(self, shard: int) -> Iterator[bool]:
        """Claim a shard while the context lasts; yield False if it is committed or claimed by a living process."""
        if self.is_committed(shard):
            yield False
            return
        with locked(self.part_path(shard, ".lock"), wait=False) as lock:
            yield lock.held and not self.is_committed(shard)


def _former_from(record: Record) -> FormerRows:
    return ReplacedRows(**record) if "table" in record else IncrementalRows.from_record(record)


def _model_from(record: Record) -> OnnxModel:
    shape = (int(record["input_shape"][0]), int(record["input_shape"][1]))
    names = tuple(record["class_names"])
    return OnnxModel(**{**record, "onnx": Path(record["onnx"]), "input_shape": shape, "class_names": names})


def encode_entry(entry: Entry) -> bytes:
    """Return the listing's record of an entry, with the final NUL."""
    return b"%d %d %d %b\0" % (entry.size, entry.mtime_ns, entry.inode, entry.path)


def decode_entry(record: bytes) -> Entry:
    """Return the entry of a record of the listing; the record has no final NUL."""
    size, mtime_ns, inode, path = record.split(b" ", 3)
    return Entry(path, int(size), int(mtime_ns), int(inode))


def remove_plan(path: Path) -> None:
    """Remove a plan: rename its directory, which is atomic, then delete it."""
    trash = path.with_name(f"tmp-{secrets.token_hex(8)}")
    path.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)
