"""Quality of the confidence and of the novelty score: calibration, abstention and rejection.

python -m benchmarks calibration                  # MNIST's test images, and images that show no digit
python -m benchmarks calibration --data FOLDER    # labelled sets too: <set>/<digit>/*

Measured are the calibration error, the error rate among the images that `--max-error` leaves answered, and the share
that is rejected as no digit. All images are screened, normalized and predicted as `digits predict` does it. Letters are
rendered in the fonts below `--fonts` except DejaVu, which is used in training. Fashion-MNIST comes from the Debian
package dataset-fashion-mnist. Needs a champion in the artifact root, or `--model`, and MNIST.
"""

import argparse
import gzip
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from benchmarks.sets import Output, predict, read_model, read_set
from digits.data.datasets import load
from digits.data.idx import parse_idx
from digits.errors import UsageError
from digits.images.types import Pixels
from digits.model.calibration import CONFIDENCE_LEVEL, threshold_for, upper_bound
from digits.model.metrics import evaluate
from digits.model.onnx_model import BATCH, Predictor
from digits.settings import artifact_root

FASHION = Path("/usr/share/datasets/fashion-mnist/t10k-images-idx3-ubyte.gz")
FONTS = Path("/usr/share/fonts")
LETTERS = "ACEFGHJKLMNPRTUVWXYacdefhjkmnprtuvwxy"
"""Letters, without those that many readers take for a digit: O o Q D I l i S s Z z B b q g."""
MAX_ERROR = 0.001
SEED = 11
COUNT = 1000


class Limit(NamedTuple):
    """Lowest and highest acceptable value of a share."""

    low: float = 0.0
    high: float = 1.0


CALIBRATION_ERROR: Mapping[str, Limit] = {"mnist": Limit(high=0.003), "": Limit(high=0.03)}
REJECTED: Mapping[str, Limit] = {
    "mnist": Limit(high=0.01),
    "hwd1000": Limit(high=0.04),
    "optdigits32": Limit(high=0.04),
    "sudoku_print": Limit(high=0.1),
    "fashion": Limit(low=0.99),
    "noise": Limit(low=0.99),
    "blank": Limit(low=0.99),
    "letters": Limit(low=0.6),
    "two digits": Limit(low=0.9),
}


class Report:
    """Printed shares, and the names of those that missed their limits."""

    def __init__(self) -> None:
        self.missed: list[str] = []

    def print_line(self, name: str, value: float, limit: Limit | None = None, *, more: str = "") -> None:
        """Print a share, its limit, and whether the limit is met."""
        verdict = ""
        if limit is not None:
            met = limit.low <= value <= limit.high
            text = f"at least {limit.low:.1%}" if limit.low else f"at most {limit.high:.1%}"
            verdict = f"{text}: {'met' if met else 'MISSED'}"
            self.missed += [] if met else [name.strip()]
        print(f"{name:<34}{value:>9.2%}  {verdict:<26}{more}".rstrip(), flush=True)


def main() -> None:
    """Print all figures; exit with code 1 if a limit is missed."""
    parser = argparse.ArgumentParser(description="Measure calibration, abstention and rejection.")
    parser.add_argument("--data", type=Path, help="folder of labelled sets: <set>/<digit>/*")
    parser.add_argument("--model", type=Path, help="folder with model.onnx and spec.json (default: the champion's)")
    parser.add_argument(
        "--fashion",
        type=Path,
        default=FASHION,
        help=f"test images of Fashion-MNIST as gzipped IDX (default: {FASHION})",
    )
    parser.add_argument(
        "--fonts", type=Path, default=FONTS, help=f"folder of fonts to render letters in (default: {FONTS})"
    )
    options = parser.parse_args()
    root = artifact_root()
    predictor, report = Predictor(read_model(options.model, root)), Report()
    mnist = load("mnist", downloads=root / "downloads")
    labelled = {"mnist": (mnist.test_labels.astype(int), predict(predictor, mnist.test_pixels))}
    for directory in sorted(options.data.iterdir()) if options.data else ():
        if directory.is_dir():
            samples = read_set(directory)
            y_true = np.array([label for label, _ in samples])
            labelled[directory.name] = (y_true, predict(predictor, [pixels for _, pixels in samples]))
    print_calibration(predictor, labelled, report)
    print_abstention(predictor, *labelled["mnist"], report)
    print_rejections(predictor, labelled, make_non_digits(options, mnist.test_pixels), report)
    print_cost(predictor)
    print(f"\nmissed: {', '.join(report.missed) or 'none'}")
    sys.exit(bool(report.missed))


Labelled = Mapping[str, tuple[npt.NDArray[np.int_], Output]]
"""True labels, (N,), and the predictions of each set."""


def print_calibration(predictor: Predictor, labelled: Labelled, report: Report) -> None:
    """Print the expected calibration error of each set."""
    print(f"calibration error, at temperature {predictor.model.temperature:g}")
    for name, (y_true, output) in labelled.items():
        evaluation = evaluate(y_true, output.y_prob, class_names=predictor.model.class_names)
        limit = CALIBRATION_ERROR.get(name, CALIBRATION_ERROR[""])
        report.print_line(f"  {name}", evaluation.ece, limit, more=f"accuracy {evaluation.accuracy:.2%}")


