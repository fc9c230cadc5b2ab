"""Model report: the figures, tables and pages that describe an evaluated model."""

import csv
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from digits.images.types import Pixels
from digits.model.metrics import CALIBRATION_BINS, NOISE_LIMIT, Evaluation, Mistake, ReliabilityBin
from digits.outputs.drawing import contact_sheet
from digits.outputs.page import (
    BLUE,
    INK,
    MUTED,
    ORANGE,
    Table,
    as_png,
    facts_table,
    figure,
    html_code,
    html_details,
    html_figure,
    html_findings,
    html_page,
    html_table,
    markdown_code,
    markdown_figure,
    markdown_list,
    markdown_table,
    markdown_text,
    printable,
    style,
)
from digits.store.decisions import ChangedImage
from digits.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

History = Sequence[Mapping[str, float]]
Labels = npt.NDArray[np.integer]

SAMPLES = "Samples of the training images"
CURVES = "Learning curves"
CONFUSION = "Confusion matrix"
RELIABILITY = "Calibration"
RISK = "Risk and coverage"
LEAST_CERTAIN = "Least certain, flagged first with --max-error"
REJECTED = "Flagged as no digit"
MISTAKES = "Most confident mistakes"

SAMPLES_PER_CLASS = 14
MAX_NUMBERED_CLASSES = 20
MAX_SHOWN_MISTAKES = 24
LONGEST_LABEL, LABEL_CHARACTERS_PER_ROW = 24, 80


# --- figures ---------------------------------------------------------------------------------------------------------


def samples_figure(pixels: Pixels, labels: Labels, class_names: Sequence[str]) -> bytes:
    """Return a PNG of the first 14 images of each class, one row per class.

    Args:
        pixels: images, (N, height, width) uint8.
        labels: class ids, (N,).
        class_names: name of each class id.
    """
    mosaic = np.concatenate([_row(pixels[labels == label]) for label in range(len(class_names))])
    names, step = _tick_labels(class_names), mosaic.shape[0] / len(class_names)
    with figure(7, 0.15 + 6.6 * mosaic.shape[0] / mosaic.shape[1], ground="black") as drawn:
        axes = drawn.add_subplot()
        axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        style(axes, grid=False)
        axes.set_xticks([])
        axes.set_yticks(
            [step * (row + 0.5) - 0.5 for row in range(len(class_names))], names, color="silver", parse_math=False
        )
        return as_png(drawn)


def _row(pixels: Pixels) -> Pixels:
    """Return images side by side, (height + 2, SAMPLES_PER_CLASS * (width + 2)) uint8, black where there are none."""
    count, height, width = pixels[:SAMPLES_PER_CLASS].shape
    row = np.zeros((SAMPLES_PER_CLASS, height + 2, width + 2), np.uint8)
    row[:count, 1:-1, 1:-1] = pixels[:SAMPLES_PER_CLASS]
    return row.swapaxes(0, 1).reshape(height + 2, -1)


def curves_figure(history: History) -> bytes:
    """Return a PNG of loss and accuracy over the epochs, for training and validation.

    Args:
        history: `loss`, `accuracy`, `validation_loss` and `validation_accuracy` of each epoch.
    """
    with figure(7, 2.9) as drawn:
        for axes, metric in zip(drawn.subplots(1, 2), ("loss", "accuracy"), strict=True):
            _draw_curves(axes, history, metric)
        drawn.axes[1].yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g}%")
        return as_png(drawn)


