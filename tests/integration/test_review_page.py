"""The server of `digits review`, a real process: who may ask it what, and what it keeps."""

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
SECONDS = 20


class Page(NamedTuple):
    """A running review."""

    process: subprocess.Popen[str]
    address: str
    scans: Scans

    @property
    def base(self) -> str:
        """The address without the token."""
        return self.address.split("/?")[0]

    @property
    def token(self) -> str:
        """The token."""
        return parse_qs(urlsplit(self.address).query)["token"][0]

    def ask(self, path: str, **body: str) -> requests.Response:
        """Ask as the page does."""
        headers = {"X-Digits-Token": self.token}
        if body:
            return requests.post(self.base + path, json=body, headers=headers, timeout=SECONDS)
        return requests.get(self.base + path, headers=headers, timeout=SECONDS)

    def images(self) -> list[dict[str, Any]]:
        """Give the first images of the queue."""
        found: list[dict[str, Any]] = self.ask("/api/images?start=0&count=100").json()
        return found


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Scans:
    """A table to review."""
    return make_scans(tmp_path_factory.mktemp("place"), IMAGES)


@pytest.fixture(scope="module")
def page(scans: Scans) -> Iterator[Page]:
    """A review of it."""
    with serve_review(scans, "--sample", "20") as (process, address):
        yield Page(process, address, scans)


def name(number: int) -> str:
    """Give an answer's id."""
    return f"{number:032x}"


ROUTES = ["/", "/api/review", "/api/images?start=0&count=1", "/api/images/0", "/docs", "/nothing", "//"]


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("token", [None, "", "x", "\u00e9"])
def test_without_the_token_nothing_is_told(page: Page, route: str, token: str | None) -> None:
    """Neither in the header nor in the query."""
    headers = {} if token is None else {"X-Digits-Token": token.encode().decode("latin-1")}
    assert requests.get(page.base + route, headers=headers, timeout=SECONDS).status_code == 403
    joined = f"{page.base}{route}{'&' if '?' in route else '?'}token={token}"
    assert requests.get(joined, timeout=SECONDS).status_code == 403


def test_no_other_page_can_answer(page: Page) -> None:
    """What a form of a stranger's can send has no header; nor is the token in the query enough for it."""
    event = {"id": name(1), "sha256": page.images()[0]["sha256"], "label": "3"}
    for address in (f"{page.base}/api/answers", f"{page.base}/api/answers?token={page.token}"):
        assert requests.post(address, json=event, timeout=SECONDS).status_code == 403
    assert LabelLog(page.scans.root / "labels").answers() == []


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "", "[::1]"])
def test_under_a_strange_name_nothing_is_told(page: Page, host: str) -> None:
    """A name that somebody has made point to this machine."""
    found = requests.get(page.address, headers={"Host": host}, timeout=SECONDS)
    assert found.status_code == 400
    assert "script" not in found.text


def test_it_listens_at_this_machine_only(page: Page) -> None:
    """At the loopback address, as the kernel has it."""
    port = urlsplit(page.address).port
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    assert [address for address, number in places if int(number, 16) == port] == ["0100007F"]
    assert not [line for line in Path("/proc/net/tcp6").read_text().splitlines() if f":{port:04X} " in line]


def test_the_page_may_load_nothing(page: Page) -> None:
    """Its policy allows its own script and style by their hashes; it names no other place."""
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


def test_every_answer_has_the_headers(page: Page) -> None:
    """Refusals too."""
    for found in (page.ask("/api/review"), requests.get(page.base, timeout=SECONDS), page.ask("/nothing")):
        assert found.headers["X-Content-Type-Options"] == "nosniff"
        assert "Server" not in found.headers
        assert "default-src 'none'" in found.headers["Content-Security-Policy"]


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json", "/../pyproject.toml", "/review.html"])
def test_there_is_nothing_else(page: Page, path: str) -> None:
    """No documentation, no files."""
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
def test_what_is_not_there_is_refused(page: Page, path: str, status: int) -> None:
    """Before anything is looked for."""
    assert page.ask(path).status_code == status


