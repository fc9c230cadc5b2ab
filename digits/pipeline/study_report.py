"""Study report: history of a search, importance of the settings, and the best trials, as a page and as markdown."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from digits.model.metrics import NOISE_LIMIT
from digits.outputs.page import (
    BLUE,
    FAINT,
    INK,
    MUTED,
    ORANGE,
    PALE_BLUE,
    Table,
    as_png,
    facts_table,
    figure,
    html_details,
    html_figure,
    html_findings,
    html_page,
    html_table,
    in_words,
    markdown_figure,
    markdown_list,
    markdown_table,
    markdown_text,
    style,
)
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Dimension, Range, Space, Trial, TrialState, Values, importances
from digits.wording import count

if TYPE_CHECKING:
    from matplotlib.axes import Axes

HISTORY = "Course of the search"
IMPORTANCES = "Importance of the settings"
PARALLEL = "All settings side by side"
SLICES = "Each setting alone"
CURVES = "Learning curves"

LEAST_LOSS = 1e-6
"""Smallest loss that is drawn, because the scale is logarithmic."""
BEST_SHOWN = 10
"""Number of trials in the table of the best ones."""
COLUMNS = 3
"""Number of panels in a row."""
LOSS = "validation loss"
STATES_COLOURS = {
    TrialState.COMPLETE: BLUE,
    TrialState.PRUNED: MUTED,
    TrialState.DIVERGED: INK,
    TrialState.UNFINISHED: MUTED,
}


@dataclass(frozen=True, eq=False)
class StudyReport:
    """Content of a study's report.

    Args:
        name: name of the study.
        run: resolved training run with the initial settings.
        space: search space.
        trials: trials by number.
        best: best of the trials.
        validation_images: number of validation images.
        seed: random seed of the study.
    """

    name: str
    run: TrainingRun
    space: Space
    trials: Sequence[Trial]
    best: Trial
    validation_images: int
    seed: int

    @property
    def title(self) -> str:
        """Title of the report."""
        return f"Tuning {self.run.model.architecture} on {' + '.join(self.run.datasets)}"

    @property
    def first(self) -> Trial | None:
        """Trial with the initial settings, if it is complete."""
        return next((trial for trial in self.complete if trial.number == 0), None)

    @property
    def complete(self) -> list[Trial]:
        """Complete trials, by number."""
        return [trial for trial in self.trials if trial.state is TrialState.COMPLETE]

    @cached_property
    def shares(self) -> dict[str, float]:
        """Share of the variance of the loss that each setting explains, the largest first."""
        return importances(self.space, self.trials, seed=self.seed)


# --- figures ---------------------------------------------------------------------------------------------------------


def study_pictures(report: StudyReport) -> dict[str, bytes]:
    """Return the figures of a report as PNG bytes by title, in the order of the report."""
    pictures = {
        HISTORY: history_figure(report),
        IMPORTANCES: importances_figure(report) if report.shares else None,
        SLICES: slices_figure(report),
        PARALLEL: parallel_figure(report) if len(report.complete) > 1 else None,
        CURVES: curves_figure(report),
    }
    return {title: picture for title, picture in pictures.items() if picture is not None}


def history_figure(report: StudyReport) -> bytes:
    """Return a PNG of the loss of each trial, and of the lowest loss so far."""
    with figure(7, 3.4) as drawn:
        axes = drawn.add_subplot()
        _draw_points(axes, report, lambda trial: trial.number)
        best = best_so_far(report.complete)
        axes.step([number for number, _ in best], [loss for _, loss in best], where="post", color=ORANGE, linewidth=1.8,
                  label="best so far")  # fmt: skip
        _style_losses(axes, x="trial", y=LOSS)
        axes.locator_params(axis="x", integer=True, nbins=12, min_n_ticks=1)
        _legend_above(axes)
        return as_png(drawn)


def _legend_above(axes: "Axes", **options: Any) -> None:
    """Place the legend above the axes."""
    axes.legend(frameon=False, fontsize=9, labelcolor=INK, loc="lower left", bbox_to_anchor=(0, 1), ncols=5, **options)


def best_so_far(complete: Sequence[Trial]) -> list[tuple[int, float]]:
    """Return the number of each complete trial and the lowest loss so far."""
    found: list[tuple[int, float]] = []
    for trial in complete:
        lowest = min(_drawn_loss(trial), found[-1][1] if found else math.inf)
        found.append((trial.number, lowest))
    return found


def _drawn_loss(trial: Trial) -> float:
    """Return the loss of a trial, at least `LEAST_LOSS`, for drawing."""
    return max(trial.loss or 0, LEAST_LOSS)


def _draw_points(axes: "Axes", report: StudyReport, position: Callable[[Trial], Any], *, named: bool = True) -> None:
    for state, marker in ((TrialState.COMPLETE, "o"), (TrialState.PRUNED, "x"), (TrialState.DIVERGED, "^")):
        chosen = [trial for trial in report.trials if trial.state is state and trial.history]
        if chosen:
            axes.scatter(
                [position(trial) for trial in chosen],
                [_drawn_loss(trial) for trial in chosen],
                marker=marker,
                color=STATES_COLOURS[state],
                s=26,
                linewidths=1.2 if marker == "x" else 0,
                alpha=0.9 if state is TrialState.COMPLETE else 0.6,
                label=str(state) if named else None,
                zorder=2,
            )
    axes.scatter([position(report.best)], [_drawn_loss(report.best)], s=110, facecolors="none", edgecolors=ORANGE,
                 linewidths=1.8, zorder=3, label="best" if named else None)  # fmt: skip


def _style_losses(axes: "Axes", *, x: str, y: str, marked: Sequence[int] = (1, 2, 3, 5, 7)) -> None:
    """Style axes with a logarithmic scale of losses, with labels at `marked` times each power of ten."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    style(axes, x=x, y=y)
    axes.yaxis.set_major_locator(LogLocator(subs=marked, numticks=12))
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.tick_params(which="minor", length=0)
    axes.margins(0.06, 0.1)


