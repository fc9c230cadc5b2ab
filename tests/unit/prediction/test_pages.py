"""Tests of files with several pages: one row per page in every kind of run, also after the death of a worker."""

import csv
import io
import json
import os
import struct
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from digits.images.pages import MAX_PAGES
from digits.maintenance import expiry
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import PredictionSummary
from digits.outputs.table import FIXED_COLUMNS, Row, TableFile, format_of, read_table
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.prediction.limits import Position
from digits.prediction.plan import Plan
from digits.prediction.planning import plan_predictions
from digits.prediction.pool import WorkerPool, run_workers
from digits.prediction.publish import merge_parts, predict_folder
from digits.prediction.worker import run_worker
from digits.store.artifacts import Store
from tests.support.deadly_workers import DECODE, FAULTS, disturb, kill_once
from tests.support.tiny_model import MakePictures, draw, write_model

PAGES = 5
LONG_AGO = 1_700_000_000
ENDINGS = pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])

here = pytest.mark.usefixtures("in_this_process")


def write_pages(path: Path, seeds: Sequence[int]) -> None:
    """Write a TIFF with one page per seed."""
    first, *others = [Image.fromarray(draw(seed)) for seed in seeds]
    first.save(path, save_all=True, append_images=others)


def loop(path: Path) -> None:
    """Make the last page of a TIFF refer to the first."""
    content = bytearray(path.read_bytes())
    (first,) = struct.unpack_from("<I", content, 4)
    place, after = 0, first
    while after:
        (count,) = struct.unpack_from("<H", content, after)
        place = after + 2 + 12 * count
        (after,) = struct.unpack_from("<I", content, place)
    content[place : place + 4] = struct.pack("<I", first)
    path.write_bytes(content)


class Job:
    """Folder with three images, of which one is a TIFF with several pages, and its table."""

    def __init__(self, root: Path, model: OnnxModel) -> None:
        self.root, self.folder, self.model, self.out = root, root / "in", model, root / "out" / "p.csv"
        self.options: dict[str, Any] = {"shard_size": 2}

    def arguments(self, **options: Any) -> dict[str, Any]:
        """Return the arguments of a prediction except the folder."""
        config = PredictionConfig(**{**self.options, **options})
        return {"model": self.model, "out": self.out, "work": self.root / "work", "options": config}

    def predict(self, source: Path | None = None, **options: Any) -> PredictionSummary:
        """Predict the folder, or another source."""
        return predict_folder(source or self.folder, **self.arguments(**options))

    def plan(self) -> Plan:
        """Plan the prediction."""
        return plan_predictions(self.folder, **self.arguments())

    def keys(self) -> list[tuple[str, int | None]]:
        """Return path and page of each row."""
        return [(row["path"], row["page"]) for row in self.rows()]

    def rows(self) -> list[dict[str, Any]]:
        """Return the rows of the table."""
        return list(read_table(self.out))


@pytest.fixture
def job(tmp_path: Path, model: OnnxModel, make_pictures: MakePictures) -> Job:
    """Return the job; the pages look like further images, so that each has another prediction."""
    made = Job(tmp_path, model)
    make_pictures(made.folder, 3)
    write_pages(made.folder / "0001a.tif", range(10, 10 + PAGES))
    return made


EXPECTED = [
    ("0000.png", None),
    ("0001.png", None),
    *(("0001a.tif", page) for page in range(1, PAGES + 1)),
    ("0002.png", None),
]