@pytest.mark.parametrize(
    ("event", "status"),
    [
        ({"id": "x", "label": "3"}, 422),
        ({"id": name(2), "label": "3", "more": "x"}, 422),
        ({"id": name(2), "label": "x" * 17}, 422),
        ({"id": name(2), "sha256": "0" * 64, "label": "3"}, 409),
    ],
)
def test_nonsense_is_not_kept(page: Page, event: dict[str, str], status: int) -> None:
    """Ids, fields and lengths are checked, then the image."""
    assert page.ask("/api/answers", **event).status_code == status
    assert LabelLog(page.scans.root / "labels").answers() == []


def test_a_review_from_its_beginning_to_its_end_and_on(page: Page) -> None:
    """Answers, one sent twice, one taken back, a file that changed, a kill, another day."""
    images = page.images()
    for number, image in enumerate(images[:6]):
        progress = page.ask("/api/answers", id=name(number), sha256=image["sha256"], label="3").json()
    again = page.ask("/api/answers", id=name(5), sha256=images[5]["sha256"], label="3").json()
    assert again == progress
    assert sum(progress["done"].values()) == 6
    assert progress["confident"]["judged"] == sum(image["stratum"] == "sample" for image in images[:6])
    after = page.ask("/api/answers", id=name(99), undoes=name(5)).json()
    assert sum(after["done"].values()) == 5

    path = page.scans.table.parent / "scans" / images[6]["path"]
    whole = path.read_bytes()
    path.write_bytes(whole + b"changed")
    assert page.ask("/api/images/6").json() == {"fault": "the file has changed since it was predicted"}
    refused = page.ask("/api/answers", id=name(7), sha256=images[6]["sha256"], label="3")
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


def test_ctrl_c_ends_it_with_a_summary(scans: Scans) -> None:
    """And the exit code of what went well."""
    with serve_review(scans, "--sample", "20") as (process, _):
        process.send_signal(signal.SIGINT)
        said, errors = process.communicate(timeout=SECONDS)
    assert process.returncode == 0
    assert "scans.csv reviewed" in said
    assert re.search(r"sample +\d+ of 20", said)
    assert "Traceback" not in errors


def test_a_port_that_is_taken_is_an_error(scans: Scans) -> None:
    """With what to do."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        found = command("review", str(scans.table), "--port", str(other.getsockname()[1]), root=scans.root)
    assert found.returncode == 2
    assert "is unavailable (Address already in use); choose another --port" in found.stderr


def command(*arguments: str, root: Path) -> subprocess.CompletedProcess[str]:
    """Run `digits`."""
    digits = str(Path(sys.executable).with_name("digits"))
    environment = {**os.environ, "DIGITS_ARTIFACTS": str(root)}
    return subprocess.run([digits, *arguments], capture_output=True, text=True, check=False, env=environment)


def test_the_same_without_a_browser(tmp_path: Path) -> None:
    """A sheet out, filled in, and in again: what was said is in the summary, or what is wrong with it."""
    scans = make_scans(tmp_path, 100)
    sheet = tmp_path / "sheet.csv"
    done = command("review", str(scans.table), "--export", str(sheet), root=scans.root)
    assert done.returncode == 0, done.stderr
    header, *lines = sheet.read_text().splitlines()
    labels = [scans.truth[line[:64]] for line in lines]
    sheet.write_text("\n".join([header, *(f"{line}{label}.0" for line, label in zip(lines, labels, strict=True))]))
    done = command("review", str(scans.table), "--import", str(sheet), "--json", root=scans.root)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["done"] == found["total"]
    assert found["table"]["population"] == found["table"]["judged"] == 100
    assert found["table"]["low"] == found["table"]["share"] == found["table"]["high"]
    assert (
        f"0 labels imported from {sheet}; {len(lines)} were known before"
        in command("review", str(scans.table), "--import", str(sheet), root=scans.root).stdout
    )
    sheet.write_text(sheet.read_text().replace(".0", ".5", 1))
    done = command("review", str(scans.table), "--import", str(sheet), root=scans.root)
    assert done.returncode == 2
    assert "nothing was imported: row 2: " in done.stderr
    done = command("review", str(scans.table), "--import", str(sheet), "--export", str(sheet), root=scans.root)
    assert (done.returncode, done.stderr) == (2, "digits: --export and --import cannot be combined; choose one\n")
