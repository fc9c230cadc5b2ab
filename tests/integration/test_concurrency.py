"""Concurrency campaign: a few rounds pass, and injected defects are found."""

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
"""Defect: champions are changed without a lock."""

UNLOCKED_PUBLICATION = """
import contextlib, time
from digits.prediction import publish

publish.lock_publication = lambda out, work: contextlib.nullcontext()
publish_plan = publish._publish

def late(plan, started):
    time.sleep(0 if plan.model.version % 2 else 2)
    return publish_plan(plan, started)

publish._publish = late
real = publish.write_record
publish.write_record = lambda path, record: (time.sleep(5 * (record["model_version"] % 2)), real(path, record))
"""
"""Defect: tables and summaries of two runs are written at the same time, those of version 2 in between."""

GREEDY = """
from digits.maintenance import retention

retention.with_ancestors = lambda store, refs: set()
"""
"""Defect: a janitor that removes every old artifact."""


@pytest.mark.parametrize("number", [4, 10, 14])
def test_concurrent_operations_have_the_result_of_single_runs(number: int) -> None:
    """Pair a promotion with predictions, a training, and the janitor with predictions."""
    result = concurrency("--only", str(number))
    assert result.returncode == 0, result.stdout + result.stderr
    assert "| all | 1 | 0 |" in result.stdout


@pytest.mark.parametrize(
    ("numbers", "code", "found"),
    [
        ([2], NO_LOCKS, "was written by another process"),
        ([14, 31, 47], UNLOCKED_PUBLICATION, "the summary is of version"),
        ([5], GREEDY, "cannot be opened"),
    ],
    ids=["no locks", "unlocked publication", "greedy janitor"],
)
def test_injected_defects_are_found(tmp_path: Path, numbers: list[int], code: str, found: str) -> None:
    result = concurrency(*[f"--only={number}" for number in numbers], broken_by=(tmp_path, code))
    assert result.returncode == 1, result.stdout + result.stderr
    assert found in result.stdout
