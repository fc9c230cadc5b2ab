"""A hostile folder through the console command: a row for each picture, nothing else touched, and it all reads back."""

import csv
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pandas as pd
import pytest

from digits.images.folder import unescape_path
from tests.support.hostile_tree import Tree
from tests.support.networks import tiny_store
from tests.support.opened_files import OpenedFiles

TIMEOUT = 120
"""Seconds: a run that waits for a FIFO would wait for ever."""

AS_ANYBODY = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Root without its privileges: permissions stop it, and it can still start the interpreter where that is root's own."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """The folder, its table inside it, made by a user whom permissions stop."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        planted = Tree.plant(place)
        store = tiny_store(place / "artifacts")
        with OpenedFiles(planted.outside) as opened:
            predict(planted, store)
            assert opened.names() == []
        yield planted
        planted.open_up()


def predict(tree: Tree, store: Path) -> None:
    """Run the command as somebody whom permissions stop."""
    digits = str(Path(sys.executable).with_name("digits"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    result = subprocess.run(
        [*AS_ANYBODY, digits, "predict", str(tree.root), "--out", str(table_of(tree))],
        env={**kept, "DIGITS_ARTIFACTS": str(store), "PREFECT_HOME": str(store)},
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()


def table_of(tree: Tree) -> Path:
    """Say where the table is: among the pictures."""
    return tree.root / "=results.csv"


def rows_of(tree: Tree) -> list[dict[str, str]]:
    """Read the table as a user of the csv module does."""
    with table_of(tree).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_picture_has_one_row(tree: Tree) -> None:
    """In the order of the names' bytes, each name coming back, each with the status that it deserves."""
    rows = [(unescape_path(row["path"]), row["status"]) for row in rows_of(tree)]
    assert [path for path, _ in rows] == sorted(tree.statuses)
    assert dict(rows) == tree.statuses


def test_all_else_is_counted(tree: Tree) -> None:
    """By reason, in the summary."""
    summary = json.loads(table_of(tree).with_suffix(".summary.json").read_bytes())
    assert summary["images"] == len(tree.statuses)
    assert summary["skipped"] == tree.skipped


def test_nothing_outside_was_read(tree: Tree) -> None:
    """No row has what the links lead to; the fixture has seen that nobody opened it."""
    found = {row["sha256"] for row in rows_of(tree)}
    assert hashlib.sha256(tree.canary.read_bytes()).hexdigest() not in found
    inside = (tree.root / os.fsdecode(path) for path, status in tree.statuses.items() if status == "ok")
    short = [path for path in inside if len(os.fsencode(path)) < os.pathconf("/", "PC_PATH_MAX")]
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in short} <= found


def test_no_cell_starts_a_formula(tree: Tree) -> None:
    """In any column."""
    assert not [cell for row in rows_of(tree) for cell in row.values() if cell.startswith(FORMULA)]


def test_pandas_reads_the_same(tree: Tree) -> None:
    """With the options that the guide gives."""
    frame = pd.read_csv(table_of(tree), dtype=str, keep_default_na=False)
    assert frame.to_dict("records") == rows_of(tree)


def test_duckdb_reads_the_same(tree: Tree) -> None:
    """With the dialect said, not guessed; what is empty comes as NULL."""
    read = duckdb.read_csv(
        str(table_of(tree)), header=True, all_varchar=True, delimiter=",", quotechar='"', escapechar='"'
    )
    rows = [
        dict(zip(read.columns, ("" if cell is None else cell for cell in row), strict=True)) for row in read.fetchall()
    ]
    assert rows == rows_of(tree)


def test_another_run_gives_the_same(tree: Tree) -> None:
    """Our own table, inside the folder, is no picture and no other file."""
    before = table_of(tree).read_bytes()
    predict(tree, tree.root.with_name("artifacts"))
    assert table_of(tree).read_bytes() == before
    summary = json.loads(table_of(tree).with_suffix(".summary.json").read_bytes())
    assert {name: count for name, count in summary["skipped"].items() if name != "output"} == tree.skipped
