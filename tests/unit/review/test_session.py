"""The review of a predicted folder: what is shown, what is kept, what becomes of files that change."""

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
from digits.store.records import encode_record, read_record, write_record
from digits.store.registry import ModelFacts, Registry
from tests.support import predicted_table
from tests.support.predicted_table import Table
from tests.support.tiny_model import MakePictures, write_model

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def table(tmp_path: Path, make_pictures: MakePictures) -> Table:
    """A predicted folder."""
    return predicted_table.predict(tmp_path, make_pictures)


def opened(table: Table, **options: object) -> Review:
    """Begin a review."""
    return Review(table.store, table.path, size=10, **options)  # type: ignore[arg-type]


def pixels_of(png: bytes) -> np.ndarray:
    """Decode a PNG."""
    return np.asarray(Image.open(io.BytesIO(png)))


class TestQueue:
    """What there is to look at."""

    def test_has_the_flagged_images_and_a_sample(self, table: Table) -> None:
        """By the statuses that the table has."""
        with table.path.open(encoding="utf-8", newline="") as file:
            statuses = Counter(row["status"] for row in csv.DictReader(file))
        with opened(table) as review:
            strata = Counter(picked.stratum for picked in review.queue)
        assert {*statuses} == {"ok", "uncertain", "not-a-digit"}
        assert strata == {"sample": 10, "uncertain": statuses["uncertain"], "not-a-digit": statuses["not-a-digit"]}

    @pytest.mark.parametrize("name", ["table.parquet", "table.jsonl"])
    def test_is_that_of_any_format(self, table: Table, make_pictures: MakePictures, name: str) -> None:
        """The same images in the same order."""
        other = predicted_table.predict(table.path.parent, make_pictures, name=name)
        with opened(table) as first, opened(other) as second:
            assert first.queue == second.queue

    def test_a_picture_is_shown_as_it_is_and_as_the_network_sees_it(self, table: Table) -> None:
        """Drawn anew from its pixels."""
        with opened(table) as review:
            for picked in review.queue[:5]:
                expected = np.asarray(Image.open(table.images / picked.image.path))
                assert all(np.array_equal(pixels_of(png), expected) for png in review.pictures(picked))

    def test_the_network_sees_what_its_model_was_trained_with(self, table: Table) -> None:
        """Where the model is in the registry; else it is guessed."""
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

    def test_an_archive_is_read_where_it_is(self, table: Table) -> None:
        """The pictures are those of the folder."""
        archive = predicted_table.packed(table)
        shutil.rmtree(table.images)
        with opened(archive, source=archive.images) as review:
            assert pixels_of(review.pictures(review.queue[0]).whole).shape == (28, 28)
            review.answer(review.queue[0].image.sha256, "4", name="1")

    def test_a_large_picture_is_made_small(self, table: Table) -> None:
        """A page has no use for more."""
        path = min(table.images.iterdir())
        Image.fromarray(np.tile(np.arange(250, dtype=np.uint8), (3000, 8))).save(path)
        _rewrite(table.path, sha256=hashlib.sha256(path.read_bytes()).hexdigest(), path=path.name)
        with opened(table) as review:
            assert pixels_of(review.pictures(review.queue[0]).whole).shape == (640, 427)


def _rewrite(table: Path, /, **values: str) -> None:
    """Give each row of a table other values."""
    with table.open(encoding="utf-8", newline="") as file:
        rows = [{**row, **values} for row in csv.DictReader(file)]
    with table.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


