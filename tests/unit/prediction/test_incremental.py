"""Incremental runs: only what changed is predicted, and the table is that of a run from nothing, byte for byte."""

import os
import random
import shutil
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.errors import CorruptArtifactError, UsageError
from digits.images import source
from digits.images.decode import DecodeError
from digits.model.onnx_model import ModelFiles
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
    """A folder that is predicted again and again."""

    def __init__(self, root: Path, model: ModelFiles) -> None:
        self.root, self.folder, self.out, self.model = root, root / "in", root / "out" / "p.csv", model
        self.options: dict[str, Any] = {"shard_size": 4}
        self.seconds = 0

    def arguments(self, **options: Any) -> dict[str, Any]:
        """Give what is asked for, but for the folder."""
        config = PredictionConfig(**{**self.options, "incremental": True, **options})
        return {"model": self.model, "out": self.out, "work": self.root / "work", "options": config}

    def plan(self) -> Plan:
        """Only plan."""
        return plan_predictions(self.folder, **self.arguments())

    def run(self, **options: Any) -> PredictionSummary:
        """Do it all, and see that the table is that of a run from nothing."""
        summary = predict_folder(self.folder, **self.arguments(**options))
        whole = self.from_nothing()
        assert self.out.read_bytes() == whole.out.read_bytes()
        assert comparable(summary) == comparable(whole)
        return summary

    def from_nothing(self) -> PredictionSummary:
        """Predict everything, into another table."""
        arguments = self.arguments(incremental=False, verify=False)
        return predict_folder(self.folder, **{**arguments, "out": self.root / "whole" / self.out.name})

    def age(self) -> None:
        """Have all files be old, as most are when they are listed."""
        for path in sorted(self.folder.rglob("*")):
            if path.is_file() and path.stat().st_mtime > LONG_AGO + 10_000:
                self.seconds += 1
                os.utime(path, (0, LONG_AGO + self.seconds))


def comparable(summary: PredictionSummary) -> Record:
    """Give what does not depend on how the rows came about."""
    own = ("out", "reused", "seconds", "images_per_second", "more_frames", "unchanged")
    return {name: value for name, value in summary.as_record().items() if name not in own}


@pytest.fixture
def job(tmp_path: Path, model: ModelFiles, make_pictures: MakePictures) -> Job:
    """Ten old pictures, in a folder and its sub-folder, and a file that is none."""
    made = Job(tmp_path, model)
    make_pictures(made.folder, 7)
    make_pictures(made.folder / "0003", 3)
    (made.folder / "0005a.png").write_bytes(b"no picture")
    made.age()
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Note every image that is opened."""
    paths: list[bytes] = []
    real = source.read_entry

    def read(beneath: Any, entry: Any, **options: Any) -> bytes:
        paths.append(entry.path)
        return real(beneath, entry, **options)

    monkeypatch.setattr(source, "read_entry", read)
    return paths


def write(path: Path, seed: int) -> None:
    """Put another picture in a file."""
    Image.fromarray(draw(seed)).save(path)


def same_size(path: Path) -> bytes:
    """Give another content of the same size."""
    return path.read_bytes()[:-1] + b"?"


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_only_what_changed_is_predicted(job: Job, ending: str) -> None:
    """New, changed, deleted and renamed files, in each format."""
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


def test_unchanged_files_are_not_opened(job: Job, opened: list[bytes]) -> None:
    """Their size, time and inode are enough; rows without a prediction are kept too."""
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


def test_a_file_that_was_only_touched_is_read_and_kept(job: Job, opened: list[bytes]) -> None:
    """Or replaced by a copy: the content is the same."""
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


def test_young_files_are_compared(job: Job, opened: list[bytes]) -> None:
    """One written to within a tick of the clock after it was read has the same time, size and inode."""
    path = job.folder / "0001.png"
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    job.run()
    path.write_bytes(same_size(path))
    os.utime(path, ns=(now, now))
    opened.clear()
    assert predict_folder(job.folder, **job.arguments()).unchanged == 10
    assert opened == [b"0001.png", b"0001.png"]
    assert job.run().unchanged == 11


def test_verify_compares_all_contents(job: Job, opened: list[bytes]) -> None:
    """Also of a file whose time was set back; without it that can't be seen."""
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


def test_verify_is_for_incremental_runs(job: Job) -> None:
    """There is nothing to compare with otherwise."""
    with pytest.raises(UsageError, match="nothing to verify"):
        job.run(incremental=False, verify=True)


def test_what_may_heal_is_tried_again(world_readable: Path, make_pictures: MakePictures) -> None:
    """A permission that was given since leaves size, time and inode as they were."""
    job = Job(world_readable, ModelFiles.load(write_model(world_readable / "model"), version=1))
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


