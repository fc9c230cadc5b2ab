"""Tests that nobody can use a server that `digits up` started without its password: no page, user, name or socket."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from digits.server.api import ui_answers
from digits.server.password import password_file, read_password
from tests.support.browser import chromium, is_available, wait_for_text
from tests.support.canaries import contents_below
from tests.support.running_system import RunningSystem, started
from tests.support.server import free_port

STOLEN = "stolen by a page"
UNAUTHORIZED = '{"exception_message":"Unauthorized"}'
OPEN_PATHS = {"/health", "/ready"}
TIMEOUT = 120
"""Seconds to wait for an answer of a server on a busy machine."""
BODY_TYPES = ("application/json", "text/plain", None)
needs_browser = pytest.mark.skipif(not is_available(), reason="Chromium and its driver are not installed")

ATTACK = """
<title>A page</title><body>waiting<script>
const api = new URLSearchParams(location.search).get("api");
// A body without a type is sent without a content type, which needs no permission of the server (no preflight).
const forms = {json: {"Content-Type": "application/json"}, text: {"Content-Type": "text/plain"}, none: null};
async function send(form, path, body) {
  const text = JSON.stringify(body);
  const options = {method: "POST", headers: forms[form] || {}, body: form == "none" ? new Blob([text]) : text};
  return (await fetch(api + path, options)).json();
}
async function attack(form) {
  const flow = await send(form, "/flows/", {name: "NAME"});
  const steps = [{"prefect.deployments.steps.run_shell_script": {script: "touch OWNED"}}];
  const deployment = await send(form, "/deployments/",
    {name: "NAME", flow_id: flow.id, work_pool_name: "digits", pull_steps: steps, entrypoint: "x.py:x"});
  const run = await send(form, `/deployments/${deployment.id}/create_flow_run`, {});
  return run.id || JSON.stringify([flow, deployment, run]);
}
async function listen() {
  const socket = new WebSocket(api.replace("http", "ws") + "/events/out", "prefect");
  return new Promise(done => {
    socket.onopen = () => socket.send(JSON.stringify({type: "auth", token: ""}));
    socket.onmessage = message => done("received " + message.data);
    socket.onclose = () => done("closed");
  });
}
(async () => {
  const found = {};
  for (const form in forms) found[form] = await attack(form).catch(error => "refused: " + error);
  found.blind = await fetch(api + "/flows/", {method: "POST", mode: "no-cors", body: '{"name": "NAME"}'})
    .then(answer => answer.type);
  found.socket = await listen();
  document.body.innerText = JSON.stringify(found);
})();
</script>
"""


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Start a system with a random password and no model; yield it."""
    home = tmp_path_factory.mktemp("home")
    with started(RunningSystem(home / "artifacts", home / "state", home, free_port())) as running:
        yield running


