"""Tests of batch prediction: from a folder to a table with one row per image, also after kills and damage."""

import csv
import itertools
import json
import os
import random
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from digits.errors import CorruptArtifactError, DigitsError, ModelError, StoreError, UsageError
from digits.images.folder import unescape_path
from digits.images.screening import ScreenedImage
from digits.model.onnx_model import ModelOutput, OnnxModel, Predictor
from digits.outputs.summary import (
    PredictionSummary,
    draw_least_certain,
    picture_path,
    read_picture,
    report_path,
    summary_path,
)
from digits.prediction import planning, pool, publish
from digits.prediction.config import PredictionConfig
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.publish import merge_parts, predict_folder
from digits.prediction.worker import LEAST_CERTAIN_KEPT, run_worker
from digits.store.records import read_record
from tests.support import faults
from tests.support.tiny_model import MakePictures, draw, write_model

HOSTILE = [
    b"a\nb.png",
    b"a\rb.png",
    b'q"q.png',
    b"c,c.png",
    b"=1+1.png",
    b"+x.png",
    b"-x.png",
    b"@x.png",
    b"\xff\xfe.png",
    b"%41.png",
    b" NA .png",
    b"deep/=2/\xe9.png",
]


class Job:
    """A folder, a model and places for the result, to be predicted again and again."""

    def __init__(self, root: Path, model: OnnxModel) -> None:
        self.folder, self.out, self.work = root / "in", root / "out" / "p.csv", root / "work"
        self.model = model
        self.options: dict[str, Any] = {"shard_size": 4}

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Return the arguments of a prediction except the folder."""
        given = {"model": self.model, "out": self.out, "work": self.work, **changes}
        return {**given, "options": PredictionConfig(**self.options)}

    def plan(self, **changes: Any) -> Plan:
        """Plan the prediction."""
        return plan_predictions(self.folder, **self.arguments(**changes))

    def run(self, **changes: Any) -> PredictionSummary:
        """Plan, predict and merge in this process."""
        plan = self.plan(**changes)
        run_worker(plan)
        return merge_parts(plan)

    def predict(self, **changes: Any) -> PredictionSummary:
        """Predict with worker processes."""
        return predict_folder(self.folder, **self.arguments(**changes))

    def rows(self) -> list[dict[str, str]]:
        """Read the table."""
        with self.out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def job(tmp_path: Path, model: OnnxModel, make_pictures: MakePictures) -> Job:
    """Ten pictures in three shards."""
    make_pictures(tmp_path / "in", 10)
    return Job(tmp_path, model)


def test_a_folder_becomes_a_table_with_the_predictions_in_order(job: Job) -> None:
    """They equal those of the network in this process."""
    summary = job.run()
    rows = job.rows()
    assert [row["path"] for row in rows] == [f"{number:04d}.png" for number in range(10)]
    probabilities = Predictor(job.model).predict(np.stack([draw(number) for number in range(10)]))
    assert [row["prediction"] for row in rows] == [str(index) for index in probabilities.argmax(axis=1)]
    assert [row["confidence"] for row in rows] == [f"{value:.6f}" for value in probabilities.max(axis=1)]
    assert {(row["status"], row["error"], row["width"], row["model_version"]) for row in rows} == {
        ("ok", "", "28", "3")
    }
    assert len({row["sha256"] for row in rows}) == 10
    assert (summary.images, summary.statuses, summary.reused, summary.out) == (10, {"ok": 10}, 0, job.out)
    assert sum(summary.predictions.values()) == 10
    assert summary.images_per_second > 0
    assert not list(job.work.iterdir())


def test_the_summary_and_the_picture_are_written_next_to_the_table(job: Job) -> None:
    """The summary can be read back, without the pixels. The picture goes when no image can be read."""
    summary = job.run()
    record = read_record(summary_path(job.out))
    assert record["images"] == 10
    again = PredictionSummary.from_record({key: value for key, value in record.items() if key != "plan"})
    assert again.as_record() == summary.as_record()
    assert again.least_certain[0].pixels is None
    assert sorted(path.name for path in job.out.parent.iterdir()) == [
        "p.csv",
        "p.least-certain.png",
        "p.report.html",
        "p.summary.json",
    ]
    picture = read_picture(summary)
    assert picture == draw_least_certain(summary)
    assert picture
    for image in job.folder.iterdir():
        image.write_bytes(b"none")
    assert read_picture(job.run()) is None


def test_the_least_certain_images_come_with_their_pixels(job: Job, make_pictures: MakePictures) -> None:
    """The lowest confidence comes first; their number is limited."""
    make_pictures(job.folder, LEAST_CERTAIN_KEPT + 8)
    least = job.run().least_certain
    expected = sorted(job.rows(), key=lambda row: float(row["confidence"]))[:LEAST_CERTAIN_KEPT]
    assert [image.path for image in least] == [row["path"] for row in expected]
    assert [f"{image.confidence:.6f}" for image in least] == [row["confidence"] for row in expected]
    pixels = least[0].pixels
    assert pixels is not None
    assert pixels.tolist() == draw(int(least[0].path[:4])).tolist()


def test_options_add_columns_for_probabilities_and_further_classes(job: Job) -> None:
    """The probabilities sum to one."""
    job.options |= {"probabilities": True, "top_k": 3}
    job.run()
    for row in job.rows():
        probabilities = [float(row[f"p{index}"]) for index in range(10)]
        ranked = sorted(range(10), key=lambda index: -probabilities[index])
        assert sum(probabilities) == pytest.approx(1, abs=1e-5)
        assert [row["prediction"], row["top2"], row["top3"]] == [str(index) for index in ranked[:3]]
        assert float(row["top2_confidence"]) == probabilities[ranked[1]]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table in any format."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=False)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_all_table_formats_hold_the_same_values(job: Job, ending: str) -> None:
    """As pandas reads them."""
    (job.folder / "broken.png").write_bytes(b"no picture")
    job.run()
    expected = pd.read_csv(job.out)
    out = job.out.with_suffix(ending)
    job.run(out=out)
    read = read_table(out)
    for name in ("path", "status", "sha256", "error"):
        assert read[name].fillna("").tolist() == expected[name].fillna("").tolist()
    for name in ("prediction", "confidence", "width", "model_version"):
        assert np.allclose(read[name].astype(float), expected[name], equal_nan=True)


def test_hostile_file_names_survive_the_table(job: Job) -> None:
    """One row each, in the order of their bytes, read by csv and by pandas. No cell begins like a formula."""
    shutil.rmtree(job.folder)
    for name in HOSTILE:
        path = job.folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw(0)).save(path)
    job.run()
    assert [unescape_path(row["path"]) for row in job.rows()] == sorted(HOSTILE)
    frame = pd.read_csv(job.out, dtype=str, keep_default_na=False)
    assert [unescape_path(path) for path in frame["path"]] == sorted(HOSTILE)
    assert not [path for path in frame["path"] if path[0] in "=+-@"]


def test_bad_files_get_a_status_and_leave_all_other_rows_unchanged(job: Job) -> None:
    """Links and pipes are skipped and counted."""
    job.run()
    before = {row["path"]: row for row in job.rows()}
    png = (job.folder / "0001.png").read_bytes()
    bad = {
        "0000a.png": (b"", "not-an-image"),
        "0001a.png": (b"text", "not-an-image"),
        "0002a.png": (b"%!PS-Adobe", "unsupported"),
        "0003a.png": (png[:-30], "unreadable"),
        "0004a.png": (png[:20] + b"\xff" + png[21:], "unreadable"),
        "0005a.png": (b"\0" * 3000, "too-large"),
    }
    for name, (content, _) in bad.items():
        (job.folder / name).write_bytes(content)
    os.mkfifo(job.folder / "0006a.png")
    (job.folder / "0007a.png").symlink_to("0001.png")
    (job.folder / "loop").symlink_to(".")
    job.options["max_bytes"] = 2000
    summary = job.run()
    after = {row["path"]: row for row in job.rows()}
    assert {name: row for name, row in after.items() if name in before} == before
    assert {name: row["status"] for name, row in after.items() if name not in before} == {
        name: status for name, (_, status) in bad.items()
    }
    assert all(after[name]["error"] and not after[name]["prediction"] for name in bad)
    assert summary.statuses == {"ok": 10, "not-an-image": 2, "unsupported": 1, "unreadable": 2, "too-large": 1}
    assert summary.skipped == {"fifo": 1, "link": 2}
    assert [failure.path for failure in summary.failures] == sorted(bad)
    assert summary.failures[0].status == "not-an-image"


def test_the_row_of_an_image_with_too_many_pixels_has_its_size(job: Job) -> None:
    """Its status is `too-large`."""
    job.options["max_pixels"] = 783
    job.run()
    assert {(row["status"], row["width"], row["height"]) for row in job.rows()} == {("too-large", "28", "28")}


def test_images_with_several_frames_are_counted_in_the_summary(job: Job) -> None:
    """Only their first frame is predicted."""
    frames = [Image.fromarray(draw(seed)) for seed in (0, 1)]
    frames[0].save(job.folder / "x.gif", save_all=True, append_images=frames[1:])
    assert job.run().more_frames == 1


def test_files_that_vanish_or_change_after_the_listing_get_a_status(job: Job) -> None:
    """All other rows have predictions."""
    plan = job.plan()
    (job.folder / "0002.png").unlink()
    Image.fromarray(draw(99)).save(job.folder / "0003.png")
    run_worker(plan)
    merge_parts(plan)
    assert [row["status"] for row in job.rows()] == ["ok", "ok", "vanished", "changed", *["ok"] * 6]


def test_an_error_of_the_normalization_fails_only_its_row(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the exception. Dark digits on light paper are not in MNIST's form."""
    for path in job.folder.iterdir():
        Image.fromarray(255 - np.asarray(Image.open(path))).save(path)
    calls = iter(range(100))

    def look(pixels: Any, *_: Any, **__: Any) -> Any:
        if next(calls) == 4:
            raise ZeroDivisionError
        return ScreenedImage(pixels, 0.0)

    monkeypatch.setattr("digits.prediction.worker.screen", look)
    assert job.run().statuses == {"ok": 9, "unreadable": 1}
    assert job.rows()[4]["error"] == "it could not be normalised: ZeroDivisionError"


