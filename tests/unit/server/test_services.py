"""What decides in the running system, without a server."""

import base64
import signal
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from digits.errors import OperationsError, RegistryError
from digits.maintenance.processes import descendants, is_running
from digits.server import services
from digits.server.api import Access, access
from digits.server.attention import Findings, Run, attention
from digits.server.services import Service, System, client_environment, state_directory, wait_until
from digits.store.registry import ModelFacts, ModelVersion

CHAMPION = ModelVersion(3, {}, "", ModelFacts(datasets=("mnist",), accuracy=0.99))
WELL = Findings(Access.OPEN, "http://x/api", workers=1, champion=CHAMPION)


def test_the_state_is_where_the_user_says(tmp_path: Path) -> None:
    """The option, then the variable, then below the artifacts."""
    root, other = tmp_path / "a", tmp_path / "b"
    assert state_directory(other, root, {"DIGITS_STATE": "/c"}) == other
    assert state_directory(None, root, {"DIGITS_STATE": "/c"}) == Path("/c")
    assert state_directory(None, root, {}) == root / "system"


def test_a_server_s_own_password_is_the_client_s_too() -> None:
    """Unless another one is given."""
    assert "PREFECT_API_AUTH_STRING" not in client_environment("u", {})
    assert client_environment("u", {"PREFECT_SERVER_API_AUTH_STRING": "a:b"}) == {
        "PREFECT_SERVER_API_AUTH_STRING": "a:b",
        "PREFECT_API_AUTH_STRING": "a:b",
        "PREFECT_API_URL": "u",
    }
    both = {"PREFECT_SERVER_API_AUTH_STRING": "a:b", "PREFECT_API_AUTH_STRING": "c:d"}
    assert client_environment("u", both)["PREFECT_API_AUTH_STRING"] == "c:d"


def test_nothing_needs_a_person_when_all_is_well() -> None:
    """No sentence."""
    assert attention(WELL) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": 0}, "no worker is online"),
        ({"missing": ["train/nightly"]}, "not deployed: train/nightly"),
        ({"bad": [Run("r", "train/nightly", "Failed", "", "the disk is full")]}, "Failed: the disk is full"),
        ({"late": 2}, "2 runs are late"),
        ({"unscheduled": ["train/nightly"]}, "train/nightly has a schedule, but no run ahead"),
        ({"gone": ["train x"]}, "train x claims to run"),
        ({"champion": None}, "there is no champion"),
        ({"champion": RegistryError("damaged")}, "damaged"),
        ({"free": 10**9}, "only 1.0 GB are free"),
        ({"access": None, "api": None}, "`digits up` starts one"),
        ({"access": Access.ABSENT}, "does not answer"),
        ({"access": Access.DENIED}, "PREFECT_API_AUTH_STRING"),
    ],
)
def test_what_needs_a_person_is_a_sentence(change: dict[str, object], words: str) -> None:
    """One thing, one sentence, with what to do."""
    (sentence,) = attention(Findings(**{**vars(WELL), **change}))  # type: ignore[arg-type]
    assert words in sentence


def test_a_service_is_known_by_its_lock(tmp_path: Path) -> None:
    """While it lives; killed, there is none, whoever has its number then."""
    service = Service(tmp_path, "server")
    assert service.record() is None
    assert not service.stop()
    process = service.start([sys.executable, "-c", "print('hello', flush=True); input()"], {}, tmp_path, api="http://x")
    process.wait()
    assert service.record() is None
    assert "hello" in service.last_words()
    process = service.start([sys.executable, "-c", "import time; time.sleep(60)"], {}, tmp_path, api="http://x")
    assert service.record() == {"pid": process.pid, "api": "http://x"}
    assert service.stop()
    assert process.wait() < 0
    assert service.record() is None


def test_what_does_not_listen_is_ended_with_all_that_it_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sessions of their own included: so Prefect's worker starts runs."""
    monkeypatch.setattr(services, "_STOP_SECONDS", 2)
    deaf = "import signal, subprocess, sys, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    child = f"{deaf}print('began', flush=True); time.sleep(60)"
    command = f"{deaf}subprocess.Popen([sys.executable, '-c', {child!r}], start_new_session=True); time.sleep(60)"
    service = Service(tmp_path, "worker")
    process = service.start([sys.executable, "-c", command], {}, tmp_path)
    assert wait_until(lambda: "began" in service.log.read_text(), 20)
    (started,) = descendants(process.pid)
    assert is_running(started)
    assert service.stop()
    assert not is_running(started)
    assert not is_running(process.pid)
    assert process.wait() == -signal.SIGKILL


def test_only_one_up_at_a_time(tmp_path: Path) -> None:
    """The second is told to wait, and the directory is the owner's alone."""
    system = System(tmp_path / "state", tmp_path)
    with system.turn(), pytest.raises(OperationsError, match="wait for it"), system.turn():
        pass
    assert system.state.stat().st_mode & 0o777 == 0o700


def test_waiting_ends(tmp_path: Path) -> None:
    """With the truth, or in time."""
    assert wait_until(lambda: True, 0)
    assert not wait_until(lambda: False, 0.01)


def test_no_server_is_absent() -> None:
    """Also where the address is none."""
    assert access("http://127.0.0.1:9/api", {}) is Access.ABSENT
    assert access("not an address", {}) is Access.ABSENT


def test_a_server_that_wants_a_password() -> None:
    """It is there, and lets in who has it; Prefect Cloud is asked for nothing but an answer."""

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
        assert access(url, {}) is Access.DENIED
        assert access(url, {"PREFECT_API_AUTH_STRING": "me:wrong"}) is Access.DENIED
        assert access(url, {"PREFECT_API_AUTH_STRING": "me:secret"}) is Access.OPEN
        assert access(url, {"PREFECT_SERVER_API_AUTH_STRING": "me:secret"}) is Access.OPEN
        assert access(f"{url}/accounts/1/workspaces/2", {}) is Access.OPEN
        server.shutdown()
        thread.join()


def test_what_is_deployed_on_machines_is_valid(tmp_path: Path) -> None:
    """The units, by systemd itself, with the code where it is here."""
    here = Path(__file__).resolve().parents[3]
    units = []
    for path in sorted((here / "deploy").glob("*.service")):
        unit = tmp_path / path.name
        unit.write_text(path.read_text().replace("/opt/digits/.venv/bin/prefect", "/bin/true"))
        units.append(unit)
    assert len(units) == 2
    try:
        told = subprocess.run(
            ["systemd-analyze", "verify", *units], capture_output=True, text=True, check=False, timeout=60
        )
    except FileNotFoundError:
        pytest.skip("there is no systemd-analyze here (Debian: systemd)")
    assert (told.returncode, told.stderr) == (0, "")
