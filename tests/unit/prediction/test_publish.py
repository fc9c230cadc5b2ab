"""A folder to a table: one row an image, whatever is in it, however often the run is killed."""

import csv
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
from digits.model.onnx_model import Answers, ModelFiles, Predictor
from digits.outputs.summary import PredictionSummary, draw_least_certain, picture_path, read_picture, summary_path
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

    def __init__(self, root: Path, model: ModelFiles) -> None:
        self.folder, self.out, self.work = root / "in", root / "out" / "p.csv", root / "work"
        self.model = model
        self.options: dict[str, Any] = {"shard_size": 4}

    def arguments(self, **changes: Any) -> dict[str, Any]:
        """Give what is asked for, but for the folder."""
        given = {"model": self.model, "out": self.out, "work": self.work, **changes}
        return {**given, "options": PredictionConfig(**self.options)}

    def plan(self, **changes: Any) -> Plan:
        """Only plan."""
        return plan_predictions(self.folder, **self.arguments(**changes))

    def run(self, **changes: Any) -> PredictionSummary:
        """Do it all in this process."""
        plan = self.plan(**changes)
        run_worker(plan)
        return merge_parts(plan)

    def predict(self, **changes: Any) -> PredictionSummary:
        """Do it all as users do."""
        return predict_folder(self.folder, **self.arguments(**changes))

    def rows(self) -> list[dict[str, str]]:
        """Read the table."""
        with self.out.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))


@pytest.fixture
def job(tmp_path: Path, model: ModelFiles, make_pictures: MakePictures) -> Job:
    """Ten pictures in three shards."""
    make_pictures(tmp_path / "in", 10)
    return Job(tmp_path, model)


def test_a_folder_becomes_a_table_in_order(job: Job) -> None:
    """With the network's own answers."""
    summary = job.run()
    rows = job.rows()
    assert [row["path"] for row in rows] == [f"{number:04d}.png" for number in range(10)]
    chances = Predictor(job.model).predict(np.stack([draw(number) for number in range(10)]))
    assert [row["prediction"] for row in rows] == [str(index) for index in chances.argmax(axis=1)]
    assert [row["confidence"] for row in rows] == [f"{chance:.6f}" for chance in chances.max(axis=1)]
    assert {(row["status"], row["error"], row["width"], row["model_version"]) for row in rows} == {
        ("ok", "", "28", "3")
    }
    assert len({row["sha256"] for row in rows}) == 10
    assert (summary.images, summary.statuses, summary.reused, summary.out) == (10, {"ok": 10}, 0, job.out)
    assert sum(summary.predictions.values()) == 10
    assert summary.images_per_second > 0
    assert not list(job.work.iterdir())


def test_the_summary_stands_beside_the_table(job: Job) -> None:
    """As JSON; read back, it lacks only the pixels."""
    summary = job.run()
    record = read_record(summary_path(job.out))
    assert record["images"] == 10
    again = PredictionSummary.from_record({key: value for key, value in record.items() if key != "plan"})
    assert again.as_record() == summary.as_record()
    assert again.least_certain[0].pixels is None
    assert sorted(path.name for path in job.out.parent.iterdir()) == [
        "p.csv",
        "p.least-certain.png",
        "p.summary.json",
    ]
    picture = read_picture(summary)
    assert picture == draw_least_certain(summary)
    assert picture
    for image in job.folder.iterdir():
        image.write_bytes(b"none")
    assert read_picture(job.run()) is None


def test_the_least_certain_come_with_what_the_network_saw(job: Job, make_pictures: MakePictures) -> None:
    """The lowest confidence first, from all shards, and not too many."""
    make_pictures(job.folder, LEAST_CERTAIN_KEPT + 8)
    least = job.run().least_certain
    expected = sorted(job.rows(), key=lambda row: float(row["confidence"]))[:LEAST_CERTAIN_KEPT]
    assert [image.path for image in least] == [row["path"] for row in expected]
    assert [f"{image.confidence:.6f}" for image in least] == [row["confidence"] for row in expected]
    pixels = least[0].pixels
    assert pixels is not None
    assert pixels.tolist() == draw(int(least[0].path[:4])).tolist()