@here
@ENDINGS
def test_each_page_has_a_row(job: Job, make_pictures: MakePictures, ending: str) -> None:
    """It has the prediction of the page alone, and the hash of the file. `page` is the last column."""
    job.out = job.out.with_suffix(ending)
    summary = job.predict(probabilities=True)
    rows = job.rows()
    assert job.keys() == EXPECTED
    assert list(rows[0])[-1] == "page"
    assert (summary.images, summary.statuses, summary.more_frames) == (8, {"ok": 8}, 0)
    assert len({row["sha256"] for row in rows[2:7]}) == 1
    make_pictures(job.root / "alone", 10 + PAGES)
    job.predict(job.root / "alone", probabilities=True)
    alone = {row["path"]: row["p3"] for row in job.rows()}
    assert [row["p3"] for row in rows[2:7]] == [alone[f"{number:04d}.png"] for number in range(10, 10 + PAGES)]


@here
def test_the_first_page_alone_is_read_on_request(job: Job) -> None:
    """The summary counts the file among those with more."""
    summary = job.predict(pages="first")
    assert job.keys() == [("0000.png", None), ("0001.png", None), ("0001a.tif", None), ("0002.png", None)]
    assert summary.more_frames == 1


@here
@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_animations_stay_at_their_first_frame(job: Job, kind: str) -> None:
    frames = [Image.fromarray(draw(seed)) for seed in (0, 1, 2)]
    frames[0].save(job.folder / f"x.{kind}", save_all=True, append_images=frames[1:])
    assert job.predict().more_frames == 1
    assert job.keys() == [*EXPECTED, (f"x.{kind}", None)]


@here
def test_a_tiff_with_one_page_has_no_page(job: Job) -> None:
    write_pages(job.folder / "x.tif", [7])
    job.predict()
    assert job.keys()[-1] == ("x.tif", None)


@here
def test_more_pages_than_the_limit_and_loops_end_in_one_row(job: Job) -> None:
    """The pages before have their rows."""
    write_pages(job.folder / "loop.tif", [7, 8])
    loop(job.folder / "loop.tif")
    write_pages(job.folder / "many.tif", [7] * (MAX_PAGES + 2))
    summary = job.predict()
    loops, many = ([row for row in job.rows() if row["path"] == name] for name in ("loop.tif", "many.tif"))
    assert [(row["page"], row["status"]) for row in loops] == [(1, "ok"), (2, "ok"), (3, "too-many-pages")]
    assert [row["page"] for row in many] == list(range(1, MAX_PAGES + 2))
    assert {row["status"] for row in many[:-1]} == {"ok"}
    assert (many[-1]["status"], many[-1]["prediction"]) == ("too-many-pages", None)
    assert many[-1]["error"] == "it has more than 1,000 pages, and only so many are read; split the file"
    assert summary.statuses["too-many-pages"] == 2
    assert [(failure.path, failure.page) for failure in summary.failures] == [("loop.tif", 3), ("many.tif", 1001)]


@here
def test_a_damaged_page_costs_its_own_row(job: Job) -> None:
    path = job.folder / "0001a.tif"
    path.write_bytes(path.read_bytes()[:-200])
    job.predict()
    found = {row["page"]: row["status"] for row in job.rows() if row["path"] == "0001a.tif"}
    assert list(found.values()) == [*["ok"] * (PAGES - 1), "unreadable"]


@here
def test_the_pages_of_an_archive_are_those_of_the_folder(job: Job) -> None:
    job.predict()
    expected = job.out.read_bytes()
    with zipfile.ZipFile(job.root / "in.zip", "w") as archive:
        for path in job.folder.iterdir():
            archive.write(path, path.name)
    job.predict(job.root / "in.zip")
    assert job.out.read_bytes() == expected


