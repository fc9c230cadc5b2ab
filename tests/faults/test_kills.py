"""Kill campaign: a few rounds pass, and injected defects are found."""

from functools import partial
from pathlib import Path

import pytest

from tests.support.campaigns import measure

pytestmark = pytest.mark.campaign
kills = partial(measure, "tests.faults.kills", "--images", "700")
TORN_WRITES = """
import contextlib, time
from digits.store import files

whole = files.replacing

@contextlib.contextmanager
def replacing(path, **options):
    with whole(path, **options) as file:
        yield file
    if path.suffix == ".csv":
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        time.sleep(0.5)
        path.write_bytes(content)

files.replacing = replacing
"""
"""Defect: a table that is half written for a while."""

FORGOTTEN_SHARDS = """
import pathlib, sys

if "predict" in sys.orig_argv:
    root = pathlib.Path(sys.orig_argv[sys.orig_argv.index("--artifacts") + 1])
    for commit in root.glob("work/predictions/[0-9a-f]*/parts/*.json"):
        commit.unlink()
"""
"""Defect: commits that the next run does not see."""


def test_predictions_killed_at_random_instants_are_resumed() -> None:
    result = kills("--rounds", "5", "--seed", "1")
    assert result.returncode == 0, result.stdout + result.stderr
    assert "5 kills" in result.stdout
    assert "0 rounds failed" in result.stdout


def test_a_table_that_is_written_in_place_is_found(tmp_path: Path) -> None:
    result = kills("--rounds", "10", "--seed", "1", broken_by=(tmp_path, TORN_WRITES))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "the table was incomplete" in result.stdout


def test_shards_that_are_predicted_twice_are_found(tmp_path: Path) -> None:
    result = kills("--rounds", "8", "--images", "2000", "--seed", "0", "--cold", broken_by=(tmp_path, FORGOTTEN_SHARDS))
    assert result.returncode == 1, result.stdout + result.stderr
    assert "images of committed shards were read again" in result.stdout
