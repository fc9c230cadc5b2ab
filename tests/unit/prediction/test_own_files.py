"""Tests of overwriting: a run replaces only files that Digits wrote and nobody changed, unless it is forced to."""

import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from digits.errors import DigitsError, UsageError
from digits.maintenance.backup import back_up
from digits.maintenance.restore import restore
from digits.outputs.summary import PredictionSummary, picture_path, report_path, summary_path
from digits.outputs.table_diff import shadow_path
from digits.prediction import own_files, service
from digits.prediction.baselines import record_path
from digits.prediction.config import PredictionConfig
from digits.prediction.own_files import FILES
from digits.prediction.publish import merge_parts
from digits.prediction.service import default_table, plan_predictions, require_shadow
from digits.prediction.worker import run_worker
from digits.store.artifacts import Store
from digits.store.files import hash_file, locked
from digits.store.records import Record, read_record, write_record
from tests.support import faults
from tests.support.networks import tiny_store
from tests.support.tiny_model import MakePictures

pytestmark = pytest.mark.usefixtures("in_this_process")
ENDINGS = pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
IMAGES = 6
CHANGED = "was changed after Digits wrote it"
FOREIGN = "was not written by Digits"


class Job:
    """Folder that is predicted into a table, with an artifact root."""

    def __init__(self, root: Path) -> None:
        self.store, self.folder, self.out = Store(tiny_store(root / "artifacts")), root / "in", root / "out" / "t.csv"

    def run(self, **options: Any) -> PredictionSummary:
        """Predict the folder into the table."""
        settings = PredictionConfig(**{"processes": 1, **options})
        return service.predict_folder(self.store, self.folder, out=self.out, options=settings)

    def refused(self, message: str, **options: Any) -> str:
        """Check that a run ends with an error and changes nothing; return the message."""
        before = content_of(self.out.parent)
        with pytest.raises(UsageError, match=message) as error:
            self.run(**options)
        assert content_of(self.out.parent) == before
        return str(error.value)

    def make_older(self) -> None:
        """Turn the summary into one of an earlier version of Digits, which wrote no report."""
        path = summary_path(self.out)
        report_path(self.out).unlink(missing_ok=True)
        write_record(path, {name: value for name, value in read_record(path).items() if name != FILES})


