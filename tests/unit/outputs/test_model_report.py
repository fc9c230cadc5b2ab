"""Figures that show something, pages that hold together, and text from outside that stays text."""

import io
import logging
import math
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from digits.model.metrics import Evaluation, ReliabilityBin, evaluate
from digits.outputs.drawing import data_uri
from digits.outputs.model_report import (
    CONFUSION,
    CURVES,
    LEAST_CERTAIN,
    MISTAKES,
    REJECTED,
    RELIABILITY,
    RISK,
    SAMPLES,
    ModelReport,
    as_html,
    as_markdown,
    changed_picture,
    confusion_figure,
    curves_figure,
    history_csv,
    mistakes_picture,
    model_pictures,
    number_cells,
    reliability_figure,
    samples_figure,
    wilson_interval,
)
from digits.outputs.run_reports import decision_markdown
from digits.store.decisions import ChangedImage, Check, Decision, SetRow
from tests.support.pages import HOSTILE, SHOWN, Page, rendered

NAMES = tuple("0123456789")
EPOCH = {"loss": 0.5, "accuracy": 0.9, "validation_loss": 0.25, "validation_accuracy": 0.95}
HISTORY = [EPOCH, {**EPOCH, "loss": 0.3, "accuracy": 0.96}]


def opened(png: bytes) -> np.ndarray:
    """Return a PNG as (height, width, 3) integers."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def made(names=NAMES, *, count=400) -> tuple[Evaluation, np.ndarray, np.ndarray]:
    """Return an evaluation with mistakes, and pixels and labels to go with it."""
    random = np.random.default_rng(0)
    labels = np.arange(count) % len(names)
    logits = random.normal(0, 1.5, (count, len(names))) + 5 * np.eye(len(names))[labels]
    prob = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    pixels = random.integers(0, 255, (count, 8, 8), np.uint8)
    return evaluate(labels, prob, class_names=names), pixels, labels


@pytest.fixture(scope="module")
def evaluation() -> Evaluation:
    """Return an evaluation of ten classes, with mistakes."""
    return made()[0]


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Return every picture of a report, drawn once."""
    evaluation, pixels, labels = made()
    return model_pictures(evaluation, HISTORY, train=(pixels, labels), test_pixels=pixels)


@pytest.fixture(scope="module")
def report(evaluation, pictures) -> ModelReport:
    """Return a report with something in every part."""
    return ModelReport(
        title="Model 3",
        facts={"dataset": "mnist", "epochs": 2, "reasons": ("It is better.", "It is first.")},
        network="Model: cnn\n| dense | 1,290 |",
        evaluation=evaluation,
        history=HISTORY,
        config={"training": {"epochs": 2, "augment": True, "warmup": 0.2}, "hidden": [24, 48], "extra": {}, "no": None},
        lineage={"arrays": "f" * 64},
        findings=["No duplicates."],
        pictures=pictures,
    )


# --- figures


def test_a_report_has_every_picture_in_reading_order(pictures):
    assert list(pictures) == [CURVES, CONFUSION, MISTAKES, RELIABILITY, RISK, LEAST_CERTAIN, SAMPLES]


@pytest.mark.parametrize("title", [CURVES, CONFUSION, MISTAKES, RELIABILITY, RISK, LEAST_CERTAIN, SAMPLES])
def test_pictures_are_not_blank_and_small_enough_for_the_prefect_ui(pictures, title):
    pixels = opened(pictures[title])
    assert pixels.shape[1] >= 1000
    assert pixels.std() > 10
    assert len(pictures[title]) < 60_000


def test_the_same_evaluation_gives_the_same_bytes(pictures):
    """Matplotlib's logger is quiet only while a figure is drawn."""
    logger = logging.getLogger("matplotlib")
    logger.setLevel(logging.INFO)
    try:
        assert curves_figure(HISTORY) == pictures[CURVES]
        assert logger.level == logging.INFO
    finally:
        logger.setLevel(logging.NOTSET)


def test_curves_of_a_single_epoch_are_drawn(pictures):
    points = curves_figure([EPOCH])
    assert opened(points).std() > 10
    assert points != pictures[CURVES]


