"""What people read after a run: figures, the report of a model, the summary of a prediction.

Reports are whole in themselves: styles and pictures are inside, nothing is fetched, nothing is executed. Text from
outside (file names, class names, error messages) is escaped, so that it can't become markup.
"""

import html
import io
import logging
import math
import re
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from digits.evaluation import CALIBRATION_BINS, NOISE_LIMIT, Evaluation, Mistake, ReliabilityBin
from digits.pictures import contact_sheet, data_uri
from digits.promotion import Changed

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

History = Sequence[Mapping[str, float]]
Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.integer]

SAMPLES = "Samples of the training images"
CURVES = "Learning curves"
CONFUSION = "Confusion matrix"
RELIABILITY = "Calibration"
RISK = "Risk and coverage"
LEAST_CERTAIN = "Least certain, flagged first with --max-error"
REJECTED = "Taken for no digit"
MISTAKES = "Most confident mistakes"

DPI = 160
COLOURS = 96
SAMPLES_A_CLASS = 14
MOST_NUMBERED_CLASSES = 20
SHOWN_MISTAKES = 24
MOST_ROWS = 20
LONGEST_LABEL, LABELS_IN_A_ROW = 24, 80
INK, MUTED, FAINT = "#26292e", "#6b7280", "#e5e5e0"
BLUE, ORANGE, PALE_BLUE, PALE_ORANGE = "#2563a8", "#d9730d", "#dbe7f4", "#f6c99b"


# --- figures ---------------------------------------------------------------------------------------------------------


@contextmanager
def _figure(width: float, height: float, ground: str = "white") -> "Iterator[Figure]":
    """Give an empty figure of so many inches, without pyplot, its windows and its global list of figures.

    Matplotlib's notes on its caches are kept quiet: they say nothing to people who only asked for a report.
    """
    logger = logging.getLogger("matplotlib")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        from matplotlib.figure import Figure

        yield Figure((width, height), DPI, layout="constrained", facecolor=ground)
    finally:
        logger.setLevel(level)


def _png(figure: "Figure") -> bytes:
    """Give a figure as a PNG with a palette: the same figure gives the same bytes."""
    from PIL import Image

    drawn, buffer = io.BytesIO(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph \d+ .* missing from font", UserWarning)
        figure.savefig(drawn, format="png")
    Image.open(drawn).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _style(axes: "Axes", title: str = "", *, x: str = "", y: str = "", grid: bool = True) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=8)
    axes.set_xlabel(x, fontsize=9.5, color=MUTED)
    axes.set_ylabel(y, fontsize=9.5, color=MUTED)
    axes.tick_params(colors=MUTED, labelsize=9, length=0)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(color=FAINT, linewidth=0.8)
    for side in axes.spines.values():
        side.set_visible(False)


