"""Tests of the installed packages: they work together, are audited for vulnerabilities, and can be locked again."""

import json
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tools import audit
from tools.locked import FORMATS_LOCK, LOCK, LockedDistribution, read_lock

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parents[2]
VULNERABLE = "pillow"
ADVISORY = {
    "id": "PYSEC-0000-1",
    "summary": "reads what it should not",
    "affected": [
        {
            "package": {"name": VULNERABLE, "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "99.1"}]}],
        }
    ],
}


def test_the_application_of_the_prefect_server_can_be_made(tmp_path: Path) -> None:
    """With some versions of fastapi, `import prefect` works but no server starts."""
    program = "from prefect.server.api.server import create_app; print(len(create_app().routes) > 0)"
    environment = {"PATH": "", "HOME": str(tmp_path), "PREFECT_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout == "True\n", done.stderr


class Database(ThreadingHTTPServer):
    """Database of vulnerabilities that answers like OSV, about one distribution per request.

    Args:
        known: advisories about `VULNERABLE`.
        asleep: whether the database never answers.
    """

    def __init__(self, known: list[Any], *, asleep: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), RequestHandler)
        self.known, self.asleep = known, asleep
        self.asked: set[tuple[str, str]] = set()
        self.end = threading.Event()

    @property
    def option(self) -> str:
        """Option that makes pip-audit use this database."""
        return f"--osv-url=http://127.0.0.1:{self.server_port}/v1/query"


class RequestHandler(BaseHTTPRequestHandler):
    """Handler of the database's requests."""

    server: Database

    def do_POST(self) -> None:
        """Answer with the advisories about a version."""
        if self.server.asleep:
            self.server.end.wait()
            return
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        name = query["package"]["name"]
        self.server.asked.add((name, query["version"]))
        body = json.dumps({"vulns": self.server.known} if name == VULNERABLE and self.server.known else {}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@contextmanager
def database(*known: Any, asleep: bool = False) -> Iterator[Database]:
    """Run a database while the block runs."""
    with Database(list(known), asleep=asleep) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield made
        made.end.set()
        made.shutdown()
        thread.join()


def test_a_vulnerable_distribution_fails_the_audit_with_its_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    with database(ADVISORY) as made:
        assert audit.main([made.option]) == 1
    (line,) = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"pillow \S+: PYSEC-0000-1, fixed in 99\.1: reads what it should not", line)


def test_an_ignored_advisory_does_not_fail_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    """Use the option of pip-audit."""
    with database(ADVISORY) as made:
        assert audit.main([made.option, "--ignore-vuln", "PYSEC-0000-1"]) == 0
    assert "no known vulnerability" in capsys.readouterr().out


def test_every_installed_locked_version_is_audited(capsys: pytest.CaptureFixture[str]) -> None:
    with database() as made:
        assert audit.main([made.option]) == 0
        locked = [*read_lock(), *read_lock(FORMATS_LOCK)]
        assert made.asked == {(each.name, each.version) for each in locked if each.here}
    assert (
        capsys.readouterr().out
        == f"{len(made.asked)} of {len(made.asked)} locked distributions audited, no known vulnerability\n"
    )


def test_an_unreachable_database_is_reported_and_does_not_fail_the_audit(capsys: pytest.CaptureFixture[str]) -> None:
    with database(asleep=True) as asleep:
        assert audit.main([asleep.option, "--timeout", "1"]) == 0
    assert audit.main([asleep.option]) == 0
    for line in capsys.readouterr().out.splitlines():
        assert line.startswith("not audited, because the vulnerability database could not be queried: ")


def test_the_time_of_the_audit_is_limited(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The timeout of a single request is longer here."""
    monkeypatch.setattr(audit, "TIMEOUT", 2)
    with database(asleep=True) as asleep:
        assert audit.main([asleep.option, "--timeout", "60"]) == 0
    assert capsys.readouterr().out.endswith("could not be queried: no result within 2 s\n")


def test_an_unreadable_lock_fails_the_audit(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(audit, "LOCK", tmp_path / "lock")
    (tmp_path / "lock").write_text("pillow==13.0.0\n")
    assert audit.main([]) == 1
    assert "hash" in capsys.readouterr().out


def test_make_lock_changes_no_version_and_removes_no_hash(tmp_path: Path) -> None:
    """Hashes of files published since may be added."""
    again = Path(shutil.copy(LOCK, tmp_path))
    done = subprocess.run(["make", "lock", f"LOCK={again}"], cwd=HERE, capture_output=True, text=True, check=False)
    if "error sending request" in done.stderr:
        pytest.skip("no package index can be asked")
    assert done.returncode == 0, done.stderr
    found, ours = by_version(again), by_version(LOCK)
    assert found.keys() == ours.keys()
    assert all(each.hashes <= found[key].hashes for key, each in ours.items())


def by_version(path: Path) -> dict[tuple[str, str], LockedDistribution]:
    """Return the distributions of a lock by name and version."""
    return {(each.name, each.version): each for each in read_lock(path)}