@pytest.fixture
def page(tmp_path: Path) -> Iterator[str]:
    """Serve a page that attacks a Prefect server from another origin; yield its address."""
    (tmp_path / "index.html").write_text(ATTACK.replace("NAME", STOLEN).replace("OWNED", str(tmp_path / "owned")))
    handler = partial(_QuietHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def attacking_page(page: str, api: str, profile: Path) -> Iterator[dict[str, str]]:
    """Open the page in Chromium; yield what its requests to an API returned."""
    with chromium(profile) as browser:
        browser.get(f"{page}?api={api}")
        wait_for_text(browser, "}")
        yield json.loads(browser.find_element(By.TAG_NAME, "body").text)


@pytest.mark.browser
@needs_browser
def test_a_page_of_another_origin_can_neither_read_nor_write(system: RunningSystem, page: str, tmp_path: Path) -> None:
    """The three requests with which a page could run a command by the worker, in each form that a page can send."""
    with attacking_page(page, f"{system.url}/api", tmp_path / "profile") as found:
        assert all(found[form].startswith("refused: TypeError") for form in ("json", "text", "none")), found
        assert (found["blind"], found["socket"]) == ("opaque", "closed")
    for kind in ("flows", "deployments", "flow_runs"):
        assert STOLEN not in {one["name"] for one in system.ask(f"/{kind}/filter", {})}
    assert not (tmp_path / "owned").exists()


@pytest.mark.browser
@pytest.mark.slow
@needs_browser
def test_the_page_takes_over_a_server_without_a_password(server: str, page: str, tmp_path: Path) -> None:
    """Show that the attack works where nothing prevents it."""
    pool = {"name": "digits", "type": "process"}
    assert requests.post(f"{server}/work_pools/", json=pool, timeout=TIMEOUT).status_code in (201, 409)
    with attacking_page(page, server, tmp_path / "profile") as found:
        assert len(found["none"]) == len("00000000-0000-0000-0000-000000000000"), found
        assert "auth_success" in found["socket"]


@pytest.mark.browser
@needs_browser
def test_a_name_that_resolves_to_loopback_has_the_ui_but_no_access(system: RunningSystem, tmp_path: Path) -> None:
    """A page of such a name has the origin of the server. The browser keeps the password for another origin."""
    with chromium(tmp_path / "profile", "host-resolver-rules=MAP evil.example 127.0.0.1") as browser:
        log_in_by_hand(browser, system)
        browser.get(f"http://evil.example:{system.port}/")
        wait_for_text(browser, "Login")
        asked = "return fetch('/api/flows/filter', {method: 'POST', body: '{}'}).then(answer => answer.status)"
        assert browser.execute_script(asked) == requests.codes.unauthorized
        assert browser.execute_script("return localStorage.getItem('prefect-password')") is None


@pytest.mark.browser
@needs_browser
def test_the_ui_asks_for_the_password_once_and_remembers_it(system: RunningSystem, tmp_path: Path) -> None:
    with chromium(tmp_path / "profile") as browser:
        log_in_by_hand(browser, system)
    with chromium(tmp_path / "profile") as browser:
        browser.get(f"{system.url}/v2/deployments")
        wait_for_text(browser, "nightly")


def log_in_by_hand(browser: Any, system: RunningSystem) -> None:
    """Type the password into the UI, as its user does."""
    browser.get(system.url)
    wait_for_text(browser, "Login")
    browser.find_element(By.TAG_NAME, "input").send_keys(password_file(system.state).read_text(), Keys.ENTER)
    WebDriverWait(browser, TIMEOUT).until(lambda it: "/login" not in it.current_url)


def api_routes() -> list[tuple[str, str]]:
    """Return the methods and paths of Prefect's API, with any values for the parameters; hidden ones included."""
    from prefect.server.api.server import API_ROUTERS, create_api_app

    described = create_api_app().openapi()["paths"]
    routes = {(method.upper(), path) for path, methods in described.items() for method in methods}
    for router in API_ROUTERS:
        for route in router.routes:
            routes |= {(method, route.path) for method in getattr(route, "methods", ())}
    assert len(routes) > 150
    return sorted((method, path.replace("{", "").replace("}", "")) for method, path in routes)


def socket_paths() -> list[str]:
    """Return the paths of the websockets of Prefect's API."""
    from fastapi.routing import APIWebSocketRoute
    from prefect.server.api.server import API_ROUTERS

    found = [route.path for router in API_ROUTERS for route in router.routes if isinstance(route, APIWebSocketRoute)]
    assert {"/events/in", "/events/out", "/logs/out"} <= set(found)
    return [path.replace("{", "").replace("}", "") for path in found]


@pytest.mark.parametrize("host", [None, "evil.example", "localhost:1/api/health?"])
def test_no_route_of_the_api_answers_without_the_password(system: RunningSystem, host: str | None) -> None:
    """Whatever the method, the content type and the name of the host."""
    with requests.Session() as session:
        session.headers.update({"Host": host} if host else {})
        for method, path in api_routes():
            for kind in BODY_TYPES if method in ("POST", "PUT", "PATCH") else BODY_TYPES[:1]:
                headers = {"Content-Type": kind} if kind else {}
                found = session.request(method, f"{system.url}/api{path}", data=b"{}", headers=headers, timeout=TIMEOUT)
                expected = 200 if path in OPEN_PATHS and method == "GET" else 401
                assert found.status_code == expected, (method, path, kind, found.status_code)


def test_other_credentials_are_refused(system: RunningSystem) -> None:
    name, word = system.password or ("", "")
    for auth in ((name, ""), ("", word), (name, word[:-1]), (word, name), (name, f"{word}x")):
        found = requests.get(f"{system.url}/api/admin/version", auth=auth, timeout=TIMEOUT)
        assert found.status_code == requests.codes.unauthorized
    for header in ("Basic", "Basic ", f"Bearer {word}", f"Basic {word}", "Basic \xff", "x y z"):
        headers = {"Authorization": header.encode("latin-1")}
        found = requests.get(f"{system.url}/api/admin/version", headers=headers, timeout=TIMEOUT)
        assert found.status_code == requests.codes.unauthorized, header
    assert system.ask("/admin/version")


def test_outside_the_api_only_public_files_are_served(system: RunningSystem) -> None:
    """The UI, and the description of the API, which are the same on every server."""
    paths = ("/", "/v2/", "/ui-settings", "/openapi.json", "/docs", "/flows/filter", "/metrics", "//api/flows/count")
    found = {path: requests.get(f"{system.url}{path}", timeout=TIMEOUT).status_code for path in paths}
    assert [path for path, code in found.items() if code != requests.codes.ok] == list(paths[5:])
    assert ui_answers(system.url)


def test_no_socket_answers_without_the_password(system: RunningSystem) -> None:
    """Neither without a token, nor with another one, nor in the older protocol without tokens."""
    for path in socket_paths():
        address = f"ws://127.0.0.1:{system.port}/api{path}"
        with pytest.raises(InvalidStatus), connect(address, open_timeout=TIMEOUT):
            pass
        for message in ({"type": "auth"}, {"type": "auth", "token": "digits:x"}, {"type": "filter", "filter": {}}):
            with connect(address, subprotocols=["prefect"], open_timeout=TIMEOUT) as socket:
                socket.send(json.dumps(message))
                with pytest.raises(ConnectionClosed):
                    socket.recv(timeout=TIMEOUT)
    with connect(
        f"ws://127.0.0.1:{system.port}/api/events/out", subprotocols=["prefect"], open_timeout=TIMEOUT
    ) as socket:
        socket.send(json.dumps({"type": "auth", "token": read_password(system.state)}))
        assert json.loads(socket.recv(timeout=TIMEOUT)) == {"type": "auth_success"}


def test_only_pages_of_the_server_itself_may_read_answers(system: RunningSystem) -> None:
    own = {f"http://127.0.0.1:{system.port}", f"http://localhost:{system.port}"}
    others = {
        "http://127.0.0.1:1",
        "http://localhost",
        f"https://localhost:{system.port}",
        "http://evil.example",
        "null",
    }
    for origin in own | others:
        headers = {"Origin": origin, "Access-Control-Request-Method": "POST"}
        found = requests.options(f"{system.url}/api/flows/", headers=headers, timeout=TIMEOUT).headers
        assert (found.get("Access-Control-Allow-Origin") == origin) == (origin in own)
        assert found.get("Access-Control-Allow-Origin") != "*"


def test_another_user_finds_the_password_nowhere(system: RunningSystem) -> None:
    """Neither in the file, nor in the list of processes or their environment, nor by asking the server."""
    if os.getuid() != 0 or not shutil.which("curl"):
        pytest.skip("only root can become another user, which uses curl")
    for directory in (system.home, *system.home.parents[:2]):
        directory.chmod(0o755)
    file = password_file(system.state)
    secret = (read_password(system.state) or "").partition(":")[2]
    assert len(secret) > 40

    def run_as_nobody(*command: str) -> tuple[int, str]:
        done = subprocess.run(
            command, user="nobody", group="nogroup", extra_groups=[], capture_output=True, check=False
        )
        return done.returncode, (done.stdout + done.stderr).decode(errors="replace")

    assert "Permission denied" in run_as_nobody("cat", str(file))[1]
    every = "ps -eww -o args; cat /proc/[0-9]*/environ"
    listed = run_as_nobody("sh", "-c", every)[1]
    assert f"--port {system.port}" in listed
    assert secret not in listed
    assert run_as_nobody("curl", "-s", "-d", "{}", f"{system.url}/api/flows/filter")[1] == UNAUTHORIZED


def test_up_says_where_the_password_is_and_no_output_or_file_contains_it(system: RunningSystem) -> None:
    """The line that `up` prints sets the variables of Prefect's commands. Another `up` keeps the password."""
    secret = (read_password(system.state) or "").partition(":")[2]
    found = system.up()
    assert secret not in json.dumps(found)

    def run_line(line: str) -> str:
        command = ["/bin/sh", "-c", line]
        return subprocess.run(command, env=system.environment, check=True, capture_output=True, text=True).stdout

    assert run_line(found["password of the ui (asked once)"]) == f"{read_password(system.state)}\n"
    prefect = Path(sys.executable).with_name("prefect")
    assert "process" in run_line(f"{found['to use the server elsewhere']}; '{prefect}' work-pool inspect digits")
    holders = [path for path, content in contents_below(system.home) if secret.encode() in content]
    assert holders == [password_file(system.state)]
    assert secret not in json.dumps(system.status())