def print_abstention(predictor: Predictor, y_true: npt.NDArray[np.int_], output: Output, report: Report) -> None:
    """Print which share of MNIST's test images is answered, and how many answers are wrong, by target error rate."""
    steps = predictor.model.risk_steps
    answered = steps[-1].answered if steps else 0
    print(f"\nabstention, thresholds from {answered:,} validation images at {CONFIDENCE_LEVEL:.0%} confidence")
    confidence, wrong = output.y_prob.max(axis=1), output.y_prob.argmax(axis=1) != y_true
    for target in (MAX_ERROR, 0.0015, 0.002, 0.003, 0.005):
        try:
            kept = (confidence >= threshold_for(steps, target)) & ~(output.novelty > 0)
        except UsageError as error:
            print(f"  --max-error {target:g}: {error}")
            if target == MAX_ERROR:
                report.missed.append(f"--max-error {target:g}")
            continue
        errors, count = int(wrong[kept].sum()), int(kept.sum())
        lowest = Limit(low=0.985) if target == MAX_ERROR else None
        detail = f"{errors} of {count:,}; at most {upper_bound(errors, count):.2%} at {CONFIDENCE_LEVEL:.0%}"
        report.print_line(f"  --max-error {target:g}: wrong", errors / count, Limit(high=target), more=detail)
        report.print_line(f"  --max-error {target:g}: answered", count / len(kept), lowest)


def print_rejections(
    predictor: Predictor, labelled: Labelled, non_digits: Iterable[tuple[str, Sequence[Pixels]]], report: Report
) -> None:
    """Print which share of each set is rejected as no digit."""
    print("\nrejected as no digit")
    for name, (_, output) in labelled.items():
        report.print_line(f"  {name}", output.rejected, REJECTED.get(name))
    for name, images in non_digits:
        if images:
            limit = next((REJECTED[kind] for kind in REJECTED if name.startswith(kind)), None)
            report.print_line(f"  {name}", predict(predictor, images).rejected, limit, more=f"{len(images):,} images")


def make_non_digits(options: argparse.Namespace, digits: Pixels) -> Iterator[tuple[str, Sequence[Pixels]]]:
    """Yield names of kinds with images that show no digit, or two."""
    random = np.random.default_rng(SEED)
    if options.fashion.exists():
        yield "fashion", list(parse_idx("images", gzip.decompress(options.fashion.read_bytes())))
    for shape in ((28, 28), (100, 100), (64, 32)):
        yield f"noise {shape[0]}x{shape[1]}", [random.integers(0, 256, shape, np.uint8) for _ in range(COUNT)]
    yield "blank, smooth", [_page(random, grain=0) for _ in range(COUNT)]
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
    """Yield the name of each folder that holds fonts, with its fonts except DejaVu."""
    fonts = [file for file in sorted(folder.rglob("*.[to]tf")) if "dejavu" not in file.name.lower()]
    for directory in sorted({file.parent for file in fonts}):
        yield directory.name, [file for file in fonts if file.parent == directory]


def _letter(text: str, font: Path, random: np.random.Generator) -> Pixels:
    """Draw a character, dark on white."""
    face = ImageFont.truetype(str(font), int(random.integers(24, 64)))
    left, top, right, bottom = face.getbbox(text)
    image = Image.new("L", (max(1, int(right - left)) + 16, max(1, int(bottom - top)) + 16), 255)
    ImageDraw.Draw(image).text((8 - left, 8 - top), text, font=face, fill=0)
    return np.array(image)


def _pair(digits: Pixels, apart: int, random: np.random.Generator) -> Pixels:
    """Draw two digits side by side, dark on white."""
    left, right = digits[random.integers(len(digits), size=2)]
    field = np.zeros((28, 56 + apart), np.uint8)
    field[:, :28] = left
    field[:, 28 + apart :] = np.maximum(field[:, 28 + apart :], right)
    return 255 - field


def print_cost(predictor: Predictor) -> None:
    """Print how much time the novelty score and the temperature cost per image, on one core."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(predictor.model.onnx), options, providers=["CPUExecutionProvider"])
    batch = np.zeros((BATCH, *predictor.model.input_shape, 1), np.float32)
    name, outputs = session.get_inputs()[0].name, [output.name for output in session.get_outputs()]
    pixels = np.zeros((BATCH, *predictor.model.input_shape), np.uint8)
    plain = _shortest_time(lambda: session.run(outputs[:1], {name: batch}))
    head = _shortest_time(lambda: session.run(outputs, {name: batch}))
    whole = _shortest_time(lambda: predictor.predict_with_novelty(pixels))
    print(f"\nmicroseconds per image: {plain:.1f} for the probabilities alone, {head:.1f} with the novelty output,")
    print(f"{whole:.1f} for the whole prediction, with temperature and copying")


def _shortest_time(work: Callable[[], object], *, rounds: int = 40) -> float:
    """Return the shortest CPU time of all rounds, in microseconds per image of a batch."""
    times = []
    for _ in range(rounds):
        started = time.process_time()
        for _ in range(5):
            work()
        times.append((time.process_time() - started) / 5 / BATCH * 1e6)
    return min(times)


if __name__ == "__main__":
    main()
