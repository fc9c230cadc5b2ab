"""A Prefect server with a new database, for the duration of a measurement."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import MappingProxyType
from typing import Any

import requests

from digits.server.api import answers

TIMEOUT = 120
"""Maximum seconds for the start of a server, which first creates its database."""
ANSWER_TIMEOUT = 60
"""Seconds after which a request is sent again."""


@contextmanager
def prefect_server(home: Path, settings: Mapping[str, str] = MappingProxyType({})) -> Iterator[dict[str, str]]:
    """Start a server with settings on a free port; yield the environment for programs that use it."""
    port = free_port()
    environment = {**untracked(home), **settings, "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    command = [sys.executable, "-W", "ignore", "-m", "prefect", "server", "start", "--port", str(port), "--no-ui"]
    home.mkdir(parents=True, exist_ok=True)
    with (home / "server.log").open("wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        _wait(server, environment["PREFECT_API_URL"], home / "server.log")
        yield environment
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()


def untracked(home: Path) -> dict[str, str]:
    """Return this process's environment without Prefect's variables, so that commands find no server."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return {**kept, "PREFECT_HOME": str(home), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


@contextmanager
def unmeasured() -> Iterator[None]:
    """Measure no branch coverage of the processes that the block starts: it slows servers and TensorFlow down."""
    config = os.environ.pop("COVERAGE_PROCESS_CONFIG", None)
    try:
        yield
    finally:
        if config is not None:
            os.environ["COVERAGE_PROCESS_CONFIG"] = config


@contextmanager
def api_with(answer: int | Callable[[BaseHTTPRequestHandler], int]) -> Iterator[str]:
    """Serve an API that answers each request with a status, or with the one that a function returns; yield its address.

    Args:
        answer: status, or function of a request.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(answer if isinstance(answer, int) else answer(self))
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/api"
        server.shutdown()
        thread.join()


def ask_api(
    address: str, body: Any = None, *, method: str | None = None, password: tuple[str, str] | None = None
) -> Any:
    """Send a request to a server's API and return the answer.

    Send it again while the server is unavailable or does not answer, as Prefect's own clients do.
    """
    method = method or ("GET" if body is None else "POST")
    deadline = time.monotonic() + 5 * ANSWER_TIMEOUT
    while True:
        with suppress(requests.ReadTimeout):
            answer = requests.request(method, address, json=body, auth=password, timeout=ANSWER_TIMEOUT)
            if answer.status_code != requests.codes.unavailable:
                answer.raise_for_status()
                return answer.json() if answer.content else None
        assert time.monotonic() < deadline, f"{method} {address} is not answered"
        time.sleep(1)


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as made:
        made.bind(("127.0.0.1", 0))
        port: int = made.getsockname()[1]
        return port


def _wait(server: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + TIMEOUT
    while not answers(url, seconds=1):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the Prefect server did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.2)
