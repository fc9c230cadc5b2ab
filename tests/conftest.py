"""What all tests share: matrix products on one thread, and whole directories of tests on one worker of pytest-xdist."""

import os
from collections.abc import Sequence

import pytest

ON_ONE_WORKER = ("tests/e2e/",)
"""Directories whose tests share a server and a trained model; other tests stay together by file."""

# Threads of OpenBLAS spin while they wait, which would be most of the time of two test processes on two cores.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist looks at the groups
def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """Keep together what shares fixtures that are expensive to make."""
    for item in items:
        path = item.nodeid.partition("::")[0]
        group = next((directory for directory in ON_ONE_WORKER if path.startswith(directory)), path)
        item.add_marker(pytest.mark.xdist_group(group))
