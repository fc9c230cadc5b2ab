"""Configuration and answers of a Prefect API, with real files and a real server."""

import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from digits.server.api import PAGE, answers, hide_secrets, read_pages, ui_answers
from digits.server.prefect_settings import configured_api

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
def serving(reply: Callable[[BaseHTTPRequestHandler], None], certificate: Path | None = None) -> Iterator[str]:
    """Run a server on a free port, with TLS if there is a certificate; yield the address of its API."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            reply(self)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        if certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http{'s' if certificate else ''}://127.0.0.1:{server.server_port}/api"
        finally:
            server.shutdown()
            thread.join()


def status(code: int) -> Callable[[BaseHTTPRequestHandler], None]:
    """Return a handler that answers `/api/health` with a status, and all else with an error."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code if handler.path == "/api/health" else 500)
        handler.send_header("Content-Length", "4")
        handler.end_headers()
        handler.wfile.write(b"true")

    return reply


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a Prefect home with three profiles."""
    (tmp_path / "profiles.toml").write_text(PROFILES)
    return tmp_path


@pytest.mark.parametrize(
    ("code", "there"), [(200, True), (401, True), (403, True), (404, True), (500, False), (503, False)]
)
def test_a_server_answers_unless_it_fails_also_if_it_requires_a_password(code: int, there: bool) -> None:
    with serving(status(code)) as url:
        assert answers(url) is there


@pytest.mark.parametrize(
    ("code", "kind", "there"), [(200, "text/html", True), (200, "text/x", False), (404, "", False)]
)
def test_a_ui_is_a_page(code: int, kind: str, there: bool) -> None:
    """Without its files, Prefect answers with 404."""

    def reply(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Type", kind)
        handler.end_headers()

    with serving(reply) as url:
        assert ui_answers(url) is there


def test_no_ui_answers_at_a_closed_port_or_an_invalid_address() -> None:
    assert not ui_answers("http://127.0.0.1:9")
    assert not ui_answers("not an address")


def test_an_address_may_end_with_a_slash() -> None:
    with serving(status(200)) as url:
        assert answers(url + "/")


def test_a_closed_port_does_not_answer() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        assert not answers(f"http://127.0.0.1:{taken.getsockname()[1]}/api")


def test_a_silent_server_is_waited_for_only_a_limited_time() -> None:
    """A prediction must not hang on a dead server."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        begun = time.monotonic()
        assert not answers(f"http://127.0.0.1:{silent.getsockname()[1]}/api", seconds=0.1)
        assert time.monotonic() - begun < 30


def test_a_server_of_another_protocol_does_not_answer() -> None:
    with serving(lambda handler: handler.wfile.write(b"SSH-2.0-OpenSSH_9.2\r\n")) as url:
        assert not answers(url)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1", "http://", "http://127.0.0.1:port/api", "ftp.example", "http://[::1/api"]
)
def test_an_invalid_address_does_not_answer(url: str) -> None:
    """A typing error in a profile must not end in a traceback."""
    assert not answers(url, seconds=0.1)


def test_the_environment_overrides_the_profile(home: Path) -> None:
    """The same order as Prefect's."""
    environment = {"PREFECT_HOME": str(home), "PREFECT_API_URL": "http://else:4200/api"}
    assert configured_api(environment) == "http://else:4200/api"


def test_the_active_profile_is_that_of_the_environment_or_the_file(home: Path) -> None:
    assert configured_api({"PREFECT_HOME": str(home)}) == LOCAL
    named = configured_api({"PREFECT_HOME": str(home), "PREFECT_PROFILE": "cloud"})
    assert named == "https://api.prefect.cloud/api/accounts/1/workspaces/2"


@pytest.mark.parametrize("profile", ["ephemeral", "absent"])
def test_without_an_address_in_the_profile_no_api_is_configured(home: Path, profile: str) -> None:
    """The ephemeral profile of a new installation has no address."""
    assert configured_api({"PREFECT_HOME": str(home), "PREFECT_PROFILE": profile}) is None


def test_the_variable_for_the_profiles_file_overrides_the_home(home: Path) -> None:
    environment = {"PREFECT_HOME": "/absent", "PREFECT_PROFILES_PATH": str(home / "profiles.toml")}
    assert configured_api(environment) == LOCAL


def test_the_default_profiles_file_is_in_the_user_s_home(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "anna"
    (user / ".prefect").mkdir(parents=True)
    (home / "profiles.toml").rename(user / ".prefect" / "profiles.toml")
    monkeypatch.setenv("HOME", str(user))
    assert configured_api({}) == LOCAL


@pytest.mark.parametrize(
    ("address", "shown"),
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
def test_secrets_in_an_address_are_hidden(address: str, shown: str) -> None:
    """Host, port and path stay."""
    assert hide_secrets(address) == shown


def self_signed(directory: Path) -> Path:
    """Write a certificate of 127.0.0.1 with its key; return the file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = directory / "own.pem"
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return path


def test_a_certificate_of_one_s_own_is_trusted_if_prefect_trusts_it(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = self_signed(tmp_path)
    with serving(status(200), certificate) as url:
        assert url.startswith("https://")
        assert not answers(url)
        monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(certificate))
        assert answers(url)
        monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(tmp_path / "missing.pem"))
        assert not answers(url)


def test_everything_is_read_however_many_pages_it_has() -> None:
    """The other arguments are passed on with each page."""
    asked = []

    def read(*, offset: int, limit: int, name: str) -> list[int]:
        asked.append((offset, limit, name))
        return list(range(450))[offset : offset + limit]

    assert list(read_pages(read, name="x")) == list(range(450))
    assert asked == [(0, PAGE, "x"), (200, PAGE, "x"), (400, PAGE, "x"), (450, PAGE, "x")]
