"""Settings of all tests: threads, examples, and directories that stay on one pytest-xdist worker."""

import os
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

TOGETHER = ("tests/e2e",)
"""Directories whose tests share a Prefect server and a trained model. Other tests are grouped by file."""

# Threads of OpenBLAS spin while they wait, which would be most of the time of two test processes on two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

# The same examples in each run, however long the machine takes; `pytest --hypothesis-profile=default` draws others.
settings.register_profile("digits", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("digits")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler of pytest-xdist that keeps tests with shared expensive fixtures on one worker.

    The marker `xdist_group` of pytest-xdist 3.8 is without effect under pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            return next((directory for directory in TOGETHER if path.startswith(directory)), path)

    return Scheduling(config, log)