@here
@ENDINGS
def test_an_incremental_run_reuses_all_rows_of_an_unchanged_file(job: Job, ending: str, opened: list[bytes]) -> None:
    """The table equals that of a complete run, also when a file gets more pages or is removed."""
    job.out = job.out.with_suffix(ending)

    def run() -> PredictionSummary:
        for path in job.folder.iterdir():
            os.utime(path, (0, LONG_AGO + path.stat().st_size))
        summary, out = job.predict(incremental=True), job.out
        job.out = job.root / "whole" / out.name
        whole = job.predict()
        assert out.read_bytes() == job.out.read_bytes()
        assert (summary.statuses, summary.images) == (whole.statuses, whole.images)
        assert [image.as_record() for image in summary.least_certain] == [
            image.as_record() for image in whole.least_certain
        ]
        job.out = out
        return summary

    assert run().unchanged == 0
    opened.clear()
    assert run().unchanged == len(EXPECTED)
    write_pages(job.folder / "0001b.tif", [30, 31])
    assert run().unchanged == len(EXPECTED)
    write_pages(job.folder / "0001a.tif", range(10, 17))
    assert run().unchanged == 5
    (job.folder / "0001b.tif").unlink()
    assert run().unchanged == 10
    assert job.predict(incremental=True, pages="first").unchanged == 0


@here
def test_a_page_with_a_passing_fault_is_predicted_again_with_its_file(job: Job) -> None:
    for path in job.folder.iterdir():
        os.utime(path, (0, LONG_AGO))
    plan = plan_predictions(job.folder, **job.arguments(incremental=True))
    shard = next(number for number in plan.shards if b"0001a.tif" in {entry.path for entry in plan.entries(number)})
    place = [entry.path for entry in plan.entries(shard)].index(b"0001a.tif")
    plan.record_failure(shard, Position(place, page=3), "timeout")
    run_worker(plan)
    merge_parts(plan)
    assert [row["status"] for row in job.rows()] == ["ok"] * 4 + ["timeout"] + ["ok"] * 3
    job.predict(incremental=True)
    assert {row["status"] for row in job.rows()} == {"ok"}


@here
@ENDINGS
def test_replacing_a_version_replaces_the_rows_of_its_pages(job: Job, ending: str) -> None:
    """Rows of other pages stay, whatever their order; new pages get no row."""
    job.out = job.out.with_suffix(ending)
    new = OnnxModel.load(write_model(job.root / "new", seed=1), version=4)
    old, job.model = job.model, new
    job.predict()
    after = {(row["path"], row["page"]): row for row in job.rows()}
    job.model = old
    job.predict()
    table = TableFile.open(job.out)
    rows = [row if row["page"] not in (2, 3) else {**row, "model_version": 9} for row in table.rows()][::-1]
    write(job.out, rows, table)
    write_pages(job.folder / "0001a.tif", range(10, 17))
    job.model = new
    summary = job.predict(replace_version=3)
    found = job.rows()
    assert [(row["path"], row["page"]) for row in found] == EXPECTED[::-1]
    assert [row["model_version"] for row in found] == [4, 4, 4, 9, 9, 4, 4, 4]
    assert (summary.images, summary.unchanged) == (8, 2)
    for row in found:
        expected = after[row["path"], row["page"]]
        assert row["model_version"] == 9 or row["confidence"] == pytest.approx(expected["confidence"], abs=1e-6)


def write(out: Path, rows: Sequence[dict[str, Any]], table: TableFile) -> None:
    """Write rows as a table."""
    form = format_of(out)
    with out.open("wb") as file:
        form.join([form.encode([tuple(row.values()) for row in rows], table.columns)], table.columns, file)


@here
def test_pages_of_a_file_that_is_gone_become_one_row(job: Job) -> None:
    job.predict()
    (job.folder / "0001a.tif").unlink()
    job.predict(replace_version=3)
    assert [(row["path"], row["status"]) for row in job.rows() if row["page"] is None][2] == ("0001a.tif", "vanished")
    assert len(job.rows()) == 4


@here
@ENDINGS
def test_replacing_in_a_table_without_pages_adds_the_column(job: Job, ending: str) -> None:
    """Earlier versions of Digits read only the first page."""
    job.out = job.out.with_suffix(ending)
    job.predict(pages="first")
    rows: list[Row] = [tuple(row.values())[:-1] for row in TableFile.open(job.out).rows()]
    form = format_of(job.out)
    with job.out.open("wb") as file:
        form.join([form.encode([(*row[:9], 2) for row in rows[:2]] + rows[2:], FIXED_COLUMNS)], FIXED_COLUMNS, file)
    summary = job.predict(replace_version=3)
    assert job.keys() == EXPECTED
    assert summary.unchanged == 2
    assert TableFile.open(job.out).columns[-1].name == "page"


