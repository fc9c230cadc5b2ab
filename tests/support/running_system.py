"""A running system of our own, as an operator has it: `digits up` in a process, a real server, a real worker."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
PATIENCE = 300
BUSY = 20


@dataclass(frozen=True)
class RunningSystem:
    """What `digits up` has started, and how to talk to it.

    Args:
        root: of its artifacts.
        state: its directory.
        home: of the user.
        port: of its server.
        secrets: more of the environment.
    """

    root: Path
    state: Path
    home: Path
    port: int
    secrets: tuple[tuple[str, str], ...] = ()

    @property
    def url(self) -> str:
        """Where the UI is."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What the commands see: nothing of the Prefect of whoever runs the tests."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DIGITS_"))}
        places = {"HOME": str(self.home), "DIGITS_ARTIFACTS": str(self.root), "DIGITS_STATE": str(self.state)}
        return {**kept, **places, "PREFECT_SERVER_ANALYTICS_ENABLED": "false", **dict(self.secrets)}

    def digits(self, *arguments: str, code: int = 0, **more: str) -> Any:
        """Run a command, see its exit code, and give what it printed as JSON; what it said where that is no JSON."""
        command = [str(Path(sys.executable).with_name("digits")), *arguments]
        done = subprocess.run(
            command, env={**self.environment, **more}, capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == code, done.stdout + done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        try:
            return json.loads(done.stdout)
        except ValueError:
            return done.stdout + done.stderr

    def up(self, **more: str) -> dict[str, str]:
        """Have it running."""
        return dict(self.digits("up", "--port", str(self.port), "--json", code=0, **more))

    def down(self) -> dict[str, str]:
        """Have it stopped."""
        return dict(self.digits("down", "--json"))

    def status(self) -> dict[str, Any]:
        """Ask how it is."""
        return dict(self.digits("status", "--json"))

    def ask(self, path: str, body: Any = None) -> Any:
        """Ask the API."""
        method, data = ("GET", None) if body is None else ("POST", json.dumps(body))
        headers = {"Content-Type": "application/json"}
        for _ in range(BUSY):
            asked = requests.request(
                method, f"{self.url}/api{path}", data=data, headers=headers, auth=self.password, timeout=30
            )
            if asked.status_code != requests.codes.unavailable:  # as Prefect's own clients do
                break
            time.sleep(1)
        asked.raise_for_status()
        return asked.json()

    @property
    def password(self) -> tuple[str, str] | None:
        """What the API asks for, if it does."""
        name, _, word = dict(self.secrets).get("PREFECT_SERVER_API_AUTH_STRING", "").partition(":")
        return (name, word) if word else None

    def run(self, deployment: str, **parameters: Any) -> str:
        """Have a deployment run; give the run's number."""
        found = self.ask(f"/deployments/name/{deployment}")
        made = self.ask(f"/deployments/{found['id']}/create_flow_run", {"parameters": parameters})
        return str(made["id"])

    def state_of(self, run: str) -> dict[str, Any]:
        """Give a run's state."""
        return dict(self.ask(f"/flow_runs/{run}")["state"])

    def ended(self, run: str, *kinds: str) -> dict[str, Any]:
        """Wait for a run's end, which must be of one of these kinds; give its state."""
        wait_for(lambda: self.state_of(run)["type"] in ENDED, f"the end of {run}")
        state = self.state_of(run)
        assert state["type"] in (kinds or ("COMPLETED",)), state
        return state

    def at_work(self, run: str) -> int:
        """Wait until a run is at work and has said which process it is; give that."""
        label = wait_for(lambda: self.ask(f"/flow_runs/{run}")["labels"].get("digits.process"), f"{run} at work")
        assert self.state_of(run)["type"] == "RUNNING"
        return int(label.rpartition(":")[2])

    def process(self, name: str) -> int:
        """Give the process of the server or the worker."""
        return int(json.loads((self.state / f"{name}.lock").read_text())["pid"])

    def events(self, name: str) -> list[dict[str, Any]]:
        """Give the events of a name, newest first."""
        found = self.ask("/events/filter", {"filter": {"event": {"name": [name]}}, "limit": 50})
        return list(found["events"])

    def artifact(self, key: str) -> dict[str, Any]:
        """Give the newest Prefect artifact of a key."""
        chosen = {"artifacts": {"key": {"any_": [key]}}, "sort": "UPDATED_DESC", "limit": 1}
        return dict(self.ask("/artifacts/filter", chosen)[0])


def wait_for(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> Any:
    """Wait until something is so, and give it."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(0.3)
    return found
