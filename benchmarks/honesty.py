"""How honest the probabilities are: calibration, the error among what is answered, and what is rejected as no digit.

python -m benchmarks honesty --data FOLDER    # labelled folders too: <set>/<digit>/*

Everything goes the way of a prediction: a picture is looked at, normalised, and answered. Letters are rendered in the
fonts below `--fonts`, but not in DejaVu, which is trained on; Fashion-MNIST is Debian's package dataset-fashion-mnist.
"""

import argparse
import gzip
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.sets import read_model, read_set
from digits.data.datasets import load
from digits.data.idx import parse_idx
from digits.errors import UsageError
from digits.images.screening import screen
from digits.images.types import Pixels
from digits.model.calibration import CONFIDENCE_LEVEL, threshold_for, upper_bound
from digits.model.metrics import evaluate
from digits.model.onnx_model import BATCH, Predictor
from digits.settings import artifact_root
from digits.status import combine_novelty

Floats = npt.NDArray[np.float64]
FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
FONTS = Path("/usr/share/fonts")
LETTERS = "ACEFGHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"
"""Without those that many readers take for a digit: O o Q D I l i S s Z z B b q g."""
MAX_ERROR = 0.001
SEED = 11
COUNT = 1000


class Bar(NamedTuple):
    """What is asked of a number: at least, or at most, so much."""

    least: float = 0.0
    most: float = 1.0


ERROR_OF_CONFIDENCE: Mapping[str, Bar] = {"mnist": Bar(most=0.003), "": Bar(most=0.03)}
REJECTED: Mapping[str, Bar] = {
    "mnist": Bar(most=0.01),
    "hwd1000": Bar(most=0.04),
    "optdigits32": Bar(most=0.04),
    "sudoku_print": Bar(most=0.1),
    "fashion": Bar(least=0.99),
    "noise": Bar(least=0.99),
    "blank": Bar(least=0.99),
    "letters": Bar(least=0.6),
    "two digits": Bar(least=0.9),
}


class Answered(NamedTuple):
    """What became of a set of pictures: (N, classes) probabilities and (N,) novelties."""

    probabilities: npt.NDArray[np.float32]
    novelty: Floats

    @property
    def rejected(self) -> float:
        """The share that is taken for no digit."""
        return float((self.novelty > 0).mean())


class Score:
    """Prints measurements, and remembers which missed their bar."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def line(self, what: str, value: float, bar: Bar | None = None, *, more: str = "") -> None:
        """Print a share, its bar, and whether it is met."""
        told = ""
        if bar is not None:
            met = bar.least <= value <= bar.most
            limit = f"at least {bar.least:.1%}" if bar.least else f"at most {bar.most:.1%}"
            told = f"{limit}: {'met' if met else 'MISSED'}"
            self.missed += [] if met else [what]
        print(f"{what:<34}{value:>9.2%}  {told:<26}{more}".rstrip(), flush=True)


def main() -> None:
    """Print everything; exit code 1 when a bar is missed."""
    parser = argparse.ArgumentParser(description="How honest the probabilities are.")
    parser.add_argument("--data", type=Path, help="a folder of sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="a folder with model.onnx and spec.json; by default the champion's")
    parser.add_argument("--fashion", type=Path, default=FASHION, help="Fashion-MNIST's test images as IDX")
    parser.add_argument("--fonts", type=Path, default=FONTS, help="a folder of fonts, to render letters in")
    options = parser.parse_args()
    root = artifact_root(Path(os.environ.get("DIGITS_ARTIFACTS", "artifacts")))
    predictor, score = Predictor(read_model(options.model, root)), Score()
    mnist = load("mnist", downloads=root / "downloads")
    labelled = {"mnist": (mnist.test_labels.astype(int), answer(predictor, mnist.test_pixels))}
    for place in sorted(options.data.iterdir()) if options.data else ():
        if place.is_dir():
            pictures = read_set(place)
            labels = np.array([label for label, _ in pictures])
            labelled[place.name] = (labels, answer(predictor, [pixels for _, pixels in pictures]))
    show_calibration(predictor, labelled, score)
    show_abstaining(predictor, *labelled["mnist"], score)
    show_rejections(predictor, labelled, others(options, mnist.test_pixels), score)
    show_cost(predictor)
    print(f"\nmissed: {', '.join(score.missed) or 'none'}")
    sys.exit(bool(score.missed))


def answer(predictor: Predictor, pictures: Iterable[Pixels]) -> Answered:
    """Answer pictures of any size as a prediction does."""
    seen = [
        screen(picture, predictor.model.resolve_mode("auto"), shape=predictor.model.input_shape) for picture in pictures
    ]
    probabilities, novelty = predictor.predict_with_novelty(np.stack([one.pixels for one in seen]))
    total = combine_novelty(novelty, [one.screening_score for one in seen])
    return Answered(probabilities, np.array([np.nan if value is None else value for value in total]))


Labelled = Mapping[str, tuple[npt.NDArray[np.int_], Answered]]


def show_calibration(predictor: Predictor, labelled: Labelled, score: Score) -> None:
    """Print the expected calibration error of each set."""
    print(f"calibration error, at temperature {predictor.model.temperature:g}")
    for name, (labels, answered) in labelled.items():
        measured = evaluate(labels, answered.probabilities, class_names=predictor.model.class_names)
        bar = ERROR_OF_CONFIDENCE.get(name, ERROR_OF_CONFIDENCE[""])
        score.line(f"  {name}", measured.ece, bar, more=f"accuracy {measured.accuracy:.2%}")


def show_abstaining(predictor: Predictor, labels: npt.NDArray[np.int_], answered: Answered, score: Score) -> None:
    """Print what is answered of MNIST's test images, and how much of it is wrong, for some wishes."""
    steps = predictor.model.risk_steps
    print(
        f"\nabstaining, by {steps[-1].answered if steps else 0:,} validation images at {CONFIDENCE_LEVEL:.0%} confidence"
    )
    confidence, wrong = answered.probabilities.max(axis=1), answered.probabilities.argmax(axis=1) != labels
    for wish in (MAX_ERROR, 0.0015, 0.002, 0.003, 0.005):
        try:
            kept = (confidence >= threshold_for(steps, wish)) & ~(answered.novelty > 0)
        except UsageError as error:
            print(f"  --max-error {wish:g}: {error}")
            if wish == MAX_ERROR:
                score.missed.append(f"--max-error {wish:g}")
            continue
        errors, count = int(wrong[kept].sum()), int(kept.sum())
        bars = (Bar(most=wish), Bar(least=0.985)) if wish == MAX_ERROR else (Bar(most=wish), None)
        told = f"{errors} of {count:,}; at most {upper_bound(errors, count):.2%} at {CONFIDENCE_LEVEL:.0%}"
        score.line(f"  --max-error {wish:g}: wrong", errors / count, bars[0], more=told)
        score.line(f"  --max-error {wish:g}: answered", count / len(kept), bars[1])