def importances_figure(report: StudyReport) -> bytes:
    """Return a PNG of the share of the variance of the loss that each setting explains."""
    names = [*report.shares][::-1]
    with figure(7, 0.9 + 0.34 * len(names)) as drawn:
        axes = drawn.add_subplot()
        shares = [report.shares[name] for name in names]
        bars = axes.barh([short_name(name) for name in names], shares, color=BLUE, height=0.62)
        axes.bar_label(bars, [f"{share:.0%}" for share in shares], padding=5, fontsize=9, color=INK)
        style(axes, x="share of the variance of the loss", grid=False)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
        axes.set_xlim(0, 1.12 * max(shares))
        return as_png(drawn)


def slices_figure(report: StudyReport) -> bytes:
    """Return a PNG of the loss against each setting, with one panel per setting."""
    rows = math.ceil(len(report.space) / COLUMNS)
    with figure(7, 0.3 + 2.0 * rows) as drawn:
        panels = drawn.subplots(rows, COLUMNS, sharey=True, squeeze=False).ravel()
        for place, name in enumerate(report.space):
            _draw_slice(panels[place], report, name, label="" if place % COLUMNS else LOSS)
        for axes in panels[len(report.space) :]:
            axes.set_visible(False)
        return as_png(drawn)


def _draw_slice(axes: "Axes", report: StudyReport, name: str, *, label: str) -> None:
    dimension = report.space[name]
    _draw_points(axes, report, lambda trial: axis_position(dimension, trial.values[name]), named=False)
    _style_losses(axes, x=short_name(name), y=label, marked=(1, 3))
    _scale(axes, dimension)


def axis_position(dimension: Dimension, value: Any) -> float:
    """Return the position of a value on its axis: the number itself, or the index of a choice (-1 if it is unknown)."""
    if isinstance(dimension, Range):
        return float(value)
    return float(dimension.position(value)) if dimension.contains(value) else -1.0


