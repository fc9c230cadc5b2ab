"""Project and flows that a command uses, and what it does where they are missing."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digits.cli import runtime
from digits.errors import OperationsError, UsageError

FLOW = """
from prefect import flow

def add_by_task(a, b):
    from tasks.sums import add
    return add(a, b)

@flow
def total(a: int, b: int) -> int:
    return add_by_task(a, b)
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project with one flow, below a Prefect project of another name; a folder of it is the current one."""
    project = tmp_path / "other" / "mine"
    for folder in ("flows", "tasks", "scans"):
        (project / folder).mkdir(parents=True)
    (tmp_path / "other" / "prefect.yaml").write_text("name: other\n")
    (project / "prefect.yaml").write_text("name: digits\n")
    (project / "flows" / "sums.py").write_text(FLOW)
    (project / "tasks" / "sums.py").write_text("def add(a, b): return a + b\n")
    monkeypatch.chdir(project / "scans")
    return project


def run_python(code: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a directory, without the project of the tests on the import path."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "PYTHONPATH"))}
    command = [sys.executable, "-P", "-c", code]
    return subprocess.run(
        command, cwd=directory, env={**kept, **environment}, capture_output=True, text=True, check=False
    )


def test_a_flow_is_loaded_with_its_project_on_the_import_path(project: Path) -> None:
    """Its functions can import from the project later; the current directory is not searched."""
    (project / "scans" / "tasks.py").write_text("raise RuntimeError('imported from the current directory')\n")
    code = (
        "import sys; from digits.cli.runtime import load_flow; flow = load_flow('flows/sums.py:total');"
        f"print(flow.name, flow.fn(1, 2), sys.path[0] == {str(project)!r}, {str(project / 'scans')!r} in sys.path)"
    )
    done = run_python(code, project / "scans")
    assert done.stdout == "total 3 True False\n", done.stderr


def test_a_missing_flow_is_named(project: Path) -> None:
    with pytest.raises(UsageError, match=f"{project}/flows/sums_of_all.py: there is no such file"):
        runtime.load_flow("flows/sums_of_all.py:total")


@pytest.mark.parametrize("marker", [None, "name: other\n"])
def test_outside_a_project_no_flow_is_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str) -> None:
    """The prefect.yaml of another project does not count."""
    if marker:
        (tmp_path / "prefect.yaml").write_text(marker)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=f"{tmp_path} is not in a Digits project"):
        runtime.load_flow("flows/training.py:train")


def test_without_prefect_no_flow_is_loaded(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prefect", None)  # as if it could not be found
    with pytest.raises(
        OperationsError, match=r"a flow needs prefect, which is not installed: pip install 'digits\[flows\]'"
    ):
        runtime.load_flow("flows/sums.py:total")


@pytest.mark.parametrize("command", ["train", "tune", "demo", "up", "up --dry-run", "deploy"])
def test_commands_that_need_the_project_say_so_in_one_line(tmp_path: Path, command: str) -> None:
    """They say so before they write or start anything."""
    code = f"import sys; sys.argv[1:] = {command.split()!r}; from digits.cli.main import main; main()"
    done = run_python(code, tmp_path)
    assert done.returncode == UsageError.exit_code
    assert done.stderr.startswith(f"digits: {tmp_path} is not in a Digits project")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_an_api_a_run_is_not_tracked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Unless the user requires it."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    assert not runtime.is_tracked(required=False)
    with pytest.raises(OperationsError, match="no Prefect API is configured, and --track requires one"):
        runtime.is_tracked(required=True)


def test_unreadable_settings_of_prefect_are_warned_about_where_prefect_is_not_needed(
    project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("prefect.toml").write_text("a = " + "[" * 5000)
    assert not runtime.is_tracked(required=False)
    assert "prefect.toml: not a readable TOML file: its values are nested too deeply" in capsys.readouterr().err
    for needed in (lambda: runtime.is_tracked(required=True), runtime.begin_flow, runtime.prepare_prefect):
        with pytest.raises(UsageError, match=r"prefect\.toml"):
            needed()


def test_a_dead_api_is_warned_about(
    monkeypatch: pytest.MonkeyPatch, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    assert not runtime.is_tracked(required=False)
    with pytest.raises(OperationsError, match="does not answer; start the server"):
        runtime.begin_flow()


def prepared(directory: Path, **variables: str) -> dict[str, str]:
    """Return the environment of a process after `prepare_prefect`."""
    code = "import json, os; from digits.cli.runtime import prepare_prefect; prepare_prefect(); "
    places = {"PYTHONPATH": str(Path(__file__).resolve().parents[3]), "PREFECT_HOME": str(directory)}
    done = run_python(f"{code}print(json.dumps(dict(os.environ)))", directory, **places, **variables)
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_a_temporary_server_has_a_random_password(tmp_path: Path) -> None:
    """One of your own is kept. Nothing is set where a server is configured."""
    found = [prepared(tmp_path) for _ in range(2)]
    assert all(one["PREFECT_API_AUTH_STRING"] == one["PREFECT_SERVER_API_AUTH_STRING"] for one in found)
    assert len({one["PREFECT_API_AUTH_STRING"] for one in found}) == 2
    assert found[0]["PREFECT_SERVER_CORS_ALLOWED_ORIGINS"] == "http://127.0.0.1"
    own = prepared(tmp_path, PREFECT_SERVER_API_AUTH_STRING="a:b", PREFECT_API_AUTH_STRING="of:another")
    assert own["PREFECT_API_AUTH_STRING"] == own["PREFECT_SERVER_API_AUTH_STRING"] == "a:b"
    configured = prepared(tmp_path, PREFECT_API_URL="http://127.0.0.1:9/api", PREFECT_API_AUTH_STRING="c:d")
    assert configured["PREFECT_API_AUTH_STRING"] == "c:d"
    assert "PREFECT_SERVER_API_AUTH_STRING" not in configured