def show_rejections(
    predictor: Predictor, labelled: Labelled, strange: Iterable[tuple[str, Sequence[Pixels]]], score: Score
) -> None:
    """Print which share of each set is taken for no digit."""
    print("\ntaken for no digit")
    for name, (_, answered) in labelled.items():
        score.line(f"  {name}", answered.rejected, REJECTED.get(name))
    for name, pictures in strange:
        if pictures:
            bar = next((REJECTED[kind] for kind in REJECTED if name.startswith(kind)), None)
            score.line(f"  {name}", answer(predictor, pictures).rejected, bar, more=f"{len(pictures):,} pictures")


def others(options: argparse.Namespace, digits: Pixels) -> Iterator[tuple[str, Sequence[Pixels]]]:
    """Give pictures of no digit, by kind."""
    random = np.random.default_rng(SEED)
    if options.fashion.exists():
        yield "fashion", list(parse_idx("images", gzip.decompress(options.fashion.read_bytes())))
    for shape in ((28, 28), (100, 100), (64, 32)):
        yield f"noise {shape[0]}x{shape[1]}", [random.integers(0, 256, shape, np.uint8) for _ in range(COUNT)]
    yield "blank, even", [_page(random, grain=0) for _ in range(COUNT)]
    yield "blank, grainy", [_page(random, grain=2) for _ in range(COUNT)]
    for family, fonts in _families(options.fonts):
        yield f"letters, {family}", [_letter(text, font, random) for font in fonts for text in LETTERS]
    for apart in (-4, 0, 8):
        yield f"two digits, {28 + apart} px apart", [_pair(digits, apart, random) for _ in range(COUNT)]


def _page(random: np.random.Generator, *, grain: float) -> Pixels:
    height, width = random.integers(20, 400, 2)
    page = np.full((height, width), random.integers(20, 236), np.float64)
    return (page + grain * random.normal(size=page.shape)).clip(0, 255).astype(np.uint8)


def _families(folder: Path) -> Iterator[tuple[str, list[Path]]]:
    """Group fonts by the folder they are in."""
    fonts = [file for file in sorted(folder.rglob("*.[to]tf")) if "dejavu" not in file.name.lower()]
    for place in sorted({file.parent for file in fonts}):
        yield place.name, [file for file in fonts if file.parent == place]


def _letter(text: str, font: Path, random: np.random.Generator) -> Pixels:
    """Render a character, dark on white."""
    face = ImageFont.truetype(str(font), int(random.integers(24, 64)))
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (max(1, int(right - left)) + 16, max(1, int(bottom - top)) + 16), 255)
    ImageDraw.Draw(image).text((8 - left, 8 - top), text, font=face, fill=0)
    return np.array(image)


def _pair(digits: Pixels, apart: int, random: np.random.Generator) -> Pixels:
    """Put two digits side by side, dark on white."""
    left, right = digits[random.integers(len(digits), size=2)]
    field = np.zeros((28, 56 + apart), np.uint8)
    field[:, :28] = left
    field[:, 28 + apart :] = np.maximum(field[:, 28 + apart :], right)
    return 255 - field


def show_cost(predictor: Predictor) -> None:
    """Print what novelty and temperature add to an image's time, on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(predictor.model.onnx), options, providers=["CPUExecutionProvider"])
    batch = np.zeros((BATCH, *predictor.model.input_shape, 1), np.float32)
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    pixels = np.zeros((BATCH, *predictor.model.input_shape), np.uint8)
    plain = _least_time(lambda: session.run(outputs[:1], {name: batch}))
    head = _least_time(lambda: session.run(outputs, {name: batch}))
    whole = _least_time(lambda: predictor.predict_with_novelty(pixels))
    print(f"\nmicroseconds an image: {plain:.1f} with the head but without asking for it, {head:.1f} with novelty,")
    print(f"{whole:.1f} as a whole, with temperature and copying")


def _least_time(work: Callable[[], object], *, rounds: int = 40) -> float:
    """Give the least CPU time of some rounds, in microseconds an image of a batch."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(5):
            work()
        times.append((time.process_time() - started) / 5 / BATCH * 1e6)
    return min(times)


if __name__ == "__main__":
    main()