def test_a_single_image_is_predicted_whatever_its_extension(job: Job) -> None:
    """The table has one row."""
    (job.folder / "0004.png").rename(job.folder / "picture")
    predict_folder(job.folder / "picture", **job.arguments())
    assert [row["path"] for row in job.rows()] == ["picture"]


def test_each_listed_file_has_a_row_even_if_it_is_missing(job: Job) -> None:
    """A file outside the folder is skipped; an image in place of the folder is refused."""
    names = job.folder.parent / "names"
    names.write_bytes(b"0003.png\0gone\0%b\0../in2\0" % os.fsencode(job.folder / "0001.png"))
    job.options["files_from"] = names
    summary = job.run()
    assert [(row["path"], row["status"]) for row in job.rows()] == [
        ("0001.png", "ok"),
        ("0003.png", "ok"),
        ("gone", "vanished"),
    ]
    assert summary.skipped == {"outside": 1}
    with pytest.raises(UsageError, match="expected the folder of the files that"):
        predict_folder(job.folder / "0001.png", **job.arguments())


def test_other_formats_are_taken_by_extension_and_read(job: Job) -> None:
    """Formats that are not listed in the option are skipped."""
    Image.fromarray(draw(1)).save(job.folder / "x.pgm")
    Image.fromarray(draw(1)).save(job.folder / "x.pcx")
    job.options |= {"other_formats": ["PPM"]}
    assert job.run().skipped == {"other-file": 1}
    rows = {row["path"]: row for row in job.rows()}
    assert rows["x.pgm"]["prediction"] == rows["0001.png"]["prediction"]


