"""Tests of `prefect deploy` with the files for Docker and Kubernetes work pools, on a real server."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from digits.project import create_project
from tests.support.running_system import RunningSystem
from tests.support.server import ask_api, free_port

pytestmark = pytest.mark.slow
HERE = Path(__file__).resolve().parents[2]
POOLS = {
    "docker": ("deploy/prefect.docker.yaml", ["--type", "docker", "digits-docker"]),
    "kubernetes": (
        "deploy/prefect.kubernetes.yaml",
        ["--type", "kubernetes", "--base-job-template", "deploy/kubernetes-pool.json", "digits-kubernetes"],
    ),
}
NAMES = ("train/nightly", "rollback/rollback", "predict/folder", "predict/inbox", "janitor/janitor")


def prefect(api: str, *arguments: str) -> None:
    """Run a Prefect command in the project, without anybody who could answer a question."""
    done = subprocess.run(
        [sys.executable, "-m", "prefect", *arguments],
        env={**os.environ, "PREFECT_API_URL": api},
        cwd=HERE,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_up_starts_no_worker_if_all_deployments_use_another_work_pool(server: str, tmp_path: Path) -> None:
    """It starts one when a deployment uses its own."""
    for name in ("project", "home"):
        (tmp_path / name).mkdir()
    create_project(tmp_path / "project")
    declaration = tmp_path / "project" / "prefect.yaml"
    own = declaration.read_bytes()
    shutil.copy(HERE / "deploy" / "prefect.docker.yaml", declaration)
    system = RunningSystem(
        tmp_path / "artifacts",
        tmp_path / "system",
        tmp_path / "home",
        free_port(),
        secrets=(("PREFECT_API_URL", server),),
        project=tmp_path / "project",
    )
    prefect(server, "work-pool", "create", "--overwrite", *POOLS["docker"][1])
    found = system.digits("up", "--yes", "--json")
    assert "executed by workers of the work pool digits-docker, which `digits status` shows" in found["worker"]
    assert not (system.state / "worker.lock").exists()
    assert system.status()["worker"] == "none online"
    assert "start one with `prefect worker start --pool digits-docker`" in " ".join(system.status()["attention"])
    declaration.write_bytes(own)
    try:
        assert system.digits("up", "--yes", "--json")["worker"] == "started"
        shutil.copy(HERE / "deploy" / "prefect.docker.yaml", declaration)
        assert system.digits("up", "--yes", "--json")["worker"] == "running already"
    finally:
        assert system.down()["worker"] == "stopped"


@pytest.mark.parametrize("pool", POOLS)
def test_prefect_deploy_takes_the_file_without_a_question(pool: str, server: str) -> None:
    file, options = POOLS[pool]
    prefect(server, "work-pool", "create", "--overwrite", *options)
    prefect(server, "--no-prompt", "deploy", "--all", "--prefect-file", file)
    for name in NAMES:
        found: dict[str, Any] = ask_api(f"{server}/deployments/name/{name}")
        assert found["work_pool_name"] == options[-1]
        assert found["pull_steps"] == [
            {"prefect.deployments.steps.set_working_directory": {"directory": "/opt/digits"}}
        ]
        assert found["job_variables"]["env"]["DIGITS_ARTIFACTS"] == "/artifacts"
        assert ("digits-train:" in found["job_variables"]["image"]) == (name == "train/nightly")
        assert found["entrypoint"].startswith("flows/")