class TestAnswers:
    """What a person says."""

    def test_are_kept_with_the_image_and_what_the_model_said(self, table: Table) -> None:
        """And with the table's hash; the image is there when the folder is gone."""
        with opened(table) as review:
            picked = review.queue[0]
            review.answer(picked.image.sha256, "4", name="1")
            review.answer(picked.image.sha256, "4", name="1")
        shutil.rmtree(table.images)
        log = LabelLog(table.store.labels)
        (answer,) = log.answers()
        image, stratum = picked
        assert (answer.label, answer.prediction, answer.confidence) == ("4", image.prediction, image.confidence)
        assert (answer.status, answer.model_version, answer.selection) == (image.status, 1, stratum)
        assert answer.table == hashlib.sha256(table.path.read_bytes()).hexdigest()
        assert hashlib.sha256(log.read_image(image.sha256) or b"").hexdigest() == image.sha256

    def test_another_day_goes_on_where_it_was(self, table: Table) -> None:
        """The same queue, without what was answered; what was taken back is asked again, and so is the order kept."""
        with opened(table) as review:
            queue = review.queue
            for place in range(4):
                review.answer(queue[place].image.sha256, "not-a-digit", name=f"{place}")
            review.undo("1", name="undo 1")
            assert sum(review.progress().done.values()) == 3
        with opened(table) as review:
            assert review.queue == queue
            assert review.first_unanswered() == 1
            assert [answer.id for answer in review.history(2)] == ["2", "3"]
            assert sum(review.progress().done.values()) == 3
            for place in (1, *range(4, len(queue))):
                review.answer(queue[place].image.sha256, "skip", name=f"later {place}")
            assert review.first_unanswered() == len(queue)

    def test_a_skipped_image_is_not_kept(self, table: Table) -> None:
        """Nobody will train on it."""
        with opened(table) as review:
            review.answer(review.queue[0].image.sha256, "skip", name="1")
        assert not (table.store.labels / "images").exists()

    def test_two_reviewers_see_each_other(self, table: Table) -> None:
        """What one has said counts for both."""
        with opened(table) as first, opened(table) as second:
            first.answer(first.queue[0].image.sha256, "4", name="1")
            assert sum(second.progress().done.values()) == 1
            assert second.first_unanswered() == 1

    @pytest.mark.parametrize(("sha256", "label"), [("0" * 64, "4"), (None, "10"), (None, ""), (None, "undo")])
    def test_nonsense_is_refused(self, table: Table, sha256: str | None, label: str) -> None:
        """An image of another table, a label that is none."""
        with opened(table) as review, pytest.raises(UsageError, match="expected an image of this review and a label"):
            review.answer(sha256 or review.queue[0].image.sha256, label, name="1")
        assert LabelLog(table.store.labels).answers() == []

    def test_what_was_labelled_for_another_version_is_not_asked_again(
        self, table: Table, make_pictures: MakePictures
    ) -> None:
        """Of the same folder, predicted by the next model."""
        with opened(table) as review:
            labelled = {picked.image.sha256 for picked in review.queue[:7]}
            for sha256 in labelled:
                review.answer(sha256, "1", name=sha256)
        with opened(predicted_table.predict(table.path.parent, make_pictures, name="next.csv", version=2)) as review:
            assert review.selection.known == 7
            assert not labelled & {picked.image.sha256 for picked in review.queue}


class TestFiles:
    """Files that are not what they were."""

    def test_one_that_changed_is_never_labelled(self, table: Table) -> None:
        """It would be another image that was meant."""
        with opened(table) as review:
            picked = review.queue[0]
            (table.images / picked.image.path).write_bytes(b"something else")
            for call in (review.pictures, lambda it: review.answer(it.image.sha256, "4", name="1")):
                with pytest.raises(DecodeError, match="the file has changed since it was predicted"):
                    call(picked)
        assert LabelLog(table.store.labels).answers() == []

    @pytest.mark.parametrize("how", ["removed", "link", "folder", "fifo"])
    def test_one_that_is_gone_is_never_labelled(self, table: Table, how: str) -> None:
        """Nor is anything read in its place."""
        import os

        with opened(table) as review:
            picked = review.queue[0]
            path = table.images / picked.image.path
            path.rename(table.images.with_name("elsewhere.png"))
            if how == "link":
                path.symlink_to(table.images.with_name("elsewhere.png"))
            elif how == "folder":
                path.mkdir()
            elif how == "fifo":
                os.mkfifo(path)
            with pytest.raises(DecodeError):
                review.pictures(picked)

    def test_a_sample_without_it_can_go_on(self, table: Table) -> None:
        """It counts as not judged once it was missed; when it is back, it is waited for."""
        with opened(table) as review:
            sample = [picked for picked in review.queue if picked.stratum == "sample"]
            path = table.images / sample[0].image.path
            content = path.read_bytes()
            path.unlink()
            for picked in sample[1:3]:
                review.answer(picked.image.sha256, picked.image.prediction, name=picked.image.path)
            assert review.progress().confident is None
            with pytest.raises(DecodeError):
                review.pictures(sample[0])
            found = review.progress().confident
            assert found is not None
            assert found.judged == 2
            path.write_bytes(content)
            review.pictures(sample[0])
            assert review.progress().confident is None

    def test_one_that_was_labelled_is_shown_from_what_was_kept(self, table: Table) -> None:
        """So that an answer can be looked at and changed on another day."""
        with opened(table) as review:
            picked = review.queue[0]
            review.answer(picked.image.sha256, "4", name="1")
            (table.images / picked.image.path).unlink()
            assert review.pictures(picked)
            review.answer(picked.image.sha256, "5", name="2")


