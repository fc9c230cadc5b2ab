"""Tests of the review of a predicted folder: its queue, its answers, and files that change."""

import csv
import hashlib
import io
import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.data.labels import LabelLog
from digits.errors import StoreError, UsageError
from digits.images.decode import DecodeError
from digits.images.normalize import normalize
from digits.review.session import ImportCounts, Review
from digits.store.artifacts import Recipe
from digits.store.author import this_author
from digits.store.records import encode_record, read_record, write_record
from digits.store.registry import ModelFacts, Registry
from tests.support import predicted_table
from tests.support.predicted_table import Table
from tests.support.tiny_model import MakePictures, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def table(tmp_path: Path, make_pictures: MakePictures) -> Table:
    """Table of a predicted folder."""
    return predicted_table.predict(tmp_path, make_pictures)


def opened(table: Table, **options: object) -> Review:
    """Return a review."""
    return Review(table.store, table.path, size=10, **options)  # type: ignore[arg-type]


def pixels_of(png: bytes) -> np.ndarray:
    """Decode a PNG."""
    return np.asarray(Image.open(io.BytesIO(png)))


class TestQueue:
    """Tests of the queue and of its pictures."""

    def test_has_the_flagged_images_and_a_sample(self, table: Table) -> None:
        """All rows of both flagged statuses."""
        with table.path.open(encoding="utf-8", newline="") as file:
            statuses = Counter(row["status"] for row in csv.DictReader(file))
        with opened(table) as review:
            strata = Counter(queued.stratum for queued in review.queue)
        assert {*statuses} == {"ok", "uncertain", "not-a-digit"}
        assert strata == {"sample": 10, "uncertain": statuses["uncertain"], "not-a-digit": statuses["not-a-digit"]}

    @pytest.mark.parametrize("name", ["table.parquet", "table.jsonl"])
    def test_does_not_depend_on_the_table_format(self, table: Table, make_pictures: MakePictures, name: str) -> None:
        """The same images in the same order."""
        other = predicted_table.predict(table.path.parent, make_pictures, name=name)
        with opened(table) as first, opened(other) as second:
            assert first.queue == second.queue

    def test_reads_a_table_for_excel(self, table: Table, make_pictures: MakePictures) -> None:
        """The same images in the same order."""
        options = predicted_table.OPTIONS.model_copy(update={"csv_dialect": "excel"})
        other = predicted_table.predict(table.path.parent, make_pictures, name="excel.csv", options=options)
        with opened(table) as first, opened(other) as second:
            assert first.queue == second.queue

    def test_shows_the_image_and_the_network_input(self, table: Table) -> None:
        """Both pictures are encoded from the decoded pixels."""
        with opened(table) as review:
            for queued in review.queue[:5]:
                expected = np.asarray(Image.open(table.images / queued.image.path))
                assert all(np.array_equal(pixels_of(png), expected) for png in review.pictures(queued))

    def test_shows_the_network_input_in_the_mode_of_the_model(self, table: Table) -> None:
        """Or in mode `auto` if the model is not in the registry."""
        pixels = np.full((60, 60), 255, np.uint8)
        pixels[20:40, 28:32] = 0
        for path in table.images.iterdir():
            Image.fromarray(pixels).save(path)
        content = next(table.images.iterdir()).read_bytes()
        _rewrite(table.path, sha256=hashlib.sha256(content).hexdigest())
        with opened(table) as review:
            assert np.array_equal(pixels_of(review.pictures(review.queue[0]).seen), normalize(pixels, "auto"))

        def write(directory: Path) -> None:
            write_model(directory)
            spec = json.loads((directory / "spec.json").read_text())
            spec["normalization"]["mode"] = "none"
            (directory / "spec.json").write_text(json.dumps(spec))

        onnx = table.store.produce(Recipe("onnx", {}), write)
        Registry(table.store).register(artifacts={"onnx": onnx.digest}, weights_sha256="w", facts=ModelFacts())
        with opened(table) as review:
            assert np.array_equal(pixels_of(review.pictures(review.queue[0]).seen), normalize(pixels, "none"))

    def test_reads_images_from_an_archive(self, table: Table) -> None:
        """They can be answered too."""
        archive = predicted_table.pack_images(table)
        shutil.rmtree(table.images)
        with opened(archive, source=archive.images) as review:
            assert pixels_of(review.pictures(review.queue[0]).whole).shape == (28, 28)
            review.answer(review.queue[0].image.sha256, "4", answer_id="1")

    def test_scales_a_large_image_down(self, table: Table) -> None:
        """To the size of the page."""
        path = min(table.images.iterdir())
        Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (3000, 8))).save(path)
        _rewrite(table.path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), path=path.name)
        with opened(table) as review:
            assert pixels_of(review.pictures(review.queue[0]).whole).shape == (640, 427)


