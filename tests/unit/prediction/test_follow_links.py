"""Predictions of folders whose images are links, as DVC and git-annex make them."""

import shutil
from pathlib import Path

import pytest

from digits.images.decode import DecodeError
from digits.outputs.summary import PredictionSummary
from digits.outputs.table import read_table
from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.review.session import Review
from digits.store.artifacts import Store
from tests.support.networks import tiny_store
from tests.support.tiny_model import MakePictures

pytestmark = pytest.mark.usefixtures("in_this_process")
IMAGES = 3


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tiny_store(tmp_path / "artifacts"))


@pytest.fixture
def data(tmp_path: Path, make_pictures: MakePictures) -> Path:
    """Folder of links to images in a cache beside it, whose names have no extension."""
    make_pictures(tmp_path / "cache", IMAGES)
    (tmp_path / "data").mkdir()
    for path in sorted((tmp_path / "cache").iterdir()):
        path.rename(path.with_suffix(""))
        (tmp_path / "data" / path.name).symlink_to(path.with_suffix(""))
    return tmp_path / "data"


def predict(store: Store, data: Path, **options: object) -> PredictionSummary:
    settings = PredictionConfig.model_validate({"processes": 1, "follow_links": "anywhere", **options})
    return service.predict_folder(store, data, out=store.root.parent / "p.csv", options=settings)


def test_links_have_rows_if_they_are_followed(store: Store, data: Path) -> None:
    """By default, and where they lead out of the folder, they are counted."""
    for rule in ("no", "inside"):
        summary = predict(store, data, follow_links=rule)
        assert (summary.images, summary.skipped, summary.follow_links) == (0, {"link": IMAGES}, rule)
    summary = predict(store, data)
    assert (summary.images, summary.statuses, summary.skipped) == (IMAGES, {"ok": IMAGES}, {})
    assert [row["path"] for row in read_table(summary.out)] == ["0000.png", "0001.png", "0002.png"]


def test_an_incremental_run_notices_that_a_link_leads_to_another_file(
    store: Store, data: Path, make_pictures: MakePictures
) -> None:
    """A link that is replaced by another one to the same file changes nothing."""
    predict(store, data, incremental=True)
    make_pictures(data.parent / "more", IMAGES + 1)
    (data / "0000.png").unlink()
    (data / "0000.png").symlink_to(data.parent / "more" / "0003.png")
    (data / "0001.png").unlink()
    (data / "0001.png").symlink_to(data.parent / "cache" / "0001")
    summary = predict(store, data, incremental=True)
    assert (summary.images, summary.unchanged) == (IMAGES, IMAGES - 1)


def test_rows_of_links_are_replaced_with_the_same_option(store: Store, data: Path) -> None:
    """Otherwise the files would be missing."""
    predict(store, data)
    assert predict(store, data, replace_version=1).statuses == {"ok": IMAGES}


def test_a_review_reads_what_the_prediction_read(store: Store, data: Path) -> None:
    """The summary beside the table says which links were followed; without it, none are."""
    out = predict(store, data).out
    with Review(store, out) as review:
        assert [len(review.pictures(queued)) for queued in review.queue] == [2] * IMAGES
    shutil.move(out.with_suffix(".summary.json"), out.with_suffix(".gone"))
    with Review(store, out, source=data) as review, pytest.raises(DecodeError):
        review.pictures(review.queue[0])
