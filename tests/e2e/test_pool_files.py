"""Tests of `prefect deploy` with the files for Docker and Kubernetes work pools, on a real server."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.server import ask_api

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