def _rewrite(table: Path, /, **values: str) -> None:
    """Write other values into each row of a table."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [{**row, **values} for row in csv.DictReader(file)]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


class TestAnswers:
    """Tests of answers, undo and resuming."""

    def test_are_saved_once_with_the_image_and_the_prediction(self, table: Table) -> None:
        """And with the table's hash. The image survives the removal of the folder."""
        with opened(table) as review:
            queued = review.queue[0]
            review.answer(queued.image.sha256, "4", answer_id="1")
            review.answer(queued.image.sha256, "4", answer_id="1")
        shutil.rmtree(table.images)
        log = LabelLog(table.store.labels)
        (answer,) = log.answers()
        image, stratum = queued
        assert (answer.label, answer.prediction, answer.confidence) == ("4", image.prediction, image.confidence)
        assert (answer.status, answer.model_version, answer.selection) == (image.status, 1, stratum)
        assert answer.by == str(this_author())
        assert answer.table == hashlib.sha256(table.path.read_bytes()).hexdigest()
        assert hashlib.sha256(log.read_image(image.sha256) or b"").hexdigest() == image.sha256

    def test_a_later_session_resumes_at_the_first_unanswered_image(self, table: Table) -> None:
        """The queue is the same. An answer that was undone is asked again."""
        with opened(table) as review:
            queue = review.queue
            for place in range(4):
                review.answer(queue[place].image.sha256, "not-a-digit", answer_id=f"{place}")
            review.undo("1", undo_id="undo 1")
            assert sum(review.progress().done.values()) == 3
        with opened(table) as review:
            assert review.queue == queue
            assert review.first_unanswered() == 1
            assert [answer.id for answer in review.history(2)] == ["2", "3"]
            assert sum(review.progress().done.values()) == 3
            for place in (1, *range(4, len(queue))):
                review.answer(queue[place].image.sha256, "skip", answer_id=f"later {place}")
            assert review.first_unanswered() == len(queue)

    def test_the_file_of_a_skipped_image_is_not_saved(self, table: Table) -> None:
        """It is not used for training."""
        with opened(table) as review:
            review.answer(review.queue[0].image.sha256, "skip", answer_id="1")
        assert not (table.store.labels / "images").exists()

    def test_an_answer_of_one_reviewer_counts_for_the_other(self, table: Table) -> None:
        """In two reviews of the same table at once."""
        with opened(table) as first, opened(table) as second:
            first.answer(first.queue[0].image.sha256, "4", answer_id="1")
            assert sum(second.progress().done.values()) == 1
            assert second.first_unanswered() == 1

    @pytest.mark.parametrize(("sha256", "label"), [("0" * 64, "4"), (None, "10"), (None, ""), (None, "undo")])
    def test_an_unknown_image_or_label_is_an_error(self, table: Table, sha256: str | None, label: str) -> None:
        """Nothing is saved."""
        with opened(table) as review, pytest.raises(UsageError, match="expected an image of this review and a label"):
            review.answer(sha256 or review.queue[0].image.sha256, label, answer_id="1")
        assert LabelLog(table.store.labels).answers() == []

    def test_an_image_with_a_label_from_another_version_is_not_asked_again(
        self, table: Table, make_pictures: MakePictures
    ) -> None:
        """In the table of the same folder by the next model version."""
        with opened(table) as review:
            labelled = {queued.image.sha256 for queued in review.queue[:7]}
            for sha256 in labelled:
                review.answer(sha256, "1", answer_id=sha256)
        with opened(predicted_table.predict(table.path.parent, make_pictures, name="next.csv", version=2)) as review:
            assert review.left_out == 7
            assert not labelled & {queued.image.sha256 for queued in review.queue}


