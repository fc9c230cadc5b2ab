"""One image under the glass: every step from its file to what the network sees, and what the network says of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from digits.errors import StoreError, UsageError, os_errors_as
from digits.images.decode import MIN_SIDE, DecodeError, decode
from digits.images.formats import Mode
from digits.images.normalize import SHAPE, Box, Ink, find_ink, has_mnist_form
from digits.images.screening import screen
from digits.images.types import Pixels
from digits.model.onnx_model import Predictor
from digits.outputs.drawing import Bar, contact_sheet, with_bars
from digits.prediction.service import open_model
from digits.status import Status, combine_novelty, prediction_status
from digits.store.artifacts import Store
from digits.store.files import write_file

TILE = 224
KEPT, LEFT_OUT = (234, 88, 12), (37, 99, 235)


class Step(NamedTuple):
    """What became of the image so far: a word or two, and (H, W) or (H, W, 3) uint8 to look at."""

    name: str
    pixels: Pixels


@dataclass(frozen=True, eq=False)
class Inspection:
    """What is to be known of one image.

    Args:
        width: of the picture, in pixels, upright.
        height: of the picture, in pixels, upright.
        steps: from the file's picture to the network's input, the last one.
        chances: each class's name and probability, in the model's order.
        findings: sentences about what was seen on the way.
        status: as in the table of a prediction that asks for no certainty.
        novelty: as in the table.
    """

    width: int
    height: int
    steps: tuple[Step, ...]
    chances: tuple[Bar, ...]
    findings: tuple[str, ...]
    status: Status
    novelty: float | None

    @property
    def best(self) -> Bar:
        """The most likely class."""
        return max(self.chances, key=lambda chance: chance.share)


def inspect_image(content: bytes, predictor: Predictor, mode: Mode = "auto") -> Inspection:
    """Decode, normalise and predict one image as a prediction of a folder does, and keep what each step gave.

    Raises:
        DecodeError: the bytes give no picture.
        ModelError: the network can't be run.
    """
    shape, names = predictor.model.input_shape, predictor.model.class_names
    picture = decode(content, min_side=MIN_SIDE)
    pixels, screening_score, *_ = screen(picture.pixels, mode, shape=shape)
    between, findings = _steps_between(picture.pixels, mode, shape)
    (shares,), answered = predictor.predict_with_novelty(pixels[np.newaxis])
    (novelty,) = combine_novelty(answered, [screening_score])
    return Inspection(
        width=picture.width,
        height=picture.height,
        steps=(Step("the picture", picture.pixels), *between, Step("what the network sees", pixels)),
        chances=tuple(Bar(name, float(share)) for name, share in zip(names, shares, strict=True)),
        findings=findings,
        status=prediction_status(float(shares.max()), novelty, threshold=0),
        novelty=novelty,
    )


def _steps_between(pixels: Pixels, mode: Mode, shape: tuple[int, int]) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    if mode == "none":
        return (), ("It is only scaled to the network's size, as --normalize none asks for.",)
    if mode == "auto" and shape == SHAPE and has_mnist_form(pixels):
        return (), ("It is in MNIST's form already: light on black, 28x28, centred. Nothing is changed.",)
    ink = find_ink(pixels)
    if ink is None:
        return (), ("No ink was found: the page is blank, or nothing stands out from it.",)
    steps = (Step("ink found", _marked(ink)), Step("paper without it", ink.paper), Step("ink kept", ink.levels))
    return steps, tuple(_findings(ink))


def _findings(ink: Ink) -> Sequence[str]:
    darker, lighter = ("dark", "light") if ink.dark_on_light else ("light", "dark")
    top, left, bottom, right = ink.box
    found = [f"The ink is {darker} on {lighter} paper, in a box of {right - left} x {bottom - top} pixels (orange)."]
    if ink.others:
        found.append(f"{len(ink.others)} more of about a digit's size were left out (blue): is it one digit?")
    if ink.tight:
        found.append("The ink fills the picture from edge to edge: its proportions were probably lost.")
    return found


def _marked(ink: Ink) -> Pixels:
    """Draw the boxes of what was kept and of what was left out onto the page: (h, w, 3) uint8."""
    page = np.repeat(ink.page[..., np.newaxis], 3, axis=2)
    for box, colour in ((ink.box, KEPT), *((box, LEFT_OUT) for box in ink.others)):
        _outline(page, box, colour)
    return page


def _outline(page: Pixels, box: Box, colour: tuple[int, int, int]) -> None:
    top, left, bottom, right = box
    page[top:bottom, [left, right - 1]] = colour
    page[[top, bottom - 1], left:right] = colour


def draw_inspection(inspection: Inspection) -> bytes:
    """Draw the steps side by side, and a bar for each class below them, as PNG."""
    captions = [f"{step.name}\n{step.pixels.shape[1]} x {step.pixels.shape[0]}" for step in inspection.steps]
    captions[0] = f"{inspection.steps[0].name}\n{inspection.width} x {inspection.height}"
    steps = contact_sheet([step.pixels for step in inspection.steps], captions, columns=len(captions), tile=TILE)
    return with_bars(steps, inspection.chances)


def inspect(
    store: Store, image: Path, *, model: str = "champion", out: Path | None = None, mode: Mode = "auto"
) -> tuple[Inspection, Path]:
    """Look at how one image is predicted, and draw it.

    Args:
        store: where models are.
        image: a file.
        model: `champion` or a version's number.
        out: the picture; None: below the store, where no prediction of a folder comes across it.
        mode: as in `PredictionConfig.normalize`.

    Returns:
        What was found, and where the picture is.

    Raises:
        UsageError: the file can't be read, or gives no picture.
        RegistryError: there is no such model.
        StoreError: the disk is full, or can't be written to.
    """
    predictor = Predictor(open_model(store, model))
    with os_errors_as(UsageError, image, "could not be read", "expected an image file"):
        content = image.read_bytes()
    try:
        inspection = inspect_image(content, predictor, predictor.model.resolve_mode(mode))
    except DecodeError as error:
        raise UsageError(f"{image}: {error.status}: {error}") from error
    place = out or store.inspections / f"{image.name}.png"
    with os_errors_as(StoreError, place, "the picture could not be written", "choose another path with --out"):
        write_file(place, draw_inspection(inspection))
    return inspection, place
