"""Tests of incremental runs: only changes are predicted, and the table equals that of a full run, byte for byte."""

import gc
import os
import random
import shutil
import tarfile
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.errors import CorruptArtifactError, StoreError, UsageError
from digits.images import source
from digits.images.decode import DecodeError
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import PredictionSummary, summary_path
from digits.prediction import incremental, planning
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import merge_parts, predict_folder
from digits.prediction.worker import run_worker
from digits.store.records import Record, read_record, write_record
from tests.support import faults
from tests.support.tiny_model import MakePictures, draw, write_model

LONG_AGO = 1_700_000_000

pytestmark = pytest.mark.usefixtures("in_this_process")


class Job:
    """Folder that is predicted repeatedly."""

    def __init__(self, root: Path, model: OnnxModel) -> None:
        self.root, self.folder, self.out, self.model = root, root / "in", root / "out" / "p.csv", model
        self.options: dict[str, Any] = {"shard_size": 4}
        self.seconds = 0

    def arguments(self, **options: Any) -> dict[str, Any]:
        """Return the arguments of a prediction except the folder."""
        out = options.pop("out", self.out)
        config = PredictionConfig(**{**self.options, "incremental": True, **options})
        return {"model": self.model, "out": out, "work": self.root / "work", "options": config}

    def plan(self) -> Plan:
        """Plan the prediction."""
        return plan_predictions(self.folder, **self.arguments())

    def run(self, **options: Any) -> PredictionSummary:
        """Predict, and check that the table equals that of a full run."""
        summary = predict_folder(self.folder, **self.arguments(**options))
        whole = self.full_run()
        assert self.out.read_bytes() == whole.out.read_bytes()
        assert comparable(summary) == comparable(whole)
        return summary

    def full_run(self) -> PredictionSummary:
        """Predict all images into another table."""
        arguments = self.arguments(incremental=False, verify=False, force=True)
        return predict_folder(self.folder, **{**arguments, "out": self.root / "whole" / self.out.name})

    def age(self) -> None:
        """Set the modification time of all files to the past."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.stat().st_mtime > LONG_AGO + 10_000:
                self.seconds += 1
                os.utime(path, (0, LONG_AGO + self.seconds))


def comparable(summary: PredictionSummary) -> Record:
    """Return the values of a summary that do not depend on which rows were reused."""
    own = ("out", "command", "reused", "seconds", "images_per_second", "more_frames", "unchanged")
    return {name: value for name, value in summary.as_record().items() if name not in own}


@pytest.fixture
def job(tmp_path: Path, model: OnnxModel, make_pictures: MakePictures) -> Job:
    """Ten old images in a folder and its subfolder, and one file that is no image."""
    made = Job(tmp_path, model)
    make_pictures(made.folder, 7)
    make_pictures(made.folder / "0003", 3)
    (made.folder / "0005a.png").write_bytes(b"no picture")
    made.age()
    return made


def write(path: Path, seed: int) -> None:
    """Write an image to a file."""
    Image.fromarray(draw(seed)).save(path)


def same_size(path: Path) -> bytes:
    """Return other content of the same size."""
    return path.read_bytes()[:-1] + b"?"


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_only_new_changed_and_renamed_files_are_predicted(job: Job, ending: str) -> None:
    """In each table format; deleted files have no row."""
    job.out = job.out.with_suffix(ending)
    assert job.run().unchanged == 0
    assert job.run().unchanged == 11
    write(job.folder / "0001.png", 50)
    write(job.folder / "0003" / "new.png", 51)
    (job.folder / "0002.png").unlink()
    (job.folder / "0003.png").rename(job.folder / "0009.png")
    (job.folder / "broken.png").write_bytes(b"")
    summary = job.run()
    assert (summary.images, summary.unchanged, summary.statuses) == (12, 8, {"ok": 10, "not-an-image": 2})
    (job.folder / "0006.png").unlink()
    assert job.run().images == 11


def test_a_table_for_excel_is_updated(job: Job) -> None:
    """Its rows are reused. A change of the dialect predicts all images, so that the table has one dialect."""
    job.options["csv_dialect"] = "excel"
    job.run()
    write(job.folder / "new.png", 50)
    assert job.run().unchanged == 11
    assert job.out.read_bytes().startswith(b"\xef\xbb\xbfpath;prediction;")
    del job.options["csv_dialect"]
    assert job.run().unchanged == 0


def test_unchanged_files_are_not_opened(job: Job, opened: list[bytes]) -> None:
    """Size, modification time and inode are enough; rows without a prediction are reused too."""
    first = predict_folder(job.folder, **job.arguments())
    opened.clear()
    content = job.out.read_bytes()
    second = predict_folder(job.folder, **job.arguments())
    assert opened == []
    assert (second.unchanged, second.reused, second.images_per_second) == (11, 0, 0)
    assert job.out.read_bytes() == content
    assert comparable(second) == comparable(first)
    assert [image.pixels is None for image in second.least_certain] == [False] * 10
    assert np.array_equal(np.asarray(second.least_certain[3].pixels), np.asarray(first.least_certain[3].pixels))
    assert {path.name for path in (job.root / "work").iterdir()} == {"ledgers"}


def test_the_row_of_a_file_with_a_new_time_and_the_same_content_is_reused(job: Job, opened: list[bytes]) -> None:
    """The file is read once. A copy in its place counts the same."""
    job.run()
    os.utime(job.folder / "0001.png", (0, 0))
    shutil.copy2(job.folder / "0002.png", job.folder / "copy")
    (job.folder / "copy").replace(job.folder / "0002.png")
    opened.clear()
    assert predict_folder(job.folder, **job.arguments()).unchanged == 11
    assert opened == [b"0001.png", b"0002.png"]
    opened.clear()
    assert predict_folder(job.folder, **job.arguments()).unchanged == 11
    assert opened == []


def test_the_content_of_files_that_were_young_is_compared(job: Job, opened: list[bytes]) -> None:
    """A write within a step of the clock leaves time, size and inode unchanged."""
    path = job.folder / "0001.png"
    written = time.time_ns() + 3600 * 10**9  # it is young however long the run takes to list it
    os.utime(path, ns=(written, written))
    job.run()
    path.write_bytes(same_size(path))
    os.utime(path, ns=(written, written))
    opened.clear()
    assert predict_folder(job.folder, **job.arguments()).unchanged == 10
    assert opened == [b"0001.png", b"0001.png"]
    assert job.run().unchanged == 11


def test_verify_compares_the_content_of_all_files(job: Job, opened: list[bytes]) -> None:
    """Without it, a change with the same size and time is missed."""
    job.run()
    path = job.folder / "0001.png"
    status = path.stat()
    path.write_bytes(same_size(path))
    os.utime(path, ns=(status.st_mtime_ns, status.st_mtime_ns))
    assert predict_folder(job.folder, **job.arguments()).unchanged == 11
    opened.clear()
    summary = predict_folder(job.folder, **job.arguments(verify=True))
    assert (summary.unchanged, len(opened)) == (10, 12)
    assert job.run(verify=True).unchanged == 11


def test_verify_without_incremental_is_an_error(job: Job) -> None:
    """There are no rows to verify."""
    with pytest.raises(UsageError, match="verify: only rows that incremental reuses can be verified"):
        job.run(incremental=False, verify=True)


def test_an_image_with_a_transient_status_is_predicted_again(world_readable: Path, make_pictures: MakePictures) -> None:
    """A change of permissions leaves size, time and inode unchanged."""
    job = Job(world_readable, OnnxModel.load(write_model(world_readable / "model"), version=1))
    make_pictures(job.folder, 3)
    job.age()
    (job.folder / "0001.png").chmod(0)
    for name in ("work", "out", "whole"):
        (world_readable / name).mkdir(mode=0o777)
        (world_readable / name).chmod(0o777)
    with faults.without_root():
        assert job.run().statuses == {"ok": 2, "denied": 1}
        assert job.run().unchanged == 2
    (job.folder / "0001.png").chmod(0o644)
    with faults.without_root():
        summary = job.run()
    assert (summary.unchanged, summary.statuses) == (2, {"ok": 3})


def test_an_unreadable_file_is_read_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row has no hash."""

    def fail(*_: object, **__: object) -> bytes:
        raise DecodeError("unreadable", "the file can't be read: Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(source, "read_entry", fail)
        assert predict_folder(job.folder, **job.arguments()).statuses == {"unreadable": 11}
    assert job.run().unchanged == 0


def damage(path: Path) -> None:
    """Flip a bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("which", ["*.rows", "*.json"])
def test_damage_of_a_ledger_is_detected(job: Job, which: str, caplog: pytest.LogCaptureFixture) -> None:
    """With one warning, after which all images are predicted again."""
    job.run()
    (path,) = (job.root / "work" / "ledgers").rglob(which)
    damage(path)
    assert job.run().unchanged == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert "all images are predicted again" in caplog.text
    assert job.run().unchanged == 11
    assert len(caplog.records) == 1


def test_a_damaged_table_is_kept_until_it_may_be_overwritten(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """It is not the table that Digits wrote."""
    job.run()
    damage(job.out)
    damaged = job.out.read_bytes()
    with pytest.raises(UsageError, match=r"p\.csv was changed after Digits wrote it"):
        job.run()
    assert job.out.read_bytes() == damaged
    assert job.run(force=True).unchanged == 0
    assert "all images are predicted again" in caplog.text
    assert job.run().unchanged == 11


def test_a_table_that_is_missing_or_of_another_run_is_detected(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """With a warning each time."""
    job.run()
    job.out.unlink()
    assert job.run().unchanged == 0
    predict_folder(job.folder, **job.arguments(incremental=False, top_k=2))
    assert job.run().unchanged == 0
    assert caplog.text.count("not the table that the last incremental run wrote") == 2


def test_a_change_of_model_option_or_code_predicts_all_images(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a warning."""
    job.run()
    job.options["max_pixels"] = 700
    assert job.run().unchanged == 0
    assert job.run().unchanged == 11
    job.model = OnnxModel.load(job.model.directory, version=4)
    assert job.run().unchanged == 0
    monkeypatch.setattr(planning, "code_version", lambda *_: "another")
    assert job.run().unchanged == 0
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_a_change_of_the_selected_files_keeps_the_rows_of_the_others(job: Job) -> None:
    """Their contents do not depend on it."""
    job.run()
    job.options["exclude"] = ("0003",)
    summary = job.run()
    assert (summary.images, summary.unchanged) == (8, 8)
    job.options["exclude"] = ()
    assert job.run().unchanged == 8


def test_each_table_of_a_folder_has_its_own_ledger(job: Job) -> None:
    """The first run into another table reuses nothing."""
    job.run()
    job.out = job.out.with_name("q.csv")
    assert job.run().unchanged == 0
    assert job.run().unchanged == 11


def test_an_interrupted_incremental_run_resumes(job: Job) -> None:
    """Committed shards are not predicted again."""
    job.run()
    for number in range(9):
        write(job.folder / f"x{number}.png", 60 + number)
    plan = job.plan()
    with pytest.raises(ZeroDivisionError):
        run_worker(plan, tick=lambda _: 1 // 0 if plan.is_committed(0) else None)
    assert job.plan() == plan
    assert plan.pending_shards() == [1, 2]
    summary = job.run()
    assert (summary.unchanged, summary.reused, summary.images) == (11, 4, 20)


def test_a_damaged_file_of_known_rows_is_an_error_and_the_next_run_plans_again(job: Job) -> None:
    """No table is published from it."""
    job.run()
    write(job.folder / "new.png", 60)
    plan = job.plan()
    run_worker(plan)
    damage(plan.path / "known")
    with pytest.raises(CorruptArtifactError, match="known: damaged after it was written"):
        merge_parts(plan)
    assert job.run().unchanged == 11


def test_after_a_kill_at_any_file_operation_the_table_is_the_former_or_the_new_one(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the next run, the ledger fits the table."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    job.run()
    former, saved = job.out.read_bytes(), job.root / "saved"
    for name in ("out", "work"):
        shutil.copytree(job.root / name, saved / name)
    write(job.folder / "0001.png", 50)
    write(job.folder / "x.png", 51)
    (job.folder / "0002.png").unlink()
    job.age()
    expected = job.full_run().out.read_bytes()
    died = 0
    for at in range(1, 300, 3):
        with faults.fault(job.root, at, faults.die):
            status = faults.wait(faults.in_child(lambda: predict_folder(job.folder, **job.arguments())))
        assert job.out.read_bytes() in (former, expected)
        if status == 0:
            break
        died += 1
        summary = predict_folder(job.folder, **job.arguments())
        assert summary.unchanged in (9, 11)
        assert job.out.read_bytes() == expected
        assert predict_folder(job.folder, **job.arguments()).unchanged == 11
        for name in ("out", "work"):
            shutil.rmtree(job.root / name)
            shutil.copytree(saved / name, job.root / name)
    assert died > 10


def test_two_concurrent_runs_leave_a_ledger_that_fits_the_table(job: Job) -> None:
    """Both succeed."""
    job.run()
    write(job.folder / "x.png", 51)
    job.age()
    summaries: list[PredictionSummary] = []
    run = lambda: summaries.append(predict_folder(job.folder, **job.arguments()))  # noqa: E731
    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.images for summary in summaries] == [12, 12]
    assert job.run().unchanged == 12


def test_random_changes_between_runs_give_the_table_of_a_full_run(job: Job) -> None:
    """The summary is that of a full run too."""
    chance = random.Random(0)  # noqa: S311
    names = [f"{letter}{sign}.png" for letter in "ab0=%" for sign in ("", "/x", "-")]
    for step in range(8):
        for name in chance.sample(names, 4):
            path = job.folder / name
            if path.is_file() and chance.random() < 0.5:
                path.unlink()
            elif not path.is_dir():
                path.parent.mkdir(parents=True, exist_ok=True)
                write(path, 100 * step + chance.randrange(100))
        if chance.random() < 0.7:
            job.age()
        job.run()


def test_an_archive_is_predicted_again_only_if_it_was_written_again(job: Job) -> None:
    """Zip and compressed tar."""
    for kind, name in (("zip", "a.zip"), ("gztar", "a.tar.gz")):
        archive = Path(shutil.make_archive(str(job.root / "a"), kind, job.folder))
        assert archive.name == name
        os.utime(archive, (LONG_AGO, LONG_AGO))
        whole, job.folder = job.folder, archive
        assert [job.run().unchanged for _ in range(2)] == [0, 11]
        assert job.run(verify=True).unchanged == 11
        os.utime(archive, (LONG_AGO + 1, LONG_AGO + 1))
        assert job.run().unchanged == 0
        job.folder = whole


def test_a_folder_that_becomes_empty_gives_an_empty_table_if_it_is_forced(job: Job) -> None:
    """After that, there are no rows to keep."""
    job.run()
    empty(job.folder)
    refused(job, f"^{job.folder}: 11 of the 11 images in {job.out} are gone")
    assert job.run(force=True).images == 0
    assert job.run().unchanged == 0


@pytest.mark.parametrize(
    ("known", "gone", "found", "refused"),
    [
        (19, 19, 1, False),
        (20, 10, 1, False),
        (20, 11, 1, True),
        (1000, 501, 1, True),
        (1, 1, 0, True),
        (0, 0, 0, False),
    ],
)
def test_a_run_that_finds_files_may_drop_half_of_the_rows_or_all_of_few(
    known: int, gone: int, found: int, refused: bool
) -> None:
    """Others are probably on a disk that is not mounted."""
    assert incremental.drops_too_many(known, gone, found) == refused


@pytest.fixture
def large(job: Job, make_pictures: MakePictures) -> Job:
    """Thirty-one files that were predicted incrementally."""
    make_pictures(job.folder / "more", 20)
    job.age()
    job.run()
    return job


def listed(job: Job, *names: str) -> Path:
    """Return a list of files."""
    path = job.root / "list.txt"
    path.write_text("".join(f"{name}\n" for name in names))
    return path


def empty(folder: Path) -> None:
    """Remove everything in a folder."""
    shutil.rmtree(folder)
    folder.mkdir()


def refused(job: Job, message: str, **options: Any) -> None:
    """Check that a run ends with an error, and keeps the table and the ledger."""
    places = [job.out.parent, job.root / "work"]
    before = [path.read_bytes() for place in places for path in sorted(place.rglob("*")) if path.is_file()]
    with pytest.raises(UsageError, match=message):
        predict_folder(job.folder, **job.arguments(**options))
    after = [path.read_bytes() for place in places for path in sorted(place.rglob("*")) if path.is_file()]
    assert before == after


def test_a_folder_that_is_not_mounted_does_not_empty_its_table(large: Job) -> None:
    """Until it is forced to, or the folder is back."""
    large.folder.rename(large.root / "elsewhere")
    large.folder.mkdir()
    refused(large, f"^{large.folder}: 31 of the 31 images in {large.out} are gone, .* drop the rows with --f")
    shutil.copytree(large.root / "elsewhere" / "more", large.folder, dirs_exist_ok=True)
    refused(large, "24 of the 31 images")  # the files have other paths
    large.folder.rename(large.root / "other")
    (large.root / "elsewhere").rename(large.folder)
    assert large.run().unchanged == 31
    empty(large.folder)
    assert large.run(force=True).images == 0
    assert large.run().images == 0


def test_a_complete_run_that_finds_nothing_keeps_the_rows_of_the_table(large: Job) -> None:
    """It names what it has skipped. Another folder, with one image, replaces all rows; so does `force`."""
    complete: dict[str, Any] = {"incremental": False}
    predict_folder(large.folder, **large.arguments(**complete))
    empty(large.folder)
    (large.folder / "a.txt").touch()
    reason = r"complete \(found: 1 other file is no image\), or drop the rows with --force"
    refused(large, f"^{large.folder}: 31 of the 31 images in {large.out} are gone, .*{reason}", **complete)
    refused(large, "31 of the 31 images", **complete, files_from=listed(large, "0001.png"))
    write(large.folder / "new.png", 70)
    assert predict_folder(large.folder, **large.arguments(**complete)).images == 1
    (large.folder / "new.png").unlink()
    assert predict_folder(large.folder, **large.arguments(**complete, force=True)).images == 0
    assert predict_folder(large.folder, **large.arguments(**complete)).images == 0


def test_half_of_the_images_may_go(large: Job) -> None:
    """With one more they may not, whatever else is new."""
    paths = sorted(large.folder.rglob("*.png"))
    for number, path in enumerate(paths[:15]):
        path.unlink()
        write(large.folder / f"new{number}.png", 70 + number)
    large.run()
    for path in sorted(large.folder.rglob("*.png"))[:16]:
        path.unlink()
    refused(large, "16 of the 31 images")


@pytest.mark.parametrize("change", ["options", "ledger"])
def test_rows_are_kept_too_if_all_images_are_predicted_again(large: Job, change: str) -> None:
    """Because an option has changed, or there is no ledger, as after a complete run. Few rows may go."""
    if change == "ledger":
        shutil.rmtree(large.root / "work" / "ledgers")
    options = {"top_k": 2} if change == "options" else {}
    shutil.rmtree(large.folder / "more")
    refused(large, "20 of the 31 images", **options)
    assert predict_folder(large.folder, **large.arguments(force=True, **options)).images == 11
    empty(large.folder)
    write(large.folder / "new.png", 70)
    assert predict_folder(large.folder, **large.arguments(**options)).images == 1


def test_listed_files_that_are_missing_count_as_gone(large: Job) -> None:
    """As if they were not listed; those that were missing before do not."""
    names = large.root / "names"
    paths = [path.relative_to(large.folder) for path in large.folder.rglob("*.png")]
    names.write_text("".join(f"{path}\n" for path in paths) + "".join(f"missing{n}\n" for n in range(40)))
    large.options["files_from"] = names
    large.run()
    shutil.rmtree(large.folder / "more")
    refused(large, "20 of the 31 images")


def test_the_members_of_an_archive_may_change_their_order(large: Job) -> None:
    """A compressed tar file has its own order."""
    archive, paths = large.root / "a.tar.gz", sorted(large.folder.rglob("*.png"))
    for order in (paths, paths[::-1]):
        with tarfile.open(archive, "w:gz") as file:
            for path in order:
                file.add(path, path.relative_to(large.folder))
        assert predict_folder(archive, **large.arguments(out=large.root / "t.csv")).images == 31


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_ledgers_are_read_in_pieces_of_any_size(job: Job, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece may end anywhere in a line."""
    monkeypatch.setattr(incremental, "CHUNK_BYTES", chunk)
    job.run()
    write(job.folder / "0001.png", 50)
    assert job.run().unchanged == 10


def test_a_file_that_vanishes_before_its_comparison_is_predicted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its row has the status."""
    job.run()
    os.utime(job.folder / "0001.png", (0, 0))

    def gone(*_: object, **__: object) -> bytes:
        raise DecodeError("vanished", "the file was removed after the folder was listed")

    monkeypatch.setattr(source, "read_entry", gone)
    summary = predict_folder(job.folder, **job.arguments())
    assert (summary.unchanged, summary.statuses["vanished"]) == (10, 1)


def test_a_plan_is_up_to_date_if_table_and_ledger_would_not_change(job: Job) -> None:
    """A deleted, a new or a young file makes it out of date."""
    assert not job.plan().is_up_to_date, "there is no table yet"
    job.run()
    assert job.plan().is_up_to_date
    (job.folder / "0001.png").unlink()
    assert not job.plan().is_up_to_date, "a file has gone"
    job.run()
    max(job.folder.rglob("*.png")).unlink()
    assert not job.plan().is_up_to_date, "the last file has gone"
    job.run()
    assert job.plan().is_up_to_date
    write(job.folder / "zz.png", 5)
    assert not job.plan().is_up_to_date, "a file is new"
    job.run()
    assert not job.plan().is_up_to_date, "a young file must be looked at once more"
    job.age()
    job.run()
    assert job.plan().is_up_to_date


def test_a_plan_is_not_up_to_date_if_the_summary_is_missing_or_of_another_run(job: Job) -> None:
    """As after a kill between table and summary."""
    job.run()
    assert job.plan().is_up_to_date
    summary = summary_path(job.out)
    written = read_record(summary)
    summary.unlink()
    assert not job.plan().is_up_to_date
    write_record(summary, {**written, "plan": "another"})
    assert not job.plan().is_up_to_date
    job.run()
    assert job.plan().is_up_to_date


def test_a_full_run_is_never_up_to_date(job: Job) -> None:
    """It reuses nothing."""
    assert not plan_predictions(job.folder, **job.arguments(incremental=False)).is_up_to_date


def fail_after_one(items: Iterable[Any]) -> None:
    """Take one item, and fail as on a full disk."""
    next(iter(items))
    faults.no_space()


def test_a_full_disk_is_reported_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the listing or the table cannot be written, neither can what is left of the files that are read from."""

    def fail(act: Callable[[], object], message: str) -> None:
        with faults.full_disk(0):
            with pytest.raises(StoreError, match=message):
                act()
            gc.collect()

    job.run()
    write(job.folder / "0001.png", 50)
    plan = job.plan()
    run_worker(plan)
    with monkeypatch.context() as patch:
        patch.setattr(planning._ListingWriter, "write", lambda _, entries: fail_after_one(entries))
        fail(job.plan, "could not be planned")
        version = job.model.version
        fail(lambda: job.run(replace_version=version, incremental=False), "could not be planned")
    with monkeypatch.context() as patch:
        patch.setattr(type(plan.table_format), "join", lambda _, parts, *__: fail_after_one(parts))
        fail(lambda: merge_parts(plan), "could not be written")
    assert job.run().unchanged == 10
