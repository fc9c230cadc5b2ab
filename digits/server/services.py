"""Services: the processes of a local Prefect system, a server and a worker.

    <state>/server.lock, worker.lock   locked by the process; the kernel releases the lock when the process ends.
                                       The content is the process number and the address of the API
    <state>/server.log, worker.log     output of the process; see `digits.server.logs` for former logs
    <state>/password                   password of the server; see `digits.server.password`
    <state>/prefect/                   Prefect home, with the database if it is SQLite
    <state>/ui/                        files of the UI, which Prefect copies there
    <state>/deployed                   digest of the last deployment; see `digits.server.deployments`

Only the user who created the state directory can read it.
"""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from digits.errors import OperationsError, os_errors_as
from digits.maintenance.processes import descendants, is_running, is_stopped, processes_with
from digits.server.api import (
    Access,
    check_access,
    hide_secrets,
    is_open_to_all,
)
from digits.server.password import ensure_password, password_file, private_files, read_password
from digits.server.prefect_settings import configured_api, configured_key, configured_password, prefect_setting
from digits.server.server_settings import server_environment
from digits.store.artifacts import create_root
from digits.store.files import locked

POOL = "digits"
STATE_VARIABLE = "DIGITS_STATE"
MAX_RUNS = 4
"""Number of runs that a worker executes at the same time; others wait."""
ORIGIN_VARIABLES = ("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", "PREFECT_SERVER_API_CORS_ALLOWED_ORIGINS")
"""Both names of the setting with the addresses of the pages that may use the server; Prefect prefers the second."""
START_SECONDS, STOP_SECONDS = 120, 20
LOCK_SECONDS = 5
"""Seconds to wait for a lock that `digits status` may hold for an instant."""
ANSWER_SECONDS = 15
"""Longest time for one answer of a server that is needed. A server on a busy machine takes several seconds."""
COMMAND_SECONDS = 300
"""Time limit of a `prefect` command."""
_POLL_SECONDS = 0.2
_LOG_LINES = 8
_ERROR = re.compile(r"[\w.]*(Error|Exception)\b")