def test_samples_are_sorted_by_class():
    """Class 0 is white and class 1 black, so the upper half is brighter."""
    labels = np.array([1, 0] * 20)
    pixels = np.where(labels[:, np.newaxis, np.newaxis] == 0, 255, 0).repeat(8, 1).repeat(8, 2).astype(np.uint8)
    picture = opened(samples_figure(pixels, labels, ("white", "black")))
    assert picture[: len(picture) // 2].mean() > 4 * picture[len(picture) // 2 :].mean()


def test_a_class_without_images_leaves_its_row_of_samples_black():
    assert opened(samples_figure(np.full((3, 8, 8), 255, np.uint8), np.zeros(3, int), NAMES)).std() > 10


def confusion_colours(wrong: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle colours of the cells (1, 0), with `wrong` images, and (0, 1), with none, out of 2 x 2."""
    base, _, _ = made(("a", "b"))
    picture = opened(confusion_figure(base.model_copy(update={"confusion": ((90, 0), (wrong, 90))})))
    height, width = picture.shape[:2]
    return picture[int(height * 0.6), int(width * 0.2)], picture[int(height * 0.3), int(width * 0.9)]


def test_mistakes_are_orange_in_the_row_of_the_true_class():
    mistaken, empty = confusion_colours(5)
    assert mistaken[0] - mistaken[2] > 100
    assert abs(empty[0] - empty[2]) < 10


def test_a_confusion_matrix_without_mistakes_is_drawn():
    mistaken, empty = confusion_colours(0)
    assert (abs(mistaken - empty) < 5).all()


def test_class_names_are_drawn_literally_and_shortened(recwarn):
    names = ("$x^{$", "\u6570\u5b57\udcff", "a" * 500, "e\nf")
    evaluation, pixels, labels = made(names)
    assert opened(confusion_figure(evaluation)).std() > 10
    assert opened(samples_figure(pixels, labels, names)).std() > 10
    assert not recwarn.list


class Numbers(list):
    """Axes that only remember what was written where."""

    def text(self, x, y, text, **_):
        """Note a text."""
        self.append((x, y, text))


def test_cells_show_their_count_unless_it_is_zero_or_there_are_too_many_classes():
    few, many = Numbers(), Numbers()
    number_cells(few, np.array([[0, 0], [1234, 5]]))
    number_cells(many, np.eye(21, dtype=int))
    assert few == [(0, 1, "1,234"), (1, 1, "5")]
    assert many == []


def test_other_calibration_bins_give_another_picture(evaluation, pictures):
    assert reliability_figure(evaluation.model_copy(update={"bins": evaluation.bins[-1:]})) != pictures[RELIABILITY]


def test_the_wilson_interval_matches_a_calculation_by_hand():
    """8 of 10 at 1.96: centre (.8 + .19208) / 1.38416, half width 1.96 sqrt(.016 + .009604) / 1.38416."""
    low, high = wilson_interval(ReliabilityBin(lower=0.7, upper=0.8, confidence=0.75, accuracy=0.8, count=10))
    assert (low + high) / 2 == pytest.approx(0.99208 / 1.38416)
    assert (high - low) / 2 == pytest.approx(1.96 * math.sqrt(0.025604) / 1.38416)


def test_a_model_without_mistakes_has_no_picture_of_mistakes(monkeypatch):
    labels, pixels = np.arange(4) % 2, np.zeros((4, 8, 8), np.uint8)
    perfect = evaluate(labels, np.eye(2)[labels], class_names="ab")
    for name in ("curves", "confusion", "reliability", "risk", "samples"):
        monkeypatch.setattr(f"digits.outputs.model_report.{name}_figure", lambda *_: b"png")
    assert mistakes_picture(perfect, pixels) is None
    assert list(model_pictures(perfect, HISTORY, train=(pixels, labels), test_pixels=pixels)) == [
        CURVES,
        CONFUSION,
        RELIABILITY,
        RISK,
        LEAST_CERTAIN,
        SAMPLES,
    ]


def test_the_picture_of_mistakes_depends_only_on_misclassified_images():
    evaluation, pixels, _ = made()
    wrong = [mistake.index for mistake in evaluation.mistakes]
    pixels = np.zeros_like(pixels)
    pixels[wrong] = 255
    others = np.full_like(pixels, 255)
    assert mistakes_picture(evaluation, pixels) == mistakes_picture(evaluation, others)


# --- pages


def test_a_page_is_self_contained_and_forbids_scripts_and_requests(report):
    page = as_html(report)
    parsed = Page(page)
    assert not re.search(r"https?://|url\(|@import", page)
    assert not {"script", "link", "iframe"} & {tag for tag, _ in parsed.elements}
    assert "default-src 'none'" in parsed.all("meta")[1]["content"]
    assert "prefers-color-scheme: dark" in page


def test_every_picture_on_a_page_has_alternative_text(report, pictures):
    images = Page(as_html(report)).all("img")
    assert len(images) == len(pictures)
    for image, title in zip(images, pictures, strict=True):
        assert image["src"].startswith("data:image/png;base64,")
        assert image["alt"].startswith(f"{title}. ")
        assert image["class"] == ("photo" if title in {MISTAKES, LEAST_CERTAIN, SAMPLES} else "chart")
        assert len(image["alt"]) > len(title) + 10


def test_a_page_contains_metrics_settings_findings_and_lineage(report):
    texts = Page(as_html(report)).texts
    evaluation = report.evaluation
    for expected in (
        f"{evaluation.accuracy:.2%}",
        "mistakes in 400",
        f"{400 - evaluation.correct}",
        f"{evaluation.loss:.4f}",
        f"{evaluation.ece:.4f}",
        f"{evaluation.classes[4].recall:.2%}",
        "It is better. It is first.",
        "training.epochs",
        "24, 48",
        "yes",
        "none",
        "f" * 64,
        "No duplicates.",
        "Model: cnn\n| dense | 1,290 |",
    ):
        assert expected in texts
    assert "{}" not in texts


def test_the_caption_names_the_most_frequent_mistake(report):
    base = report.evaluation.model_copy(
        update={"class_names": ("a", "b"), "confusion": ((7, 0), (3, 90)), "count": 100}
    )
    page = as_html(replace(report, evaluation=base))
    assert "97 of 100 images are correct. The most frequent mistake is b read as a, with 3 images." in page


def test_the_caption_of_a_perfect_confusion_matrix_says_so(report):
    perfect = report.evaluation.model_copy(update={"confusion": ((50, 0), (0, 50)), "count": 100})
    assert "All 100 images are on the diagonal: no mistakes." in as_html(replace(report, evaluation=perfect))


def test_a_report_without_findings_pictures_or_epochs_is_written(report):
    bare = replace(report, findings=(), pictures={"Other": b"png"}, history=[], config={}, lineage={})
    assert "Findings" not in Page(as_html(bare)).texts
    assert "Findings" not in rendered(as_markdown(bare)).texts
    assert Page(as_html(bare)).all("img")[0]["alt"] == "Other. Other"
    assert "nothing was recorded" in as_html(replace(report, history=[]))


def test_a_class_without_images_has_no_precision_or_recall(report):
    absent = report.evaluation.classes[0].model_copy(update={"support": 0, "name": "unseen"})
    some = report.evaluation.model_copy(update={"classes": (absent,)})
    assert "| unseen | none | none | none | 0 |" in as_markdown(replace(report, evaluation=some))


@pytest.fixture(scope="module")
def hostile(report) -> ModelReport:
    """Return a report whose every text tries to be markup."""
    evaluation = report.evaluation.model_copy(update={"class_names": (HOSTILE,) * 10})
    evaluation = evaluation.model_copy(
        update={"classes": (report.evaluation.classes[0].model_copy(update={"name": HOSTILE}),)}
    )
    facts, pictures = {HOSTILE: HOSTILE, "list": [HOSTILE]}, {HOSTILE: b"png", **report.pictures}
    return ModelReport(HOSTILE, facts, HOSTILE, evaluation, HISTORY, facts, facts, [HOSTILE], pictures)


def test_markup_in_names_is_escaped_on_a_page(report, hostile):
    page = as_html(hostile)
    parsed = Page(page)
    page.encode()
    assert {tag for tag, _ in parsed.elements} == {tag for tag, _ in Page(as_html(report)).elements}
    assert not [attributes for _, attributes in parsed.elements for name in attributes if name.startswith("on")]
    assert "\u202e" not in page
    assert SHOWN in parsed.texts


def test_markup_in_names_is_escaped_in_markdown(report, hostile):
    markdown = as_markdown(hostile)
    parsed, plain = rendered(markdown), rendered(as_markdown(report))
    markdown.encode()
    assert {tag for tag, _ in parsed.elements} == {tag for tag, _ in plain.elements}
    assert all(image["src"].startswith("data:image/png;base64,") for image in parsed.all("img"))
    assert len(parsed.all("img")) == len(hostile.pictures)
    assert len(parsed.all("pre")) == 1
    assert len(parsed.all("h2")) == len(plain.all("h2")) + 1


def test_backticks_in_a_network_summary_do_not_end_its_code_block(report):
    parsed = rendered(as_markdown(replace(report, network="```\n# out\n````")))
    assert "```\n# out\n````\n" in parsed.texts


def test_markdown_has_the_same_pictures_and_facts_as_the_page(report, pictures):
    parsed = rendered(as_markdown(report))
    assert [image["alt"].split(". ")[0] for image in parsed.all("img")] == list(pictures)
    for expected in ("It is better. It is first.", "training.epochs", "f" * 64, f"{report.evaluation.accuracy:.2%}"):
        assert expected in parsed.texts


# --- history, imports and rejected images


def test_the_history_is_a_table_with_one_row_per_epoch():
    assert history_csv([EPOCH, {**EPOCH, "loss": 0.3, "learning_rate": 1e-05}]) == (
        "epoch,loss,accuracy,validation_loss,validation_accuracy,learning_rate\n"
        "1,0.5,0.9,0.25,0.95,\n"
        "2,0.3,0.9,0.25,0.95,1e-05\n"
    )
    assert history_csv([]) == "epoch\n"


def test_importing_the_reports_loads_no_heavy_library():
    heavy = {"matplotlib", "sklearn", "scipy", "PIL", "tensorflow", "keras", "pandas", "prefect"}
    modules = "digits.outputs.model_report, digits.outputs.prediction_report, digits.pipeline.promotion"
    code = f"import sys, {modules}; print(sorted({heavy!r} & set(sys.modules)))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"


def test_images_flagged_as_no_digit_are_shown_with_their_share():
    labels, pixels = np.arange(4) % 2, np.zeros((4, 8, 8), np.uint8)
    novelty = np.array([-1, 2, 3, 0.0])
    found = evaluate(labels, np.eye(2)[labels], class_names="ab", novelty=novelty)
    assert [one.index for one in found.rejected] == [2, 1]
    assert found.rejected_share == 0.5
    assert REJECTED in model_pictures(found, HISTORY, train=(pixels, labels), test_pixels=pixels)


# Decisions


REFUSED = Decision(
    False,
    ("It is too large.",),
    (SetRow("<b>|scans", 1000, 0.99, 0.97, 25, 5, 1e-4),),
    (Check("size", "2 MB", "1 MB", "at most 1.5 MB", False),),
)


def page_of(decision: Decision, *, champion: int | None = 3, picture: bytes | None = None) -> str:
    """Return the page of a decision on version 4."""
    return decision_markdown(decision, version=4, champion=champion, policy={"promote": True}, picture=picture)


def test_a_decision_page_has_reasons_and_tables_and_escapes_names():
    page = page_of(REFUSED)
    assert page.startswith("# Version 4 against version 3: not promoted\n\n- It is too large.\n")
    assert "| \\<b\\>\\|scans | 1,000 | 99.00% | 97.00% | 25 | 5 | 0.0001 |" in page
    assert "| size | 2 MB | 1 MB | at most 1.5 MB | no |" in page
    assert "| promote | yes |" in page
    assert "Changed predictions" not in page


def test_a_decision_on_the_first_model_names_no_champion():
    page = page_of(Decision(True, ("It is the first.",), (SetRow("mnist", 10, 0.9),)), champion=None)
    assert page.startswith("# Version 4: promoted\n")
    assert "| mnist | 10 | 90.00% | none | none | none | none |" in page
    assert "Behaviour" not in page


def test_images_whose_answer_changed_are_drawn_on_the_decision_page():
    changed = [ChangedImage("mnist", 1, "7", "7", "1", 0.9, 0.8), ChangedImage("mnist", 0, "3", "8", "3", 0.6, 0.7)]
    pixels = np.zeros((2, 28, 28), np.uint8)
    picture = changed_picture(changed, pixels)
    assert picture is not None
    assert Image.open(io.BytesIO(picture)).width > 2 * 112
    assert data_uri(picture) in page_of(REFUSED, picture=picture)
    assert changed_picture([], pixels) is None
