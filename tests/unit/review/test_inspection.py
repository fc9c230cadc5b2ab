"""Tests of the inspection of an image: its steps are those of a prediction, and the drawing shows them."""

import io

import numpy as np
import pytest
from PIL import Image

from digits.errors import UsageError
from digits.images.decode import DecodeError
from digits.images.formats import Mode
from digits.images.normalize import normalize
from digits.images.types import Pixels
from digits.model.onnx_model import OnnxModel, Predictor
from digits.outputs.drawing import GAP, LINE
from digits.review.inspection import KEPT, LEFT_OUT, TILE, draw_inspection, inspect_image
from tests.support.pdfs import as_pdf
from tests.support.tiny_model import draw


@pytest.fixture
def predictor(model: OnnxModel) -> Predictor:
    """Network with random weights."""
    return Predictor(model)


def as_png(pixels: Pixels) -> bytes:
    """Encode an image as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def on_paper(*places: int, width: int = 120) -> Pixels:
    """Draw dark digits at these columns of light paper with a gradient."""
    page = np.tile(np.linspace(200, 250, width), (60, 1))
    for left in places:
        page[16:44, left : left + 28] -= draw(1) * 0.6
    return page.astype(np.uint8)


def test_the_last_step_is_the_network_input_of_a_prediction(predictor: Predictor) -> None:
    """The probabilities are those of that input. The box of the ink is drawn."""
    page = on_paper(40)
    found = inspect_image(as_png(page), predictor)
    assert [step.name for step in found.steps] == [
        "image",
        "ink found",
        "paper",
        "ink kept",
        "network input",
    ]
    assert (found.steps[0].pixels == page).all()
    assert (found.steps[-1].pixels == normalize(page)).all()
    (expected,) = predictor.predict(normalize(page)[np.newaxis])
    assert [bar.share for bar in found.probabilities] == pytest.approx(expected.tolist())
    assert found.best.name == str(expected.argmax())
    assert (found.status, found.novelty) == ("ok", None)
    assert "dark on light paper" in found.findings[0]
    assert (found.steps[1].pixels == KEPT).all(axis=2).any()
    assert not (found.steps[1].pixels == LEFT_OUT).all(axis=2).any()


def test_a_second_digit_is_reported_and_marked(predictor: Predictor) -> None:
    """The mark that is left out has a box too."""
    found = inspect_image(as_png(on_paper(8, 80)), predictor)
    assert any(finding.startswith("1 further marks of a digit's size") for finding in found.findings)
    assert (found.steps[1].pixels == LEFT_OUT).all(axis=2).any()


@pytest.mark.parametrize(
    ("pixels", "mode", "finding"),
    [
        (draw(3), "auto", "already in MNIST's form"),
        (np.full((50, 70), 255, np.uint8), "auto", "No ink was found"),
        (on_paper(40), "none", "only scaled"),
    ],
)
def test_an_image_that_is_not_normalized_has_a_finding_and_no_steps(
    predictor: Predictor, pixels: Pixels, mode: Mode, finding: str
) -> None:
    """It is in MNIST's form, blank, or only scaled."""
    found = inspect_image(as_png(pixels), predictor, mode)
    assert [step.name for step in found.steps] == ["image", "network input"]
    assert finding in found.findings[0]
    assert (found.steps[-1].pixels == normalize(pixels, mode)).all()


def with_frames(kind: str, *seeds: int) -> bytes:
    """Encode digits as the pages or frames of one file."""
    first, *others = [Image.fromarray(draw(seed)) for seed in seeds]
    buffer = io.BytesIO()
    first.save(buffer, kind, save_all=True, append_images=others)
    return buffer.getvalue()


@pytest.mark.parametrize("page", [1, 2, 3])
def test_each_page_of_a_file_can_be_inspected(predictor: Predictor, page: int) -> None:
    """A finding says which one it is, and how many there are."""
    found = inspect_image(with_frames("TIFF", 1, 2, 3), predictor, page=page)
    assert (found.steps[0].pixels == draw(page)).all()
    assert found.findings[-1] == f"This is page {page} of 3; --page shows another."


def test_a_page_of_a_pdf_can_be_inspected(predictor: Predictor) -> None:
    """It is drawn like in a prediction."""
    found = inspect_image(as_pdf([draw(1), draw(2)]), predictor, page=2)
    assert (found.width, found.height) == (78, 78)
    assert found.findings[-1] == "This is page 2 of 2; --page shows another."


def test_a_page_that_does_not_exist_is_an_error(predictor: Predictor) -> None:
    for content, page, last in ((with_frames("TIFF", 1, 2), 3, 2), (as_png(draw(1)), 2, 1), (as_png(draw(1)), 0, 1)):
        with pytest.raises(UsageError, match=f"expected a page from 1 to {last}, found {page}"):
            inspect_image(content, predictor, page=page)


def test_further_frames_of_an_animation_are_reported(predictor: Predictor) -> None:
    assert inspect_image(with_frames("GIF", 1, 2), predictor).findings[-1] == (
        "The file has further frames, which are not read."
    )
    assert not any(
        "page" in finding or "frames" in finding
        for finding in inspect_image(with_frames("TIFF", 1), predictor).findings[1:]
    )


def test_ink_that_fills_the_image_is_reported(predictor: Predictor) -> None:
    """Its proportions were probably lost."""
    page = np.full((16, 16), 255, np.uint8)
    page[np.eye(16, dtype=bool) | np.eye(16, dtype=bool)[::-1]] = 0
    assert any("edge to edge" in finding for finding in inspect_image(as_png(page), predictor).findings)


def test_formats_of_an_installed_extra_are_read(predictor: Predictor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow reads AVIF itself; without the extra, it is refused."""
    content = io.BytesIO()
    Image.fromarray(on_paper(40)).convert("RGB").save(content, "AVIF")
    with monkeypatch.context() as context:
        context.setattr("importlib.util.find_spec", lambda name: object() if name == "PIL" else None)
        with pytest.raises(DecodeError, match=r"needs digits\[heif\]"):
            inspect_image(content.getvalue(), predictor)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: object())
    assert inspect_image(content.getvalue(), predictor).steps


def test_bytes_that_are_no_image_are_an_error(predictor: Predictor) -> None:
    """It has the reason."""
    with pytest.raises(DecodeError, match="does not begin like"):
        inspect_image(b"text", predictor)


def test_the_drawing_has_a_tile_per_step_and_a_bar_per_class(predictor: Predictor) -> None:
    """The longest bar is that of the most likely class."""
    found = inspect_image(as_png(on_paper(40)), predictor)
    drawn = Image.open(io.BytesIO(draw_inspection(found)))
    assert drawn.width == GAP + 5 * (TILE + GAP)
    assert drawn.height == GAP + TILE + GAP + 2 * LINE + 10 * LINE + GAP
    below = np.asarray(drawn.convert("RGB"))[-10 * LINE - GAP : -GAP].astype(int)
    lengths = [int((below[row * LINE : (row + 1) * LINE].min(axis=(0, 2)) < 60).sum()) for row in range(10)]
    shares = [bar.share for bar in found.probabilities]
    assert int(np.argmax(lengths)) == int(np.argmax(shares))
