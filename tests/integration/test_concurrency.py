"""Eight processes at once: a few rounds of the measurement pass, and what is broken on purpose it finds out."""

from functools import partial
from pathlib import Path

import pytest

from tests.support.campaigns import measure

pytestmark = pytest.mark.campaign
concurrency = partial(measure, "tests.faults.concurrency")

NO_LOCKS = """
import contextlib, time
from digits.store import artifacts, registry

artifacts.Store.lock = lambda self, name: contextlib.nullcontext()
real = registry.create_record
registry.create_record = lambda path, record: (time.sleep(0.2), real(path, record))[1]
"""
"""Changes of champion that don't wait for each other."""

NO_TURNS = """
import contextlib, time
from digits.prediction import publish

publish._lock_publication = lambda plan: contextlib.nullcontext()
real = publish.write_record
publish.write_record = lambda path, record: (time.sleep(record["model_version"] % 2), real(path, record))
"""
"""Tables and summaries that are written at the same time."""

GREEDY = """
from digits.maintenance import retention

retention.with_ancestors = lambda store, refs: set()
"""
"""A janitor who keeps nothing that is old."""


@pytest.mark.parametrize("number", [4, 10, 14])
def test_rounds(number: int) -> None:
    """A promotion while others predict, a training, and the janitor beside predictions."""
    result = concurrency("--only", str(number))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| all | 1 | 0 |" in result.stdout


@pytest.mark.parametrize(
    ("numbers", "code", "found"),
    [
        ([2], NO_LOCKS, "taken by another process"),
        ([3, 4, 21, 37, 54, 71], NO_TURNS, "the summary is of version"),
        ([5], GREEDY, "can't be opened"),
    ],
)
def test_what_is_broken_is_found_out(tmp_path: Path, numbers: list[int], code: str, found: str) -> None:
    """By one of the rounds in which it can matter."""
    result = concurrency(*[f"--only={number}" for number in numbers], broken_by=(tmp_path, code))
    assert result.returncode == 1, result.stdout + result.stderr
    assert found in result.stdout