def samples_figure(pixels: Pixels, labels: Labels, class_names: Sequence[str]) -> bytes:
    """Draw the first 14 images of each class, a row a class.

    Args:
        pixels: (N, height, width) uint8.
        labels: (N,) class ids.
        class_names: a name for each id.

    Returns:
        A PNG.
    """
    mosaic = np.concatenate([_row(pixels[labels == label]) for label in range(len(class_names))])
    names, step = _tick_labels(class_names), mosaic.shape[0] / len(class_names)
    with _figure(7, 0.15 + 6.6 * mosaic.shape[0] / mosaic.shape[1], ground="black") as figure:
        axes = figure.add_subplot()
        axes.imshow(mosaic, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        _style(axes, grid=False)
        axes.set_xticks([])
        axes.set_yticks(
            [step * (row + 0.5) - 0.5 for row in range(len(class_names))], names, color="silver", parse_math=False
        )
        return _png(figure)


def _row(pixels: Pixels) -> Pixels:
    """Give (height + 2, SAMPLES_A_CLASS * (width + 2)) uint8: images side by side, black where there are none."""
    count, height, width = pixels[:SAMPLES_A_CLASS].shape
    row = np.zeros((SAMPLES_A_CLASS, height + 2, width + 2), np.uint8)
    row[:count, 1:-1, 1:-1] = pixels[:SAMPLES_A_CLASS]
    return row.swapaxes(0, 1).reshape(height + 2, -1)


def curves_figure(history: History) -> bytes:
    """Draw loss and accuracy over the epochs, for training and validation.

    Args:
        history: `loss`, `accuracy`, `validation_loss` and `validation_accuracy` of each epoch.

    Returns:
        A PNG.
    """
    with _figure(7, 2.9) as figure:
        for axes, metric in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
            _draw_curves(axes, history, metric)
        figure.axes[1].yaxis.set_major_formatter(lambda value, _: f"{value * 100:.4g}%")
        return _png(figure)


def _draw_curves(axes: "Axes", history: History, metric: str) -> None:
    epochs = range(1, len(history) + 1)
    for key, label, colour in ((metric, "training", BLUE), (f"validation_{metric}", "validation", ORANGE)):
        axes.plot(
            epochs, [epoch[key] for epoch in history], label=label, color=colour, linewidth=2, marker="o", markersize=4
        )
    _style(axes, metric.capitalize(), x="epoch")
    axes.locator_params(axis="x", integer=True, nbins=8, min_n_ticks=1)
    axes.set_xlim(0.75, len(history) + 0.25)
    axes.legend(frameon=False, fontsize=9, labelcolor=INK)


def confusion_figure(evaluation: Evaluation) -> bytes:
    """Draw the confusion matrix: right predictions in blue, wrong ones in orange, the darker the more. A PNG."""
    matrix, names = np.array(evaluation.confusion), _tick_labels(evaluation.class_names)
    with _figure(7, 5.2) as figure:
        axes = figure.add_subplot()
        axes.imshow(_confusion_colours(matrix), aspect="auto")
        _style(axes, x="predicted", y="true", grid=False)
        ids = range(len(matrix))
        axes.set_xticks(ids, names, rotation=_rotation(names), parse_math=False)
        axes.set_yticks(ids, names, parse_math=False)
        axes.set_xticks(np.arange(-0.5, len(matrix)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(matrix)), minor=True)
        axes.grid(which="minor", color="white", linewidth=1.5)
        axes.tick_params(which="both", length=0)
        _number_cells(axes, matrix)
        return _png(figure)


def _confusion_colours(matrix: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    """Give (C, C) counts as (C, C, 3) colours; each scale goes from almost white to the largest count on it."""
    from matplotlib.colors import LinearSegmentedColormap

    right = np.eye(len(matrix), dtype=bool)
    blues = LinearSegmentedColormap.from_list("right", ["#f4f7fb", "#a9c8e6"])(_shares(matrix * right))
    oranges = LinearSegmentedColormap.from_list("wrong", ["#fbfaf8", "#fbdcb8", "#ee8a2c"])(_shares(matrix * ~right))
    colours: npt.NDArray[np.float64] = np.where(right[..., np.newaxis], blues, oranges)[..., :3]
    return colours


def _shares(counts: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return counts / max(1, int(counts.max()))


def _tick_labels(class_names: Sequence[str]) -> list[str]:
    names = map(_printable, class_names)
    return [name if len(name) <= LONGEST_LABEL else f"{name[: LONGEST_LABEL - 3]}..." for name in names]


def _rotation(labels: Sequence[str]) -> float:
    """Turn labels that would run into each other: 80 characters fit beside each other."""
    return 0 if max(map(len, labels)) * len(labels) <= LABELS_IN_A_ROW else 90


def _number_cells(axes: "Axes", matrix: npt.NDArray[np.int64]) -> None:
    if len(matrix) > MOST_NUMBERED_CLASSES:
        return
    for row, column in np.argwhere(matrix).tolist():
        weight = "bold" if row == column else "normal"
        axes.text(
            column, row, f"{matrix[row, column]:,}", ha="center", va="center", fontsize=9, color=INK, weight=weight
        )


def reliability_figure(evaluation: Evaluation) -> bytes:
    """Draw accuracy against confidence over a histogram of confidence (log scale), as a PNG.

    A reliability diagram after Guo et al. 2017 (see `digits.evaluation.calibration_error`), with the 95 % interval of
    each bin's accuracy, since most bins of a good model hold few images.
    """
    with _figure(7, 4.6) as figure:
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
        upper.plot([0, 1], [0, 1], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="perfectly calibrated")
        _draw_accuracy(upper, evaluation.bins)
        _style(upper, f"Expected calibration error {evaluation.ece:.4f}", y="accuracy")
        upper.set(xlim=(0, 1.005), ylim=(0, 1.02))
        upper.legend(frameon=False, fontsize=9, labelcolor=INK, loc="upper left")
        _bars(lower, evaluation.bins, [group.count for group in evaluation.bins], MUTED)
        _style(lower, x="confidence", y="images")
        lower.set_yscale("log")
        lower.set_ylim(bottom=0.7)
        return _png(figure)


def risk_figure(evaluation: Evaluation) -> bytes:
    """Draw the error among the most certain images against their share, as a PNG: what abstaining buys."""
    with _figure(7, 3.2) as figure:
        axes = figure.subplots()
        shares = [100 * point.coverage for point in evaluation.risk]
        axes.plot(shares, [100 * point.error for point in evaluation.risk], color=BLUE, linewidth=1.8)
        _style(axes, "Error among what is answered", x="most certain images answered, %", y="wrong, %")
        axes.set_ylim(bottom=0)
        return _png(figure)


def _draw_accuracy(axes: "Axes", bins: Sequence[ReliabilityBin]) -> None:
    accuracies = [group.accuracy for group in bins]
    _bars(axes, bins, accuracies, BLUE, alpha=0.25)
    axes.errorbar(
        [group.confidence for group in bins],
        accuracies,
        np.abs(np.array([_wilson(group) for group in bins]).T - accuracies),
        fmt="o",
        color=BLUE,
        linewidth=1.5,
        label="accuracy, 95% interval",
        clip_on=False,
    )


def _wilson(group: ReliabilityBin) -> tuple[float, float]:
    """Give the 95 % interval of a share (Wilson, Journal of the American Statistical Association 22, 1927)."""
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
    """Draw the most confident mistakes; None when there are none.

    Args:
        evaluation: its mistakes are indices into the test set.
        pixels: (N, height, width) uint8, the test images.

    Returns:
        A PNG, or None.
    """
    return _gallery(evaluation, evaluation.mistakes, pixels)


def _gallery(evaluation: Evaluation, chosen: Sequence[Mistake], pixels: Pixels) -> bytes | None:
    if not chosen:
        return None
    names, shown = evaluation.class_names, chosen[:SHOWN_MISTAKES]
    captions = [f"{names[one.true]} read as {names[one.predicted]}\n{one.confidence:.1%}" for one in shown]
    return contact_sheet([pixels[one.index] for one in shown], captions)


def changed_picture(examples: Sequence[Changed], pixels: Pixels) -> bytes | None:
    """Draw test images that two models answer differently, green where the challenger is right; None without any.

    Args:
        examples: their indices are into the test images.
        pixels: (N, height, width) uint8, all test images.

    Returns:
        A PNG, or None.
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
    """Draw all that belongs into a model's report, in the order in which it is read.

    Args:
        evaluation: on the test set.
        history: as for `curves_figure`.
        train: pixels (N, height, width) uint8 and labels (N,) to show samples of.
        test_pixels: (M, height, width) uint8, to show mistakes of.

    Returns:
        PNGs by title.
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
    """What a model's report says.

    Args:
        title: such as "Model 3".
        facts: what a reader wants first, by name; sequences of sentences are joined.
        network: the text of the network's summary.
        evaluation: on the test set.
        history: metrics of each epoch.
        config: nested values, shown by dotted names.
        lineage: what the model was made from: names and digests, nested or not.
        findings: sentences on the data, the training and the evaluation.
        pictures: PNGs by title, such as `model_pictures` gives.
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


Table = tuple[Sequence[str], Sequence[Sequence[str]]]


def _headlines(evaluation: Evaluation) -> dict[str, str]:
    return {
        "test accuracy": f"{evaluation.accuracy:.2%}",
        f"mistakes in {evaluation.count:,}": f"{evaluation.count - evaluation.correct:,}",
        "loss": f"{evaluation.loss:.4f}",
        "calibration error": f"{evaluation.ece:.4f}",
    }


def _facts_table(facts: Mapping[str, Any]) -> Table:
    return ("", ""), [(name, _text(value)) for name, value in _flattened(facts)]


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _text(value: object) -> str:
    if isinstance(value, list | tuple):
        return (" " if any(_is_sentence(part) for part in value) else ", ").join(map(_text, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
    return "none" if value in (None, {}) else str(value)


def _is_sentence(value: object) -> bool:
    return isinstance(value, str) and value.endswith(".")


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
    """Say in words what a picture shows, for those who can't see it and those who wonder what to look for."""
    describe = _CAPTIONS.get(title)
    return title if describe is None else describe(report)


def _describe_curves(report: ModelReport) -> str:
    last = report.history[-1] if report.history else {}
    end = ", ".join(f"{name.replace('_', ' ')} {value:.4f}" for name, value in last.items())
    return f"Loss and accuracy of {len(report.history)} epochs; at the end: {end or 'nothing was recorded'}."


def _describe_confusion(report: ModelReport) -> str:
    evaluation = report.evaluation
    wrong = np.array(evaluation.confusion) * ~np.eye(len(evaluation.confusion), dtype=bool)
    if not wrong.any():
        return f"All {evaluation.count:,} images are on the diagonal: no mistakes."
    true, predicted = (evaluation.class_names[int(index)] for index in np.unravel_index(wrong.argmax(), wrong.shape))
    return (
        f"Rows are the truth, columns predictions; {evaluation.correct:,} of {evaluation.count:,} images are right. "
        f"The most frequent mistake is {true} read as {predicted}, with {wrong.max():,} images."
    )


_CAPTIONS: dict[str, Callable[[ModelReport], str]] = {
    SAMPLES: lambda report: f"A row a class: {', '.join(report.evaluation.class_names)}.",
    CURVES: _describe_curves,
    CONFUSION: _describe_confusion,
    RELIABILITY: lambda report: (
        f"How often predictions of a given confidence are right; below, how many there are. The expected calibration "
        f"error is {report.evaluation.ece:.4f}: on average, confidence is off by {report.evaluation.ece:.2%}."
    ),
    RISK: lambda report: (
        "When only the most certain images are answered, fewer of the answers are wrong; at the right end all are "
        f"answered, and {1 - report.evaluation.accuracy:.2%} are wrong."
    ),
    LEAST_CERTAIN: lambda report: f"The least certain of {report.evaluation.count:,} test images, right or wrong.",
    REJECTED: lambda report: (
        f"The most novel of the {report.evaluation.rejected_share or 0:.2%} of the test images that are taken for none "
        "of the classes."
    ),
    MISTAKES: lambda report: (
        f"The {len(report.evaluation.mistakes[:SHOWN_MISTAKES])} wrong predictions that the model was surest of, "
        "with its confidence."
    ),
}


# --- as a page -------------------------------------------------------------------------------------------------------

_CSS = """
:root { color-scheme: light dark; --ground: #fafaf7; --card: #fff; --ink: #26292e; --muted: #6b7280; --line: #e5e5e0;
  --accent: #2563a8; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #16181c; --card: #1f2227; --ink: #e4e5e8; --muted: #9aa0aa; --line: #33373e; --accent: #7fb2e8; }
  img.chart { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }
  img.photo { filter: brightness(.88); }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 820px; margin: 0 auto; padding: 40px 20px 64px; }
h1 { font-size: 30px; line-height: 1.2; margin: 0 0 20px; letter-spacing: -.01em; }
h2 { font-size: 19px; margin: 44px 0 12px; }
dl.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px; margin: 0 0 28px; }
dl.tiles div, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
dl.tiles div { padding: 12px 16px; display: flex; flex-direction: column-reverse; }
dl.tiles dt { color: var(--muted); font-size: 13px; }
dl.tiles dd { margin: 0; font-size: 23px; font-weight: 600; font-variant-numeric: tabular-nums; }
dl.tiles div:first-child dd { color: var(--accent); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14.5px; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 6px 14px 6px 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: anywhere; }
thead th { color: var(--muted); font-weight: 500; font-size: 13px; }
tbody th { font-weight: 500; white-space: nowrap; padding-right: 28px; }
table.numbers td, table.numbers thead th:not(:first-child) { text-align: right; }
table.facts th { width: 1%; color: var(--muted); font-weight: 400; }
figure { margin: 0; padding: 14px 14px 10px; }
figure img { display: block; width: 100%; height: auto; border-radius: 4px; }
figcaption { color: var(--muted); font-size: 13.5px; margin-top: 10px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px; overflow-x: auto;
  font: 12.5px/1.35 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
details { border-top: 1px solid var(--line); padding: 12px 0; }
details:last-of-type { border-bottom: 1px solid var(--line); }
summary { cursor: pointer; font-weight: 600; }
details > :last-child { margin-top: 12px; margin-bottom: 0; }
ul { padding-left: 20px; margin: 0; }
li { margin: 4px 0; }
@media print { figure { break-inside: avoid; } }
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_PHOTOS = frozenset({SAMPLES, MISTAKES, LEAST_CERTAIN, REJECTED})


def as_html(report: ModelReport) -> str:
    """Give the report as one page that needs no other file, in the light or dark of the reader's system."""
    tiles = "".join(
        f"<div><dt>{_html(name)}</dt><dd>{_html(value)}</dd></div>"
        for name, value in _headlines(report.evaluation).items()
    )
    body = [
        f"<h1>{_html(report.title)}</h1>",
        f'<dl class="tiles">{tiles}</dl>',
        _html_table(_facts_table(report.facts), "facts"),
        *_html_findings(report.findings),
        *(_html_figure(title, png, report) for title, png in report.pictures.items()),
        "<h2>Each class</h2>",
        _html_table(_class_table(report.evaluation), "numbers"),
        "<h2>How it was made</h2>",
        _html_details("Each epoch", _html_table(_history_table(report.history), "numbers")),
        _html_details("Network", f"<pre>{html.escape(_printable(report.network, keep=_NEWLINE))}</pre>"),
        _html_details("Configuration", _html_table(_facts_table(report.config), "facts")),
        _html_details("Lineage", _html_table(_facts_table(report.lineage), "facts")),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_html(report.title)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _html(text: str) -> str:
    return html.escape(_printable(text))


def _html_table(table: Table, kind: str) -> str:
    header, rows = table
    head = "".join(f'<th scope="col">{_html(name)}</th>' for name in header)
    lines = "".join(
        f'<tr><th scope="row">{_html(first)}</th>{"".join(f"<td>{_html(cell)}</td>" for cell in rest)}</tr>\n'
        for first, *rest in rows
    )
    thead = f"<thead><tr>{head}</tr></thead>\n" if any(header) else ""
    return f'<div class="scroll"><table class="{kind}">\n{thead}<tbody>\n{lines}</tbody></table></div>'


def _html_findings(findings: Sequence[str]) -> Iterable[str]:
    if findings:
        yield "<h2>Findings</h2>"
        yield f"<ul>{''.join(f'<li>{_html(finding)}</li>' for finding in findings)}</ul>"


def _html_figure(title: str, png: bytes, report: ModelReport) -> str:
    caption, kind = _html(_caption(title, report)), "photo" if title in _PHOTOS else "chart"
    return (
        f'<h2>{_html(title)}</h2>\n<figure><img class="{kind}" alt="{_html(title)}. {caption}" src="{data_uri(png)}">'
        f"<figcaption>{caption}</figcaption></figure>"
    )


def _html_details(title: str, body: str) -> str:
    return f"<details><summary>{_html(title)}</summary>\n{body}</details>"


# --- as markdown -----------------------------------------------------------------------------------------------------

_NEWLINE = "\n"


def as_markdown(report: ModelReport) -> str:
    """Give the report as markdown, with its pictures as data URIs: a Prefect artifact shows them."""
    parts = [
        f"# {_markdown(report.title)}",
        _markdown_table(_facts_table({**_headlines(report.evaluation), **report.facts})),
        *(["## Findings", _markdown_list(report.findings)] if report.findings else []),
        *(part for title, png in report.pictures.items() for part in _markdown_figure(title, png, report)),
        "## Each class",
        _markdown_table(_class_table(report.evaluation)),
        "## Each epoch",
        _markdown_table(_history_table(report.history)),
        "## Network",
        _markdown_code(report.network),
        "## Configuration",
        _markdown_table(_facts_table(report.config)),
        "## Lineage",
        _markdown_table(_facts_table(report.lineage)),
    ]
    return "\n\n".join(parts) + "\n"


def decision_markdown(record: Mapping[str, Any], picture: bytes | None) -> str:
    """Give a decision on a promotion as markdown.

    Args:
        record: the fields of a `digits.registry.Considered`.
        picture: a PNG of images that changed their answer, or None.
    """
    decision, champion = record["decision"], record["champion"]
    against = f" against version {champion}" if champion else ""
    parts = [
        f"# Version {record['version']}{against}: {'promoted' if decision['promoted'] else 'not promoted'}",
        _markdown_list(decision["reasons"]),
    ]
    if decision["sets"]:
        parts += ["## Test sets", _markdown_table(_sets_table(decision["sets"]))]
    if decision["checks"]:
        parts += ["## Behaviour", _markdown_table(_checks_table(decision["checks"]))]
    if picture is not None:
        caption = "The surest of the images that only one of the two gets right; green: the challenger is right."
        parts += ["## Changed answers", f"![{caption}]({data_uri(picture)})", caption]
    return "\n\n".join([*parts, "## Policy", _markdown_table(_facts_table(record["policy"]))]) + "\n"


def _sets_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    header = ("test set", "images", "challenger", "champion", "gained", "lost", "p")
    return header, [
        (
            row["name"],
            f"{row['count']:,}",
            f"{row['challenger']:.2%}",
            *(
                ("none", "none", "none", "none")
                if row["champion"] is None
                else (f"{row['champion']:.2%}", f"{row['gained']:,}", f"{row['lost']:,}", f"{row['p']:.4f}")
            ),
        )
        for row in rows
    ]


def _checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    header = ("what", "challenger", "champion", "the policy allows", "kept")
    return header, [
        (one["name"], one["challenger"], one["champion"], one["limit"], "yes" if one["passed"] else "no")
        for one in checks
    ]


def prediction_markdown(summary: Mapping[str, Any], picture: bytes | None) -> str:
    """Give the summary of a prediction as markdown.

    Args:
        summary: what is to be said, in this order, `_` in names being shown as spaces. A plain value is a row of the
            first table (`folder`, `output`, `images`, `seconds`, `images_per_second`, `model_version`, ...); a mapping
            of counts is a table of its own (`by_status`, `by_class`, `skipped`); a list of mappings is a table
            with the first one's keys as columns, of at most 20 rows (`failures`: `path`, `status`, `error`).
        picture: a PNG of the least certain images, or None; it follows the table of them, when `least_certain` is the
            last of the summary.
    """
    plain = {key: value for key, value in summary.items() if not _is_section(value)}
    parts = [_markdown_table(_facts_table({_words(key): value for key, value in plain.items()}))]
    for key, value in summary.items():
        if key not in plain and value:
            parts += [f"## {_markdown(_words(key).capitalize())}", _markdown_section(value)]
    if picture is not None:
        parts += [*_heading_of_picture(summary), f"![The least certain predictions]({data_uri(picture)})"]
    return "\n\n".join(parts) + "\n"


def _heading_of_picture(summary: Mapping[str, Any]) -> list[str]:
    last = next(iter([*summary][-1:]), "")
    return [] if last == "least_certain" and summary[last] else ["## Least certain"]


def _is_section(value: object) -> bool:
    rows = value if isinstance(value, list | tuple) else [value]
    return all(isinstance(row, Mapping) for row in rows)


def _words(name: str) -> str:
    return name.replace("_", " ")


def _markdown_section(value: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> str:
    if isinstance(value, Mapping):
        return _markdown_table((("", "count"), [(str(name), _text(count)) for name, count in value.items()]))
    columns = list(value[0])
    shown = [[_text(row.get(column, "")) for column in columns] for row in value[:MOST_ROWS]]
    more = f"\n\nOnly the first {MOST_ROWS} are shown." if len(value) > MOST_ROWS else ""
    return _markdown_table((columns, shown)) + more


def _printable(text: str, keep: str = "") -> str:
    r"""Replace what is invisible, turns text around or can't be encoded by its escape, such as \u202e."""
    return "".join(
        character
        if character.isprintable() or character in keep
        else " "
        if character.isspace()
        else character.encode("unicode_escape").decode("ascii")
        for character in text
    )


def _markdown(text: str) -> str:
    """Give text with all that could be markup behind backslashes (CommonMark 0.31, 2.4).

    Not as character references: one of Prefect's two UIs shows them as they are.
    """
    return re.sub(r"[!-$&*+:-@\[-`{-~]", r"\\\g<0>", _printable(text))


def _markdown_table(table: Table) -> str:
    header, rows = table
    rules = ["---:" if rows and any(header) and _is_numeric(column) else "---" for column in zip(*rows, strict=True)]
    lines = [[_markdown(cell) for cell in row] for row in (header, *rows)]
    lines.insert(1, rules or ["---"] * len(header))
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_numeric(cells: Iterable[str]) -> bool:
    return all(re.fullmatch(r"[\d.,]+%?|none", cell) for cell in cells)


def _markdown_list(sentences: Iterable[str]) -> str:
    return "\n".join(f"- {_markdown(sentence)}" for sentence in sentences)


def _markdown_figure(title: str, png: bytes, report: ModelReport) -> Iterable[str]:
    caption = _markdown(_caption(title, report))
    return (f"## {_markdown(title)}", f"![{_markdown(title)}. {caption}]({data_uri(png)})", caption)


def _markdown_code(text: str) -> str:
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{_printable(text, keep=_NEWLINE)}\n{fence}"
