"""Report of a study: figures, findings, tables and pages."""

import io
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from markdown_it import MarkdownIt
from PIL import Image

from digits.outputs.page import ORANGE
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import OBJECTIVE, Choice, Range, Space, Trial, TrialState, get_value
from digits.pipeline.study_report import (
    CURVES,
    HISTORY,
    IMPORTANCES,
    PARALLEL,
    SLICES,
    StudyReport,
    as_html,
    as_markdown,
    axis_height,
    axis_position,
    best_rows,
    best_so_far,
    curves_figure,
    findings,
    history_figure,
    parallel_figure,
    ranked,
    slices_figure,
    study_pictures,
    trial_rows,
    values_text,
)
from digits.training.config import ModelConfig

RUN = TrainingRun(datasets=("<b>mine",), model=ModelConfig(architecture="mlp")).resolved()
SPACE: Space = {
    "model.hidden": Choice(choices=([64], [64, 32])),
    "training.batch_size": Range(low=16, high=256, log=True),
    "training.dropped": Range(low=0.0, high=0.5),
    "training.learning_rate": Range(low=1e-4, high=1e-1, log=True),
}
ALL = {HISTORY, IMPORTANCES, SLICES, PARALLEL, CURVES}


def epochs(*losses: float) -> tuple[dict[str, float], ...]:
    """Return a history with these losses."""
    return tuple({OBJECTIVE: loss, "validation_accuracy": 1 - loss / 10} for loss in losses)


def trial(number: int, *losses: float, state: TrialState = TrialState.COMPLETE) -> Trial:
    """Return a trial; the settings of trial 0 are outside the space."""
    random = np.random.default_rng(number)
    values: dict[str, Any] = {
        "model.hidden": [[64], [64, 32]][number % 2],
        "training.batch_size": int(random.integers(16, 256)),
        "training.dropped": float(random.uniform(0, 0.5)),
        "training.learning_rate": float(10 ** random.uniform(-4, -1)),
    }
    if number == 0:
        values |= {"model.hidden": [128], "training.learning_rate": 0.5}
    return Trial(number, values, state, epochs(*losses), seconds=float(number))


def report_of(*trials: Trial) -> StudyReport:
    """Return the report of a study with these trials."""
    return StudyReport("abc", RUN, SPACE, trials, ranked(trials)[0], validation_images=400, seed=0)


def whole() -> StudyReport:
    """Return the report of a study with trials in every state."""
    complete = [trial(number, 0.9, 0.6 - 0.05 * number) for number in range(10)]
    others = [
        trial(10, 0.95, state=TrialState.PRUNED),
        trial(11, state=TrialState.DIVERGED),
        trial(12, 0.99, state=TrialState.DIVERGED),
        trial(13, state=TrialState.UNFINISHED),
    ]
    return report_of(*complete, *others)


@pytest.fixture(scope="module")
def pictures() -> dict[str, bytes]:
    """Figures of that report."""
    return study_pictures(whole())


def opened(png: bytes) -> np.ndarray:
    """Return a PNG as (height, width, 3) integers."""
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB")).astype(int)


def share_of(png: bytes, colour: str) -> float:
    """Return the share of the pixels that have nearly this color."""
    wanted = np.array([int(colour[start : start + 2], 16) for start in (1, 3, 5)])
    return float((np.abs(opened(png) - wanted).max(axis=2) < 12).mean())


def test_a_study_with_trials_in_every_state_has_all_figures(pictures: dict[str, bytes]) -> None:
    """The best trial is orange in each; the same study gives the same bytes."""
    assert set(pictures) == ALL
    assert [*pictures] == [HISTORY, IMPORTANCES, SLICES, PARALLEL, CURVES]
    for title in ALL - {IMPORTANCES}:
        assert share_of(pictures[title], ORANGE) > 0.0005, title
    assert history_figure(whole()) == pictures[HISTORY]


@pytest.mark.parametrize("losses", [(0.5,), (0.0,)])
def test_a_study_of_one_trial_has_a_report(losses: tuple[float, ...]) -> None:
    """Figures that need several trials are left out; a loss of 0 is drawn on the logarithmic scale."""
    report = report_of(trial(0, *losses))
    pictures = study_pictures(report)
    assert set(pictures) == {HISTORY, SLICES, CURVES}
    assert "No trial was better than the initial settings." in findings(report)
    assert "<figure>" in as_html(report, pictures)