class TestFiles:
    """Tests of files that were changed or removed."""

    def test_a_changed_file_cannot_be_labelled(self, table: Table) -> None:
        """The label would belong to another image."""
        with opened(table) as review:
            queued = review.queue[0]
            (table.images / queued.image.path).write_bytes(b"something else")
            for call in (review.pictures, lambda it: review.answer(it.image.sha256, "4", answer_id="1")):
                with pytest.raises(DecodeError, match="the file has changed since it was predicted"):
                    call(queued)
        assert LabelLog(table.store.labels).answers() == []

    @pytest.mark.parametrize("how", ["removed", "link", "folder", "fifo"])
    def test_a_missing_file_cannot_be_labelled(self, table: Table, how: str) -> None:
        """Nothing else is read in its place."""
        import os

        with opened(table) as review:
            queued = review.queue[0]
            path = table.images / queued.image.path
            path.rename(table.images.with_name("elsewhere.png"))
            if how == "link":
                path.symlink_to(table.images.with_name("elsewhere.png"))
            elif how == "folder":
                path.mkdir()
            elif how == "fifo":
                os.mkfifo(path)
            with pytest.raises(DecodeError):
                review.pictures(queued)

    def test_a_missing_file_of_the_sample_is_not_judged(self, table: Table) -> None:
        """Once it was found to be missing. When it is back, it needs an answer."""
        with opened(table) as review:
            sample = [queued for queued in review.queue if queued.stratum == "sample"]
            path = table.images / sample[0].image.path
            content = path.read_bytes()
            path.unlink()
            for queued in sample[1:3]:
                review.answer(queued.image.sha256, queued.image.prediction, answer_id=queued.image.path)
            assert review.progress().confident is None
            with pytest.raises(DecodeError):
                review.pictures(sample[0])
            found = review.progress().confident
            assert found is not None
            assert found.judged == 2
            path.write_bytes(content)
            review.pictures(sample[0])
            assert review.progress().confident is None

    def test_a_labelled_image_is_shown_from_the_saved_copy(self, table: Table) -> None:
        """So that its answer can be changed after the file is gone."""
        with opened(table) as review:
            queued = review.queue[0]
            review.answer(queued.image.sha256, "4", answer_id="1")
            (table.images / queued.image.path).unlink()
            assert review.pictures(queued)
            review.answer(queued.image.sha256, "5", answer_id="2")


class TestSource:
    """Tests of the folder or archive of the images."""

    def test_is_the_one_of_the_summary_unless_it_is_given(self, table: Table) -> None:
        """It must be given if the folder was moved."""
        moved = table.images.rename(table.images.with_name("moved"))
        with pytest.raises(UsageError, match=r"that table\.summary\.json refers to are missing; use --images"):
            opened(table).__enter__()
        with opened(table, source=moved) as review:
            assert review.pictures(review.queue[0])

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "is missing"), (b"damaged", "is damaged"), (encode_record({"no": "source"}), "is damaged")],
    )
    def test_must_be_given_if_the_summary_is_missing_or_damaged(
        self, table: Table, content: bytes | None, message: str
    ) -> None:
        """The message has the option."""
        summary = table.path.with_name("table.summary.json")
        summary.unlink()
        if content is not None:
            summary.write_bytes(content)
        with pytest.raises(UsageError, match=f"which has the path of the images, {message}; use --images"):
            opened(table).__enter__()

    def test_of_a_single_image_is_its_folder(self, table: Table) -> None:
        """The paths of the table are relative to it."""
        summary = table.path.with_name("table.summary.json")
        record = read_record(summary)
        with opened(table) as review:
            record["source"] = str(table.images / review.queue[0].image.path)
        write_record(summary, record)
        with opened(table) as review:
            assert review.pictures(review.queue[0])

    @pytest.mark.parametrize(
        ("values", "message"),
        [
            ({"prediction": "shoe"}, "row 2: expected a digit, found the class 'shoe'"),
            ({"sha256": "xyz"}, "row 2: expected a row as `digits predict` writes it, but: "),
            ({"confidence": ""}, "row 2: expected a row as `digits predict` writes it, but: "),
            ({"confidence": "high"}, "line 2: could not convert string to float: 'high'"),
        ],
    )
    def test_a_table_of_another_kind_is_an_error(self, table: Table, values: dict[str, str], message: str) -> None:
        """It has the row and the reason."""
        _rewrite(table.path, **values)
        with pytest.raises(UsageError) as caught:
            opened(table)
        assert message in str(caught.value)