def test_options_add_columns(job: Job) -> None:
    """Probabilities that sum to one, and the runners-up."""
    job.options |= {"probabilities": True, "top_k": 3}
    job.run()
    for row in job.rows():
        chances = [float(row[f"p{index}"]) for index in range(10)]
        ranked = sorted(range(10), key=lambda index: -chances[index])
        assert sum(chances) == pytest.approx(1, abs=1e-5)
        assert [row["prediction"], row["top2"], row["top3"]] == [str(index) for index in ranked[:3]]
        assert float(row["top2_confidence"]) == chances[ranked[1]]


def read_table(path: Path) -> pd.DataFrame:
    """Read a table in any format."""
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.read_csv(path) if path.suffix == ".csv" else pd.read_json(path, lines=True, dtype=False)


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
def test_the_formats_hold_the_same(job: Job, ending: str) -> None:
    """Read by pandas."""
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


def test_hostile_names_come_back(job: Job) -> None:
    """One row each, in the order of the bytes; read by csv and by pandas."""
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


def test_bad_neighbours_change_nothing(job: Job) -> None:
    """Each bad file has its own row and status; the good ones' rows are what they were."""
    job.run()
    before = {row["path"]: row for row in job.rows()}
    png = (job.folder / "0001.png").read_bytes()
    bad = {
        "0000a.png": (b"", "not-an-image"),
        "0001a.png": (b"text", "not-an-image"),
        "0002a.png": (b"%PDF-1.4", "unsupported"),
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


def test_a_picture_of_too_many_pixels_tells_its_size(job: Job) -> None:
    """In its row."""
    job.options["max_pixels"] = 783
    job.run()
    assert {(row["status"], row["width"], row["height"]) for row in job.rows()} == {("too-large", "28", "28")}


def test_pictures_of_several_frames_are_counted(job: Job) -> None:
    """Only the first was looked at, which the summary says."""
    frames = [Image.fromarray(draw(seed)) for seed in (0, 1)]
    frames[0].save(job.folder / "x.gif", save_all=True, append_images=frames[1:])
    assert job.run().more_frames == 1


def test_what_happens_between_listing_and_reading(job: Job) -> None:
    """A file that vanished, one that changed, one that may not be read."""
    plan = job.plan()
    (job.folder / "0002.png").unlink()
    Image.fromarray(draw(99)).save(job.folder / "0003.png")
    run_worker(plan)
    merge_parts(plan)
    assert [row["status"] for row in job.rows()] == ["ok", "ok", "vanished", "changed", *["ok"] * 6]


def test_a_normaliser_that_fails_is_one_rows_matter(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it raises."""
    calls = iter(range(100))

    def look(pixels: Any, *_: Any, **__: Any) -> Any:
        if next(calls) == 4:
            raise ZeroDivisionError
        return ScreenedImage(pixels, 0.0)

    monkeypatch.setattr("digits.prediction.worker.screen", look)
    assert job.run().statuses == {"ok": 9, "unreadable": 1}
    assert job.rows()[4]["error"] == "it could not be normalised: ZeroDivisionError"


def test_a_single_image(job: Job) -> None:
    """Whatever its name ends in."""
    (job.folder / "0004.png").rename(job.folder / "picture")
    predict_folder(job.folder / "picture", **job.arguments())
    assert [row["path"] for row in job.rows()] == ["picture"]


def test_files_that_are_named(job: Job) -> None:
    """Each has a row, whether it is there or not; their folder must be one."""
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
    with pytest.raises(UsageError, match="so this must be their folder"):
        predict_folder(job.folder / "0001.png", **job.arguments())


def test_other_formats(job: Job) -> None:
    """Taken by their extensions, and read."""
    Image.fromarray(draw(1)).save(job.folder / "x.pgm")
    Image.fromarray(draw(1)).save(job.folder / "x.pcx")
    job.options |= {"other_formats": ["PPM"]}
    assert job.run().skipped == {"other-file": 1}
    rows = {row["path"]: row for row in job.rows()}
    assert rows["x.pgm"]["prediction"] == rows["0001.png"]["prediction"]


def test_an_empty_folder(job: Job) -> None:
    """A table without rows."""
    shutil.rmtree(job.folder)
    job.folder.mkdir()
    summary = job.run()
    assert job.out.read_text().count("\n") == 1
    assert (summary.images, summary.images_per_second, summary.least_certain) == (0, 0, ())


def test_a_folder_that_is_not_there(job: Job) -> None:
    """Said before anything is made."""
    with pytest.raises(UsageError, match="expected a folder or an archive of images"):
        predict_folder(job.folder / "nowhere", **job.arguments())
    with pytest.raises(UsageError, match=r"found '\.txt'"):
        job.run(out=job.out.with_suffix(".txt"))
    assert not job.out.parent.exists()
    assert not list(job.work.iterdir())


def test_output_and_work_inside_the_input(job: Job) -> None:
    """They are no images, and the second run gives the same."""
    job.options["all_files"] = True
    inside = {"out": job.folder / "p.csv", "work": job.folder / "work"}
    first = job.run(**inside)
    content = inside["out"].read_bytes()
    picture_path(inside["out"]).write_bytes((job.folder / "0000.png").read_bytes())
    second = job.run(**inside)
    assert (first.images, second.images) == (10, 10)
    assert second.skipped == {"output": 4}
    assert inside["out"].read_bytes() == content


@pytest.mark.parametrize("options", [{"shard_size": 1}, {"shard_size": 3}, {"shard_size": 1000}])
def test_the_bytes_do_not_depend_on_the_shards(job: Job, options: dict[str, int]) -> None:
    """However the folder is cut."""
    job.run()
    expected = job.out.read_bytes()
    job.options = options
    job.run()
    assert job.out.read_bytes() == expected


def test_shards_grow_with_the_folder(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough of them to share out, none too small, none over the option."""
    monkeypatch.setattr(planning, "MIN_SHARD_IMAGES", 2)
    monkeypatch.setattr(planning, "TARGET_SHARDS", 3)
    assert [job.plan().images_in(shard) for shard in job.plan().shards] == [4, 4, 2]
    job.options = {"shard_size": 3}
    shutil.rmtree(job.work)
    assert [job.plan().images_in(shard) for shard in job.plan().shards] == [3, 3, 3, 1]


def test_shards_of_large_files_are_small(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no process has much to do when the others are done; in an incremental run too, for the same bytes."""
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


def test_a_plan_is_found_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """By folder, listing, model and options; not by the number of processes or the size of shards."""
    plan = job.plan()
    assert job.plan() == plan
    job.options |= {"processes": 1, "shard_size": 2}
    assert job.plan() == plan
    others = [plan]
    job.options["top_k"] = 2
    others.append(job.plan())
    others.append(job.plan(out=job.out.with_suffix(".jsonl")))
    others.append(job.plan(model=ModelFiles.load(job.model.directory, version=4)))
    monkeypatch.setattr(planning, "code_version", lambda *_: "another")
    others.append(job.plan())
    (job.folder / "0000.png").touch()
    others.append(job.plan())
    assert len({other.digest for other in others}) == 6


def test_auto_means_what_the_model_was_trained_on(job: Job) -> None:
    """A model of pictures that were only scaled gets its images only scaled; a wish goes first."""
    plain = ModelFiles(**{**vars(job.model), "normalization": {"mode": "none"}})
    assert job.plan(model=plain).options.normalize == "none"
    job.options["normalize"] = "mnist"
    assert job.plan(model=plain).options.normalize == "mnist"


def test_a_model_of_another_recipe_is_warned_of(job: Job, caplog: pytest.LogCaptureFixture) -> None:
    """Its images may not look like those that it learnt."""
    old = ModelFiles(**{**vars(job.model), "normalization": {"recipe": "mnist", "version": 0}})
    job.run(model=old)
    assert "was trained with normalisation" in caplog.text


def test_a_killed_run_is_continued(job: Job) -> None:
    """What was committed is not done again, and the bytes are the same."""
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
def faultless_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have faults happen to our own files only; the images are opened by names that are bytes."""

    def concerns(self: faults.Fault, file: Any) -> bool:
        return isinstance(file, int) or (not isinstance(file, bytes) and os.fspath(file).startswith(self._root))

    monkeypatch.setattr(faults.Fault, "_concerns", concerns)
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.mark.usefixtures("faultless_reading")
def test_killed_anywhere_and_continued(job: Job) -> None:
    """At calls that make, open, sync, move or link files: the table is absent or whole, and then whole."""
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


@pytest.mark.usefixtures("faultless_reading")
def test_a_full_disk_is_an_error_and_can_be_mended(job: Job) -> None:
    """At any write: a clear message, no half table, and the same command goes on."""
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


def test_two_runs_at_once(job: Job) -> None:
    """They share the work and both end well, with one table."""
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


def test_a_merge_that_another_run_has_done(job: Job) -> None:
    """The summary is the other's."""
    plan = job.plan()
    run_worker(plan)
    first = merge_parts(plan)
    assert merge_parts(plan).as_record() == first.as_record()
    job.out.unlink()
    with pytest.raises(StoreError, match="run the same command again"):
        merge_parts(plan)


def test_a_table_that_another_model_replaced_meanwhile_is_made_again(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both runs of the same wanted it; the one that comes late finds that of another version."""
    other = replace(job.model, version=job.model.version + 1)
    real, late = publish.merge_predictions, []

    def merge_predictions(plan: Plan, crew: Any, **options: Any) -> PredictionSummary:
        if not late:
            late.append(merge_parts(plan))
            job.run(model=other)
        return real(plan, crew, **options)

    monkeypatch.setattr(publish, "merge_predictions", merge_predictions)
    assert job.predict().model_version == job.model.version
    assert read_record(summary_path(job.out))["model_version"] == job.model.version
    assert not list(job.work.iterdir())


def test_table_and_summary_are_of_one_run(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another plan for the same table waits until both are in place."""
    ours, theirs = job.plan(), job.plan(model=replace(job.model, version=job.model.version + 1))
    for plan in (ours, theirs):
        run_worker(plan)
    other = threading.Thread(target=lambda: merge_parts(theirs))
    real = publish._write_picture

    def write_picture(summary: PredictionSummary) -> None:
        if summary.model_version == ours.model.version:
            table = job.out.read_bytes()
            other.start()
            other.join(0.2)
            assert job.out.read_bytes() == table
        real(summary)

    monkeypatch.setattr(publish, "_write_picture", write_picture)
    merge_parts(ours)
    other.join()
    assert read_record(summary_path(job.out))["model_version"] == theirs.model.version
    assert {row["model_version"] for row in job.rows()} == {str(theirs.model.version)}


def test_what_kills_have_left_beside_the_table_goes(job: Job) -> None:
    """With the next run that writes it; what is beside other tables is theirs."""
    names = (job.out.name, picture_path(job.out).name, summary_path(job.out).name)
    ours = [job.out.with_name(f".{name}.0123456789abcdef.tmp") for name in names]
    others = [job.out.with_name(f".{name}.0123456789abcdef.tmp") for name in ("other.csv", f"{job.out.name}.gz")]
    job.out.parent.mkdir(exist_ok=True)
    for path in (*ours, *others, job.out.with_name(f".{job.out.name}.mine.tmp")):
        path.write_text("half")
    job.predict()
    assert not any(path.exists() for path in ours)
    assert all(path.exists() for path in others)
    assert job.out.with_name(f".{job.out.name}.mine.tmp").exists()


def test_a_shard_that_can_not_be_claimed_is_an_error(job: Job) -> None:
    """With what to do; a plan that another run has carried out in that instant is none."""
    plan = job.plan()
    parts = plan.path / "parts"
    parts.rename(plan.path / "elsewhere")
    parts.write_text("no directory")
    with pytest.raises(StoreError, match="run the same command again"), pool.WorkerPool(1) as crew:
        pool.run_workers(plan, crew)
    parts.unlink()
    assert pool._free(plan, list(plan.shards)) == []


def test_a_plan_that_can_not_be_read_is_told_in_a_sentence(job: Job) -> None:
    """A few workers try it."""
    plan = job.plan()
    record = plan.path / "plan.json"
    record.unlink()
    record.mkdir()
    with pytest.raises(DigitsError, match="Is a directory") as found, pool.WorkerPool(1) as crew:
        pool.run_workers(plan, crew)
    assert "Traceback" not in str(found.value)


def test_only_one_merges_at_a_time(job: Job) -> None:
    """The other waits, and finds the table done."""
    plan = job.plan()
    run_worker(plan)
    summaries: list[PredictionSummary] = []
    with publish._merging(plan) as ours:
        assert ours
        other = threading.Thread(target=lambda: summaries.append(merge_parts(plan)))
        other.start()
        other.join(0.1)
        assert other.is_alive()
        first = publish._published(plan, None)
    other.join()
    assert [summary.as_record() for summary in summaries] == [first.as_record()]


def test_a_merge_before_its_time(job: Job) -> None:
    """It says how much is missing, and makes nothing."""
    with pytest.raises(StoreError, match="3 of 3 shards are not done"):
        merge_parts(job.plan())
    assert not job.out.exists()


def damage(path: Path) -> None:
    """Flip a bit in a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("name", ["000001.part", "000001.json"])
def test_a_damaged_part_is_made_again(job: Job, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by its seal, and done by the same command."""
    job.run()
    expected = job.out.read_bytes()
    plan = job.plan()
    run_worker(plan)
    damage(plan.path / "parts" / name)
    with pytest.raises(CorruptArtifactError, match="shard 1 must be made again"):
        merge_parts(plan)
    assert plan.pending_shards() == [1]
    run_worker(plan)
    damage(plan.path / "parts" / name)
    assert job.predict().images == 10
    assert job.out.read_bytes() == expected


@pytest.mark.parametrize("name", ["plan.json", "listing"])
def test_a_damaged_plan_is_made_again(job: Job, name: str) -> None:
    """It is not trusted."""
    plan = job.plan()
    run_worker(plan)
    damage(plan.path / name)
    assert job.plan().pending_shards() == [0, 1, 2]


def test_two_plans_made_at_once(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that is named first is everybody's."""
    first = job.plan()
    run_worker(first)

    def not_yet(*_: object) -> bool:
        raise FileNotFoundError

    monkeypatch.setattr(planning, "_is_usable", not_yet)
    assert job.plan() == first


def test_drafts_of_the_dead_are_swept(job: Job) -> None:
    """Old ones; a living run's are left."""
    old, new = job.work / "tmp-old", job.work / "tmp-new"
    for path in (old, new):
        path.mkdir(parents=True)
    os.utime(old, (0, 0))
    job.run()
    assert [path.name for path in job.work.iterdir()] == ["tmp-new"]


def test_a_model_that_is_replaced_meanwhile(job: Job, tmp_path: Path) -> None:
    """The plan was made for another one."""
    directory = write_model(tmp_path / "model")
    plan = job.plan(model=ModelFiles.load(directory, version=1))
    write_model(directory, seed=1)
    with pytest.raises(ModelError, match="replaced after the prediction was planned"):
        run_worker(plan)


def test_a_network_that_gives_no_numbers(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not published as a table of NaN."""
    nothing = Answers(np.full((10, 10), np.nan, np.float32), None)
    monkeypatch.setattr(Predictor, "answer", lambda _, pixels: nothing)
    with pytest.raises(ModelError, match="no numbers"):
        job.run()
    assert not job.out.exists()


def test_where_nothing_can_be_written(world_readable: Path, model: ModelFiles) -> None:
    """The work folder, and the table's."""
    job = Job(world_readable, model)
    job.folder.mkdir()
    with faults.without_root(), pytest.raises(StoreError, match=r"could not be planned \(Permission denied"):
        job.run()
    job.work.mkdir()
    job.work.chmod(0o777)
    with faults.without_root(), pytest.raises(StoreError, match=r"could not be written \(Permission denied"):
        job.run()


def test_the_plan_is_what_a_worker_needs(job: Job) -> None:
    """Its path is enough: opened anew, it is the same."""
    plan = job.plan()
    assert Plan.open(plan.path) == plan
    assert json.loads((plan.path / "plan.json").read_bytes())["images"] == 10
    assert [entry.path for shard in plan.shards for entry in plan.entries(shard)] == [
        f"{number:04d}.png".encode() for number in range(10)
    ]


def test_what_was_left_long_ago_is_removed(job: Job) -> None:
    """Drafts after a day, plans after a month; what lies beside them stays."""
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