class TestSource:
    """Where the pictures are."""

    def test_is_what_the_summary_says_unless_told(self, table: Table) -> None:
        """A folder that was moved must be named."""
        moved = table.images.rename(table.images.with_name("moved"))
        with pytest.raises(UsageError, match=r"says table\.summary\.json, but are not; give --images"):
            opened(table).__enter__()
        with opened(table, source=moved) as review:
            assert review.pictures(review.queue[0])

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, "is not there"), (b"damaged", "is damaged"), (encode_record({"no": "source"}), "is damaged")],
    )
    def test_must_be_told_where_no_summary_does(self, table: Table, content: bytes | None, message: str) -> None:
        """It is missing or damaged."""
        summary = table.path.with_name("table.summary.json")
        summary.unlink()
        if content is not None:
            summary.write_bytes(content)
        with pytest.raises(UsageError, match=f"it should say where the images are, but {message}; give --images"):
            opened(table).__enter__()

    def test_of_a_single_image_is_its_folder(self, table: Table) -> None:
        """As the table's path is relative to it."""
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
            ({"prediction": "shoe"}, "row 2: only digits can be reviewed, found the class 'shoe'"),
            ({"sha256": "xyz"}, "row 2: expected a row as `digits predict` writes it, but: "),
            ({"confidence": ""}, "row 2: expected a row as `digits predict` writes it, but: "),
            ({"confidence": "high"}, "that is whole, but: line 2: could not convert string to float: 'high'"),
        ],
    )
    def test_a_table_of_something_else_is_refused(self, table: Table, values: dict[str, str], message: str) -> None:
        """With the row and the reason."""
        _rewrite(table.path, **values)
        with pytest.raises(UsageError) as caught:
            opened(table)
        assert message in str(caught.value)


class TestSheets:
    """Without a browser."""

    def test_a_sheet_goes_out_and_comes_back(self, table: Table) -> None:
        """Each label is in the log once, however often it is imported; the next sheet has it already."""
        sheet = table.path.with_name("sheet.csv")
        with opened(table) as review:
            assert review.export(sheet) == len(review.queue)
            header, *rows = csv.reader(io.StringIO(sheet.read_text("utf-8"), newline=""))
            wanted = ["3", "7.0", "n", "skip", ""]
            filled = [[*row[:-1], label] for row, label in zip(rows, wanted, strict=False)]
            _save(sheet, [header, *filled])
            assert review.import_sheet(sheet) == ImportCounts(4, 0)
            assert review.import_sheet(sheet) == ImportCounts(0, 4)
            assert sum(review.progress().done.values()) == 4
            review.export(sheet)
        with sheet.open(encoding="utf-8", newline="") as file:
            assert [row["label"] for row in csv.DictReader(file)][:5] == ["3", "7", "not-a-digit", "skip", ""]
        log = LabelLog(table.store.labels)
        assert len(log.path.read_bytes().splitlines()) == 4
        assert len(list((log.directory / "images").iterdir())) == 3

    def test_another_label_for_an_image_is_a_new_answer(self, table: Table) -> None:
        """The last one counts."""
        sheet = table.path.with_name("sheet.csv")
        with opened(table) as review:
            sha256 = review.queue[0].image.sha256
            review.answer(sha256, "1", name="1")
            _save(sheet, [["sha256", "label"], [sha256, "2"]])
            assert review.import_sheet(sheet) == ImportCounts(1, 0)
            assert [answer.label for answer in review.history(9)] == ["2"]

    def test_a_bad_row_keeps_all_from_being_imported(self, table: Table) -> None:
        """Also where the image is gone."""
        sheet = table.path.with_name("sheet.csv")
        with opened(table) as review:
            first, second = (picked.image for picked in review.queue[:2])
            (table.images / second.path).unlink()
            _save(sheet, [["sha256", "label"], [first.sha256, "1"], [second.sha256, "2"]])
            with pytest.raises(UsageError, match=rf"row 3: {second.path}: the file is not there any more; empty its"):
                review.import_sheet(sheet)
        assert LabelLog(table.store.labels).answers() == []

    def test_a_sheet_of_another_table_is_refused(self, table: Table) -> None:
        """Its images are not asked about here."""
        sheet = table.path.with_name("sheet.csv")
        _save(sheet, [["sha256", "label"], ["0" * 64, "1"]])
        with (
            opened(table) as review,
            pytest.raises(UsageError, match="row 2: this review has no image with the SHA-256"),
        ):
            review.import_sheet(sheet)

    def test_files_that_can_not_be_had_are_errors(self, table: Table) -> None:
        """By name."""
        with opened(table) as review:
            with pytest.raises(UsageError, match=r"\(No such file or directory\); expected an edited sheet"):
                review.import_sheet(table.path.with_name("none.csv"))
            with pytest.raises(UsageError, match=r"expected a name that ends in \.csv, found '\.xlsx'"):
                review.export(table.path.with_name("sheet.xlsx"))
            (table.path.parent / "file").write_text("")
            with pytest.raises(StoreError, match="could not be written"):
                review.export(table.path.parent / "file" / "sheet.csv")


def _save(path: Path, rows: list[list[str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
