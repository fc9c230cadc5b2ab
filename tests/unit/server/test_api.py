"""Whether a Prefect API is configured and answers, against files and a server that are real."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from digits.server.api import answers, configured_api, shown

PROFILES = """
active = "local"
[profiles.local]
PREFECT_API_URL = "http://127.0.0.1:4200/api"
[profiles.cloud]
PREFECT_API_URL = "https://api.prefect.cloud/api/accounts/1/workspaces/2"
[profiles.ephemeral]
PREFECT_SERVER_ALLOW_EPHEMERAL_MODE = "true"
"""
LOCAL = "http://127.0.0.1:4200/api"


@contextmanager
def serving(reply: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    """Run a server on a free port; give its API's address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Give a handler that answers `/api/health`, and only that, with a status."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code if handler.path == "/api/health" else 500)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"true")

    return reply


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A Prefect home with three profiles."""
    (tmp_path / "profiles.toml").write_text(PROFILES)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "there"), [(200, True), (401, True), (403, True), (404, True), (500, False), (503, False)]
)
def test_a_server_that_answers_is_there(code: int, there: bool) -> None:
    """One that wants a password is there, one that fails is not."""
    with serving(status(code)) as url:
        assert answers(url) is there


def test_a_slash_at_the_end_of_the_address_does_no_harm() -> None:
    """People write addresses both ways."""
    with serving(status(200)) as url:
        assert answers(url + "/")


def test_nobody_there_is_no_answer() -> None:
    """A port that nobody listens on refuses at once."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not answers(f"http://127.0.0.1:{taken.getsockname()[1]}/api")


def test_a_server_that_says_nothing_is_not_waited_for() -> None:
    """The time is bounded: a prediction must not hang on a dead server."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/api", seconds=0.1)
        assert time.monotonic() - begun < 2


def test_a_server_that_speaks_something_else_is_no_answer() -> None:
    """Some other program has the port."""
    with serving(lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")) as url:
        assert not answers(url)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1", "http://", "http://127.0.0.1:port/api", "ftp.example", "http://[::1/api"]
)
def test_what_is_no_address_is_no_answer(url: str) -> None:
    """A typing error in a profile is not a traceback."""
    assert not answers(url, seconds=0.1)


def test_the_environment_goes_before_the_profile(home: Path) -> None:
    """As in Prefect."""
    environment = {"PREFECT_HOME": str(home), "PREFECT_API_URL": "http://else:4200/api"}
    assert configured_api(environment) == "http://else:4200/api"


def test_the_active_profile_counts(home: Path) -> None:
    """The one the file names, or the one the environment names."""
    assert configured_api({"PREFECT_HOME": str(home)}) == LOCAL
    named = configured_api({"PREFECT_HOME": str(home), "PREFECT_PROFILE": "cloud"})
    assert named == "https://api.prefect.cloud/api/accounts/1/workspaces/2"


@pytest.mark.parametrize("profile", ["ephemeral", "absent"])
def test_a_profile_without_an_address_is_no_configuration(home: Path, profile: str) -> None:
    """The ephemeral profile names no API: that is how a fresh installation looks."""
    assert configured_api({"PREFECT_HOME": str(home), "PREFECT_PROFILE": profile}) is None


def test_profiles_may_lie_elsewhere(home: Path, tmp_path: Path) -> None:
    """The variable for the file goes before the home."""
    environment = {"PREFECT_HOME": "/absent", "PREFECT_PROFILES_PATH": str(home / "profiles.toml")}
    assert configured_api(environment) == LOCAL


def test_the_default_home_is_in_the_users_home(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a variable: `~/.prefect/profiles.toml`."""
    user = tmp_path / "anna"
    (user / ".prefect").mkdir(parents=True)
    (home / "profiles.toml").rename(user / ".prefect" / "profiles.toml")
    monkeypatch.setenv("HOME", str(user))
    assert configured_api({}) == LOCAL


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"active = ",
        b"\xff",
        b"profiles = 3",
        b'active = "a"\n[profiles]\na = 3',
        b"active = ['a']",
        b'active = "a"\n[profiles.a]\nPREFECT_API_URL = 4200',
    ],
)
def test_profiles_that_can_not_be_meant_are_no_configuration(tmp_path: Path, content: bytes | None) -> None:
    """Absent, empty, damaged or of another shape: Prefect will complain where it is used, predicting goes on."""
    if content is not None:
        (tmp_path / "profiles.toml").write_bytes(content)
    assert configured_api({"PREFECT_HOME": str(tmp_path)}) is None


@pytest.mark.parametrize(
    ("address", "seen"),
    [
        (LOCAL, LOCAL),
        ("http://[::1]:4200/api", "http://[::1]:4200/api"),
        ("http://user:CANARY@host:4200/api", "http://***@host:4200/api"),
        ("http://CANARY@host/api?token=CANARY#CANARY", "http://***@host/api?***#***"),
        ("http://user:CAN@ARY@host/api", "http://***@host/api"),
        ("http://user:CAN/ARY@host/api", "***"),
        ("http://[CANARY", "***"),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(address: str, seen: str) -> None:
    """Host, port and path are what an operator needs to see."""
    assert shown(address) == seen
