"""Tests of a project that `digits init` wrote: from a wheel, with two inboxes, on a real server and worker."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.running_system import RunningSystem, started
from tests.support.server import free_port

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parents[2]
SECOND_INBOX = """
  - name: inbox-of-the-post-office
    entrypoint: flows/prediction.py:predict_inbox
    work_pool: *pool
    pull: *pull
    parameters:
      folder: {folder}
    schedules:
      - cron: "10 6 * * 1-5"
        timezone: Europe/Berlin
"""


def pip(*arguments: str) -> None:
    """Run pip without the import path of the tests, on which it would find the clone."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], check=True, env=kept)


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel, without the clone and with the other packages of this environment; return its command."""
    place = tmp_path_factory.mktemp("installed")
    source = place / "source"
    for name in ("digits", "flows", "tasks", "deploy"):
        shutil.copytree(HERE / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("prefect.yaml", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(HERE / name, source)
    python = place / "venv" / "bin" / "python"
    venv.create(place / "venv", with_pip=False)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source))
    (wheel,) = place.glob("digits-*.whl")
    pip("--python", str(python), "install", "--no-deps", str(wheel))
    shutil.rmtree(source)
    packages = subprocess.run(
        [python, "-I", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True,
        text=True,
        check=True,
    )
    Path(packages.stdout.strip(), "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python.with_name("digits")


@pytest.fixture(scope="module")
def project(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project with a second inbox."""
    project = tmp_path_factory.mktemp("projects") / "mine"
    subprocess.run([installed, "init", project], check=True, cwd=project.parent, env={"PATH": "/usr/bin:/bin"})
    declaration = project / "prefect.yaml"
    inbox = project.parent / "post"
    declaration.write_text(declaration.read_text() + SECOND_INBOX.format(folder=inbox))
    return project


@pytest.fixture(scope="module")
def running(
    project: Path, installed: Path, own_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningSystem]:
    """Start a system in the project with the installed command."""
    home = tmp_path_factory.mktemp("home")
    system = RunningSystem(own_root, home / "state", home, free_port(), (("PYTHONPATH", ""),), project, installed)
    with started(system) as running:
        yield running


def test_a_project_from_the_wheel_predicts_a_folder_and_has_two_inboxes(
    running: RunningSystem, project: Path, folder: Path
) -> None:
    places = {"inbox": "*/5 * * * *", "inbox-of-the-post-office": "10 6 * * 1-5"}
    for name, cron in places.items():
        found = running.ask(f"/deployments/name/predict/{name}")
        assert [one["schedule"]["cron"] for one in found["schedules"]] == [cron]
        (step,) = found["pull_steps"]
        assert next(iter(step.values()))["directory"] == str(project)
    state = running.complete("predict/folder", folder=str(folder))
    images = len(list(folder.iterdir()))
    assert f"{images} images, of which 1 could not be read, are in " in state["message"]
    (project.parent / "post").mkdir()
    running.complete("predict/inbox-of-the-post-office")


def test_a_run_in_a_project_of_another_major_version_fails_with_the_remedy(
    running: RunningSystem, project: Path
) -> None:
    record = project / "digits-project.json"
    before = record.read_text()
    record.write_text(json.dumps({**json.loads(before), "version": "999.0.0"}))
    try:
        state = running.end_of("janitor/janitor", "FAILED")
        assert "belong to Digits 999.0.0" in state["message"]
        assert "`digits init --upgrade`" in state["message"]
        assert "`digits init --upgrade`" in running.digits("up", "--port", str(running.port), code=2)
    finally:
        record.write_text(before)
