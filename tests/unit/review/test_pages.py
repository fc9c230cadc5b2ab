"""Tests of the review of a file with several pages: each page is an image of its own, up to the training data."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.data.datasets import load
from digits.data.labels import LabelLog, file_and_page, image_id
from digits.outputs.table import read_table
from digits.review import web
from digits.review.session import ImportCounts, Review
from tests.support import predicted_table
from tests.support.predicted_table import Table
from tests.support.tiny_model import MakePictures, draw

PAGES = 4

pytestmark = pytest.mark.usefixtures("in_this_process")


@pytest.fixture
def table(tmp_path: Path, make_pictures: MakePictures) -> Table:
    """Return the table of a folder in which one file has several pages."""
    (tmp_path / "scans").mkdir()
    first, *others = [Image.fromarray(draw(seed)) for seed in range(100, 100 + PAGES)]
    first.save(tmp_path / "scans" / "0000a.tif", save_all=True, append_images=others)
    return predicted_table.predict(tmp_path, make_pictures)


def pages_of(review: Review) -> dict[int, int]:
    """Return where each page of the file is in the queue."""
    return {queued.image.page: place for place, queued in enumerate(review.queue) if queued.image.page}


def test_each_page_is_shown_as_an_image(table: Table) -> None:
    with Review(table.store, table.path, size=1000) as review:
        places = pages_of(review)
        assert sorted(places) == list(range(1, PAGES + 1))
        for page, place in places.items():
            whole = np.asarray(Image.open(io.BytesIO(review.pictures(review.queue[place]).whole)))
            assert np.array_equal(whole, draw(99 + page))
            described = web._described(review, place)
            assert described["path"] == f"0000a.tif page {page}"
            assert described["sha256"] == review.queue[place].image.id


def test_pages_are_labelled_each_by_itself_and_become_training_images(table: Table, tmp_path: Path) -> None:
    """The file is saved once. An undone answer concerns its page alone."""
    with Review(table.store, table.path, size=1000) as review:
        images = {queued.image.page: queued.image for queued in review.queue if queued.image.page}
        for page, image in images.items():
            review.answer(image.id, str(page), answer_id=f"{page:032x}")
        review.undo(f"{4:032x}", undo_id="f" * 32)
        labels = [answer.label if (answer := review.answer_to(queued)) else None for queued in review.queue]
        assert sorted(filter(None, labels)) == ["1", "2", "3"]
    log = LabelLog(table.store.labels)
    assert [path.name for path in (log.directory / "images").iterdir()] == [images[1].sha256]
    snapshot = log.snapshot()
    assert snapshot.labels == {image_id(images[1].sha256, page): str(page) for page in (1, 2, 3)}
    data = load("reviewed", downloads=tmp_path, normalize="none", reviewed=snapshot)
    pixels = np.concatenate([data.train_pixels, data.test_pixels])
    found = np.concatenate([data.train_labels, data.test_labels]).tolist()
    assert sorted(found) == [1, 2, 3]
    assert all(np.array_equal(one, draw(99 + label)) for one, label in zip(pixels, found, strict=True))
    assert {*data.train_files, *data.test_files} == set(snapshot.labels)


def test_the_spreadsheet_has_a_row_per_page(table: Table) -> None:
    sheet = table.path.with_name("sheet.csv")
    with Review(table.store, table.path, size=1000) as review:
        review.export_sheet(sheet)
        lines = sheet.read_text().splitlines()
        pages = [line + "7" if ",0000a.tif," in line and ",2," in line else line for line in lines]
        sheet.write_text("\n".join(pages))
        assert review.import_sheet(sheet) == ImportCounts(1, 0)
        assert review.answer_to(review.queue[pages_of(review)[2]]) is not None
        assert review.answer_to(review.queue[pages_of(review)[3]]) is None


def test_a_table_without_pages_is_reviewed(table: Table) -> None:
    """An earlier version of Digits wrote it, with the first page alone."""
    rows = [row for row in read_table(table.path) if row["page"] in (None, 1)]
    lines = [line.rpartition(",")[0] for line in table.path.read_text().splitlines()]
    table.path.write_text("\n".join(lines[: len(rows) + 1]) + "\n")
    with Review(table.store, table.path, size=1000) as review:
        assert not pages_of(review)
        assert review.pictures(review.queue[0])


@pytest.mark.parametrize("page", [None, 1, 1000])
def test_an_id_is_read_back(page: int | None) -> None:
    assert file_and_page(image_id("ab" * 32, page)) == ("ab" * 32, page)
