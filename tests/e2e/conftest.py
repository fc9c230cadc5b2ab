"""One real Prefect server for all end-to-end tests, and one small model trained through the real flow."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from digits.config import ModelConfig
from digits.stages import Outcome


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Prefect server with a database of its own; give its API's address."""
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=120):
        yield str(PREFECT_API_URL.value())


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give the artifact root that the end-to-end tests share."""
    return tmp_path_factory.mktemp("artifacts with a space")


@pytest.fixture(scope="session")
def outcome(server: str, root: Path) -> Outcome:
    """Train a small network on the sample through the real flow."""
    from flows.training import train

    return train(datasets=("mnist-sample",), model=ModelConfig(architecture="mlp"), artifacts=root)