def test_a_disk_that_failed_is_asked_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The row says unreadable, and has no hash."""

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


@pytest.mark.parametrize("which", ["table", "*.rows", "*.json"])
def test_damage_is_noticed(job: Job, which: str, caplog: pytest.LogCaptureFixture) -> None:
    """By hash, with one warning: then all is predicted again."""
    job.run()
    (path,) = [job.out] if which == "table" else (job.root / "work" / "ledgers").rglob(which)
    damage(path)
    assert job.run().unchanged == 0
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert str(path) in caplog.text
    assert "all is predicted again" in caplog.text
    assert job.run().unchanged == 11
    assert len(caplog.records) == 1


def test_a_table_that_is_gone_is_noticed(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """As is one that a plain run of other options wrote."""
    job.run()
    job.out.unlink()
    assert job.run().unchanged == 0
    predict_folder(job.folder, **job.arguments(incremental=False, top_k=2))
    assert job.run().unchanged == 0
    assert caplog.text.count("not the table that the last incremental run wrote") == 2


def test_another_model_option_or_code_predicts_all(
    job: Job, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each by itself, and without a warning."""
    job.run()
    job.options["max_pixels"] = 700
    assert job.run().unchanged == 0
    assert job.run().unchanged == 11
    job.model = ModelFiles.load(job.model.directory, version=4)
    assert job.run().unchanged == 0
    monkeypatch.setattr(planning, "code_version", lambda *_: "another")
    assert job.run().unchanged == 0
    assert [record for record in caplog.records if record.levelname == "WARNING"] == []


def test_which_files_are_asked_for_is_no_such_option(job: Job) -> None:
    """Their rows are the same."""
    job.run()
    job.options["exclude"] = ("0003",)
    summary = job.run()
    assert (summary.images, summary.unchanged) == (8, 8)
    job.options["exclude"] = ()
    assert job.run().unchanged == 8


def test_tables_and_folders_have_ledgers_of_their_own(job: Job) -> None:
    """The same folder into another table is another matter."""
    job.run()
    job.out = job.out.with_name("q.csv")
    assert job.run().unchanged == 0
    assert job.run().unchanged == 11


def test_an_interrupted_run_is_continued(job: Job) -> None:
    """What was predicted before the kill is not predicted again."""
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


def test_what_is_known_is_verified_again(job: Job) -> None:
    """A plan that was damaged is not published, and made anew."""
    job.run()
    write(job.folder / "new.png", 60)
    plan = job.plan()
    run_worker(plan)
    damage(plan.path / "known")
    with pytest.raises(CorruptArtifactError, match="known: damaged after it was written"):
        merge_parts(plan)
    assert job.run().unchanged == 11


def test_killed_anywhere_and_continued(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table is the former one or the new one, and in the end the ledger fits it."""

    def concerns(self: faults.Fault, file: Any) -> bool:
        return isinstance(file, int) or (not isinstance(file, bytes) and os.fspath(file).startswith(self._root))

    monkeypatch.setattr(faults.Fault, "_concerns", concerns)
    monkeypatch.setattr(os, "fsync", faults.no_sync)
    job.run()
    former, saved = job.out.read_bytes(), job.root / "saved"
    for name in ("out", "work"):
        shutil.copytree(job.root / name, saved / name)
    write(job.folder / "0001.png", 50)
    write(job.folder / "x.png", 51)
    (job.folder / "0002.png").unlink()
    job.age()
    expected = job.from_nothing().out.read_bytes()
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


def test_two_runs_at_once(job: Job) -> None:
    """They share the work, and the ledger fits the table."""
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


def test_many_changes_one_after_the_other(job: Job) -> None:
    """Whatever is done between runs, the table and the summary are those of a run from nothing."""
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


def test_an_archive_is_unchanged_as_a_whole(job: Job) -> None:
    """Then nothing of it is predicted; an archive that was written again is predicted again."""
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


def test_an_empty_folder(job: Job) -> None:
    """First and last."""
    job.run()
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    assert job.run().images == 0
    assert job.run().unchanged == 0


@pytest.mark.parametrize("chunk", [1, 7, 100, 1000])
def test_ledgers_are_read_in_pieces(job: Job, chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a piece ends."""
    monkeypatch.setattr(incremental, "_CHUNK", chunk)
    job.run()
    write(job.folder / "0001.png", 50)
    assert job.run().unchanged == 10


def test_a_file_that_can_not_be_compared_is_predicted(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes between being listed and being read: its row says so."""
    job.run()
    os.utime(job.folder / "0001.png", (0, 0))

    def gone(*_: object, **__: object) -> bytes:
        raise DecodeError("vanished", "the file was removed after the folder was listed")

    monkeypatch.setattr(source, "read_entry", gone)
    summary = predict_folder(job.folder, **job.arguments())
    assert (summary.unchanged, summary.statuses["vanished"]) == (10, 1)


def test_what_is_settled_need_not_be_written_again(job: Job) -> None:
    """A run that would leave table and ledger as they are says so; one that would change either does not."""
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


def test_a_table_whose_summary_is_missing_or_of_another_run_is_not_settled(job: Job) -> None:
    """As a kill leaves it between the two."""
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


def test_a_run_that_is_not_incremental_is_never_settled(job: Job) -> None:
    """It has no past."""
    assert not plan_predictions(job.folder, **job.arguments(incremental=False)).is_up_to_date
