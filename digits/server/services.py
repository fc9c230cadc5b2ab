"""A running system at one machine: a Prefect server and a worker, started, found, described and stopped.

    <state>/server.lock, worker.lock   held by the process itself for as long as it lives, so that the kernel tells
                                       whether it does; with its number and address in it
    <state>/server.log, worker.log     what it says
    <state>/prefect/                   its Prefect home: the database, if it is SQLite
    <state>/deployed                   what was deployed last, so that nothing is deployed twice

Nobody but its owner can read the directory.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from digits.errors import OperationsError
from digits.maintenance.processes import descendants, is_running
from digits.server.api import Access, access, configured_api, password, shown
from digits.store.files import locked

POOL = "digits"
STATE_VARIABLE = "DIGITS_STATE"
MOST_RUNS = 4
"""At once on one worker; others wait."""
_START_SECONDS, _STOP_SECONDS = 120, 20
_POLL_SECONDS = 0.2
_LOG_LINES = 8


def state_directory(option: Path | None, root: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Say where the state of the system is: the option, then `DIGITS_STATE`, then `system/` of the artifact root."""
    chosen = option or environment.get(STATE_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else root / "system"


@dataclass(frozen=True)
class Service:
    """A process that `up` starts, by its name in the state directory."""

    state: Path
    name: str

    @property
    def log(self) -> Path:
        """The file with what it says."""
        return self.state / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        """The file that it holds locked while it lives."""
        return self.state / f"{self.name}.lock"

    def record(self) -> dict[str, Any] | None:
        """Give what was written of the process, if it lives."""
        try:
            with locked(self.lock, wait=False, shared=True, flags=os.O_RDONLY) as lock:
                if lock.held:
                    return None
        except FileNotFoundError:
            return None
        written = self.lock.read_text("utf-8")
        return dict(json.loads(written)) if written else None  # it is just being started

    def start(
        self, command: list[str], environment: Mapping[str, str], directory: Path, **about: object
    ) -> "subprocess.Popen[bytes]":
        """Start the process in a session of its own, and pass it the lock.

        Args:
            command: program and arguments.
            environment: environment variables of the process.
            directory: working directory of the process.
            about: JSON values to record beside its process number.
        """
        with locked(self.lock, flags=os.O_RDWR | os.O_CREAT | os.O_TRUNC) as lock, self.log.open("ab") as log:
            process = subprocess.Popen(
                command,
                env=dict(environment),
                cwd=directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[lock.descriptor],
            )
            os.write(lock.descriptor, json.dumps({"pid": process.pid, **about}).encode())
        return process

    def stop(self) -> bool:
        """End it and what it started, kindly first; tell whether it was there.

        Prefect's worker now and then loses the signal while it starts a run, and a run has a session of its own: what
        is not asked kindly is ended one by one.
        """
        record = self.record()
        if record is None:
            return False
        with suppress(ProcessLookupError):
            os.killpg(record["pid"], signal.SIGTERM)
        if wait_until(lambda: self.record() is None, _STOP_SECONDS):
            return True
        processes = [record["pid"], *descendants(record["pid"])]
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if wait_until(lambda: self.record() is None and not any(map(is_running, processes)), _STOP_SECONDS):
            return True
        raise OperationsError(f"the {self.name} (process {record['pid']}) does not end; see {self.log}")

    def last_words(self) -> str:
        """Give the end of its log, for an error message."""
        lines = self.log.read_text("utf-8", "replace").splitlines()
        return "\n".join([f"{self.log} ends:", *lines[-_LOG_LINES:]])


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something is so, at most so long; tell whether it is."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@dataclass(frozen=True)
class System:
    """A server and a worker, and where their state is.

    Args:
        state: the directory.
        root: of the artifacts that the worker's runs use.
    """

    state: Path
    root: Path

    @property
    def server(self) -> Service:
        """The Prefect server, if `up` started one."""
        return Service(self.state, "server")

    @property
    def worker(self) -> Service:
        """The worker."""
        return Service(self.state, "worker")

    def api(self) -> tuple[str | None, bool]:
        """Give the address of the Prefect API, and whether the server is ours: ours if it lives, or the configured."""
        record = self.server.record()
        return (record["api"], True) if record else (configured_api(), False)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Be the only `up` or `down` at this state."""
        self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.state.chmod(0o700)
        with locked(self.state / "turn.lock", wait=False) as lock:
            if not lock.held:
                raise OperationsError(f"another `digits up` or `digits down` is using {self.state}; wait for it")
            yield


def client_environment(api: str, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Give the environment of a process that talks to the API."""
    word = password(environment)
    given = {"PREFECT_API_AUTH_STRING": word} if word else {}
    return {**environment, "PREFECT_API_URL": api, **given}


def ensure_server(system: System, port: int, project: Path) -> tuple[str, bool]:
    """Find the server, or start one; give its address and whether it is ours.

    Raises:
        OperationsError: it does not answer, wants another password, or its port is taken.
    """
    api, ours = system.api()
    if api is None:
        api, ours = _start_server(system, port, project), True
    wait_until(lambda: access(api) is not Access.ABSENT, _START_SECONDS if ours else 0)
    require_access(system, api)
    return api, ours


def require_access(system: System, api: str) -> None:
    """See that the API answers and takes our password.

    Raises:
        OperationsError: it does not.
    """
    found = access(api)
    if found is Access.ABSENT:
        ours = system.server.record()
        where = f"see {system.server.log}" if ours else "start it, or unset PREFECT_API_URL to have one of our own"
        raise OperationsError(f"the Prefect server at {shown(api)} does not answer; {where}")
    if found is Access.DENIED:
        raise OperationsError(
            f"the Prefect server at {shown(api)} wants another password: set PREFECT_API_AUTH_STRING to the value that "
            "PREFECT_SERVER_API_AUTH_STRING had when the server was started"
        )


def _start_server(system: System, port: int, project: Path) -> str:
    host = "127.0.0.1"
    api = f"http://{host}:{port}/api"
    _require_free(host, port, api)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(system.state / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        # In memory, which is Prefect's default, the slots of runs that die after a restart would never be given back.
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    kept = os.umask(0o077)
    try:
        process = system.server.start(command, environment, project, api=api)
    finally:
        os.umask(kept)
    wait_until(lambda: process.poll() is not None or access(api) is not Access.ABSENT, _START_SECONDS)
    if process.poll() is not None:
        raise OperationsError(f"the Prefect server did not start; {system.server.last_words()}")
    return api


def _require_free(host: str, port: int, api: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OperationsError(_who_is_there(port, api, error)) from error


def _who_is_there(port: int, api: str, error: OSError) -> str:
    if access(api) is not Access.ABSENT:
        return (
            f"a Prefect server that `digits up` has not started is at port {port}: set PREFECT_API_URL={api} to use "
            "it, or give another --port"
        )
    return f"port {port} can't be used ({error.strerror}): give another --port"


def prefect(arguments: list[str], api: str, project: Path) -> None:
    """Run a command of Prefect's.

    Raises:
        OperationsError: with the end of what it said.
    """
    command = [sys.executable, "-m", "prefect", *arguments]
    done = subprocess.run(
        command,
        env=client_environment(api),
        cwd=project,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-_LOG_LINES:])
        raise OperationsError(f"`prefect {' '.join(arguments)}` failed:\n{said}")


def ensure_worker(system: System, api: str, project: Path) -> bool:
    """Find the worker, or start one for this API; tell whether it was started.

    Raises:
        OperationsError: it ended at once, or another API's worker is running.
    """
    record = system.worker.record()
    if record and record["api"] == api:
        return False
    if record:
        theirs = shown(record["api"])
        raise OperationsError(f"the worker that runs is one of {theirs}, not of {shown(api)}; run `digits down` first")
    environment = {
        **_without_secrets_of_the_server(client_environment(api)),
        "PREFECT_HOME": str(system.state / "prefect"),
        "DIGITS_ARTIFACTS": str(system.root),
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    limit = ["--limit", str(MOST_RUNS), "--name", f"digits-{socket.gethostname()}"]
    process = system.worker.start([*command, *limit], environment, project, api=api)
    wait_until(lambda: process.poll() is not None or online_workers() > 0, _START_SECONDS)
    if process.poll() is not None:
        raise OperationsError(f"the worker did not start; {system.worker.last_words()}")
    return True


def _without_secrets_of_the_server(environment: Mapping[str, str]) -> dict[str, str]:
    """Leave out what a worker, and so each run, has no need of: the server's database and password."""
    return {name: value for name, value in environment.items() if not name.startswith("PREFECT_SERVER_")}


def online_workers() -> int:
    """Count the workers of our pool that have been heard of lately."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return sum(
            worker.status is not None and worker.status.value == "ONLINE"
            for worker in client.read_workers_for_work_pool(POOL)
        )
