"""Processes of the system, and access to a Prefect API, without a Prefect server."""

import base64
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from digits.errors import OperationsError
from digits.maintenance.processes import descendants, is_running
from digits.server import services
from digits.server.api import Access, check_access
from digits.server.services import Service, ServiceRecord, System, client_environment, state_directory, wait_until


def test_the_state_directory_is_the_option_then_the_variable_then_below_the_artifacts(tmp_path: Path) -> None:
    root, other = tmp_path / "a", tmp_path / "b"
    assert state_directory(other, root, {"DIGITS_STATE": "/c"}) == other
    assert state_directory(None, root, {"DIGITS_STATE": "/c"}) == Path("/c")
    assert state_directory(None, root, {}) == root / "system"


def test_the_password_of_the_server_is_the_client_s_unless_the_client_has_another() -> None:
    assert "PREFECT_API_AUTH_STRING" not in client_environment("u", {})
    assert client_environment("u", {"PREFECT_SERVER_API_AUTH_STRING": "a:b"}) == {
        "PREFECT_SERVER_API_AUTH_STRING": "a:b",
        "PREFECT_API_AUTH_STRING": "a:b",
        "PREFECT_API_URL": "u",
    }
    both = {"PREFECT_SERVER_API_AUTH_STRING": "a:b", "PREFECT_API_AUTH_STRING": "c:d"}
    assert client_environment("u", both)["PREFECT_API_AUTH_STRING"] == "c:d"


def test_a_service_has_a_record_only_while_it_lives(tmp_path: Path) -> None:
    service = Service(tmp_path, "server")
    assert service.record() is None
    assert not service.stop()
    process = service.start(
        [sys.executable, "-c", "print('hello', flush=True); input()"], {}, directory=tmp_path, api="http://x"
    )
    process.wait()
    assert service.record() is None
    assert "hello" in service.log_tail()
    process = service.start(
        [sys.executable, "-c", "import time; time.sleep(60)"], {}, directory=tmp_path, api="http://x"
    )
    assert service.record() == ServiceRecord(process.pid, "http://x")
    assert service.stop()
    assert process.wait() < 0
    assert service.record() is None


def test_a_process_that_ignores_sigterm_is_killed_with_its_descendants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those in sessions of their own, in which Prefect's worker starts runs."""
    monkeypatch.setattr(services, "STOP_SECONDS", 2)
    deaf = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child = f"{deaf}print('began', flush=True); time.sleep(60)"
    command = f"{deaf}subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); time.sleep(60)"
    service = Service(tmp_path, "worker")
    process = service.start([sys.executable, "-c", command], {}, directory=tmp_path, api="http://x")
    assert wait_until(lambda: "began" in service.log.read_text(), 20)
    (started,) = descendants(process.pid)
    assert is_running(started)
    assert service.stop()
    assert not is_running(started)
    assert not is_running(process.pid)
    assert process.wait() == -signal.SIGKILL


def test_a_second_up_at_the_same_state_is_refused(tmp_path: Path) -> None:
    """Only the owner can read the directory."""
    system = System(tmp_path / "state", tmp_path)
    with system.exclusive(), pytest.raises(OperationsError, match="wait for it"), system.exclusive():
        pass
    assert system.state.stat().st_mode & 0o777 == 0o700


def test_waiting_ends_when_the_condition_holds_or_the_time_is_over() -> None:
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.01)


def test_access_is_absent_without_a_server_or_for_an_invalid_address() -> None:
    assert check_access("http://127.0.0.1:9/api", {}) is Access.ABSENT
    assert check_access("not an address", {}) is Access.ABSENT


def test_access_to_a_server_with_a_password_depends_on_the_configured_one() -> None:
    """Prefect Cloud, which uses keys, only has to answer."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = "Basic " + base64.b64encode(b"me:secret").decode()
            health = self.path.endswith("/health")
            self.send_response(200 if health or self.headers.get("Authorization") == wanted else 401)
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}/api"
        assert check_access(url, {}) is Access.DENIED
        assert check_access(url, {"PREFECT_API_AUTH_STRING": "me:wrong"}) is Access.DENIED
        assert check_access(url, {"PREFECT_API_AUTH_STRING": "me:secret"}) is Access.OPEN
        assert check_access(url, {"PREFECT_SERVER_API_AUTH_STRING": "me:secret"}) is Access.OPEN
        assert check_access(f"{url}/accounts/1/workspaces/2", {}) is Access.OPEN
        server.shutdown()
        thread.join()


def test_systemd_accepts_the_units(tmp_path: Path) -> None:
    here = Path(__file__).resolve().parents[3]
    units = []
    for path in sorted((here / "deploy").glob("*.service")):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/digits/.venv/bin/prefect", "/bin/true"))
        units.append(unit)
    assert len(units) == 2
    try:
        verified = subprocess.run(
            ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("systemd-analyze is not installed (Debian: systemd)")
    assert (verified.returncode, verified.stderr) == (0, "")
