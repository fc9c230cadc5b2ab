"""Processes of the system, and access to a Prefect API, without a Prefect server."""

import base64
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from digits.cli.system import PASSWORD, TRACKING, describe_access
from digits.errors import OperationsError
from digits.maintenance.processes import descendants, is_running, is_stopped, processes_with
from digits.server import services
from digits.server.api import Access, check_access
from digits.server.password import ensure_password, password_file
from digits.server.services import (
    Service,
    ServiceRecord,
    System,
    client_environment,
    ensure_server,
    last_error,
    state_directory,
    wait_until,
)
from tests.support.faults import no_space
from tests.support.server import api_with


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


def test_a_process_gets_password_and_key_from_the_files_that_prefect_reads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Server and worker have another directory and Prefect home, so they do not read the same files."""
    (tmp_path / "prefect.toml").write_text('[api]\nauth_string = "a:b"\nkey = "c"\n')
    monkeypatch.chdir(tmp_path)
    environment = client_environment("u", {})
    assert (environment["PREFECT_API_AUTH_STRING"], environment["PREFECT_API_KEY"]) == ("a:b", "c")


@contextmanager
def system_with(api: str, place: Path) -> Iterator[System]:
    """Yield a system whose server, according to its record, has an address."""
    system = System(place, place)
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    process = system.server.start(sleep, os.environ, directory=place, api=api)
    yield system
    system.server.stop()
    process.wait()


def test_a_server_of_an_earlier_version_without_a_password_is_refused(tmp_path: Path) -> None:
    remedy = "requires no password, because an earlier version started it; run `digits down`"
    with api_with(200) as api, system_with(api, tmp_path) as system, pytest.raises(OperationsError, match=remedy):
        services.ensure_server(system, 1, tmp_path)


def test_up_says_that_the_ui_does_not_answer_and_prints_no_password(tmp_path: Path) -> None:
    """Without a file, the password is the operator's own."""
    with api_with(404) as api, system_with(api, tmp_path) as system:
        ui = f"does not answer at {api.removesuffix('/api')}; see {system.server.log}"
        assert describe_access(system, api, ours=True) == {"ui": ui, TRACKING: f"export PREFECT_API_URL={api}"}
        password = ensure_password(tmp_path)
        found = describe_access(system, api, ours=True)
        assert found[PASSWORD] == f"cat {password_file(tmp_path)}"
        assert password not in str(found)
        assert PASSWORD not in describe_access(system, "http://else/api", ours=False)


def test_a_service_has_a_record_only_while_it_lives(tmp_path: Path) -> None:
    service = Service(tmp_path, "server")
    assert service.record() is None
    assert not service.stop()
    process = service.start(
        [sys.executable, "-c", "print('hello', flush=True); input()"], {}, directory=tmp_path, api="http://x"
    )
    process.wait()
    assert service.record() is None
    assert service.last_words(0) == f"EOFError: EOF when reading a line; see {service.log}"
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
    assert wait_until(lambda: "began" in service.log.read_text(), 120)
    (started,) = descendants(process.pid)
    assert is_running(started)
    assert service.stop()
    assert not is_running(started)
    assert not is_running(process.pid)
    assert process.wait() == -signal.SIGKILL


SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]


def start(service: Service, command: list[str] = SLEEP) -> "subprocess.Popen[bytes]":
    return service.start(command, {}, directory=service.state, api="http://x")


@pytest.mark.parametrize("name", ["ftruncate", "pwrite", "fsync"])
def test_a_process_that_cannot_be_recorded_is_killed(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk, for instance. The next start succeeds."""
    service, system = Service(tmp_path, "server"), System(tmp_path, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(os, name, lambda *_: no_space())
        with pytest.raises(OperationsError, match="No space left on device"), system.exclusive():
            start(service)
    assert not service.is_locked()
    assert processes_with(service.lock) == []
    process = start(service)
    assert service.record() == ServiceRecord(process.pid, "http://x")
    assert service.stop()
    process.wait()


def test_a_disk_that_is_full_after_half_of_the_record_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, content, at: write(descriptor, content[:5], at))
    with pytest.raises(OSError, match="No space left"):
        start(Service(tmp_path, "server"))
    assert not Service(tmp_path, "server").is_locked()


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid": 1}'])
def test_a_process_that_is_not_recorded_is_named_and_stopped(
    content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does not block the next start; it is found by its open lock file."""
    monkeypatch.setattr(services, "LOCK_SECONDS", 0.1)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    service = Service(tmp_path, "server")
    process = start(service)
    service.lock.write_text(content)
    assert service.record() is None
    with pytest.raises(
        OperationsError, match=rf"not recorded in .*\(process {process.pid}\); end it with `digits down`"
    ):
        start(service)
    with pytest.raises(OperationsError, match=r"not recorded"):
        ensure_server(System(tmp_path, tmp_path), 1, tmp_path)
    assert service.stop()
    assert process.wait() < 0


def test_a_running_process_keeps_its_record_when_another_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "LOCK_SECONDS", 0.1)
    service = Service(tmp_path, "server")
    process = start(service)
    with pytest.raises(OperationsError):
        start(service)
    assert service.record() == ServiceRecord(process.pid, "http://x")
    service.stop()
    process.wait()