def content_of(folder: Path) -> dict[Path, bytes]:
    """Return the content of all files below a folder."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def recorded(out: Path) -> Record:
    """Return the recorded hashes of the files beside a table."""
    return dict(read_record(summary_path(out))[FILES])


@pytest.fixture
def job(tmp_path: Path, make_pictures: MakePictures, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Folder of images."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    made = Job(tmp_path)
    make_pictures(made.folder, IMAGES)
    return made


def append(path: Path) -> None:
    """Change a file."""
    path.write_bytes(path.read_bytes() + b"\n")


@ENDINGS
def test_a_table_is_replaced_until_it_is_edited(job: Job, ending: str) -> None:
    """Then only with `force`, after which it is known again."""
    job.out = job.out.with_suffix(ending)
    job.run()
    job.run(top_k=2)
    assert recorded(job.out)[job.out.name] == [hash_file(job.out)]
    append(job.out)
    message = job.refused(rf"^{job.out} {CHANGED}, so the run stops before it overwrites anything; move it away")
    assert message.endswith("or overwrite it with --force (`force` among the options of a deployment)")
    job.refused(CHANGED, incremental=True)
    assert job.run(force=True).images == IMAGES
    assert job.run(top_k=2).images == IMAGES


@ENDINGS
def test_a_file_that_digits_did_not_write_is_kept(job: Job, ending: str) -> None:
    """Also a copy of a table at another path, a link and a folder."""
    job.out = job.out.with_suffix(ending)
    job.run()
    table, job.out = job.out, job.out.with_name(f"mine{ending}")
    shutil.copy(table, job.out)
    job.refused(FOREIGN)
    job.out.unlink()
    job.out.symlink_to(table)
    job.refused("is a link")
    job.out.unlink()
    job.out.symlink_to("nowhere")
    job.refused("is a link")
    job.out.unlink()
    job.out.mkdir()
    job.refused("is no file")
    job.out.rmdir()
    job.out.write_bytes(b"")
    job.refused(rf"mine\{ending} {FOREIGN}, or has lost mine\.summary\.json, so the run stops")
    job.run(force=True)
    assert not job.out.is_symlink()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        (summary_path, "is damaged, was changed, or was not written by Digits"),
        (record_path, FOREIGN),
        (picture_path, FOREIGN),
        (report_path, FOREIGN),
    ],
)
def test_the_files_beside_the_table_are_not_overwritten_either(
    job: Job, place: Callable[[Path], Path], reason: str
) -> None:
    """Before and after the first table."""
    mine = place(job.out)
    mine.parent.mkdir()
    mine.write_bytes(b"{}")
    job.refused(f"^{mine} {reason}")
    mine.unlink()
    job.run()
    mine.write_bytes(b"mine")
    job.refused(f"{mine.name} (was changed|is damaged|{FOREIGN})")
    job.run(force=True)
    assert mine.read_bytes() != b"mine" or place is record_path  # the model has no reference counts, so no drift record


def test_all_files_that_would_be_overwritten_are_named(job: Job) -> None:
    """In one sentence."""
    job.run()
    append(job.out)
    append(picture_path(job.out))
    job.refused(rf"t\.csv {CHANGED} and .*t\.least-certain\.png {CHANGED}, so the run stops")


def test_a_picture_is_not_removed_if_it_is_of_somebody_else(job: Job) -> None:
    """As a run without any prediction would."""
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    picture_path(job.out).parent.mkdir()
    picture_path(job.out).write_bytes(b"mine")
    job.refused("least-certain")


def test_tables_of_several_formats_with_one_summary_are_known(job: Job) -> None:
    """They share the picture, too."""
    csv, parquet = job.out, job.out.with_suffix(".parquet")
    for out in (csv, parquet, csv, parquet):
        job.out = out
        job.run()
    assert sorted(recorded(csv)) == ["t.csv", "t.least-certain.png", "t.parquet", "t.report.html"]
    append(csv)
    job.run()
    job.out = csv
    job.refused(CHANGED)


def test_a_table_that_was_moved_with_its_files_is_known(job: Job) -> None:
    """Without them it is not; a removed one needs none."""
    job.run()
    job.out.parent.rename(job.out.parent.with_name("moved"))
    job.out = job.out.parent.with_name("moved") / job.out.name
    job.run()
    summary_path(job.out).unlink()
    lost = rf"{FOREIGN}, or has lost t\.summary\.json"
    job.refused(rf"t\.csv {lost} and .*least-certain\.png {lost} and .*report\.html {lost}, so")
    job.out.unlink()
    picture_path(job.out).unlink()
    report_path(job.out).unlink()
    job.run()


def test_two_artifact_roots_may_write_the_same_table(job: Job, tmp_path: Path) -> None:
    """One after the other, and at the same time."""
    other = Store(tiny_store(tmp_path / "other"))
    first = job.store
    for store in (first, other, first):
        job.store = store
        job.run()
    plans = [
        plan_predictions(store, job.folder, model="champion", out=job.out, options=PredictionConfig(top_k=top_k))
        for store in (first, other)
        for top_k in (2, 3)
    ]
    for plan in plans:
        run_worker(plan)
    threads = [threading.Thread(target=lambda one=one: merge_parts(one)) for one in plans]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert recorded(job.out)["t.csv"] == [hash_file(job.out)]
    job.run()


def test_a_folder_that_another_program_locks_delays_a_run_for_a_while_only(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as `flock FOLDER digits predict`. A table among the plans is not waited for by its own run."""
    monkeypatch.setattr(own_files, "FOLDER_SECONDS", 0.1)
    job.out.parent.mkdir()
    with locked(job.out.parent, flags=os.O_RDONLY), faults.at_most(60):
        job.run()
    job.out = job.store.plans / "t.csv"
    with faults.at_most(60):
        job.run()
        job.run(top_k=2)


