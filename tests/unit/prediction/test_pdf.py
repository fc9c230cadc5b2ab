"""Tests of PDF files in predictions: a row per page, and the limits of time and memory."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits.model.onnx_model import OnnxModel
from digits.outputs.table import read_table
from digits.prediction.config import PredictionConfig
from digits.prediction.publish import predict_folder
from tests.support.pdfs import as_pdf, encrypted, inflating, one_page, slow
from tests.support.tiny_model import MakePictures, draw


def predict(folder: Path, model: OnnxModel, **options: Any) -> list[dict[str, Any]]:
    """Predict a folder and return the rows of its table."""
    root, config = folder.parent, PredictionConfig(**options)
    predict_folder(folder, model=model, out=root / "p.csv", work=root / "work", options=config)
    return list(read_table(root / "p.csv"))


@pytest.fixture
def folder(tmp_path: Path, make_pictures: MakePictures) -> Path:
    """Return a folder with two images and a PDF of three pages."""
    folder = make_pictures(tmp_path / "in", 2)
    pages = [np.pad(255 - draw(seed), 40, constant_values=255) for seed in (3, 4)]
    (folder / "a.pdf").write_bytes(as_pdf([*pages, np.full_like(pages[0], 255)]))
    return folder


@pytest.mark.usefixtures("in_this_process")
def test_each_page_of_a_pdf_has_a_row_without_an_option(folder: Path, model: OnnxModel) -> None:
    """So it has in an incremental run, and only the first page is read on request."""
    rows = predict(folder, model)
    assert [(row["path"], row["page"], row["status"]) for row in rows] == [
        ("0000.png", None, "ok"),
        ("0001.png", None, "ok"),
        ("a.pdf", 1, "ok"),
        ("a.pdf", 2, "ok"),
        ("a.pdf", 3, "ok"),
    ]
    assert predict(folder, model, incremental=True) == rows
    first = predict(folder, model, pages="first")
    assert [(row["path"], row["page"]) for row in first[2:]] == [("a.pdf", None)]
    assert first[2]["confidence"] == rows[2]["confidence"]


@pytest.mark.parametrize(
    ("make", "seconds", "status"), [(slow, 4, "timeout"), (inflating, 600, "crashed")], ids=["time", "memory"]
)
def test_a_page_beyond_the_limits_costs_its_own_row(
    folder: Path, model: OnnxModel, make: Callable[[], bytes], seconds: float, status: str
) -> None:
    """PDFium ends its process when it gets no more memory."""
    before = predict(folder, model)
    (folder / "b.pdf").write_bytes(make())
    rows = predict(folder, model, max_seconds=seconds, processes=1)
    assert rows[:-1] == before
    assert (rows[-1]["path"], rows[-1]["page"], rows[-1]["status"]) == ("b.pdf", None, status)


@pytest.mark.usefixtures("in_this_process")
def test_a_pdf_that_cannot_be_read_has_one_row(folder: Path, model: OnnxModel) -> None:
    before = predict(folder, model)
    (folder / "b.pdf").write_bytes(encrypted())
    (folder / "c.pdf").write_bytes(b"%PDF-1.7\n")
    (folder / "d.pdf").write_bytes(one_page(size=(9_000, 9_000)))
    rows = predict(folder, model)
    assert rows[: len(before)] == before
    statuses = {row["path"]: row["status"] for row in rows[len(before) :]}
    assert statuses == {"b.pdf": "unsupported", "c.pdf": "unreadable", "d.pdf": "too-large"}
