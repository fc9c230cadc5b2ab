"""A running system: `digits up` in a process, a real server and a real worker."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from digits.cli.status import NEEDS_ATTENTION
from digits.server.password import read_password
from digits.settings import root_name
from tests.support.server import ask_api, unmeasured

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
TIMEOUT = 300
BUSY_RETRIES = 20


@dataclass(frozen=True)
class RunningSystem:
    """A system that `digits up` has started.

    Args:
        root: artifact root.
        state: directory of the system's state.
        home: home directory of the user.
        port: port of the server.
        secrets: further environment variables.
        project: directory in which the commands run; None for that of the tests.
        command: program `digits`; None for that of the tests' environment.
    """

    root: Path
    state: Path
    home: Path
    port: int
    secrets: tuple[tuple[str, str], ...] = ()
    project: Path | None = None
    command: Path | None = None

    @property
    def url(self) -> str:
        """Address of the UI."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """Environment of the commands, without the Prefect and Digits settings of whoever runs the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DIGITS_"))}
        places = {"HOME": str(self.home), "DIGITS_ARTIFACTS": str(self.root), "DIGITS_STATE": str(self.state)}
        return {**kept, **places, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **dict(self.secrets)}

    def digits(self, *arguments: str, code: int | tuple[int, ...] = 0, **more: str) -> Any:
        """Run a command, check its exit code, and return its JSON output, or its text output if that is not JSON."""
        command = [str(self.command or Path(sys.executable).with_name("digits")), *arguments]
        done = subprocess.run(
            command,
            env={**self.environment, **more},
            cwd=self.project,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode in (code if isinstance(code, tuple) else (code,)), done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout + done.stderr

    def up(self, **more: str) -> dict[str, str]:
        """Start the system and return the command's report."""
        return dict(self.digits("up", "--port", str(self.port), "--json", code=0, **more))

    def down(self) -> dict[str, str]:
        """Stop the system and return the command's report."""
        return dict(self.digits("down", "--json"))

    def status(self) -> dict[str, Any]:
        """Return the system's status."""
        return dict(self.digits("status", "--json", code=(0, NEEDS_ATTENTION)))

    def ask(self, path: str, body: Any = None, *, method: str | None = None) -> Any:
        """Send a request to the API and return the answer."""
        return ask_api(f"{self.url}/api{path}", body, method=method, password=self.password)

    @property
    def password(self) -> tuple[str, str] | None:
        """User name and password of the API, if it has one."""
        given = dict(self.secrets).get("PREFECT_SERVER_API_AUTH_STRING") or read_password(self.state)
        name, _, word = (given or "").partition(":")
        return (name, word) if word else None

    @property
    def client(self) -> dict[str, str]:
        """Environment variables with which Prefect's own commands and clients use the server."""
        return {"PREFECT_API_URL": f"{self.url}/api", "PREFECT_API_AUTH_STRING": ":".join(self.password or ())}

    def run(self, deployment: str, **parameters: Any) -> str:
        """Start a run of a deployment and return its ID."""
        found = self.ask(f"/deployments/name/{deployment}")
        wanted = {"parameters": parameters, "idempotency_key": str(uuid4())}
        made = self.ask(f"/deployments/{found['id']}/create_flow_run", wanted)
        return str(made["id"])

    def state_of(self, run: str) -> dict[str, Any]:
        """Return the state of a run."""
        return dict(self.ask(f"/flow_runs/{run}")["state"])

    def wait_for_end(self, run: str, *kinds: str) -> dict[str, Any]:
        """Wait for the end of a run, check the type of its state, and return the state."""
        wait_for(lambda: self.state_of(run)["type"] in ENDED, f"the end of {run}")
        state = self.state_of(run)
        assert state["type"] in (kinds or ("COMPLETED",)), state
        return state

    def complete(self, deployment: str, **parameters: Any) -> dict[str, Any]:
        """Run a deployment, again while its slot is taken, and return the state of the completed run."""
        return self.end_of(deployment, "COMPLETED", **parameters)

    def end_of(self, deployment: str, kind: str, **parameters: Any) -> dict[str, Any]:
        """Run a deployment, again while its slot is taken; check the type of the run's last state and return it.

        Schedules and automations start runs of the same deployment at any time.
        """
        state: dict[str, Any] = {"type": "CANCELLED"}
        for _ in range(BUSY_RETRIES):
            if state["type"] != "CANCELLED":
                break
            state = self.wait_for_end(self.run(deployment, **parameters), kind, "CANCELLED")
        assert state["type"] == kind, state
        return state

    def postpone(self, deployment: str) -> None:
        """Move the schedule of a deployment to half a day from now, so that no scheduled run disturbs the tests."""
        found, later = self.ask(f"/deployments/name/{deployment}"), datetime.now(UTC) + timedelta(hours=12)
        cron = {"cron": f"{later.minute} {later.hour} * * *", "timezone": "Etc/UTC"}
        for schedule in found["schedules"]:
            path = f"/deployments/{found['id']}/schedules/{schedule['id']}"
            self.ask(path, {"schedule": cron}, method="PATCH")

    def wait_until_running(self, run: str) -> int:
        """Wait until a run has started, and return the ID of its process."""
        label = wait_for(lambda: self.ask(f"/flow_runs/{run}")["labels"].get("digits.process"), f"the start of {run}")
        assert self.state_of(run)["type"] == "RUNNING"
        return int(label.rpartition(":")[2])

    def process(self, name: str) -> int:
        """Return the process ID of the server or the worker."""
        return int(json.loads((self.state / f"{name}.lock").read_text())["pid"])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Return the events with a name, newest first."""
        found = self.ask("/events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})
        return list(found["events"])

    def log(self, run: str) -> list[str]:
        """Return the lines that Digits has written to the log of an ended run; wait until the last ones have arrived.

        Prefect sends lines in batches.
        """
        wanted = {"logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": 20}}, "limit": 200, "sort": "TIMESTAMP_ASC"}

        def lines() -> list[dict[str, str]]:
            return list(self.ask("/logs/filter", wanted))

        def has_ended(line: dict[str, str]) -> bool:
            return line["name"] == "prefect.flow_runs" and line["message"].startswith("Finished in state")

        wait_for(lambda: any(map(has_ended, lines())), "the log")
        return [line["message"] for line in lines() if line["name"].startswith("digits")]

    def artifact(self, kind: str) -> dict[str, Any]:
        """Return the newest Prefect artifact of a kind that this system's artifact root has published."""
        key = f"{kind}-{root_name(self.root, environment={})}"
        chosen = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
        return dict(self.ask("/artifacts/filter", chosen)[0])


@contextmanager
def started(system: RunningSystem) -> Iterator[RunningSystem]:
    """Start a system, without coverage of its processes, and stop it in the end."""
    try:
        with unmeasured():
            system.up()
        yield system
    finally:
        system.down()


def wait_for(condition: Callable[[], Any], what: str, seconds: float = TIMEOUT) -> Any:
    """Wait until a condition returns a true value, and return that value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found