def _scale(axes: "Axes", dimension: Dimension) -> None:
    if not isinstance(dimension, Range):
        axes.set_xticks(range(len(dimension.choices)), [in_words(choice) for choice in dimension.choices])
        axes.set_xlim(-0.5, len(dimension.choices) - 0.5)
    elif dimension.log:
        from matplotlib.ticker import NullFormatter

        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.tick_params(which="minor", length=0)
    else:
        axes.locator_params(axis="x", nbins=5)
    if isinstance(dimension, Range):
        _show_whole(axes, dimension)


def _show_whole(axes: "Axes", dimension: Range) -> None:
    """Extend the axis to the whole range; values outside it, which trial 0 may have, stay visible."""
    axes.update_datalim([(end, LEAST_LOSS) for end in (dimension.low, dimension.high)], updatey=False)
    axes.autoscale_view(scaley=False)


def parallel_figure(report: StudyReport) -> bytes:
    """Return a PNG with one line per complete trial through its settings, darker for a lower loss."""
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("rank", [BLUE, PALE_BLUE])
    best_first = ranked(report.trials)
    with figure(7, 3.9) as drawn:
        axes = drawn.add_subplot()
        for rank, trial in reversed([*enumerate(best_first)]):
            heights = [axis_height(dimension, trial.values[name]) for name, dimension in report.space.items()]
            if trial is report.best:
                axes.plot(heights, color=ORANGE, linewidth=2.2, clip_on=False, zorder=3)
            else:
                axes.plot(heights, color=colours(rank / len(best_first)), linewidth=1.3, clip_on=False, zorder=2)
        _draw_rails(axes, report.space)
        return as_png(drawn)


def axis_height(dimension: Dimension, value: Any) -> float:
    """Return the height of a value on its axis: 0 to 1 within the search space, slightly beyond that outside it."""
    if not isinstance(dimension, Range):
        return (axis_position(dimension, value) + 0.5) / len(dimension.choices)
    measure = _logarithm if dimension.log else float
    low, high = measure(dimension.low), measure(dimension.high)
    return min(1.08, max(-0.08, (measure(value) - low) / (high - low)))


def _logarithm(value: float) -> float:
    return math.log(max(value, 1e-12))


def _draw_rails(axes: "Axes", space: Space) -> None:
    """Draw a vertical axis for each setting, labelled with the limits of its range or its choices."""
    style(axes, grid=False)
    axes.set(xlim=(-0.35, len(space) - 0.65), ylim=(-0.1, 1.12), yticks=[])
    axes.set_xticks(range(len(space)), [short_name(name).replace(" ", "\n") for name in space], color=INK)
    for place, dimension in enumerate(space.values()):
        axes.axvline(place, color=FAINT, linewidth=1.2, zorder=1)
        for value in _marked(dimension):
            axes.annotate(
                in_words(value),
                (place, axis_height(dimension, value)),
                (4, 4),
                textcoords="offset points",
                fontsize=8,
                color=MUTED,
                zorder=4,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.8},
            )


def _marked(dimension: Dimension) -> Sequence[Any]:
    return (dimension.low, dimension.high) if isinstance(dimension, Range) else dimension.choices


def curves_figure(report: StudyReport) -> bytes:
    """Return a PNG of the loss of each trial over its epochs; curves of pruned and diverged trials end in a cross."""
    with figure(7, 3.6) as drawn:
        axes = drawn.add_subplot()
        for trial in report.trials:
            if trial.history and trial is not report.best:
                _draw_curve(
                    axes, trial, STATES_COLOURS[trial.state], 0.45 if trial.state is TrialState.COMPLETE else 0.6
                )
        _draw_curve(axes, report.best, ORANGE, 1, linewidth=2.2)
        _style_losses(axes, x="epoch", y=LOSS)
        axes.locator_params(axis="x", integer=True, nbins=10, min_n_ticks=1)
        _legend_above(axes, handles=_curve_legend(report))
        return as_png(drawn)