def test_files_are_compared_with_the_summary_while_no_run_publishes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the table could be that before another run, and the summary that after it."""
    summary, free = job.run(), []
    real = own_files.read_record

    def read(path: Path) -> Record:
        with locked(job.store.plans, wait=False, flags=os.O_RDONLY) as lock:
            free.append(lock.held)
        return real(path)

    monkeypatch.setattr(own_files, "read_record", read)
    options = PredictionConfig(top_k=2)
    plan = plan_predictions(job.store, job.folder, model="champion", out=job.out, options=options)
    run_worker(plan)
    merge_parts(plan)
    require_shadow(job.store, job.folder, shadow="1", out=job.out, options=options)
    service.predict_shadow(job.store, job.folder, summary, shadow="1")
    assert len(free) >= 4
    assert not any(free)


def test_a_table_that_is_edited_during_the_run_is_kept(job: Job) -> None:
    """The work is not lost: the same run with `force` resumes it."""
    job.run()
    options = PredictionConfig(top_k=2, shard_size=2)
    plan = plan_predictions(job.store, job.folder, model="champion", out=job.out, options=options)
    run_worker(plan)
    append(job.out)
    edited = content_of(job.out.parent)
    with pytest.raises(UsageError, match=CHANGED):
        merge_parts(plan)
    assert content_of(job.out.parent) == edited
    assert job.run(top_k=2, shard_size=2, force=True).reused == IMAGES


def test_a_run_that_replaces_the_rows_of_a_version_keeps_edits_and_is_allowed(job: Job) -> None:
    """It reads the table, so it loses none; the result is known."""
    job.run()
    job.out.write_bytes(job.out.read_bytes().replace(b",ok,", b",uncertain,", 1))
    job.refused(CHANGED)
    job.run(replace_version=1)
    job.run()
    append(picture_path(job.out))
    job.refused(CHANGED, replace_version=1)


@ENDINGS
def test_a_table_of_an_earlier_version_is_known_by_its_summary(job: Job, ending: str) -> None:
    """If it has the rows that the summary counts, and is not younger."""
    job.out = job.out.with_suffix(ending)
    job.run()
    shadow_path(job.out).write_bytes(b"of an earlier version")
    job.make_older()
    report_path(job.out).write_bytes(b"mine")
    job.refused(r"t\.report\.html does not match")
    report_path(job.out).unlink()
    job.run()
    assert recorded(job.out)[shadow_path(job.out).name] == [hash_file(shadow_path(job.out))]
    job.make_older()
    os.utime(job.out, (time.time() + 60,) * 2)
    job.refused(rf"t\{ending} does not match t\.summary\.json")
    shutil.copyfile(job.out, job.out.with_name("copy"))
    job.out.write_bytes(b"something else\n")
    os.utime(job.out, (1, 1))
    job.refused("does not match")
    job.out.with_name("copy").replace(job.out)
    os.utime(job.out, (1, 1))
    job.run()


def test_edits_of_a_table_of_an_earlier_version_are_found_by_counting(job: Job) -> None:
    """Even if its time was set back; a table of another name is not the one that the summary describes."""
    job.run()
    job.make_older()
    content = job.out.read_bytes()
    for edited in (content.replace(b",ok,", b",OK,", 1), b"".join(content.splitlines(keepends=True)[:-1])):
        assert edited != content
        job.out.write_bytes(edited)
        os.utime(job.out, (1, 1))
        job.refused("does not match")
    job.out.write_bytes(content)
    os.utime(job.out, (1, 1))
    job.out.rename(job.out.with_suffix(".jsonl"))
    job.out = job.out.with_suffix(".jsonl")
    job.refused("does not match")


def test_an_incremental_table_is_known_by_its_ledger(job: Job) -> None:
    """Of an earlier version, with a new summary of another run, and with a damaged one."""
    job.run(incremental=True)
    job.make_older()
    os.utime(job.out, (time.time() + 60,) * 2)
    job.run(incremental=True)
    summary_path(job.out).write_bytes(b"{damaged")
    job.run(incremental=True)
    summary_path(job.out).unlink()
    job.run(incremental=True)
    append(job.out)
    summary_path(job.out).unlink()
    job.refused(FOREIGN, incremental=True)


def test_a_damaged_drift_record_is_replaced(job: Job) -> None:
    """As before: it is a record of Digits."""
    job.run()
    write_record(summary_path(job.out), {"mine": 1})
    job.refused(r"t\.summary\.json is damaged, was changed, or was not written by Digits")
    job.run(force=True)
    write_record(record_path(job.out), {})
    record_path(job.out).write_bytes(record_path(job.out).read_bytes().replace(b"{", b"[", 1))
    job.run()
    record_path(job.out).unlink()
    record_path(job.out).mkdir()
    job.refused(rf"t\.drift\.json {FOREIGN}")


@pytest.mark.parametrize("incremental", [False, True])
@pytest.mark.parametrize("older", ["", "older", "new"])
def test_after_a_kill_at_any_step_the_next_run_knows_the_table(job: Job, incremental: bool, older: str) -> None:
    """Also a run with other options, which does not resume the killed one, and if the summary is gone at first."""
    if older:
        job.run(incremental=incremental)
        if older == "older":
            job.make_older()
    root, saved = job.store.root.parent, job.store.root.parent / "saved"
    former = job.out.read_bytes() if older else None
    saved.mkdir()
    for name in ("out", "artifacts/work"):
        (root / name).mkdir(parents=True, exist_ok=True)
        shutil.copytree(root / name, saved / name)
    died, states = 0, set()
    for at in range(1, 400, 3):
        with faults.fault(root, at, faults.die):
            status = faults.wait(faults.in_child(lambda: job.run(incremental=incremental, top_k=2)))
        if status == 0:
            break
        died += 1
        states.add(job.out.read_bytes() if job.out.exists() else None)
        for top_k in (3, 2):
            assert job.run(incremental=incremental, top_k=top_k).images == IMAGES
            assert recorded(job.out)["t.csv"] == [hash_file(job.out)]
        append(job.out)
        job.refused(CHANGED, top_k=2)
        for name in ("out", "artifacts/work"):
            shutil.rmtree(root / name)
            shutil.copytree(saved / name, root / name)
    assert died > 10
    assert former in states
    assert len(states) == 2


def test_a_foreign_file_stays_foreign_if_a_forced_run_is_killed(job: Job) -> None:
    """Between the record of the new table and its rename."""
    job.out.parent.mkdir()
    job.out.write_bytes(b"mine")
    left = 0
    for at in range(1, 400):
        with faults.fault(job.store.root.parent, at, faults.die):
            status = faults.wait(faults.in_child(lambda: job.run(force=True)))
        if status == 0 or job.out.read_bytes() != b"mine":
            break
        left += summary_path(job.out).exists()
        job.refused(FOREIGN if not summary_path(job.out).exists() else CHANGED)
        shutil.rmtree(job.store.plans, ignore_errors=True)
        summary_path(job.out).unlink(missing_ok=True)
    assert left > 0


def test_a_full_disk_leaves_a_table_that_the_next_run_knows(job: Job) -> None:
    """Whatever could not be written."""
    job.run()
    for at in range(1, 200, 2):
        with faults.fault(job.store.root.parent, at, faults.no_space) as made, suppress(DigitsError):
            job.run(top_k=2 + at % 4)
        if not made.happened:
            break
        job.run(top_k=6)
    assert at > 10


def test_the_differences_to_a_second_version_are_protected(job: Job) -> None:
    """Before anything is predicted, and again when they are written."""
    options = PredictionConfig(processes=1)
    summary = job.run()
    mine = shadow_path(job.out)

    def compare(options: PredictionConfig = options) -> PredictionSummary:
        return service.predict_shadow(job.store, job.folder, summary, shadow="1", options=options)

    def check(options: PredictionConfig = options) -> None:
        require_shadow(job.store, job.folder, shadow="1", out=job.out, options=options)

    check()
    compare()
    compare()
    job.run(top_k=2)
    check()
    append(mine)
    with pytest.raises(UsageError, match=rf"t\.shadow\.csv {CHANGED}"):
        check()
    with pytest.raises(UsageError, match=rf"t\.shadow\.csv {CHANGED}"):
        compare()
    assert mine.read_bytes().endswith(b"\n\n")
    job.run(top_k=3)  # a run without a second version does not write them
    forced = options.model_copy(update={"force": True})
    check(forced)
    compare(forced)
    compare()
    require_shadow(job.store, job.folder, shadow="1", out=None, options=options)


def test_a_restored_table_is_known_at_its_new_place(job: Job, tmp_path: Path) -> None:
    """With the artifact root at another path."""
    job.out = default_table(job.store, job.store.inbox)
    shutil.copytree(job.folder, job.store.inbox)
    job.folder = job.store.inbox
    job.run(incremental=True)
    back_up(job.store, tmp_path / "b.tar.zst", tables=True)
    new = Store(tmp_path / "new")
    restore(tmp_path / "b.tar.zst", new)
    job.store, job.out, job.folder = new, default_table(new, new.inbox), new.inbox
    shutil.copytree(tmp_path / "in", new.inbox)
    assert job.out.exists()
    job.run(top_k=2)
    append(job.out)
    job.refused(CHANGED, incremental=True)
