"""Log of runs: the final messages of flow runs, and the lines of their logs, as sentences.

The log of a run tells in about ten lines what was found, what was reused, what the result is, what failed and why, and
where the table or the report is.
"""

from collections import Counter
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from digits.outputs.skipped import describe_nothing, describe_skipped
from digits.outputs.summary import PredictionSummary, count_failures, first_frames_line, join_counts, picture_path
from digits.prediction.plan import IncrementalRows, Plan
from digits.wording import FILES_OR_DIRECTORIES, count

if TYPE_CHECKING:
    from digits.maintenance.retention import Removed
    from digits.pipeline.champion import Outcome
    from digits.pipeline.config import TrainingRun
    from digits.pipeline.study import Study, TuningResult
    from digits.store.registry import Promotion

SHOWN = 3
"""Largest number of failed images or removed files that one line names."""
PARTS_SHOWN = 4
"""Largest number of lines about the parts of a series, such as the epochs of a training."""


def join_some(names: Sequence[str], count: int | None = None) -> str:
    """Return the first names as one line, and the number of the others: `a.png, b.png, c.png and 4 more`.

    Args:
        names: names, of which only the first `SHOWN` are used.
        count: number of all names, if `names` has only some of them.
    """
    more = (len(names) if count is None else count) - len(names[:SHOWN])
    return ", ".join(names[:SHOWN]) + (f" and {more:,} more" if more > 0 else "")


