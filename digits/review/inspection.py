"""Inspection: the steps from one image file to the network's input and its prediction, and their drawing."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from digits.errors import StoreError, UsageError, os_errors_as
from digits.images.decode import MIN_SIDE, Decoded, DecodeError, decode
from digits.images.formats import Mode, formats_to_read
from digits.images.ink.parts import Box
from digits.images.normalize import SHAPE, Ink, find_ink, has_mnist_form
from digits.images.pages import PageList, list_pages
from digits.images.screening import screen
from digits.images.types import Pixels
from digits.model.inputs import is_path, read_image
from digits.model.onnx_model import OnnxModel, Predictor
from digits.outputs.drawing import Bar, contact_sheet, with_bars
from digits.prediction.service import open_model
from digits.status import Status, combine_novelty, prediction_status
from digits.store.artifacts import Store
from digits.store.files import write_file
from digits.store.written import write_own_file

TILE = 224
"""Side of a step in the drawing, in pixels."""
KEPT, LEFT_OUT = (234, 88, 12), (37, 99, 235)
"""Colours (red, green, blue) of the boxes around the ink that was kept and the ink that was left out."""


class Step(NamedTuple):
    """Step of the preprocessing: its name, and its image as (H, W) or (H, W, 3) uint8."""

    name: str
    pixels: Pixels


@dataclass(frozen=True, eq=False)
class Inspection:
    """Result of the inspection of one image.

    Args:
        width: width of the image in pixels, after rotation by its orientation tag.
        height: height of the image in pixels, after rotation by its orientation tag.
        steps: steps from the decoded image to the network's input, which is the last.
        probabilities: name and probability of each class, in the model's order.
        findings: sentences about the ink, the paper and the pages.
        status: status as in the table of a prediction without `max_error`.
        novelty: out-of-distribution score as in the table; None if the model has none.
    """

    width: int
    height: int
    steps: tuple[Step, ...]
    probabilities: tuple[Bar, ...]
    findings: tuple[str, ...]
    status: Status
    novelty: float | None

    @property
    def best(self) -> Bar:
        """Most likely class."""
        return max(self.probabilities, key=lambda bar: bar.share)

    def _repr_png_(self) -> bytes:
        """Return the drawing of the steps, which a notebook shows."""
        return draw_inspection(self)


def inspect_image(content: bytes, predictor: Predictor, mode: Mode = "auto", page: int = 1) -> Inspection:
    """Decode, normalize and predict one image as in the prediction of a folder, and return the result of each step.

    Args:
        content: bytes of the image file.
        predictor: model that predicts the image.
        mode: normalization of the image.
        page: number of the page of a file with several.

    Raises:
        DecodeError: if the bytes cannot be decoded.
        UsageError: if there is no such page.
        ModelError: if the network cannot be run.
    """
    shape, names = predictor.model.input_shape, predictor.model.class_names
    others = formats_to_read(())
    pages = list_pages(content, pdf="PDF" in others)
    picture = decode(content, min_side=MIN_SIDE, others=others, place=_place_of(page, pages))
    pixels, screening_score, *_ = screen(picture.pixels, mode, shape=shape)
    between, findings = _steps_between(picture.pixels, mode, shape)
    (shares,), answered = predictor.predict_with_novelty(pixels[np.newaxis])
    (novelty,) = combine_novelty(answered, [screening_score])
    return Inspection(
        width=picture.width,
        height=picture.height,
        steps=(Step("image", picture.pixels), *between, Step("network input", pixels)),
        probabilities=tuple(Bar(name, float(share)) for name, share in zip(names, shares, strict=True)),
        findings=(*findings, *_page_findings(page, pages, picture)),
        status=prediction_status(float(shares.max()), novelty, threshold=0),
        novelty=novelty,
    )


def _place_of(page: int, pages: PageList) -> int | None:
    """Return where a page is; None for the only page of a file."""
    count = max(1, len(pages.places))
    if not 1 <= page <= count:
        raise UsageError(f"expected a page from 1 to {count}, found {page}")
    return pages.places[page - 1] if pages.several else None


def _page_findings(page: int, pages: PageList, picture: Decoded) -> Sequence[str]:
    if pages.several:
        return [f"This is page {page} of {len(pages.places)}; --page shows another."]
    return ["The file has further frames, which are not read."] if picture.more_frames else []


def _steps_between(pixels: Pixels, mode: Mode, shape: tuple[int, int]) -> tuple[tuple[Step, ...], tuple[str, ...]]:
    if mode == "none":
        return (), ("The image is only scaled to the network's input size, because of --normalize none.",)
    if mode == "auto" and shape == SHAPE and has_mnist_form(pixels):
        return (), ("The image is already in MNIST's form: light on black, 28 x 28, centred. Nothing is changed.",)
    ink = find_ink(pixels)
    if ink is None:
        return (), ("No ink was found: the page is blank or has too little contrast.",)
    steps = (Step("ink found", _mark_boxes(ink)), Step("paper", ink.paper), Step("ink kept", ink.levels))
    return steps, tuple(_findings(ink))


def _findings(ink: Ink) -> Sequence[str]:
    darker, lighter = ("dark", "light") if ink.dark_on_light else ("light", "dark")
    top, left, bottom, right = ink.box
    found = [f"The ink is {darker} on {lighter} paper, in a box of {right - left} x {bottom - top} pixels (orange)."]
    if ink.others:
        found.append(
            f"{len(ink.others)} further marks of a digit's size were left out (blue): check that it is one digit."
        )
    if ink.tight:
        found.append("The ink fills the image from edge to edge: its proportions were probably lost.")
    return found


def _mark_boxes(ink: Ink) -> Pixels:
    """Return the page, as (H, W, 3) uint8, with boxes around the ink that was kept and the marks that were left out."""
    page = np.repeat(ink.page[..., np.newaxis], 3, axis=2)
    for box, colour in ((ink.box, KEPT), *((box, LEFT_OUT) for box in ink.others)):
        _outline(page, box, colour)
    return page


def _outline(page: Pixels, box: Box, colour: tuple[int, int, int]) -> None:
    top, left, bottom, right = box
    page[top:bottom, [left, right - 1]] = colour
    page[[top, bottom - 1], left:right] = colour


def draw_inspection(inspection: Inspection) -> bytes:
    """Return a PNG of the steps side by side, with one bar per class below them."""
    captions = [f"{step.name}\n{step.pixels.shape[1]} x {step.pixels.shape[0]}" for step in inspection.steps]
    captions[0] = f"{inspection.steps[0].name}\n{inspection.width} x {inspection.height}"
    steps = contact_sheet([step.pixels for step in inspection.steps], captions, columns=len(captions), tile=TILE)
    return with_bars(steps, inspection.probabilities)


def inspect(
    store: Store, image: Any, *, model: str | Path | OnnxModel = "champion", mode: Mode = "auto", page: int = 1
) -> Inspection:
    """Inspect how one image is predicted.

    Args:
        store: artifact store.
        image: path of the image file, or an image in memory, see `digits.model.inputs`.
        model: model, as in `digits.prediction.service.open_model`.
        mode: normalization of the image, as in `PredictionConfig.normalize`.
        page: number of the page of a file with several, as in the table.

    Raises:
        UsageError: if the file cannot be read or decoded, or has no such page.
        RegistryError: if there is no such model.
    """
    predictor, name = Predictor(open_model(store, model)), str(image) if is_path(image) else "image"
    content = read_image(image).content
    try:
        return inspect_image(content, predictor, predictor.model.resolve_mode(mode), page)
    except DecodeError as error:
        raise UsageError(f"{name}: {error.status}: {error}") from error
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from error


def save_drawing(store: Store, inspection: Inspection, out: Path, *, force: bool = False) -> Path:
    """Write the drawing of an inspection, a PNG, and return its path.

    Args:
        store: artifact store.
        inspection: inspection of an image.
        out: path of the drawing.
        force: whether to overwrite a file that Digits did not write or that was changed since.

    Raises:
        UsageError: if it would overwrite a file of somebody else.
        StoreError: if the disk is full or not writable.
    """
    with os_errors_as(StoreError, out, "the drawing could not be written", "choose another path with --out"):
        if out.is_relative_to(store.inspections):
            write_file(out, draw_inspection(inspection))
        else:
            write_own_file(store, out, draw_inspection(inspection), force=force)
    return out