def _draw_curve(axes: "Axes", trial: Trial, colour: str, alpha: float, linewidth: float = 1.2) -> None:
    losses = [max(loss, LEAST_LOSS) for loss in trial.losses]
    line = "-" if trial.state is TrialState.COMPLETE else (0, (3, 2))
    marker = "o" if len(losses) == 1 and trial.state is TrialState.COMPLETE else None
    axes.plot(range(1, len(losses) + 1), losses, color=colour, alpha=alpha, linewidth=linewidth, linestyle=line,
              marker=marker, markersize=4)  # fmt: skip
    if trial.state in (TrialState.PRUNED, TrialState.DIVERGED):
        axes.plot([len(losses)], losses[-1:], color=colour, marker="x", markersize=6)


def _curve_legend(report: StudyReport) -> list[Any]:
    from matplotlib.lines import Line2D

    kinds: list[tuple[str, dict[str, Any], int]] = [
        (f"best: trial {report.best.number}", {"color": ORANGE, "linewidth": 2.2}, 1),
        ("complete", {"color": BLUE, "alpha": 0.45}, len(report.complete) - 1),
        ("stopped early", {"color": MUTED, "linestyle": (0, (3, 2)), "marker": "x"}, len(_stopped_early(report))),
    ]
    return [Line2D([], [], label=label, **looks) for label, looks, is_there in kinds if is_there]


def _stopped_early(report: StudyReport) -> list[Trial]:
    return [trial for trial in report.trials if trial.state in (TrialState.PRUNED, TrialState.DIVERGED)]


# --- words -----------------------------------------------------------------------------------------------------------


def short_name(name: str) -> str:
    """Return the last part of a hyperparameter's dotted name, with spaces: `learning rate`."""
    return name.rpartition(".")[2].replace("_", " ")


def values_text(values: Values) -> str:
    """Return the values of a trial in words: `learning rate 0.004, dropout 0.2`."""
    return ", ".join(f"{short_name(name)} {value_text(value)}" for name, value in values.items())


def value_text(value: Any) -> str:
    """Return a value in words, numbers with three significant digits."""
    return f"{value:.3g}" if isinstance(value, float) else in_words(value)


