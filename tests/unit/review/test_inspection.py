"""One image under the glass: its steps are those of a prediction, and what is drawn is what was found."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.images.decode import DecodeError
from digits.images.formats import Mode
from digits.images.normalize import normalize
from digits.images.types import Pixels
from digits.model.onnx_model import OnnxModel, Predictor
from digits.outputs.drawing import GAP, LINE
from digits.review.inspection import KEPT, LEFT_OUT, TILE, draw_inspection, inspect_image
from tests.support.tiny_model import draw


@pytest.fixture
def predictor(model: OnnxModel) -> Predictor:
    """A network of random weights."""
    return Predictor(model)


def as_png(pixels: Pixels) -> bytes:
    """Encode a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def on_paper(*places: int, width: int = 120) -> Pixels:
    """Draw dark digits onto light paper that is darker on one side, at these columns."""
    page = np.tile(np.linspace(200, 250, width), (60, 1))
    for left in places:
        page[16:44, left : left + 28] -= draw(1) * 0.6
    return page.astype(np.uint8)


def test_the_steps_from_paper_to_the_network(predictor: Predictor) -> None:
    """The last one is what a prediction of the folder would see, and the probabilities are its."""
    page = on_paper(40)
    found = inspect_image(as_png(page), predictor)
    assert [step.name for step in found.steps] == [
        "the picture",
        "ink found",
        "paper without it",
        "ink kept",
        "what the network sees",
    ]
    assert (found.steps[0].pixels == page).all()
    assert (found.steps[-1].pixels == normalize(page)).all()
    (expected,) = predictor.predict(normalize(page)[np.newaxis])
    assert [bar.share for bar in found.chances] == pytest.approx(expected.tolist())
    assert found.best.name == str(expected.argmax())
    assert (found.status, found.novelty) == ("ok", None)
    assert "dark on light paper" in found.findings[0]
    assert (found.steps[1].pixels == KEPT).all(axis=2).any()
    assert not (found.steps[1].pixels == LEFT_OUT).all(axis=2).any()


def test_two_digits_are_told_of(predictor: Predictor) -> None:
    """The one that is left out has its box too."""
    found = inspect_image(as_png(on_paper(8, 80)), predictor)
    assert any(finding.startswith("1 more of about a digit's size") for finding in found.findings)
    assert (found.steps[1].pixels == LEFT_OUT).all(axis=2).any()


@pytest.mark.parametrize(
    ("pixels", "mode", "finding"),
    [
        (draw(3), "auto", "in MNIST's form already"),
        (np.full((50, 70), 255, np.uint8), "auto", "No ink was found"),
        (on_paper(40), "none", "only scaled"),
    ],
)
def test_pictures_without_steps(predictor: Predictor, pixels: Pixels, mode: Mode, finding: str) -> None:
    """Nothing is done, or nothing is there: it says which."""
    found = inspect_image(as_png(pixels), predictor, mode)
    assert [step.name for step in found.steps] == ["the picture", "what the network sees"]
    assert finding in found.findings[0]
    assert (found.steps[-1].pixels == normalize(pixels, mode)).all()


def test_ink_from_edge_to_edge(predictor: Predictor) -> None:
    """A box that was stretched to the whole picture."""
    page = np.full((16, 16), 255, np.uint8)
    page[np.eye(16, dtype=bool) | np.eye(16, dtype=bool)[::-1]] = 0
    assert any("edge to edge" in finding for finding in inspect_image(as_png(page), predictor).findings)


def test_what_is_no_picture(predictor: Predictor) -> None:
    """It says why."""
    with pytest.raises(DecodeError, match="does not begin like"):
        inspect_image(b"text", predictor)


def test_the_drawing(predictor: Predictor, tmp_path: Path) -> None:
    """A tile a step, and a line a class below."""
    found = inspect_image(as_png(on_paper(40)), predictor)
    drawn = Image.open(io.BytesIO(draw_inspection(found)))
    assert drawn.width == GAP + 5 * (TILE + GAP)
    assert drawn.height == GAP + TILE + GAP + 2 * LINE + 10 * LINE + GAP
    below = np.asarray(drawn.convert("RGB"))[-10 * LINE - GAP : -GAP].astype(int)
    lengths = [int((below[row * LINE : (row + 1) * LINE].min(axis=(0, 2)) < 60).sum()) for row in range(10)]
    shares = [bar.share for bar in found.chances]
    assert int(np.argmax(lengths)) == int(np.argmax(shares))
