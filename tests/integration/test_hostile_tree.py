"""Tests of a hostile folder with the command: a row per image, nothing else read, and a table that reads back."""

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
from tests.support.command import DIGITS
from tests.support.hostile_tree import Tree, picture
from tests.support.networks import tiny_store
from tests.support.opened_files import OpenedFiles
from tests.support.server import untracked

TIMEOUT = 120
"""Maximum seconds of a run, which would wait forever for a FIFO."""

WITHOUT_CAPABILITIES = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"] if os.geteuid() == 0 else []
"""Drops root's capabilities, so that permissions apply. Root can still start an interpreter that only root can read."""

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@pytest.fixture(scope="module")
def tree() -> Iterator[Tree]:
    """Yield the folder, which contains its own table. Permissions apply to the user that made the table."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tree = Tree.plant(place)
        store = tiny_store(place / "artifacts")
        with OpenedFiles(tree.outside) as opened:
            predict(tree, store)
            assert opened.names() == []
        yield tree
        tree.open_up()


def predict(tree: Tree, store: Path, *options: str) -> None:
    """Run the command as a user to whom permissions apply."""
    digits = str(Path(sys.executable).with_name("digits"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    result = subprocess.run(
        [*WITHOUT_CAPABILITIES, digits, "predict", str(tree.root), "--out", str(table_of(tree)), *options],
        env={**kept, "DIGITS_ARTIFACTS": str(store), "PREFECT_HOME": str(store)},
        capture_output=True,
        timeout=TIMEOUT,
        check=False,
    )
    assert result.returncode == 0, result.stderr.decode()


def table_of(tree: Tree) -> Path:
    """Return the path of the table, which is among the images."""
    return tree.root / "=results.csv"


def rows_of(tree: Tree) -> list[dict[str, str]]:
    """Read the table with the csv module."""
    with table_of(tree).open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_links_that_are_followed_inside_lead_to_nothing_outside(tmp_path: Path) -> None:
    """Only the link to an image of the folder has a row."""
    tree = Tree.plant(tmp_path)
    store = tiny_store(tmp_path / "artifacts")
    with OpenedFiles(tree.outside) as opened:
        predict(tree, store, "--follow-links", "inside")
        assert opened.names() == []
    rows = {unescape_path(row["path"]): row["status"] for row in rows_of(tree)}
    assert rows == {**tree.statuses, b"in.png": "ok"}
    summary = json.loads((tree.root / "=results.summary.json").read_bytes())
    assert {name: summary["skipped"][name] for name in ("link", "broken-link", "loop")} == {
        "link": 5,
        "broken-link": 4,
        "loop": 1,
    }
    tree.open_up()


def test_a_folder_without_an_image_ends_with_9_and_the_reasons(tmp_path: Path) -> None:
    """The table is empty, and a second image makes the same command succeed."""
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.heic", "b.7z", "._c.png"):
        (folder / name).write_bytes(b"")
    (folder / "d.png").symlink_to(tmp_path / "x.png")
    store = tiny_store(tmp_path / "artifacts")
    command = [DIGITS, "predict", str(folder), "--out", str(tmp_path / "t.csv")]
    environment = {**untracked(tmp_path), "DIGITS_ARTIFACTS": str(store)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 9, done.stderr
    assert "1 7z archive was not opened; 1 link was not followed; 1 system file was left out\n" in done.stderr
    assert "digits: 0 images; " in done.stderr
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 1
    picture(0).save(folder / "e.png")
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 0


def test_every_image_has_a_row_with_its_name_and_status(tree: Tree) -> None:
    rows = [(unescape_path(row["path"]), row["status"]) for row in rows_of(tree)]
    assert [path for path, _ in rows] == sorted(tree.statuses)
    assert dict(rows) == tree.statuses


def test_skipped_files_are_counted_by_reason(tree: Tree) -> None:
    summary = json.loads(table_of(tree).with_suffix(".summary.json").read_bytes())
    assert summary["images"] == len(tree.statuses)
    assert summary["skipped"] == tree.skipped


def test_links_to_files_outside_the_folder_are_not_read(tree: Tree) -> None:
    """The fixture checks that no process opens these files."""
    found = {row["sha256"] for row in rows_of(tree)}
    assert hashlib.sha256(tree.canary.read_bytes()).hexdigest() not in found
    inside = (tree.root / os.fsdecode(path) for path, status in tree.statuses.items() if status == "ok")
    short = [path for path in inside if len(os.fsencode(path)) < os.pathconf("/", "PC_PATH_MAX")]
    assert {hashlib.sha256(path.read_bytes()).hexdigest() for path in short} <= found


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_no_cell_starts_a_formula(tree: Tree, separator: str) -> None:
    """Whatever the separator of the spreadsheet."""
    with table_of(tree).open(newline="") as file:
        cells = [cell for row in csv.reader(file, delimiter=separator) for cell in row]
    assert len(cells) > len(rows_of(tree))
    assert not [cell for cell in cells if cell.startswith(FORMULA)]


def test_pandas_reads_the_same_rows(tree: Tree) -> None:
    """Use the options of the guide."""
    frame = pd.read_csv(table_of(tree), dtype=str, keep_default_na=False)
    assert frame.to_dict("records") == rows_of(tree)


def test_duckdb_reads_the_same_rows(tree: Tree) -> None:
    """Set the dialect, and compare empty cells with NULL."""
    read = duckdb.read_csv(
        str(table_of(tree)), header=True, all_varchar=True, delimiter=",", quotechar='"', escapechar='"'
    )
    rows = [
        dict(zip(read.columns, ("" if cell is None else cell for cell in row), strict=True)) for row in read.fetchall()
    ]
    assert rows == rows_of(tree)


def test_a_repeated_run_skips_its_own_table(tree: Tree) -> None:
    before = table_of(tree).read_bytes()
    predict(tree, tree.root.with_name("artifacts"))
    assert table_of(tree).read_bytes() == before
    summary = json.loads(table_of(tree).with_suffix(".summary.json").read_bytes())
    assert {name: count for name, count in summary["skipped"].items() if name != "output"} == tree.skipped
