"""Tests of the report of a prediction: a page beside the table, and markdown for the Prefect UI."""

import base64
import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from digits.model.drift import Drift, Shift
from digits.outputs.prediction_report import MAX_ROWS, prediction_markdown, prediction_page
from digits.outputs.summary import Failure, LeastCertain
from tests.support.pages import HOSTILE, SHOWN, Page, rendered
from tests.support.summaries import EMPTY

GREY = np.full((40, 80), 128, np.uint8)
INPUT = np.zeros((28, 28), np.uint8)
CERTAIN = LeastCertain("b/a.png", "7", 0.4567, INPUT, None, GREY)
SUMMARY = replace(
    EMPTY,
    images=12_345,
    images_per_second=1234.5678,
    predictions={"7": 12_000, "8": 344},
    statuses={"ok": 12_000, "uncertain": 4, "not-a-digit": 340, "unreadable": 1},
    skipped={"link": 2},
    failures=(Failure("b/c.png", "unreadable", "it is cut off", 3),),
    least_certain=(CERTAIN, replace(CERTAIN, thumbnail=None), LeastCertain("old.png", "8", 0.5)),
    flagged={"uncertain": (CERTAIN,) * 4, "not-a-digit": (replace(CERTAIN, page=2),)},
    drift=Drift(500, (Shift("novelty", 0.3, 0.001, True), Shift("ink", 0.01, 1.0, False)), 2000),
    command="digits predict /scans --out /table.csv --model 7",
)
ONE = replace(EMPTY, images=1, statuses={"ok": 1}, least_certain=(CERTAIN,))


def page_of(summary: object) -> Page:
    """Return the page of a summary, parsed."""
    return Page(prediction_page(summary).decode())  # type: ignore[arg-type]


def test_a_page_shows_the_result_first_and_the_digest_last() -> None:
    texts = page_of(SUMMARY).texts
    order = ["12,345", "Findings", "Statuses", "Least certain", "Flagged as uncertain", "Flagged as not-a-digit"]
    order += ["Could not be read", "Drift", "How it was made", SUMMARY.command, EMPTY.model_digest]
    places = [texts.index(text) for text in order]
    assert places == sorted(places)
    for text in ("1,235", "340", "b/c.png page 3", "it is cut off", "0.30", "2 links were not followed"):
        assert text in texts
    assert "Less confident than the requested error rate requires: 4 images." in texts
    assert "Blank, several digits, or something other than a digit: the first 1 of 340." in texts


def test_a_page_embeds_the_images_and_fetches_nothing() -> None:
    """The image itself if its thumbnail is known, else the input of the network, else nothing."""
    page = page_of(SUMMARY)
    sources = [str(image["src"]) for image in page.all("img")]
    assert len(sources) == 2 + 4 + 1
    sizes = [Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).size for source in sources[:2]]
    assert sizes == [(80, 40), (28, 28)]
    assert "no picture" in page.texts
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert {"link", "script", "iframe", "a", "object"}.isdisjoint(tag for tag, _ in page.elements)
    assert page.all("meta")[1]["content"] == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def test_bars_have_the_length_of_their_share() -> None:
    bars = [str(one["style"]) for one in page_of(SUMMARY).all("div") if one.get("class") == "bar"]
    assert bars[0] == "width:97.21%"
    assert len(bars) == len(SUMMARY.statuses) + len(SUMMARY.predictions)


def test_the_page_of_a_single_image_begins_with_its_label() -> None:
    """Or with its status."""
    tiles = prediction_page(ONE).decode().partition('<dl class="tiles">')[2].partition("</dl>")[0]
    assert tiles.startswith("<div><dt>label</dt><dd>7</dd></div><div><dt>status</dt><dd>ok</dd></div>")
    failed = replace(ONE, statuses={"denied": 1}, least_certain=(), failures=(Failure("a", "denied", "no"),))
    assert "<dd>none</dd>" in prediction_page(failed).decode()


def test_the_page_of_an_empty_folder_is_whole() -> None:
    texts = page_of(EMPTY).texts
    assert "How it was made" in texts
    assert "Drift" not in texts


def test_at_most_twenty_failures_are_listed() -> None:
    many = replace(SUMMARY, failures=SUMMARY.failures * 100, statuses={"unreadable": 1_020})
    for parsed in (page_of(many), rendered(prediction_markdown(many, None))):
        assert parsed.texts.count("b/c.png page 3") == MAX_ROWS
        assert "and 1,000 more" in parsed.texts
    assert "more" not in " ".join(page_of(SUMMARY).texts[-40:])


@pytest.mark.parametrize("kind", ["page", "markdown"])
def test_markup_in_names_stays_text(kind: str) -> None:
    """Of files, classes, the folder, and in errors and the command."""

    def parsed(text: str) -> Page:
        image = replace(CERTAIN, path=text, prediction=text)
        summary = replace(
            SUMMARY,
            source=Path("/") / text.replace("/", ""),
            out=Path(text),
            predictions={text: 1},
            failures=(Failure(text, "unreadable", text),),
            least_certain=(image,),
            flagged={"not-a-digit": (image,)},
            skipped={text: 1},
            command=text,
        )
        if kind == "page":
            return Page(prediction_page(summary).decode())
        return rendered(prediction_markdown(summary, None))

    bad, good = parsed(HOSTILE), parsed("a")
    assert [tag for tag, _ in bad.elements] == [tag for tag, _ in good.elements]
    assert SHOWN in bad.texts


def test_markdown_has_the_result_first_the_picture_and_the_digest_last() -> None:
    markdown = prediction_markdown(SUMMARY, b"png")
    parsed = rendered(markdown)
    assert parsed.texts[0] == (
        "images: 12,345, ok: 12,000, flagged: 344, could not be read: 1, images per second: 1,235"
    )
    assert [image["src"] for image in parsed.all("img")] == ["data:image/png;base64,cG5n"]
    for line in ("| ok | 12,000 |", "| b/c.png page 3 | unreadable | it is cut off |", "## How it was made"):
        assert line in markdown.splitlines()
    assert markdown.rstrip().splitlines()[-1] == f"| digest of the model | {EMPTY.model_digest} |"
    assert "img" not in {tag for tag, _ in rendered(prediction_markdown(SUMMARY, None)).elements}
