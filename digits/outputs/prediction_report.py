"""Prediction report: the result of a prediction as an HTML page beside its table, and as markdown for the Prefect UI.

Both are made from the summary, with the result first and digests last. Their size is bounded, however many images were
predicted.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from digits.model.drift import FEATURE_NAMES
from digits.outputs.drawing import data_uri, grey_png
from digits.outputs.page import (
    Bar,
    Picture,
    Table,
    facts_table,
    html_bars,
    html_code,
    html_findings,
    html_gallery,
    html_page,
    html_table,
    markdown_code,
    markdown_list,
    markdown_table,
    markdown_text,
)
from digits.outputs.skipped import describe_skipped
from digits.outputs.summary import (
    LeastCertain,
    PredictionSummary,
    count_failures,
    first_frames_line,
    name_page,
)
from digits.status import FLAGGED
from digits.wording import count

MAX_ROWS = 20
"""Largest number of rows of a table, such as that of the images that could not be read."""
_FLAGS = {
    "uncertain": "less confident than the requested error rate requires",
    "not-a-digit": "blank, several digits, or something other than a digit",
}


def prediction_page(summary: PredictionSummary) -> bytes:
    """Return the result of a prediction as a self-contained HTML page; thumbnails are of the images that are shown."""
    return html_page(f"Predictions of {summary.source.name}", headline(summary), _sections(summary)).encode()


def headline(summary: PredictionSummary) -> dict[str, str]:
    """Return the result as a few values by name: of a single image its label, of several their numbers."""
    if single := summary.single:
        shown = {"label": single.label or "none", "status": single.status}
        return shown if single.confidence is None else {**shown, "confidence": f"{single.confidence:.1%}"}
    flagged = sum(summary.statuses.get(status, 0) for status in FLAGGED)
    return {
        "images": f"{summary.images:,}",
        "ok": f"{summary.statuses.get('ok', 0):,}",
        "flagged": f"{flagged:,}",
        "could not be read": f"{count_failures(summary.statuses):,}",
        "images per second": f"{summary.images_per_second:,.0f}",
    }


def findings(summary: PredictionSummary) -> list[str]:
    """Return what a reader should know about the result, as sentences."""
    drift = summary.drift
    shadow = summary.shadow
    sentences = [
        drift.sentence if drift else "",
        describe_skipped(summary.skipped),
        first_frames_line(summary) if summary.more_frames else "",
        f"version {shadow['version']} differs on {count(shadow['differing'], 'image')}: {shadow['table']}"
        if shadow
        else "",
    ]
    return [sentence for sentence in sentences if sentence]


def facts(summary: PredictionSummary) -> dict[str, Any]:
    """Return how the result was made, by name; the digest is last."""
    return {
        "source": str(summary.source),
        "table": str(summary.out),
        "model version": summary.model_version,
        "seconds": summary.seconds,
        "images per second": summary.images_per_second,
        "rows kept from the previous table": summary.unchanged,
        "rows of an interrupted run": summary.reused,
        "links": summary.follow_links,
        "digest of the model": summary.model_digest,
    }


def _sections(summary: PredictionSummary) -> Iterator[str]:
    yield from html_findings(findings(summary))
    if summary.images > 1:
        yield from html_bars("Statuses", _bars(summary.statuses))
        yield from html_bars("Predictions", _bars(summary.predictions))
    if summary.least_certain:
        about = f"The {count(len(summary.least_certain), 'prediction')} with the lowest confidence, lowest first."
        yield from html_gallery("Least certain", about, map(_picture, summary.least_certain))
    for status, images in summary.flagged.items():
        every = summary.statuses.get(status, 0)
        of_all = f"the first {len(images):,} of {every:,}" if len(images) < every else count(every, "image")
        about = f"{_FLAGS.get(status, status).capitalize()}: {of_all}."
        yield from html_gallery(f"Flagged as {status}", about, map(_picture, images))
    if summary.failures:
        yield f"<h2>Could not be read</h2>\n{html_table(_failures(summary), 'facts')}"
    if summary.drift:
        yield f"<h2>Drift</h2>\n{html_table(_drift(summary), 'numbers')}"
    yield f"<h2>How it was made</h2>\n{html_code(summary.command)}\n{html_table(facts_table(facts(summary)), 'facts')}"


def _bars(counts: Mapping[str, int]) -> list[Bar]:
    whole = sum(counts.values()) or 1
    return [Bar(name, f"{number:,}", number / whole) for name, number in counts.items()]


def _picture(image: LeastCertain) -> Picture:
    pixels = image.pixels if image.thumbnail is None else image.thumbnail
    png = None if pixels is None else grey_png(pixels)
    return Picture(png, f"{image.prediction} {image.confidence:.1%}", name_page(image.path, image.page))


def _failures(summary: PredictionSummary) -> Table:
    rows = [(one.name, one.status, one.error or "") for one in summary.failures[:MAX_ROWS]]
    more = count_failures(summary.statuses) - len(rows)
    return ("image", "status", "error"), [*rows, *([(f"and {more:,} more", "", "")] if more > 0 else [])]


def _drift(summary: PredictionSummary) -> Table:
    shifts = sorted(summary.drift.shifts if summary.drift else (), key=lambda shift: -shift.psi)
    rows = [
        (FEATURE_NAMES[one.feature], f"{one.psi:.2f}", f"{one.p:.2g}", "yes" if one.drifted else "no") for one in shifts
    ]
    return ("feature", "PSI", "p", "drifted"), rows


# --- as markdown -----------------------------------------------------------------------------------------------------


def prediction_markdown(summary: PredictionSummary, picture: bytes | None) -> str:
    """Return the result of a prediction as markdown.

    Args:
        summary: summary of the table.
        picture: PNG of the least certain images, or None.
    """
    title = ", ".join(f"{name}: {value}" for name, value in headline(summary).items())
    parts = [f"# {markdown_text(title)}", markdown_list(findings(summary))]
    for name, counts in (
        ("Statuses", summary.statuses),
        ("Predictions", summary.predictions),
        ("Skipped", summary.skipped),
    ):
        if counts:
            parts += [f"## {name}", markdown_table((("", "count"), [(one, f"{n:,}") for one, n in counts.items()]))]
    if summary.failures:
        parts += ["## Could not be read", markdown_table(_failures(summary))]
    if summary.least_certain:
        parts += ["## Least certain", markdown_table(_least_certain(summary.least_certain[:MAX_ROWS]))]
    if picture is not None:
        parts.append(f"![The least certain predictions]({data_uri(picture)})")
    parts += ["## How it was made", markdown_code(summary.command), markdown_table(facts_table(facts(summary)))]
    return "\n\n".join(filter(None, parts)) + "\n"


def _least_certain(images: Sequence[LeastCertain] | Iterable[LeastCertain]) -> Table:
    rows = [(name_page(one.path, one.page), one.prediction, f"{one.confidence:.1%}") for one in images]
    return ("image", "prediction", "confidence"), rows