def is_part_shown(number: int, count: int) -> bool:
    """Return whether the end of a part of a series has a line in the log: at most `PARTS_SHOWN`, and the last one.

    Args:
        number: position of the part, counted from 0.
        count: number of parts.
    """
    return number + 1 == count or (number + 1) % -(-count // PARTS_SHOWN) == 0


def no_champion_message(inbox: Path) -> str:
    """Return the final message of a run that predicts nothing, because no model was promoted yet."""
    return (
        f"there is no champion yet, so nothing in {inbox} was predicted; train a model with the deployment "
        "train/nightly or `digits train`"
    )


def prediction_message(summary: PredictionSummary) -> str:
    """Return the final message of a prediction: the number of images, how many failed, and the path of the table."""
    failed = count_failures(summary.statuses)
    without = f", of which {failed:,} could not be read," if failed else ""
    if not summary.images:
        return f"{describe_nothing(summary.skipped)}; the empty table is {summary.out}"
    images = count(summary.images, f"image{without} is", f"images{without} are")
    message = f"{images} in {summary.out}"
    if shadow := summary.shadow:
        message += f"; version {shadow['version']} differs on {shadow['differing']:,}, which are in {shadow['table']}"
    return message


def plan_line(plan: Plan) -> str:
    """Return what was found in a folder, and which of its rows are reused from an earlier table."""
    line = f"found {count(plan.rows, 'image')} in {plan.source}"
    if former := plan.former:
        kind = "new or changed" if isinstance(former, IncrementalRows) else "of the version to replace"
        line += f": {plan.images:,} {kind}; {count(former.unchanged, 'row is', 'rows are')} reused from {plan.out}"
    return line + (f"; {skipped}" if (skipped := describe_skipped(plan.skipped)) else "")


def workers_line(plan: Plan, workers: int) -> str:
    """Return which model predicts, and in how many processes."""
    images, processes = count(plan.images, "image"), count(workers, "process", "processes")
    return f"predicting {images} with model version {plan.model.version} in {processes}"


def prediction_lines(summary: PredictionSummary) -> list[str]:
    """Return the result of a prediction: what was reused, counts, and places."""
    done = summary.images - summary.reused - summary.unchanged
    rate = f"{summary.images_per_second:,.0f} per second"
    reused = f"; {count(summary.reused, 'was', 'were')} predicted by an interrupted run" if summary.reused else ""
    return _applicable(
        (f"predicted {count(done, 'image')} in {summary.seconds:,.1f} s, {rate}{reused}", True),
        (f"images by status: {join_counts(summary.statuses)}", summary.statuses),
        (f"images by class: {join_counts(summary.predictions)}", summary.predictions),
        (first_frames_line(summary), summary.more_frames),
        (f"the table is {summary.out}", True),
        (f"the least certain images are drawn in {picture_path(summary.out)}", summary.least_certain),
    )


def failure_line(summary: PredictionSummary) -> str | None:
    """Return how many images could not be read, and the first of them with the reasons; None if there are none."""
    failed = count_failures(summary.statuses)
    if not failed:
        return None
    named = [f"{one.name} ({one.status}: {one.error})" for one in summary.failures]
    return f"{failed:,} of {count(summary.images, 'image')} could not be read: {join_some(named, failed)}"


def training_line(run: "TrainingRun") -> str:
    """Return which network is trained on which datasets."""
    names = " + ".join(Path(name).name for name in run.datasets)
    epochs = count(run.training.epochs or 0, "epoch")
    return f"training {run.model.architecture} on {names} with preset {run.preset}, {epochs}"


def outcome_lines(outcome: "Outcome") -> list[str]:
    """Return the result of a training: accuracy, decision and report."""
    facts = outcome.facts
    own = f", of which {count(facts.own_images, 'is a reviewed one', 'are reviewed ones')}" if facts.own_images else ""
    sets = ", ".join(f"{name}: {accuracy:.2%}" for name, accuracy in facts.test_sets.items())
    verdict = "promoted to champion" if outcome.promoted else "not promoted"
    return _applicable(
        (
            f"model version {outcome.version} was trained on {count(facts.train_images, 'image')}{own}",
            facts.train_images,
        ),
        (f"accuracy: {facts.accuracy:.2%} on {count(facts.test_images, 'test image')}", not isnan(facts.accuracy)),
        (f"accuracy by test set: {sets}", len(facts.test_sets) > 1),
        (f"{verdict}: {' '.join(outcome.reasons)}", outcome.new or outcome.promoted),
        (" ".join(outcome.reasons), not (outcome.new or outcome.promoted)),
        (f"the champion is version {outcome.champion}", outcome.champion and not outcome.promoted),
        *((f"warning: {warning}", True) for warning in outcome.warnings),
        (f"the report is {outcome.report}", True),
    )


def rollback_lines(promotion: "Promotion") -> list[str]:
    """Return the result of a rollback: the champion, the reasons, and how the rows of the former one are replaced."""
    return [
        f"version {promotion.version} is the champion now: {', '.join(promotion.reasons)}",
        "tables keep their rows; `digits predict FOLDER --replace-version N` predicts those of version N again",
    ]


def study_line(study: "Study") -> str:
    """Return which settings a study searches, and the trials of earlier runs, which are reused."""
    so_far = join_counts(Counter(str(trial.state) for trial in study.trials())) or "none"
    return f"study {study.name} searches {', '.join(study.space)}; trials of earlier runs: {so_far}"


def tuning_lines(tuned: "TuningResult") -> list[str]:
    """Return the result of a study: counts, the best trial, and places."""
    from digits.pipeline.study import describe_trial
    from digits.pipeline.study_report import values_text

    return [
        f"trials: {join_counts(tuned.counts())}",
        f"trial {tuned.best.number} is the best: {describe_trial(tuned.best)}, with {values_text(tuned.best.values)}",
        f"its settings are in {tuned.config}",
        f"the report is {tuned.report}",
    ]


def cleaning_lines(crashed: Sequence[str], removed: "Sequence[Removed]") -> list[str]:
    """Return what the janitor did.

    Args:
        crashed: names of the runs that were set to Crashed.
        removed: removed files and directories.
    """
    size = sum(one.bytes for one in removed) / 1e6
    return _applicable(
        (f"runs set to Crashed: {len(crashed):,}" + (f": {join_some(crashed)}" if crashed else ""), True),
        (f"removed {count(len(removed), *FILES_OR_DIRECTORIES)}, {size:,.1f} MB", True),
        (f"reasons of removal: {join_counts(Counter(one.reason for one in removed))}", removed),
        (f"removed: {join_some([one.path for one in removed])}", removed),
    )


def _applicable(*lines: tuple[str, object]) -> list[str]:
    """Return the lines whose second part is true."""
    return [line for line, applies in lines if applies]
