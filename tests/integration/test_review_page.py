"""Tests of the `digits review` server in a real process: access control, answers and the spreadsheet route."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from digits.data.labels import LabelLog
from tests.support.review_session import Scans, make_scans, serve_review

IMAGES = 300
SECONDS = 120


class Page(NamedTuple):
    """A running review."""

    process: subprocess.Popen[str]
    address: str
    scans: Scans

    @property
    def base(self) -> str:
        """Address without the token."""
        return self.address.split("/?")[0]

    @property
    def token(self) -> str:
        """Token of the review."""
        return parse_qs(urlsplit(self.address).query)["token"][0]

    def ask(self, path: str, **body: str) -> requests.Response:
        """Send a request as the page does: POST if there is a body, else GET."""
        headers = {"X-Digits-Token": self.token}
        if body:
            return requests.post(self.base + path, json=body, headers=headers, timeout=SECONDS)
        return requests.get(self.base + path, headers=headers, timeout=SECONDS)

    def images(self) -> list[dict[str, Any]]:
        """Return the first images of the queue."""
        found: list[dict[str, Any]] = self.ask("/api/images?start=0&count=100").json()
        return found


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """Return a table to review."""
    return make_scans(tmp_path_factory.mktemp("place"), IMAGES)


@pytest.fixture(scope="module")
def page(scans: Scans) -> Iterator[Page]:
    """Yield a running review of the table."""
    with serve_review(scans, "--sample", "20") as (process, address):
        yield Page(process, address, scans)


def answer_id(number: int) -> str:
    """Return the ID of an answer."""
    return f"{number:032x}"


ROUTES = ["/", "/api/review", "/api/images?start=0&count=1", "/api/images/0", "/docs", "/nothing", "//"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("token", [None, "", "x", "\u00e9"])
def test_every_route_refuses_requests_without_a_valid_token(page: Page, route: str, token: str | None) -> None:
    headers = {} if token is None else {"X-Digits-Token": token.encode().decode("latin-1")}
    assert requests.get(page.base + route, headers=headers, timeout=SECONDS).status_code == 403
    joined = f"{page.base}{route}{'&' if '?' in route else '?'}token={token}"
    assert requests.get(joined, timeout=SECONDS).status_code == 403


def test_a_form_on_another_site_cannot_send_an_answer(page: Page) -> None:
    """A form cannot set the header, and the token in the query is not enough."""
    event = {"id": answer_id(1), "sha256": page.images()[0]["sha256"], "label": "3"}
    for address in (f"{page.base}/api/answers", f"{page.base}/api/answers?token={page.token}"):
        assert requests.post(address, json=event, timeout=SECONDS).status_code == 403
    assert LabelLog(page.scans.root / "labels").answers() == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1]"])
def test_requests_for_another_host_name_are_refused(page: Page, host: str) -> None:
    """This prevents DNS rebinding."""
    found = requests.get(page.address, headers={"Host": host}, timeout=SECONDS)
    assert found.status_code == 400
    assert "script" not in found.text


def test_the_server_listens_only_on_the_loopback_address(page: Page) -> None:
    port = urlsplit(page.address).port
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    assert [address for address, number in places if int(number, 16) == port] == ["0100007F"]
    assert not [line for line in Path("/proc/net/tcp6").read_text().splitlines() if f":{port:04X} " in line]


def test_the_page_loads_nothing_from_elsewhere(page: Page) -> None:
    """Its policy allows its own script and style by their hashes."""
    found = requests.get(page.address, timeout=SECONDS)
    assert found.status_code == 200
    policy = found.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert "frame-ancestors 'none'" in policy
    assert found.headers["Referrer-Policy"] == "no-referrer"
    assert found.headers["Cache-Control"] == "no-store"
    assert not re.findall(r"(?:src|href)=\"(?!data:,)|https?://|@import|url\(", found.text)
    assert page.token not in found.text


def test_every_response_has_the_security_headers(page: Page) -> None:
    for found in (page.ask("/api/review"), requests.get(page.base, timeout=SECONDS), page.ask("/nothing")):
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in found.headers
        assert "default-src 'none'" in found.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/../pyproject.toml", "/review.html"])
def test_documentation_and_files_are_not_served(page: Page, path: str) -> None:
    assert page.ask(path).status_code == 404


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/api/images/100000", 404),
        ("/api/images/-1", 404),
        ("/api/images/x", 422),
        ("/api/images?start=-1&count=1", 422),
        ("/api/images?start=0&count=101", 422),
    ],
)
def test_invalid_and_missing_positions_are_refused(page: Page, path: str, status: int) -> None:
    assert page.ask(path).status_code == status


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"id": "x", "label": "3"}, 422),
        ({"id": answer_id(2), "label": "3", "more": "x"}, 422),
        ({"id": answer_id(2), "label": "x" * 17}, 422),
        ({"id": answer_id(2), "sha256": "0" * 64, "label": "3"}, 409),
    ],
)
def test_an_invalid_answer_is_not_saved(page: Page, event: dict[str, str], status: int) -> None:
    assert page.ask("/api/answers", **event).status_code == status
    assert LabelLog(page.scans.root / "labels").answers() == []


@pytest.mark.parametrize("sent_in", ["one piece", "chunks"])
def test_a_body_of_more_than_a_mebibyte_is_refused(page: Page, sent_in: str) -> None:
    """Whether or not the request states the length in advance. A smaller body is read."""

    def send(size: int) -> int:
        pieces = [b"x" * 2**16] * (size // 2**16) + [b"x" * (size % 2**16)]
        headers = {"X-Digits-Token": page.token, "Content-Type": "application/json"}
        body = iter(pieces) if sent_in == "chunks" else b"".join(pieces)
        return requests.post(f"{page.base}/api/answers", data=body, headers=headers, timeout=SECONDS).status_code

    assert (send(2**20 - 1), send(2**20 + 1), send(2**22)) == (422, 413, 413)


def test_a_review_survives_repeats_undo_changed_files_and_a_kill(page: Page) -> None:
    images = page.images()
    for number, image in enumerate(images[:6]):
        progress = page.ask("/api/answers", id=answer_id(number), sha256=image["sha256"], label="3").json()
    again = page.ask("/api/answers", id=answer_id(5), sha256=images[5]["sha256"], label="3").json()
    assert again == progress
    assert sum(progress["done"].values()) == 6
    assert progress["confident"]["judged"] == sum(image["stratum"] == "sample" for image in images[:6])
    after = page.ask("/api/answers", id=answer_id(99), undoes=answer_id(5)).json()
    assert sum(after["done"].values()) == 5

    path = page.scans.table.parent / "scans" / images[6]["path"]
    whole = path.read_bytes()
    path.write_bytes(whole + b"changed")
    assert page.ask("/api/images/6").json() == {"fault": "the file has changed since it was predicted"}
    refused = page.ask("/api/answers", id=answer_id(7), sha256=images[6]["sha256"], label="3")
    assert refused.status_code == 409
    assert refused.json() == {"error": "the file has changed since it was predicted"}
    path.write_bytes(whole)

    page.process.send_signal(signal.SIGKILL)
    page.process.wait()
    with serve_review(page.scans, "--sample", "20") as (process, address):
        later = Page(process, address, page.scans)
        found = later.ask("/api/review").json()
        assert found["first"] == 5
        assert [one["place"] for one in found["history"]] == [0, 1, 2, 3, 4]
        assert later.images()[:5] == [{**image, "label": "3"} for image in images[:5]]
        assert later.token != page.token
        assert requests.get(f"{later.base}/?token={page.token}", timeout=SECONDS).status_code == 403


def test_ctrl_c_prints_a_summary_and_exits_with_0(scans: Scans) -> None:
    with serve_review(scans, "--sample", "20") as (process, _):
        process.send_signal(signal.SIGINT)
        output, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "scans.csv reviewed" in output
    assert re.search(r"sample +\d+ of 20", output)
    assert "Traceback" not in errors


def test_a_port_in_use_is_an_error_with_a_remedy(scans: Scans) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = run_command("review", str(scans.table), "--port", str(other.getsockname()[1]), root=scans.root)
    assert found.returncode == 2
    assert "is unavailable (Address already in use); choose another --port" in found.stderr


def run_command(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run `digits` with an artifact root."""
    digits = str(Path(sys.executable).with_name("digits"))
    environment = {**os.environ, "DIGITS_ARTIFACTS": str(root)}
    return subprocess.run([digits, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_a_spreadsheet_is_exported_filled_in_and_imported(tmp_path: Path) -> None:
    """An invalid label is an error, and nothing is imported then."""
    scans = make_scans(tmp_path, 100)
    sheet = tmp_path / "sheet.csv"
    done = run_command("review", str(scans.table), "--export", str(sheet), root=scans.root)
    assert done.returncode == 0, done.stderr
    header, *lines = sheet.read_text().splitlines()
    labels = [scans.truth[line[:64]] for line in lines]
    sheet.write_text("\n".join([header, *(f"{line}{label}.0" for line, label in zip(lines, labels, strict=True))]))
    done = run_command("review", str(scans.table), "--import", str(sheet), "--json", root=scans.root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["done"] == found["total"]
    assert found["table"]["population"] == found["table"]["judged"] == 100
    assert found["table"]["low"] == found["table"]["share"] == found["table"]["high"]
    assert (
        f"0 labels imported from {sheet}; {len(lines)} were imported or given before"
        in run_command("review", str(scans.table), "--import", str(sheet), root=scans.root).stdout
    )
    sheet.write_text(sheet.read_text().replace(".0", ".5", 1))
    done = run_command("review", str(scans.table), "--import", str(sheet), root=scans.root)
    assert done.returncode == 2
    assert "nothing was imported: row 2: " in done.stderr
    done = run_command("review", str(scans.table), "--import", str(sheet), "--export", str(sheet), root=scans.root)
    assert (done.returncode, done.stderr) == (2, "digits: --export and --import cannot be combined; choose one\n")