def trial_rows(trials: Sequence[Trial]) -> list[dict[str, str]]:
    """Return one row per trial, with one column per setting."""
    return [
        {
            "trial": str(trial.number),
            "state": str(trial.state),
            "validation loss": "" if trial.loss is None else f"{trial.loss:.4f}",
            "accuracy": f"{trial.history[-1]['validation_accuracy']:.2%}" if trial.history else "",
            "epochs": str(len(trial.history)),
            "seconds": f"{trial.seconds:.0f}",
            **{short_name(name): value_text(value) for name, value in trial.values.items()},
        }
        for trial in trials
    ]


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the complete trials, the best first."""
    return sorted(
        (trial for trial in trials if trial.state is TrialState.COMPLETE), key=lambda trial: (trial.loss, trial.number)
    )


def _table(rows: Sequence[Mapping[str, str]]) -> Table:
    return list(rows[0]), [list(row.values()) for row in rows]


def best_rows(trials: Sequence[Trial], count: int) -> list[dict[str, str]]:
    """Return one row for each of the `count` best trials, without the columns that differ only for other trials."""
    rows = trial_rows(ranked(trials)[:count])
    return [{name: value for name, value in row.items() if name not in ("state", "epochs", "seconds")} for row in rows]


def _headlines(report: StudyReport) -> dict[str, str]:
    return {
        "validation loss": f"{report.best.loss:.4f}",
        "validation accuracy": f"{report.best.history[-1]['validation_accuracy']:.2%}",
        "trials": str(len(report.trials)),
        "stopped early": str(len(_stopped_early(report))),
    }


def _facts(report: StudyReport) -> dict[str, Any]:
    changed = {short_name(name): _change(report, name) for name in report.space}
    return {"study": report.name, "best trial": report.best.number, **changed}


def _change(report: StudyReport, name: str) -> str:
    best = value_text(report.best.values[name])
    was = value_text(report.first.values[name]) if report.first else best
    return best if best == was else f"{best} (was {was})"


def findings(report: StudyReport) -> list[str]:
    """Return what the search found, and how reliable it is, as sentences."""
    accuracy = report.best.history[-1]["validation_accuracy"]
    chance = NOISE_LIMIT * math.sqrt(max(accuracy * (1 - accuracy), 0) / report.validation_images)
    comparison = (
        "The loss is the cross-entropy on the validation images after temperature scaling, so it does not depend on "
        "label smoothing or on the loss function."
    )
    reliability = (
        f"With {report.validation_images:,} validation images, an accuracy is known to about {100 * chance:.1f} "
        "points. The best of many trials looks better than it is, because it was selected. The search does not use the "
        "test images, so the accuracy on them is not distorted."
    )
    return [*_gain(report), comparison, reliability]


def _gain(report: StudyReport) -> list[str]:
    if report.first is None:
        return []
    if report.best.number == 0:
        return ["No trial was better than the initial settings."]
    then, now = report.first, report.best
    accuracies = " and ".join(f"{trial.history[-1]['validation_accuracy']:.2%}" for trial in (now, then))
    losses = f"a validation loss of {now.loss:.4f}, the initial settings {then.loss:.4f}"
    return [f"Trial {now.number} has {losses}. The accuracies are {accuracies}."]


def _describe_importances(report: StudyReport) -> str:
    largest = short_name(next(iter(report.shares)))
    return (
        f"fANOVA over {len(report.complete)} complete trials: {largest} explains the largest share. With few trials, "
        "the shares are rough estimates."
    )


_CAPTIONS: Mapping[str, Callable[[StudyReport], str]] = {
    HISTORY: lambda report: (
        f"{count(len(report.trials), 'trial')} in order; trial 0 has the initial settings. Crosses are trials that "
        "were stopped early, with the loss they had then."
    ),
    IMPORTANCES: _describe_importances,
    SLICES: lambda _: "One point per trial. Crosses are trials that were stopped early, the ring marks the best trial.",
    PARALLEL: lambda report: (
        f"One line for each of {len(report.complete)} complete trials, darker for a lower loss. The best one, trial "
        f"{report.best.number}, is orange."
    ),
    CURVES: lambda report: f"Stopped early: {len(_stopped_early(report))} of {count(len(report.trials), 'trial')}.",
}


# --- pages -----------------------------------------------------------------------------------------------------------


def as_html(report: StudyReport, pictures: Mapping[str, bytes]) -> str:
    """Return the report as a web page without references to other files."""
    body = [
        html_table(facts_table(_facts(report)), "facts"),
        *html_findings(findings(report)),
        *(html_figure(title, picture, _CAPTIONS[title](report)) for title, picture in pictures.items()),
        "<h2>Best trials</h2>",
        html_table(_table(best_rows(report.trials, BEST_SHOWN)), "numbers wide"),
        "<h2>Details</h2>",
        html_details("Each trial", html_table(_table(trial_rows(report.trials)), "numbers wide")),
        html_details("Search space", html_table(facts_table(_space_facts(report.space)), "facts")),
        html_details("Initial settings", html_table(facts_table(report.run.model_dump(mode="json")), "facts")),
    ]
    return html_page(report.title, _headlines(report), body)


def as_markdown(report: StudyReport, pictures: Mapping[str, bytes]) -> str:
    """Return the report as markdown for a Prefect artifact, with the pictures as data URIs."""
    parts = [
        f"# {markdown_text(report.title)}",
        markdown_table(facts_table({**_headlines(report), **_facts(report)})),
        "## Findings",
        markdown_list(findings(report)),
        *(
            part
            for title, picture in pictures.items()
            for part in markdown_figure(title, picture, _CAPTIONS[title](report))
        ),
        "## Best trials",
        markdown_table(_table(best_rows(report.trials, BEST_SHOWN))),
        "## Search space",
        markdown_table(facts_table(_space_facts(report.space))),
    ]
    return "\n\n".join(parts) + "\n"


def _space_facts(space: Space) -> dict[str, str]:
    return {name: _dimension_text(dimension) for name, dimension in space.items()}


def _dimension_text(dimension: Dimension) -> str:
    if isinstance(dimension, Range):
        return f"{value_text(dimension.low)} to {value_text(dimension.high)}{', logarithmic' if dimension.log else ''}"
    return "; ".join(map(value_text, dimension.choices))