def _draw_curves(axes: "Axes", history: History, metric: str) -> None:
    epochs = range(1, len(history) + 1)
    for key, label, colour in ((metric, "training", BLUE), (f"validation_{metric}", "validation", ORANGE)):
        axes.plot(
            epochs, [epoch[key] for epoch in history], label=label, color=colour, linewidth=2, marker="o", markersize=4
        )
    style(axes, metric.capitalize(), x="epoch")
    axes.locator_params(axis="x", integer=True, nbins=8, min_n_ticks=1)
    axes.set_xlim(0.75, len(history) + 0.25)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def confusion_figure(evaluation: Evaluation) -> bytes:
    """Return a PNG of the confusion matrix: correct predictions are blue, wrong ones orange, high counts darker."""
    matrix, names = np.array(evaluation.confusion), _tick_labels(evaluation.class_names)
    with figure(7, 5.2) as drawn:
        axes = drawn.add_subplot()
        axes.imshow(_confusion_colours(matrix), aspect="auto")
        style(axes, x="predicted", y="true", grid=False)
        ids = range(len(matrix))
        axes.set_xticks(ids, names, rotation=_rotation(names), parse_math=False)
        axes.set_yticks(ids, names, parse_math=False)
        axes.set_xticks(np.arange(-0.5, len(matrix)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(matrix)), minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        number_cells(axes, matrix)
        return as_png(drawn)


def _confusion_colours(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Return (C, C) counts as (C, C, 3) colours. Correct and wrong predictions have their own colour scales."""
    from matplotlib.colors import LinearSegmentedColormap

    right = np.eye(len(matrix), dtype=bool)
    blues = LinearSegmentedColormap.from_list("right", ["#f4f7fb", "#a9c8e6"])(_shares(matrix * right))
    oranges = LinearSegmentedColormap.from_list("wrong", ["#fbfaf8", "#fbdcb8", "#ee8a2c"])(_shares(matrix * ~right))
    colours: npt.NDArray[np.float64] = np.where(right[..., np.newaxis], blues, oranges)[..., :3]
    return colours


def _shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return counts / max(1, int(counts.max()))


def _tick_labels(class_names: Sequence[str]) -> list[str]:
    names = map(printable, class_names)
    return [name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..." for name in names]


def _rotation(labels: Sequence[str]) -> float:
    """Return the rotation of tick labels in degrees: 0 if they fit side by side, which 80 characters do; else 90."""
    return 0 if max(map(len, labels)) * len(labels) <= LABEL_CHARACTERS_PER_ROW else 90


def number_cells(axes: "Axes", matrix: npt.NDArray[np.int64]) -> None:
    """Write the count into each cell of a confusion matrix, unless it has more than `MAX_NUMBERED_CLASSES` classes."""
    if len(matrix) > MAX_NUMBERED_CLASSES:
        return
    for row, column in np.argwhere(matrix).tolist():
        weight = "bold" if row == column else "normal"
        axes.text(
            column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=9, color=INK, weight=weight
        )


def reliability_figure(evaluation: Evaluation) -> bytes:
    """Return a PNG of a reliability diagram: accuracy against confidence, above a histogram of the confidence.

    The diagram follows Guo et al. 2017 (see `digits.model.metrics.calibration_error`). It shows the 95 % confidence
    interval of each bin's accuracy, because most bins of a good model hold few images. The histogram has a log scale.
    """
    with figure(7, 4.6) as drawn:
        upper, lower = drawn.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
        _draw_accuracy(upper, evaluation.bins)
        style(upper, f"Expected calibration error {evaluation.ece:.4f}", y="accuracy")
        upper.set(xlim=(0, 1.005), ylim=(0, 1.02))
        upper.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
        _bars(lower, evaluation.bins, [group.count for group in evaluation.bins], MUTED)
        style(lower, x="confidence", y="images")
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.7)
        return as_png(drawn)


def risk_figure(evaluation: Evaluation) -> bytes:
    """Return a PNG of the risk-coverage curve: the error rate of the most certain images, against their share."""
    with figure(7, 3.2) as drawn:
        axes = drawn.subplots()
        shares = [100 * point.coverage for point in evaluation.risk]
        axes.plot(shares, [100 * point.error for point in evaluation.risk], color=BLUE, linewidth=1.8)
        style(axes, "Error among the most certain images", x="most certain images, %", y="wrong, %")
        axes.set_ylim(bottom=0)
        return as_png(drawn)


def _draw_accuracy(axes: "Axes", bins: Sequence[ReliabilityBin]) -> None:
    accuracies = [group.accuracy for group in bins]
    _bars(axes, bins, accuracies, BLUE, alpha=0.25)
    axes.errorbar(
        [group.confidence for group in bins],
        accuracies,
        np.abs(np.array([wilson_interval(group) for group in bins]).T - accuracies),
        fmt="o",
        color=BLUE,
        linewidth=1.5,
        label="accuracy, 95% interval",
        clip_on=False,
    )


def wilson_interval(group: ReliabilityBin) -> tuple[float, float]:
    """Return the 95 % interval of a bin's accuracy (Wilson, J. of the American Statistical Association 22, 1927)."""
    weight = NOISE_LIMIT**2 / group.count
    centre = (group.accuracy + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (group.accuracy * (1 - group.accuracy) + weight / 4)) / (1 + weight)
    return centre - half, centre + half


def _bars(
    axes: "Axes", bins: Sequence[ReliabilityBin], heights: Sequence[float], colour: str, alpha: float = 0.6
) -> None:
    lefts, width = [group.lower for group in bins], 1 / CALIBRATION_BINS
    axes.bar(lefts, heights, width, align="edge", color=colour, alpha=alpha, edgecolor="white")


def mistakes_picture(evaluation: Evaluation, pixels: Pixels) -> bytes | None:
    """Return a PNG of the most confident mistakes; None if there are none.

    Args:
        evaluation: evaluation whose mistakes are indices into the test images.
        pixels: test images, (N, height, width) uint8.
    """
    return _gallery(evaluation, evaluation.mistakes, pixels)


def _gallery(evaluation: Evaluation, chosen: Sequence[Mistake], pixels: Pixels) -> bytes | None:
    if not chosen:
        return None
    names, shown = evaluation.class_names, chosen[:MAX_SHOWN_MISTAKES]
    captions = [f"{names[one.true]} read as {names[one.predicted]}\n{one.confidence:.1%}" for one in shown]
    return contact_sheet([pixels[one.index] for one in shown], captions)


def changed_picture(examples: Sequence[ChangedImage], pixels: Pixels) -> bytes | None:
    """Return a PNG of test images that only one of two models classifies correctly; None if there are none.

    Frames are green where the challenger is right, and red where the champion is.

    Args:
        examples: changed images, with indices into the test images.
        pixels: all test images, (N, height, width) uint8.
    """
    if not examples:
        return None
    captions = [f"{one.true}: {one.champion}, now {one.challenger}\n{one.test_set}" for one in examples]
    return contact_sheet(
        [pixels[one.index] for one in examples], captions, highlight=[one.is_gained for one in examples]
    )


def model_pictures(
    evaluation: Evaluation, history: History, *, train: tuple[Pixels, Labels], test_pixels: Pixels
) -> dict[str, bytes]:
    """Return the pictures of a model report as PNGs by title, in reading order.

    Args:
        evaluation: evaluation on the test set.
        history: metrics of each epoch, as for `curves_figure`.
        train: training images, (N, height, width) uint8, and their labels, (N,).
        test_pixels: test images, (M, height, width) uint8.
    """
    pictures = {
        CURVES: curves_figure(history),
        CONFUSION: confusion_figure(evaluation),
        MISTAKES: mistakes_picture(evaluation, test_pixels),
        RELIABILITY: reliability_figure(evaluation),
        RISK: risk_figure(evaluation) if evaluation.risk else None,
        LEAST_CERTAIN: _gallery(evaluation, evaluation.least_certain, test_pixels),
        REJECTED: _gallery(evaluation, evaluation.rejected, test_pixels),
        SAMPLES: samples_figure(*train, evaluation.class_names),
    }
    return {title: png for title, png in pictures.items() if png is not None}


# --- the report of a model -------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ModelReport:
    """Content of a model report.

    Args:
        title: title, such as "Model 3".
        facts: most important values by name, shown first; sequences of sentences are joined.
        network: text of the network's summary.
        evaluation: evaluation on the test set.
        history: metrics of each epoch.
        config: configuration as nested values, shown with dotted names.
        lineage: names and digests of the artifacts that the model was made from.
        findings: sentences about the data, the training and the evaluation.
        pictures: PNGs by title, as `model_pictures` returns them.
    """

    title: str
    facts: Mapping[str, object]
    network: str
    evaluation: Evaluation
    history: History
    config: Mapping[str, Any] = field(default_factory=dict)
    lineage: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[str] = ()
    pictures: Mapping[str, bytes] = field(default_factory=dict)


def _headlines(evaluation: Evaluation) -> dict[str, str]:
    return {
        "test accuracy": f"{evaluation.accuracy:.2%}",
        f"mistakes in {evaluation.count:,}": f"{evaluation.count - evaluation.correct:,}",
        "loss": f"{evaluation.loss:.4f}",
        "calibration error": f"{evaluation.ece:.4f}",
    }


def _class_table(evaluation: Evaluation) -> Table:
    header = ("class", "precision", "recall", "F1", "images")
    return header, [
        (one.name, *(f"{ratio:.2%}" for ratio in (one.precision, one.recall, one.f1)), f"{one.support:,}")
        if one.support
        else (one.name, "none", "none", "none", "0")
        for one in evaluation.classes
    ]


def _history_table(history: History) -> Table:
    header = ("epoch", "loss", "accuracy", "validation loss", "validation accuracy")
    return header, [
        (
            str(number),
            f"{epoch['loss']:.4f}",
            f"{epoch['accuracy']:.2%}",
            f"{epoch['validation_loss']:.4f}",
            f"{epoch['validation_accuracy']:.2%}",
        )
        for number, epoch in enumerate(history, 1)
    ]


def _caption(title: str, report: ModelReport) -> str:
    """Return the caption of a picture, which also describes it to readers who cannot see it."""
    describe = _CAPTIONS.get(title)
    return title if describe is None else describe(report)


def _describe_curves(report: ModelReport) -> str:
    last = report.history[-1] if report.history else {}
    end = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in last.items())
    return f"Loss and accuracy of {count(len(report.history), 'epoch')}; at the end: {end or 'nothing was recorded'}."


def _describe_confusion(report: ModelReport) -> str:
    evaluation = report.evaluation
    wrong = np.array(evaluation.confusion) * ~np.eye(len(evaluation.confusion), dtype=bool)
    if not wrong.any():
        return f"All {evaluation.count:,} images are on the diagonal: no mistakes."
    true, predicted = (evaluation.class_names[int(index)] for index in np.unravel_index(wrong.argmax(), wrong.shape))
    return (
        f"Rows are the truth, columns predictions; {evaluation.correct:,} of {evaluation.count:,} images are correct. "
        f"The most frequent mistake is {true} read as {predicted}, with {count(int(wrong.max()), 'image')}."
    )


_CAPTIONS: dict[str, Callable[[ModelReport], str]] = {
    SAMPLES: lambda report: f"One row per class: {', '.join(report.evaluation.class_names)}.",
    CURVES: _describe_curves,
    CONFUSION: _describe_confusion,
    RELIABILITY: lambda report: (
        "Accuracy of the predictions in each range of confidence; below, their number. The expected calibration "
        f"error is {report.evaluation.ece:.4f}: on average, confidence is off by {report.evaluation.ece:.2%}."
    ),
    RISK: lambda report: (
        "Fewer predictions are wrong if only the most certain images count. At the right end, all images count and "
        f"{1 - report.evaluation.accuracy:.2%} are wrong."
    ),
    LEAST_CERTAIN: lambda report: f"The least certain of {report.evaluation.count:,} test images, right or wrong.",
    REJECTED: lambda report: (
        f"The {report.evaluation.rejected_share or 0:.2%} of the test images that are flagged as no digit, highest "
        "out-of-distribution score first."
    ),
    MISTAKES: lambda report: (
        f"The {len(report.evaluation.mistakes[:MAX_SHOWN_MISTAKES])} wrong predictions with the highest confidence, "
        "each with its confidence."
    ),
}


# --- as a page -------------------------------------------------------------------------------------------------------

_PHOTOS = frozenset({SAMPLES, MISTAKES, LEAST_CERTAIN, REJECTED})


def as_html(report: ModelReport) -> str:
    """Return the report as one self-contained HTML page."""
    body = [
        html_table(facts_table(report.facts), "facts"),
        *html_findings(report.findings),
        *(
            html_figure(title, png, _caption(title, report), kind="photo" if title in _PHOTOS else "chart")
            for title, png in report.pictures.items()
        ),
        "<h2>Each class</h2>",
        html_table(_class_table(report.evaluation), "numbers"),
        "<h2>How the model was made</h2>",
        html_details("Each epoch", html_table(_history_table(report.history), "numbers")),
        html_details("Network", html_code(report.network)),
        html_details("Configuration", html_table(facts_table(report.config), "facts")),
        html_details("Lineage", html_table(facts_table(report.lineage), "facts")),
    ]
    return html_page(report.title, _headlines(report.evaluation), body)


def history_csv(history: History) -> str:
    """Return the metrics of a training as CSV, one row per epoch; a metric that an epoch lacks is an empty cell."""
    file = io.StringIO()
    names = list(dict.fromkeys(name for epoch in history for name in epoch))
    rows = csv.DictWriter(file, ["epoch", *names], lineterminator="\n")
    rows.writeheader()
    rows.writerows({"epoch": number, **epoch} for number, epoch in enumerate(history, 1))
    return file.getvalue()


# --- as markdown -----------------------------------------------------------------------------------------------------


def as_markdown(report: ModelReport) -> str:
    """Return the report as markdown for a Prefect artifact, with its pictures as data URIs."""
    parts = [
        f"# {markdown_text(report.title)}",
        markdown_table(facts_table({**_headlines(report.evaluation), **report.facts})),
        *(["## Findings", markdown_list(report.findings)] if report.findings else []),
        *(
            part
            for title, png in report.pictures.items()
            for part in markdown_figure(title, png, _caption(title, report))
        ),
        "## Each class",
        markdown_table(_class_table(report.evaluation)),
        "## Each epoch",
        markdown_table(_history_table(report.history)),
        "## Network",
        markdown_code(report.network),
        "## Configuration",
        markdown_table(facts_table(report.config)),
        "## Lineage",
        markdown_table(facts_table(report.lineage)),
    ]
    return "\n\n".join(parts) + "\n"