@here
def test_removed_images_keep_the_rows_of_all_pages(job: Job) -> None:
    """In the table of the rows of the inbox that the janitor keeps."""
    store = Store(job.root / "artifacts")
    store.inbox.mkdir(parents=True)
    write_pages(store.inbox / "a.tif", [1, 2, 3])
    os.utime(store.inbox / "a.tif", (LONG_AGO, LONG_AGO))
    arguments = {**job.arguments(incremental=True), "out": service.default_table(store, store.inbox)}
    predict_folder(store.inbox, **{**arguments, "work": store.workspace(store.plans)})
    found = list(expiry.remove_predicted_images(store, 4e9, today="2026-11-28"))
    assert [path.name for path, _ in found] == ["a.tif"]
    (kept,) = arguments["out"].parent.glob("*.removed-*.csv")
    assert [row["page"] for row in read_table(kept)] == [1, 2, 3]


def shows(number: int) -> str:
    """Return the condition that a certain page is decoded, known by its first bright pixel."""
    return f"result.pixels[5, 9] == {draw(number)[5, 9]}"


@pytest.mark.parametrize("status", FAULTS)
def test_a_deadly_page_costs_its_own_row(job: Job, monkeypatch: pytest.MonkeyPatch, status: str) -> None:
    """The limits of time and memory are per page. The other pages of the file have the rows of an undisturbed run."""
    job.options["max_seconds"] = 1.0
    run_worker(plan := job.plan())
    merge_parts(plan)
    expected = job.rows()
    disturb(monkeypatch, DECODE, shows(12), FAULTS[status])
    with WorkerPool(2) as pool:
        run_workers(plan := job.plan(), pool)
        merge_parts(plan)
    found = job.rows()
    bad = found.pop(4)
    assert (bad["path"], bad["page"], bad["status"], bad["prediction"]) == ("0001a.tif", 3, status, None)
    assert bad["sha256"] == expected.pop(4)["sha256"]
    assert found == expected


def test_a_worker_that_is_killed_in_the_middle_of_a_file_is_replaced(
    job: Job, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The table is that of an undisturbed run: each page once."""
    run_worker(plan := job.plan())
    merge_parts(plan)
    expected = job.out.read_bytes()
    once = job.root / "once"
    disturb(monkeypatch, DECODE, shows(13), kill_once(once))
    with WorkerPool(1) as pool:
        run_workers(plan := job.plan(), pool)
        merge_parts(plan)
    assert once.exists()
    assert "killed by signal 9 at 0001a.tif page 4" in caplog.text
    assert job.out.read_bytes() == expected


@here
def test_a_run_that_was_killed_between_shards_resumes_with_each_page_once(job: Job) -> None:
    job.predict()
    expected = job.out.read_bytes()
    job.out.unlink()
    job.options["shard_size"] = 1
    plan = job.plan()
    with plan.claim(0), plan.claim(1):
        run_worker(plan)  # the shards after the claimed ones, as by a process that died later
    summary = job.predict()
    assert job.out.read_bytes() == expected
    assert summary.reused == PAGES + 1
    with io.StringIO(expected.decode(), newline="") as text:
        assert len(list(csv.DictReader(text))) == len(EXPECTED)


@here
def test_the_summary_names_the_pages(job: Job) -> None:
    least = job.predict().least_certain
    assert {(image.path, image.page) for image in least} == set(EXPECTED)
    record = json.loads((job.out.parent / "p.summary.json").read_text())
    assert {(image["path"], image["page"]) for image in record["least_certain"]} == set(EXPECTED)