def test_a_process_that_a_signal_has_stopped_ends_at_once(tmp_path: Path) -> None:
    service = Service(tmp_path, "server")
    process = start(service)
    process.send_signal(signal.SIGSTOP)
    assert wait_until(lambda: is_stopped(process.pid), 120)
    assert service.stop()
    assert process.wait() == -signal.SIGTERM


def test_a_server_that_does_not_answer_is_described(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its process if a signal has stopped it, which is noticed at once, else by its log."""
    monkeypatch.setattr(services, "START_SECONDS", 0.1)
    system = System(tmp_path, tmp_path)
    process = system.server.start(SLEEP, {}, directory=tmp_path, api="http://127.0.0.1:9/api")
    with pytest.raises(OperationsError, match=r"does not answer; see .*server\.log, or run `digits down`"):
        ensure_server(system, 9, tmp_path)
    monkeypatch.setattr(services, "START_SECONDS", 600)
    process.send_signal(signal.SIGSTOP)
    with pytest.raises(OperationsError, match=f"its process {process.pid} is stopped: continue it with"):
        ensure_server(system, 9, tmp_path)
    assert system.server.stop()
    process.wait()


def test_the_reason_in_a_log_is_its_last_error() -> None:
    for unwritten in ("", "object refcount : 2\nobject type name: OSError\n"):
        assert last_error(unwritten).startswith("it wrote no reason")
    assert last_error("one\ntwo\n\n") == "two"
    log = "Traceback (most recent call last):\n  File\nOSError: [Errno 28] No space left\nApplication startup failed.\n"
    assert last_error(log) == "OSError: [Errno 28] No space left"


def test_the_reason_is_not_that_of_an_earlier_start(tmp_path: Path) -> None:
    service = Service(tmp_path, "server")
    start(service, [sys.executable, "-c", "raise ValueError('first')"]).wait()
    before = service.log_size()
    start(service, [sys.executable, "-c", "print('second')"]).wait()
    assert service.last_words(before).startswith("second; see")
    assert "first" in service.last_words(0)


@pytest.mark.parametrize("place", ["/proc/nope", "/proc/self/status/state", "/dev/null/state"])
def test_a_state_directory_that_cannot_be_made_is_an_error(place: str, tmp_path: Path) -> None:
    system = System(Path(place), tmp_path)
    with pytest.raises(OperationsError, match=f"^{place}: the state directory cannot be used"), system.exclusive():
        pass
    assert system.server.record() is None


def test_another_command_that_uses_the_state_is_named(tmp_path: Path) -> None:
    (tmp_path / "turn.lock").touch()
    code = "import fcntl, sys; file = open(sys.argv[1]); fcntl.flock(file, fcntl.LOCK_EX); print(flush=True); input()"
    command = [sys.executable, "-c", code, str(tmp_path / "turn.lock")]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert holder.stdout
    holder.stdout.readline()
    with pytest.raises(OperationsError, match=rf"\(process {holder.pid}\)"), System(tmp_path, tmp_path).exclusive():
        pass
    holder.communicate()


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

    def answer(request: BaseHTTPRequestHandler) -> int:
        wanted = "Basic " + base64.b64encode(b"me:secret").decode()
        return 200 if request.path.endswith("/health") or request.headers.get("Authorization") == wanted else 401

    with api_with(answer) as url:
        assert check_access(url, {}) is Access.DENIED
        assert check_access(url, {"PREFECT_API_AUTH_STRING": "me:wrong"}) is Access.DENIED
        assert check_access(url, {"PREFECT_API_AUTH_STRING": "me:secret"}) is Access.OPEN
        assert check_access(url, {"PREFECT_SERVER_API_AUTH_STRING": "me:secret"}) is Access.OPEN
        assert check_access(f"{url}/accounts/1/workspaces/2", {}) is Access.OPEN
