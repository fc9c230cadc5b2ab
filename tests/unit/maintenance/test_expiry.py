"""Expiry: old tables and predicted images of the inbox are removed if asked for, and nothing else."""

import os
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from digits.errors import UsageError
from digits.maintenance import retention
from digits.maintenance.expiry import remove_old_tables, remove_predicted_images
from digits.maintenance.retention import DAY, RetentionConfig, sweep_store
from digits.outputs.summary import summary_path
from digits.outputs.table import read_table
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.prediction.service import default_table, inbox_lock
from digits.store.artifacts import Store
from tests.support import faults
from tests.support.networks import tiny_store
from tests.support.tiny_model import MakePictures

pytestmark = pytest.mark.usefixtures("in_this_process")
LONG_AGO = 1_700_000_000
IMAGES = 6


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make_pictures: MakePictures) -> Store:
    """Artifact root with an inbox of old images that are predicted, and one file that is no image."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    store = Store(tiny_store(tmp_path / "my root"))
    make_pictures(store.inbox, IMAGES)
    (store.inbox / "note.txt").write_text("mine")
    for path in store.inbox.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    predict(store, store.inbox)
    return store


def predict(store: Store, source: Path, *, out: Path | None = None, incremental: bool = True) -> Path:
    """Predict a folder, and return the path of the table."""
    options = PredictionConfig(incremental=incremental, processes=1)
    return service.predict_folder(store, source, options=options, out=out).out


def paths_in(*tables: Path) -> Counter[str]:
    """Return how often each path has a row."""
    return Counter(row["path"] for table in tables for row in read_table(table))


def remove_images(store: Store, *, at: float | None = None, today: str = "2026-11-28") -> list[str]:
    """Remove images that arrived before a time, by default all; return their names."""
    return [path.name for path, _ in remove_predicted_images(store, at or time.time() + DAY, today=today)]


def remove_tables(store: Store) -> list[str]:
    """Remove the tables that were written before tomorrow; return the names of the files."""
    return [path.name for path, _ in remove_old_tables(store, time.time() + DAY)]


def test_nothing_is_removed_unless_asked_for(store: Store) -> None:
    """However old it is."""
    before = sorted(store.root.rglob("*"))
    assert sweep_store(store, RetentionConfig()) == []
    assert [path for path in before if not path.exists()] == []


def test_the_table_of_removed_rows_has_the_form_of_the_table(store: Store, tmp_path: Path) -> None:
    """Also that for Excel."""
    options = PredictionConfig(incremental=True, processes=1, csv_dialect="excel")
    table = default_table(store, store.inbox)
    service.predict_folder(store, store.inbox, options=options, out=table)
    before = table.read_bytes()
    assert len(remove_images(store, today="2026-11-28")) == IMAGES
    assert table.with_name("predictions.removed-2026-11-28.csv").read_bytes() == before


def test_each_row_is_in_the_table_or_in_a_table_of_removed_rows(store: Store, make_pictures: MakePictures) -> None:
    """Also when images arrive between two removals. Other files stay in the inbox."""
    table = default_table(store, store.inbox)
    every = paths_in(table)
    assert len(remove_images(store)) == IMAGES
    assert [path.name for path in store.inbox.iterdir()] == ["note.txt"]
    make_pictures(store.inbox / "more", 2)
    for path in (store.inbox / "more").iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    predict(store, store.inbox)
    assert remove_images(store) == []  # one table of removed rows per day
    assert len(remove_images(store, today="2026-11-29")) == 2
    predict(store, store.inbox)
    removed = sorted(table.parent.glob("predictions.removed-*.csv"))
    assert [path.name for path in removed] == [
        "predictions.removed-2026-11-28.csv",
        "predictions.removed-2026-11-29.csv",
    ]
    assert paths_in(table) == Counter()
    assert paths_in(*removed) == every + Counter({"more/0000.png": 1, "more/0001.png": 1})


def test_the_next_run_drops_the_rows_of_removed_images_however_many_they_are(
    store: Store, make_pictures: MakePictures
) -> None:
    """Unlike those of images that are gone without the janitor."""
    make_pictures(store.inbox / "more", 40)
    for path in (store.inbox / "more").iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    predict(store, store.inbox)
    assert len(remove_images(store)) == IMAGES + 40
    make_pictures(store.inbox / "new", 25)
    table = predict(store, store.inbox)
    assert len(paths_in(table)) == 25
    for path in list((store.inbox / "new").iterdir())[:13]:
        path.unlink()
    with pytest.raises(UsageError, match="13 of the 25 images"):
        predict(store, store.inbox)


def test_images_that_links_lead_to_are_kept(store: Store, make_pictures: MakePictures, tmp_path: Path) -> None:
    """They may belong to others. The links stay, too."""
    make_pictures(tmp_path / "archive", 2)
    (store.inbox / "linked").symlink_to(tmp_path / "archive")
    (store.inbox / "one.png").symlink_to(tmp_path / "archive" / "0000.png")
    for path in (tmp_path / "archive").iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))
    options = PredictionConfig(incremental=True, processes=1, follow_links="anywhere")
    out = service.predict_folder(store, store.inbox, options=options).out
    assert len(paths_in(out)) == IMAGES + 3
    assert len(remove_images(store)) == IMAGES
    assert len(list((tmp_path / "archive").iterdir())) == 2
    assert (store.inbox / "one.png").is_symlink()


def test_images_are_kept_if_their_row_is_not_published(store: Store, make_pictures: MakePictures) -> None:
    """A new image, a changed one, one that arrived recently, and all of them if the table was edited."""
    assert remove_images(store, at=time.time() - DAY) == []
    make_pictures(store.inbox / "new", 1)
    (store.inbox / "0000.png").write_bytes(b"changed")
    moved = store.inbox / "0001.png"
    shutil.copyfile(moved, store.inbox / "copy")
    (store.inbox / "copy").replace(moved)
    table = default_table(store, store.inbox)
    content = table.read_bytes()
    table.write_bytes(content + b"mine\n")
    assert remove_images(store) == []
    table.write_bytes(content)
    assert remove_images(store) == [f"000{number}.png" for number in range(2, IMAGES)]
    assert sorted(path.name for path in store.inbox.iterdir()) == ["0000.png", "0001.png", "new", "note.txt"]


def test_images_are_kept_while_a_run_predicts_the_inbox(store: Store) -> None:
    """Without an inbox there is nothing to do either."""
    with inbox_lock(store, store.inbox):
        assert remove_images(store) == []
    assert remove_images(Store(store.root / "other")) == []


def test_images_that_two_tables_need_are_kept_until_both_have_their_rows(store: Store, tmp_path: Path) -> None:
    """Each table gets its own table of removed rows."""
    out = predict(store, store.inbox, out=tmp_path / "second.jsonl")
    assert len(remove_images(store)) == IMAGES
    assert paths_in(tmp_path / "second.removed-2026-11-28.jsonl") == paths_in(out)


def test_an_interrupted_removal_of_images_is_completed_without_a_row_twice(store: Store) -> None:
    """A kill at any step, even if the next removal is on another day."""
    table, at = default_table(store, store.inbox), 0
    every = paths_in(table)
    while True:
        at += 1
        copy = Store(Path(shutil.copytree(store.root, store.root.with_name("copy"), copy_function=os.link)))
        # The ledger names the inbox by its path, so the copy takes its place.
        store.root.rename(store.root.with_name("first"))
        copy.root.rename(store.root)

        def work(at: int = at) -> None:
            with faults.fault(store.root, at, faults.die):
                remove_images(store)

        killed = faults.wait(faults.in_child(work)) != 0
        remove_images(store, today="2026-11-29")
        assert paths_in(*table.parent.glob("predictions.removed-*.csv")) == every
        assert [path.name for path in store.inbox.iterdir()] == ["note.txt"]
        shutil.rmtree(store.root)
        store.root.with_name("first").rename(store.root)
        if not killed:
            break
    assert at > 3


def test_a_table_is_removed_with_its_files_only(store: Store, make_pictures: MakePictures, tmp_path: Path) -> None:
    """Files of users stay; the sweep lists what was removed."""
    scans = make_pictures(tmp_path / "scans", 3)
    table = predict(store, scans, incremental=False)
    mine = table.with_name("notes.txt")
    mine.write_text("mine")
    age(table.parent)
    removed = sweep_store(store, RetentionConfig(table_days=30))
    assert {Path(one.path).name for one in removed} == {
        "predictions.csv",
        "predictions.summary.json",
        "predictions.least-certain.png",
        "predictions.report.html",
    }
    assert [path.name for path in table.parent.iterdir()] == ["notes.txt"]
    mine.unlink()
    predict(store, scans, incremental=False)
    age(table.parent)
    sweep_store(store, RetentionConfig(table_days=30))
    assert not table.parent.exists()


def age(folder: Path) -> None:
    """Set the modification time of all files of a folder to the past."""
    for path in folder.iterdir():
        os.utime(path, (LONG_AGO, LONG_AGO))


def test_images_are_removed_by_the_sweep(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files cannot be made to arrive in the past, so the clock of the sweep is set to the future."""
    assert sweep_store(store, RetentionConfig(inbox_days=1)) == []
    now = time.time()
    monkeypatch.setattr(retention.time, "time", lambda: now + 2 * DAY)
    assert {one.path for one in sweep_store(store, RetentionConfig(inbox_days=1))} == {
        f"inbox/000{number}.png" for number in range(IMAGES)
    }