def test_an_empty_folder_gives_a_table_without_rows(job: Job) -> None:
    """The table has its header."""
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    summary = job.run()
    assert job.out.read_text().count("\n") == 1
    assert (summary.images, summary.images_per_second, summary.least_certain) == (0, 0, ())


def test_a_missing_folder_or_an_unknown_format_is_an_error_before_anything_is_written(job: Job) -> None:
    """Neither a plan nor the table's folder is made."""
    with pytest.raises(UsageError, match="expected a folder or an archive of images"):
        predict_folder(job.folder / "nowhere", **job.arguments())
    with pytest.raises(UsageError, match=r"found '\.txt'"):
        job.run(out=job.out.with_suffix(".txt"))
    assert not job.out.parent.exists()
    assert not list(job.work.iterdir())


def test_own_output_inside_the_input_folder_is_not_predicted(job: Job) -> None:
    """A second run writes the same table."""
    job.options["all_files"] = True
    inside = {"out": job.folder / "p.csv", "work": job.folder / "work"}
    first = job.run(**inside)
    content = inside["out"].read_bytes()
    picture_path(inside["out"]).write_bytes((job.folder / "0000.png").read_bytes())
    job.options["force"] = True
    second = job.run(**inside)
    assert (first.images, second.images) == (10, 10)
    assert second.skipped == {"output": 5}
    assert inside["out"].read_bytes() == content