def test_figures_show_pruned_trials() -> None:
    """As points and curves; lines side by side are complete trials only."""
    some = [trial(number, 0.9, 0.6 - 0.05 * number) for number in range(4)]
    pruned = trial(4, 0.8, state=TrialState.PRUNED)
    for draw in (history_figure, slices_figure, curves_figure):
        assert draw(report_of(*some)) != draw(report_of(*some, pruned))
    assert parallel_figure(report_of(*some)) == parallel_figure(report_of(*some, pruned))


def test_the_lowest_loss_so_far_never_rises() -> None:
    """It is drawn for each complete trial."""
    trials = [trial(number, loss) for number, loss in enumerate((0.5, 0.7, 0.2, 0.3))]
    assert best_so_far(trials) == [(0, 0.5), (1, 0.5), (2, 0.2), (3, 0.2)]


def test_values_have_a_position_on_their_axis() -> None:
    """Logarithms are spaced evenly, choices in order, and values outside the space are at the edge."""
    rate, hidden = SPACE["training.learning_rate"], SPACE["model.hidden"]
    assert [axis_height(rate, value) for value in (1e-4, 1e-1)] == pytest.approx([0, 1])
    assert axis_height(rate, 10**-2.5) == pytest.approx(0.5)
    assert [axis_height(rate, value) for value in (0, 100)] == pytest.approx([-0.08, 1.08])
    assert [axis_position(hidden, value) for value in ([64], (64, 32), [7])] == [0, 1, -1]
    assert [axis_height(hidden, value) for value in ([64], [64, 32])] == [0.25, 0.75]


def test_findings_compare_the_best_trial_with_the_initial_settings() -> None:
    """They state the precision of accuracies: 1.96 standard errors of 98.5 % on 400 images."""
    text = " ".join(findings(whole()))
    assert "Trial 9 has a validation loss of 0.1500, the initial settings 0.6000" in text
    assert "accuracies are 98.50% and 94.00%" in text
    assert "about 1.2 points" in text
    unfinished = report_of(trial(0, state=TrialState.UNFINISHED), trial(1, 0.5))
    assert "initial settings" not in " ".join(findings(unfinished))


def test_a_changed_setting_is_shown_with_its_initial_value() -> None:
    """In the first table of the page."""
    first, second = trial(0, 0.5), trial(1, 0.4)
    same = replace(second, values={**second.values, "training.batch_size": first.values["training.batch_size"]})
    page = as_html(report_of(first, same), {})
    assert "64, 32 (was 128)" in page
    assert re.search(r"batch size</th><td>\d+</td>", page)


def test_the_page_escapes_names_and_loads_no_other_file(pictures: dict[str, bytes]) -> None:
    """It has all figures, and the bounds of the search space."""
    page = as_html(whole(), pictures)
    assert "&lt;b&gt;mine" in page
    assert "<b>mine" not in page
    assert "http" not in page.replace("http-equiv", "")
    assert page.count("<figure>") == len(ALL)
    assert "0.1 to" not in page
    assert "0.0001 to 0.1, logarithmic" in page


def test_the_markdown_has_all_figures_and_tables(pictures: dict[str, bytes]) -> None:
    """Rendered as the Prefect UI renders it."""
    markdown = as_markdown(whole(), pictures)
    rendered = MarkdownIt("commonmark").enable("table").render(markdown)
    assert rendered.count("<img") == len(ALL)
    assert rendered.count("<table>") == 3
    assert "<b>mine" not in rendered


def test_there_is_one_row_per_trial() -> None:
    """With numbers in readable form; the best trials come first."""
    rows = trial_rows(whole().trials)
    assert rows[9]["validation loss"] == "0.1500"
    assert (rows[10]["state"], rows[10]["epochs"], rows[13]["validation loss"]) == ("pruned", "1", "")
    assert rows[1]["hidden"] == "64, 32"
    best = best_rows(whole().trials, 3)
    assert [row["trial"] for row in best] == ["9", "8", "7"]
    assert "state" not in best[0]


def test_values_of_a_trial_are_described_in_words() -> None:
    """As in the names of task runs."""
    values = {"training.learning_rate": 0.0012345, "model.hidden": [64, 32], "training.augment": True}
    assert values_text(values) == "learning rate 0.00123, hidden 64, 32, augment yes"
    assert get_value(RUN, "training.learning_rate") == 0.001