def state_directory(option: Path | None, root: Path, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the state directory of the system: the option, then `DIGITS_STATE`, then `system/` under the root."""
    chosen = option or environment.get(STATE_VARIABLE)
    return Path(chosen).expanduser().absolute() if chosen else root / "system"


class ServiceRecord(NamedTuple):
    """Process number of a service, and the address of the Prefect API that it belongs to."""

    pid: int
    api: str


@dataclass(frozen=True)
class Service:
    """Process that `digits up` starts.

    Args:
        state: state directory.
        name: name of the service, `server` or `worker`.
    """

    state: Path
    name: str

    @property
    def log(self) -> Path:
        """File with the output of the process."""
        return self.state / f"{self.name}.log"

    @property
    def lock(self) -> Path:
        """File that the process keeps locked while it runs."""
        return self.state / f"{self.name}.lock"

    def record(self) -> ServiceRecord | None:
        """Return the record of the process; None if it does not run, is just being started, or was not recorded."""
        if not self.is_locked():
            return None
        try:
            return ServiceRecord(**json.loads(self.lock.read_text("utf-8")))
        except (ValueError, TypeError):
            return None

    def is_locked(self) -> bool:
        """Check whether a process holds the lock, recorded or not."""
        try:
            with locked(self.lock, wait=False, shared=True, flags=os.O_RDONLY) as lock:
                return not lock.held
        except (FileNotFoundError, NotADirectoryError):
            return False

    def unrecorded_error(self) -> OperationsError:
        """Return the error that describes a process which holds the lock and is not recorded."""
        return OperationsError(
            f"a {self.name} is running that is not recorded in {self.lock}{_named(processes_with(self.lock))}; "
            "end it with `digits down`"
        )

    def start(
        self, command: list[str], environment: Mapping[str, str], *, directory: Path, api: str
    ) -> "subprocess.Popen[bytes]":
        """Start the process in its own session, and pass it the locked file. A process that is not recorded is killed.

        Args:
            command: program and arguments.
            environment: environment variables of the process.
            directory: working directory of the process.
            api: address of the Prefect API, for the record.

        Raises:
            OperationsError: if another process holds the lock.
            OSError: if the process cannot be started, or its record cannot be written.
        """
        with locked(self.lock, wait=LOCK_SECONDS) as lock, self.log.open("ab") as log:
            if not lock.held:
                raise self.unrecorded_error()
            os.ftruncate(lock.descriptor, 0)
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
            try:
                _write_durably(lock.descriptor, json.dumps(ServiceRecord(process.pid, api)._asdict()).encode())
            except BaseException:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                raise
        return process

    def stop(self) -> bool:
        """Stop the process and all processes that it started; return whether it was running.

        Prefect's worker sometimes misses a SIGTERM while it starts a run, and each run has its own session. Therefore
        processes that still run after `STOP_SECONDS` are killed one by one. A process that is not recorded is found by
        its open lock file.

        Raises:
            OperationsError: if the process does not end.
            OSError: if it belongs to another user.
        """
        if not self.is_locked():
            return False
        record = self.record()
        found = [record.pid] if record else processes_with(self.lock)
        for process in found:
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(process), signal.SIGTERM)
                os.killpg(os.getpgid(process), signal.SIGCONT)  # a stopped process does not receive SIGTERM
        if wait_until(lambda: not self.is_locked(), STOP_SECONDS):
            return True
        found += [*processes_with(self.lock), *(child for process in found for child in descendants(process))]
        for process in found:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        if wait_until(lambda: not self.is_locked() and not any(map(is_running, found)), STOP_SECONDS):
            return True
        raise OperationsError(f"the {self.name}{_named(found)} does not end; see {self.log}, then kill it")

    def log_size(self) -> int:
        """Return the size of the log in bytes; 0 if there is none."""
        return self.log.stat().st_size if self.log.exists() else 0

    def last_words(self, since: int) -> str:
        """Return why the process ended, in one line: the last error in its log after a number of bytes."""
        written = self.log.read_bytes()[since:].decode("utf-8", "replace")
        return f"{last_error(written)}; see {self.log}"


def last_error(output: str) -> str:
    """Return the last line of a program's output that names an error, else the last line."""
    stripped = (line.strip() for line in output.splitlines())
    lines = [line for line in stripped if line and not line.startswith("object ")]  # from a Python that cannot write
    errors = [line for line in lines if _ERROR.match(line)]
    return (errors or lines or ["it wrote no reason, as on a full disk"])[-1]


def _named(processes: Sequence[int]) -> str:
    """Return processes for a message, in parentheses; empty if there are none."""
    return f" (process {', '.join(map(str, sorted(set(processes))))})" if processes else ""


def _write_durably(descriptor: int, content: bytes) -> None:
    """Write to the start of an open file and sync it; raise an `OSError` if the disk is too full."""
    if os.pwrite(descriptor, content, 0) < len(content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(descriptor)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until a condition holds, for at most `seconds`; return whether it holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)
    return True


@dataclass(frozen=True)
class System:
    """Local Prefect system: a server, a worker, and their state directory.

    Args:
        state: state directory.
        root: artifact root that the worker's runs use.
    """

    state: Path
    root: Path

    @property
    def server(self) -> Service:
        """Prefect server that `digits up` starts if none is configured."""
        return Service(self.state, "server")

    @property
    def worker(self) -> Service:
        """Prefect worker that `digits up` starts."""
        return Service(self.state, "worker")

    def api(self) -> tuple[str | None, bool]:
        """Return the address of the Prefect API, and whether `digits up` started its server.

        A server that `digits up` started takes precedence over the configured API. The address is None if there is
        neither.
        """
        record = self.server.record()
        return (record.api, True) if record else (configured_api(), False)

    def environment(self, api: str) -> dict[str, str]:
        """Return the environment variables of a process that uses a Prefect API, with its password."""
        record = self.server.record()
        return client_environment(api, password=read_password(self.state) if record and record.api == api else None)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock of the state directory, and create the directory if it is missing.

        Raises:
            OperationsError: if another process holds the lock, or a file of the directory cannot be read or written.
        """
        turn, remedy = self.state / "turn.lock", "check the free space and the permissions, then repeat the command"
        with os_errors_as(OperationsError, self.state, "the state directory cannot be used", remedy):
            create_root(self.root)
            self.state.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.state.chmod(0o700)
            with locked(turn, wait=False) as lock:
                if not lock.held:
                    users = _named(processes_with(turn))
                    raise OperationsError(
                        f"another `digits up` or `digits down`{users} is using {self.state}; wait for it"
                    )
                yield


def client_environment(
    api: str, environment: Mapping[str, str] = os.environ, password: str | None = None
) -> dict[str, str]:
    """Return the environment variables of a process that uses a Prefect API.

    Args:
        api: address of the API.
        environment: environment variables of this process.
        password: password of the API; None for the configured one.
    """
    found = {
        "PREFECT_API_AUTH_STRING": password or configured_password(environment),
        "PREFECT_API_KEY": None if password else configured_key(environment),
    }
    return {**environment, "PREFECT_API_URL": api, **{name: value for name, value in found.items() if value}}


def ensure_server(system: System, port: int, project: Path) -> tuple[str, bool]:
    """Find the Prefect server or start one, and wait until it answers.

    Args:
        system: system that the server belongs to.
        port: port of a server that is started.
        project: working directory of a server that is started.

    Returns:
        The address of the API, and whether `digits up` started its server.

    Raises:
        OperationsError: if the server does not answer or requires another password, or its port is in use.
    """
    api, ours = system.api()
    if api is None:
        api, ours = _start_server(system, port, project), True
    wait_until(
        lambda: check_access(api) is not Access.ABSENT or not _can_still_answer(system), START_SECONDS if ours else 0
    )
    require_access(system, api)
    if ours and is_open_to_all(api):
        raise OperationsError(
            f"the Prefect server at {hide_secrets(api)} requires no password, because an earlier version started it; "
            "run `digits down`, then `digits up`"
        )
    return api, ours


def _can_still_answer(system: System) -> bool:
    """Check that the server which `digits up` started is running, and is not stopped by a signal."""
    record = system.server.record()
    return record is not None and not is_stopped(record.pid)


def require_access(system: System, api: str) -> None:
    """Check that a Prefect API answers and accepts the configured password.

    Raises:
        OperationsError: if it does not.
    """
    record = system.server.record()
    stopped = record is not None and record.api == api and is_stopped(record.pid)
    found = Access.ABSENT if stopped else check_access(api, system.environment(api), seconds=ANSWER_SECONDS)
    if found is Access.ABSENT:
        raise OperationsError(f"the Prefect server at {hide_secrets(api)} does not answer; {_remedy(system, api)}")
    if found is Access.DENIED:
        raise OperationsError(
            f"the Prefect server at {hide_secrets(api)} requires another password: set PREFECT_API_AUTH_STRING to the "
            "value that PREFECT_SERVER_API_AUTH_STRING had when the server was started"
        )


def _remedy(system: System, api: str) -> str:
    """Return what you can do about a server that does not answer."""
    record = system.server.record()
    if record is None or record.api != api:
        return "start it, or unset PREFECT_API_URL to use a server of your own"
    if is_stopped(record.pid):
        return f"its process {record.pid} is stopped: continue it with `kill -CONT {record.pid}`, or run `digits down`"
    return f"see {system.server.log}, or run `digits down`"


def _start_server(system: System, port: int, project: Path) -> str:
    if system.server.is_locked():  # its port is in use, too
        raise system.server.unrecorded_error()
    host = "127.0.0.1"
    api = f"http://{host}:{port}/api"
    _require_free(host, port, api)
    environment = {
        **server_environment(os.environ),
        "PREFECT_HOME": str(system.state / "prefect"),
        "PREFECT_API_URL": api,
        "PREFECT_SERVER_API_HOST": host,
        "PREFECT_SERVER_API_PORT": str(port),
        "PREFECT_SERVER_API_AUTH_STRING": _server_password(system),
        **dict.fromkeys(ORIGIN_VARIABLES, ",".join(f"http://{name}:{port}" for name in (host, "localhost"))),
        # By default Prefect copies the files of its UI into its own package, where other users cannot write.
        "PREFECT_UI_STATIC_DIRECTORY": str(system.state / "ui"),
    }
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", host, "--port", str(port)]
    before = system.server.log_size()
    with private_files():
        process = system.server.start(command, environment, directory=project, api=api)
    wait_until(lambda: process.poll() is not None or check_access(api) is not Access.ABSENT, START_SECONDS)
    if process.poll() is not None:
        raise OperationsError(f"the Prefect server did not start: {system.server.last_words(before)}")
    return api


def _server_password(system: System) -> str:
    """Return the password of a server to be started: the configured one, which is not written, else a random one."""
    if given := prefect_setting("server", "api", "auth_string"):
        password_file(system.state).unlink(missing_ok=True)
        return given
    return ensure_password(system.state)


def _require_free(host: str, port: int, api: str) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise OperationsError(_port_problem(port, api, error)) from error


def _port_problem(port: int, api: str, error: OSError) -> str:
    if check_access(api) is not Access.ABSENT:
        return (
            f"port {port} is in use by a Prefect server that `digits up` did not start: set PREFECT_API_URL={api} to "
            "use it, or choose another --port"
        )
    return f"port {port} is unavailable ({error.strerror}): choose another --port"


def run_prefect(arguments: list[str], api: str, project: Path) -> None:
    """Run a `prefect` command in the project.

    Raises:
        OperationsError: if it fails; the message contains the end of its output.
    """
    command, name = [sys.executable, "-m", "prefect", *arguments], f"`prefect {' '.join(arguments)}`"
    try:
        done = subprocess.run(
            command,
            env=client_environment(api),
            cwd=project,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=COMMAND_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise OperationsError(
            f"{name} did not end within {COMMAND_SECONDS} s; check that the server at {hide_secrets(api)} works"
        ) from error
    if done.returncode:
        raise OperationsError(f"{name} failed: {_summarize(done.stdout + done.stderr)}")


def _summarize(output: str) -> str:
    """Return the error of a command that failed with a traceback, else the last lines of its output."""
    return last_error(output) if "Traceback" in output else "\n".join(output.strip().splitlines()[-_LOG_LINES:])


def ensure_worker(system: System, api: str, project: Path) -> bool:
    """Find the worker of a Prefect API, or start one; return whether it was started.

    Raises:
        OperationsError: if the worker ends at once, or a worker of another API is running.
    """
    record = system.worker.record()
    if record and record.api == api:
        return False
    if record:
        raise OperationsError(
            f"the running worker belongs to {hide_secrets(record.api)}, not to {hide_secrets(api)}; run `digits down` "
            "first"
        )
    environment = {
        **_without_server_settings(system.environment(api)),
        "PREFECT_HOME": str(system.state / "prefect"),
        "DIGITS_ARTIFACTS": str(system.root),
        STATE_VARIABLE: str(system.state),
        "PREFECT_WORKER_QUERY_SECONDS": os.environ.get("PREFECT_WORKER_QUERY_SECONDS", "2"),
    }
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", POOL, "--type", "process"]
    limit = ["--limit", str(MAX_RUNS), "--name", worker_name()]
    before = system.worker.log_size()
    process = system.worker.start([*command, *limit], environment, directory=project, api=api)
    wait_until(lambda: process.poll() is not None or online_workers() > 0, START_SECONDS)
    if process.poll() is not None:
        raise OperationsError(f"the worker did not start: {system.worker.last_words(before)}")
    return True


def _without_server_settings(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment without the server's settings, so that no run can read its database and password."""
    return {name: value for name, value in environment.items() if not name.startswith("PREFECT_SERVER_")}


def worker_name() -> str:
    """Return the name with which the worker of this machine registers at a server."""
    return f"digits-{socket.gethostname()}"


def online_workers() -> int:
    """Return the number of workers of the pool that are online."""
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        return sum(
            worker.status is not None and worker.status.value == "ONLINE"
            for worker in client.read_workers_for_work_pool(POOL)
        )