class TestSheets:
    """Tests of export and import."""

    def test_labels_of_an_exported_spreadsheet_are_imported_once(self, table: Table) -> None:
        """The next export has them."""
        sheet = table.path.with_name("sheet.csv")
        with opened(table) as review:
            assert review.export_sheet(sheet) == len(review.queue)
            header, *rows = csv.reader(io.StringIO(sheet.read_text("utf-8"), newline=""))
            wanted = ["3", "7.0", "n", "skip", ""]
            filled = [[*row[:-1], label] for row, label in zip(rows, wanted, strict=False)]
            _save(sheet, [header, *filled])
            assert review.import_sheet(sheet) == ImportCounts(4, 0)
            assert review.import_sheet(sheet) == ImportCounts(0, 4)
            assert sum(review.progress().done.values()) == 4
            with pytest.raises(UsageError, match="was changed after Digits wrote it, so nothing was written; move it"):
                review.export_sheet(sheet)
            review.export_sheet(sheet, force=True)
            review.export_sheet(sheet)
        with sheet.open(encoding="utf-8", newline="") as file:
            assert [row["label"] for row in csv.DictReader(file)][:5] == ["3", "7", "not-a-digit", "skip", ""]
        log = LabelLog(table.store.labels)
        assert len(log.path.read_bytes().splitlines()) == 4
        assert len(list((log.directory / "images").iterdir())) == 3

    def test_another_label_for_an_image_replaces_its_answer(self, table: Table) -> None:
        """As a new answer."""
        sheet = table.path.with_name("sheet.csv")
        with opened(table) as review:
            sha256 = review.queue[0].image.sha256
            review.answer(sha256, "1", answer_id="1")
            _save(sheet, [["sha256", "label"], [sha256, "2"]])
            assert review.import_sheet(sheet) == ImportCounts(1, 0)
            assert [answer.label for answer in review.history(9)] == ["2"]

    def test_nothing_is_imported_if_one_row_is_invalid(self, table: Table) -> None:
        """Here its image is missing."""
        sheet = table.path.with_name("sheet.csv")
        with opened(table) as review:
            first, second = (queued.image for queued in review.queue[:2])
            (table.images / second.path).unlink()
            _save(sheet, [["sha256", "label"], [first.sha256, "1"], [second.sha256, "2"]])
            with pytest.raises(UsageError, match=rf"row 3: {second.path}: the file is missing; clear its label"):
                review.import_sheet(sheet)
        assert LabelLog(table.store.labels).answers() == []

    def test_a_spreadsheet_of_another_table_is_an_error(self, table: Table) -> None:
        """The review does not have its images."""
        sheet = table.path.with_name("sheet.csv")
        _save(sheet, [["sha256", "label"], ["0" * 64, "1"]])
        with (
            opened(table) as review,
            pytest.raises(UsageError, match="row 2: this review has no image with the SHA-256"),
        ):
            review.import_sheet(sheet)

    def test_files_that_cannot_be_read_or_written_are_errors(self, table: Table) -> None:
        """They have the reason."""
        with opened(table) as review:
            with pytest.raises(UsageError, match=r"\(No such file or directory\); name an exported spreadsheet"):
                review.import_sheet(table.path.with_name("none.csv"))
            with pytest.raises(UsageError, match=r"expected a name that ends in \.csv, found '\.xlsx'"):
                review.export_sheet(table.path.with_name("sheet.xlsx"))
            (table.path.parent / "file").write_text("")
            with pytest.raises(StoreError, match="could not be written"):
                review.export_sheet(table.path.parent / "file" / "sheet.csv")


def _save(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
