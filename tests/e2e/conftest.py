"""Fixtures of the end-to-end tests: a real Prefect server, and a small model trained by the real flow."""

import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from digits.pipeline.champion import Outcome
from digits.pipeline.training import write_test_images
from digits.store.artifacts import Store
from digits.training.config import ModelConfig
from tests.support.canaries import PLANTED
from tests.support.running_system import RunningSystem, started
from tests.support.server import free_port, unmeasured
from tests.support.small_fits import small_head


@pytest.fixture(scope="session", autouse=True)
def _small_head() -> Iterator[None]:
    """Fit the novelty output to fewer images in this process. Systems and commands use all images."""
    with small_head():
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prefect server with its own database; yield the address of its API."""
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with ExitStack() as stack:
        with unmeasured():
            stack.enter_context(prefect_test_harness(server_startup_timeout=120))
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the artifact root that the end-to-end tests share."""
    return tmp_path_factory.mktemp("artifacts with a space")


@pytest.fixture(scope="session")
def outcome(server: str, root: Path) -> Outcome:
    """Train a small network on the sample with the real flow, and return the outcome."""
    from flows.training import train

    outcome = train(datasets=("mnist-sample",), model=ModelConfig(architecture="mlp"), artifacts=root)
    shutil.copytree(root, _untouched(root))
    return outcome


def _untouched(root: Path) -> Path:
    return root.with_name("as it was")


@pytest.fixture(scope="module")
def own_root(outcome: Outcome, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of the artifact root with only that model, for tests that train more."""
    return _copied(root, tmp_path_factory)


def _copied(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(_untouched(root), tmp_path_factory.mktemp("root") / "artifacts with a space"))


@pytest.fixture(scope="session")
def folder(outcome: Outcome, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of real digits and one file that is no image."""
    every = write_test_images(Store(root), outcome.version, tmp_path_factory.mktemp("all"))
    folder = tmp_path_factory.mktemp("the scans")
    for number, path in enumerate(sorted(every.rglob("*.png"))[::25]):
        shutil.copy(path, folder / f"{number:03}.png")
    (folder / "broken.png").write_bytes(b"no picture")
    return folder


@pytest.fixture(scope="module")
def system(own_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Start a system for the tests of a module; stop it in the end."""
    home = tmp_path_factory.mktemp("home")
    with started(RunningSystem(own_root, home / "the system", home, free_port())) as running:
        yield running


@pytest.fixture(scope="module")
def postponed_night(system: RunningSystem) -> None:
    """Let no nightly training start by its schedule, which would take its slot and the CPUs for minutes."""
    system.postpone("train/nightly")


@pytest.fixture(scope="session")
def guarded_system(outcome: Outcome, root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningSystem]:
    """Start a system with a password and other secrets, for tests that do not change it."""
    home = tmp_path_factory.mktemp("home")
    with started(
        RunningSystem(_copied(root, tmp_path_factory), home / "the system", home, free_port(), PLANTED)
    ) as running:
        yield running