@pytest.mark.parametrize("options", [{"shard_size": 1}, {"shard_size": 3}, {"shard_size": 1000}])
def test_the_table_does_not_depend_on_the_shard_size(job: Job, options: dict[str, int]) -> None:
    """Byte for byte."""
    job.run()
    expected = job.out.read_bytes()
    job.options = options
    job.run()
    assert job.out.read_bytes() == expected


def test_shards_grow_with_the_folder_within_their_limits(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their number is the target unless they are too small or larger than the option."""
    monkeypatch.setattr(planning, "MIN_SHARD_IMAGES", 2)
    monkeypatch.setattr(planning, "TARGET_SHARDS", 3)
    assert [job.plan().images_in(shard) for shard in job.plan().shards] == [4, 4, 2]
    job.options = {"shard_size": 3}
    shutil.rmtree(job.work)
    assert [job.plan().images_in(shard) for shard in job.plan().shards] == [3, 3, 3, 1]


def test_shards_of_large_files_are_small(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an incremental run too, so that the table has the same bytes."""
    monkeypatch.setattr(planning, "TARGET_SHARDS", 100)
    job.options = {}
    assert len(job.plan().shards) == 1
    monkeypatch.setattr(planning, "MIN_SHARD_BYTES", 2 * max(file.stat().st_size for file in job.folder.iterdir()))
    shutil.rmtree(job.work)
    shards = job.plan().shards
    assert 4 <= len(shards) <= 5
    job.options = {"incremental": True}
    former = job.plan().former
    assert former is not None
    assert former.shard_size == job.plan().images_in(0)


def test_the_plan_of_the_same_request_is_found_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Folder, listing, model, table and options matter; the number of processes and the shard size do not."""
    plan = job.plan()
    assert job.plan() == plan
    job.options |= {"processes": 1, "shard_size": 2}
    assert job.plan() == plan
    others = [plan]
    job.options["top_k"] = 2
    others.append(job.plan())
    others.append(job.plan(out=job.out.with_suffix(".jsonl")))
    others.append(job.plan(model=OnnxModel.load(job.model.directory, version=4)))
    monkeypatch.setattr(planning, "code_version", lambda *_: "another")
    others.append(job.plan())
    (job.folder / "0000.png").touch()
    others.append(job.plan())
    assert len({other.digest for other in others}) == 6


def test_auto_normalization_is_the_mode_the_model_was_trained_with(job: Job) -> None:
    """An explicit mode overrides it."""
    plain = OnnxModel(**{**vars(job.model), "normalization": {"mode": "none"}})
    assert job.plan(model=plain).options.normalize == "none"
    job.options["normalize"] = "mnist"
    assert job.plan(model=plain).options.normalize == "mnist"


def test_a_model_of_another_normalization_is_warned_about(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """Its accuracy may be lower than measured."""
    old = OnnxModel(**{**vars(job.model), "normalization": {"recipe": "mnist", "version": 0}})
    job.run(model=old)
    assert "was trained with normalization" in caplog.text


def test_a_killed_run_resumes_and_writes_the_same_table(job: Job) -> None:
    """Committed shards are not predicted again."""
    job.run()
    expected = job.out.read_bytes()
    job.out.unlink()
    with pytest.raises(faults.Killed):
        run_worker(job.plan(), tick=faults.kill_after(2))
    plan = job.plan()
    assert plan.pending_shards() == [2]
    done: list[int] = []
    run_worker(plan, tick=done.append)
    assert done == [2]
    assert merge_parts(plan, started=read_record(plan.part_path(2, ".json"))["started"]).reused == 8
    assert job.out.read_bytes() == expected


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace fsync, which is slow, by a function that does nothing."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.mark.usefixtures("no_fsync")
def test_after_a_kill_at_any_file_operation_the_table_is_absent_or_complete(job: Job) -> None:
    """The next run completes it."""
    job.run()
    expected = job.out.read_bytes()
    shutil.rmtree(job.out.parent)
    at, died = random.Random(0).randint(1, 5), 0  # noqa: S311
    while True:
        with faults.fault(job.folder.parent, at, faults.die):
            status = faults.wait(faults.in_child(job.run))
        assert status in (0, -9)
        assert not job.out.exists() or job.out.read_bytes() == expected
        if status == 0:
            break
        died += 1
        at += 5
        if died % 2:
            job.run()
            assert job.out.read_bytes() == expected
            shutil.rmtree(job.out.parent)
    assert died > 5
    assert job.out.read_bytes() == expected


@pytest.mark.usefixtures("no_fsync")
def test_a_full_disk_is_an_error_and_the_next_run_resumes(job: Job) -> None:
    """At any write, the message has the reason and the table is absent or complete."""
    job.run()
    expected = job.out.read_bytes()
    for at in range(2, 200, 7):
        shutil.rmtree(job.out.parent, ignore_errors=True)
        with faults.fault(job.folder.parent, at, faults.no_space) as fault:
            try:
                job.run()
            except StoreError as error:
                assert "No space left on device" in str(error)  # noqa: PT017
        if not fault.happened:
            break
        assert not job.out.exists() or job.out.read_bytes() == expected
        job.run()
        assert job.out.read_bytes() == expected
    else:
        pytest.fail("the last write was never reached")


def test_two_concurrent_runs_share_the_work_and_write_one_table(job: Job) -> None:
    """Both succeed."""
    job.run()
    expected, summaries = job.out.read_bytes(), []
    threads = [threading.Thread(target=lambda: summaries.append(job.predict())) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [summary.images for summary in summaries] == [10, 10]
    assert job.out.read_bytes() == expected
    assert not list(job.work.iterdir())


def test_merging_a_published_plan_returns_the_summary_of_the_run_that_published_it(job: Job) -> None:
    """If the table is gone, it is an error."""
    plan = job.plan()
    run_worker(plan)
    first = merge_parts(plan)
    assert merge_parts(plan).as_record() == first.as_record()
    job.out.unlink()
    with pytest.raises(StoreError, match="run the same command again"):
        merge_parts(plan)


def test_a_table_that_another_model_replaced_meanwhile_is_predicted_again(
    job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two runs of the same request, the later one finds the table of another version."""
    other = replace(job.model, version=job.model.version + 1)
    real, late = publish.merge_predictions, []

    def merge_predictions(plan: Plan, workers: Any, **options: Any) -> PredictionSummary:
        if not late:
            late.append(merge_parts(plan))
            job.run(model=other)
        return real(plan, workers, **options)

    monkeypatch.setattr(publish, "merge_predictions", merge_predictions)
    assert job.predict().model_version == job.model.version
    assert read_record(summary_path(job.out))["model_version"] == job.model.version
    assert not list(job.work.iterdir())


def test_table_and_summary_are_of_the_same_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another plan for the same table waits until both are written."""
    ours, theirs = job.plan(), job.plan(model=replace(job.model, version=job.model.version + 1))
    for plan in (ours, theirs):
        run_worker(plan)
    other = threading.Thread(target=lambda: merge_parts(theirs))
    real = publish.record_run

    def record(out: Path, run: Any, *, plan: str, reference: Any) -> Any:
        if plan == ours.digest:
            table = job.out.read_bytes()
            other.start()
            other.join(0.2)
            assert job.out.read_bytes() == table
        return real(out, run, plan=plan, reference=reference)

    monkeypatch.setattr(publish, "record_run", record)
    merge_parts(ours)
    other.join()
    assert read_record(summary_path(job.out))["model_version"] == theirs.model.version
    assert {row["model_version"] for row in job.rows()} == {str(theirs.model.version)}


def test_temporary_files_of_killed_runs_are_removed_by_the_next_run(job: Job) -> None:
    """Those of other tables stay."""
    names = (job.out.name, *(path(job.out).name for path in (picture_path, report_path, summary_path)))
    ours = [job.out.with_name(f".{name}.0123456789abcdef.tmp") for name in names]
    others = [job.out.with_name(f".{name}.0123456789abcdef.tmp") for name in ("other.csv", f"{job.out.name}.gz")]
    job.out.parent.mkdir(exist_ok=True)
    for path in (*ours, *others, job.out.with_name(f".{job.out.name}.mine.tmp")):
        path.write_text("half")
    job.predict()
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    assert job.out.with_name(f".{job.out.name}.mine.tmp").exists()


def test_a_shard_that_cannot_be_claimed_is_an_error_unless_the_plan_is_gone(job: Job) -> None:
    """The message has the remedy."""
    plan = job.plan()
    parts = plan.path / "parts"
    parts.rename(plan.path / "elsewhere")
    parts.write_text("no directory")
    with pytest.raises(StoreError, match="run the same command again"), pool.WorkerPool(1) as workers:
        pool.run_workers(plan, workers)
    parts.unlink()
    assert pool.free_shards(plan, list(plan.shards)) == []


def test_a_plan_that_cannot_be_read_is_an_error_without_a_traceback(job: Job) -> None:
    """Several workers try to read it."""
    plan = job.plan()
    record = plan.path / "plan.json"
    record.unlink()
    record.mkdir()
    with pytest.raises(DigitsError, match="Is a directory") as found, pool.WorkerPool(1) as workers:
        pool.run_workers(plan, workers)
    assert "Traceback" not in str(found.value)


def test_a_second_merge_waits_and_returns_the_published_summary(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only one process merges a plan at a time."""
    plan = job.plan()
    run_worker(plan)
    summaries: list[PredictionSummary] = []
    other = threading.Thread(target=lambda: summaries.append(merge_parts(plan)))
    real = publish.draw_least_certain

    def draw(summary: PredictionSummary) -> bytes | None:
        other.start()
        other.join(0.1)
        assert other.is_alive()
        return real(summary)

    monkeypatch.setattr(publish, "draw_least_certain", draw)
    first = merge_parts(plan)
    other.join()
    assert [summary.as_record() for summary in summaries] == [first.as_record()]


def test_merging_with_pending_shards_is_an_error(job: Job) -> None:
    """It has their number, and no table is written."""
    with pytest.raises(StoreError, match="3 of 3 shards are not predicted"):
        merge_parts(job.plan())
    assert not job.out.exists()


def damage(path: Path) -> None:
    """Flip a bit in a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["000001.part", "000001.json"])
def test_the_shard_of_a_damaged_part_file_is_predicted_again(
    job: Job, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its commit record shows the damage; `predict_folder` repairs it."""
    job.run()
    expected = job.out.read_bytes()
    plan = job.plan()
    run_worker(plan)
    damage(plan.path / "parts" / name)
    with pytest.raises(CorruptArtifactError, match="shard 1 must be predicted again"):
        merge_parts(plan)
    assert plan.pending_shards() == [1]
    run_worker(plan)
    damage(plan.path / "parts" / name)
    assert job.predict().images == 10
    assert job.out.read_bytes() == expected


@pytest.mark.parametrize("name", ["plan.json", "listing"])
def test_a_damaged_plan_is_replaced_by_a_new_one(job: Job, name: str) -> None:
    """All its shards are pending."""
    plan = job.plan()
    run_worker(plan)
    damage(plan.path / name)
    assert job.plan().pending_shards() == [0, 1, 2]


def test_of_two_plans_made_at_once_both_runs_use_the_first(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is renamed first."""
    first = job.plan()
    run_worker(first)

    def open_late(path: Path) -> Plan:
        if next(calls) == 0:
            raise FileNotFoundError
        return real(path)

    calls, real = itertools.count(), Plan.open
    monkeypatch.setattr(Plan, "open", open_late)
    assert job.plan() == first
    assert next(calls) == 2


def test_unfinished_plans_of_killed_runs_are_removed_when_they_are_old(job: Job) -> None:
    """A young one may belong to a living run."""
    old, new = job.work / "tmp-old", job.work / "tmp-new"
    for path in (old, new):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    job.run()
    assert [path.name for path in job.work.iterdir()] == ["tmp-new"]


def test_a_model_that_is_replaced_after_planning_is_an_error(job: Job, tmp_path: Path) -> None:
    """Its digest differs from that of the plan."""
    directory = write_model(tmp_path / "model")
    plan = job.plan(model=OnnxModel.load(directory, version=1))
    write_model(directory, seed=1)
    with pytest.raises(ModelError, match="replaced after the prediction was planned"):
        run_worker(plan)


def test_a_network_that_returns_nan_is_an_error(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """No table is written."""
    nothing = ModelOutput(np.full((10, 10), np.nan, np.float32), None)
    monkeypatch.setattr(Predictor, "predict_with_novelty", lambda _, pixels: nothing)
    with pytest.raises(ModelError, match="returns NaN or infinite values"):
        job.run()
    assert not job.out.exists()


def test_folders_that_are_not_writable_are_an_error(world_readable: Path, model: OnnxModel) -> None:
    """Those of the plans and of the table."""
    job = Job(world_readable, model)
    job.folder.mkdir()
    with faults.without_root(), pytest.raises(StoreError, match=r"could not be planned \(Permission denied"):
        job.run()
    job.work.mkdir()
    job.work.chmod(0o777)
    with faults.without_root(), pytest.raises(StoreError, match=r"could not be written \(Permission denied"):
        job.run()


def test_a_plan_can_be_opened_from_its_path(job: Job) -> None:
    """It equals the plan that was made, with all entries in its shards."""
    plan = job.plan()
    assert Plan.open(plan.path) == plan
    assert json.loads((plan.path / "plan.json").read_bytes())["images"] == 10
    assert [entry.path for shard in plan.shards for entry in plan.entries(shard)] == [
        f"{number:04d}.png".encode() for number in range(10)
    ]


def test_abandoned_plans_are_removed_after_their_time(job: Job) -> None:
    """Unfinished ones after a day, others after a month; other directories stay."""
    left = job.plan(out=job.out.with_name("other.csv"))
    draft, beside = job.work / "tmp-0", job.work / "ledgers"
    draft.mkdir()
    beside.mkdir()
    for path, days in ((draft, 2), (left.path / "parts", 29), (beside, 99)):
        os.utime(path, (time.time() - days * 86400,) * 2)
    job.plan()
    assert (draft.exists(), left.exists(), beside.exists()) == (False, True, True)
    os.utime(left.path / "parts", (time.time() - 31 * 86400,) * 2)
    job.plan()
    assert (left.exists(), beside.exists()) == (False, True)