def test_tables_that_incremental_runs_update_are_kept_until_their_folder_is_gone(store: Store) -> None:
    """Then the ledger is removed with the table."""
    assert remove_tables(store) == []
    shutil.rmtree(store.inbox)
    names = remove_tables(store)
    assert names[-1] == "predictions.summary.json"
    assert sum(name.endswith(".rows") for name in names) == 1
    assert list((store.plans / "ledgers").iterdir()) == []


def test_edited_and_moved_tables_are_kept(store: Store, make_pictures: MakePictures, tmp_path: Path) -> None:
    """Also a table that was replaced by something else, and one whose summary is damaged. A touched one is unedited."""
    scans = make_pictures(tmp_path / "scans", 3)
    table = predict(store, scans, incremental=False)
    content, summary = table.read_bytes(), summary_path(table).read_bytes()
    table.write_bytes(content.replace(b"ok", b"OK"))
    assert remove_tables(store) == []
    table.write_bytes(b"other\n")
    os.utime(table, (LONG_AGO, LONG_AGO))
    assert remove_tables(store) == []
    table.write_bytes(content)
    summary_path(table).write_bytes(b"{}")
    assert remove_tables(store) == []
    summary_path(table).write_bytes(summary)
    moved = store.predictions / "moved"
    table.parent.rename(moved)
    assert remove_tables(store) == []
    moved.rename(table.parent)
    assert len(remove_tables(store)) == 4


def test_a_table_that_a_run_writes_again_is_kept(store: Store, tmp_path: Path, make_pictures: MakePictures) -> None:
    """Between the decision and the removal; the time is checked again under the lock of publications."""
    table = predict(store, make_pictures(tmp_path / "scans", 3), incremental=False)
    assert list(remove_old_tables(store, table.stat().st_mtime - 1)) == []


def test_an_interrupted_removal_of_a_table_is_completed(
    store: Store, make_pictures: MakePictures, tmp_path: Path
) -> None:
    """Whatever was removed before."""
    table = predict(store, make_pictures(tmp_path / "scans", 3), incremental=False)
    for left in (3, 2, 1):
        whole = tmp_path / f"whole{left}"
        shutil.copytree(table.parent, whole, copy_function=shutil.copy2)
        removal = remove_old_tables(store, time.time() + DAY)
        for _ in range(4 - left):
            next(removal)
        removal.close()
        remove_tables(store)
        assert not any(table.parent.glob("*"))
        shutil.rmtree(table.parent, ignore_errors=True)
        whole.rename(table.parent)
