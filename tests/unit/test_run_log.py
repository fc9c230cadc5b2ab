"""Tests of the final messages and the log lines of flow runs."""

from dataclasses import replace
from pathlib import Path

import pytest

from digits import run_log
from digits.maintenance.retention import Removed
from digits.model.onnx_model import OnnxModel
from digits.outputs.summary import Failure, LeastCertain
from digits.pipeline.champion import Outcome
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Range, Trial, TrialState
from digits.pipeline.study import Study, TuningResult
from digits.prediction.plan import IncrementalRows, Options, Plan, ReplacedRows
from digits.store.artifacts import ArtifactRef, Store
from digits.store.registry import ModelFacts, Promotion
from tests.support.summaries import EMPTY

TABLE = Path("/root/predictions.csv")
SUMMARY = replace(
    EMPTY,
    out=TABLE,
    images=1_204,
    seconds=3.21,
    images_per_second=374.6,
    predictions={"0": 1_000, "1": 200},
    statuses={"ok": 1_190, "uncertain": 9, "not-a-digit": 1, "not-an-image": 3, "timeout": 1},
    failures=(Failure("a.png", "not-an-image", "it begins like text"), Failure("b.png", "timeout", "10 s")),
    least_certain=(LeastCertain("c.png", "7", 0.4),),
)
PERFECT = replace(SUMMARY, statuses={"ok": 1_204}, failures=(), least_certain=())
PLAN = Plan(
    path=Path("/artifacts/work/0"),
    source=Path("/scans"),
    archive=None,
    out=TABLE,
    model=OnnxModel(Path("/model.onnx"), ("0", "1"), (28, 28), 7, "0" * 64),
    options=Options("auto", probabilities=False, top_k=1, max_pixels=1, max_bytes=1, max_seconds=1),
    offsets=(0, 1),
    shard_size=2_000,
    images=4,
    skipped={},
)
FACTS = ModelFacts(
    train_images=54_000,
    test_images=10_200,
    test_sets={"mnist": 0.99, "reviewed": 0.9},
    accuracy=0.9882,
    own_images=800,
)
OUTCOME = Outcome(8, 8, FACTS, Path("/root/report.html"), ("It is better on mnist.",), new=True, promoted=True)


def test_the_message_counts_the_images_that_could_not_be_read_and_ends_with_the_table() -> None:
    message = run_log.prediction_message(SUMMARY)
    assert message == "1,204 images, of which 4 could not be read, are in /root/predictions.csv"


def test_without_failures_the_message_does_not_mention_them() -> None:
    assert run_log.prediction_message(PERFECT) == "1,204 images are in /root/predictions.csv"


def test_the_message_counts_the_images_on_which_a_second_version_differs() -> None:
    compared = replace(PERFECT, shadow={"version": 8, "differing": 1_002, "table": "/root/shadow.csv"})
    assert run_log.prediction_message(compared).endswith("; version 8 differs on 1,002, which are in /root/shadow.csv")


def test_the_plan_states_what_was_found_and_skipped() -> None:
    assert run_log.plan_line(PLAN) == "found 4 images in /scans"
    skipped = replace(PLAN, skipped={"hidden": 2, "link": 1})
    assert run_log.plan_line(skipped) == "found 4 images in /scans; 1 link was not followed; 2 hidden was skipped"


def test_the_plan_of_an_inbox_states_what_is_new_and_what_is_reused() -> None:
    rows = IncrementalRows(1_000, 996, False, 2_000, "", "", Path("/ledgers"), 0, ())
    assert run_log.plan_line(replace(PLAN, former=rows)) == (
        "found 1,000 images in /scans: 4 new or changed; 996 rows are reused from /root/predictions.csv"
    )


def test_the_plan_of_a_replacement_states_which_rows_are_kept() -> None:
    rows = ReplacedRows(1_000, 996, 2_000, "", "", "")
    assert ": 4 of the version to replace; 996 rows are reused" in run_log.plan_line(replace(PLAN, former=rows))


@pytest.mark.parametrize(("workers", "end"), [(1, "1 process"), (4, "4 processes")])
def test_the_model_and_the_number_of_processes_are_named(workers: int, end: str) -> None:
    assert run_log.workers_line(PLAN, workers) == f"predicting 4 images with model version 7 in {end}"


def test_the_result_states_rate_counts_and_places() -> None:
    assert run_log.prediction_lines(SUMMARY) == [
        "predicted 1,204 images in 3.2 s, 375 per second",
        "images by status: ok: 1,190, uncertain: 9, not-a-digit: 1, not-an-image: 3, timeout: 1",
        "images by class: 0: 1,000, 1: 200",
        "the table is /root/predictions.csv",
        "the least certain images are drawn in /root/predictions.least-certain.png",
    ]


def test_the_result_states_what_was_reused_and_how_many_images_have_several_pages() -> None:
    resumed = replace(PERFECT, reused=1_000, unchanged=4, more_frames=2)
    first, *others = run_log.prediction_lines(resumed)
    assert first == ("predicted 200 images in 3.2 s, 375 per second; 1,000 were predicted by an interrupted run")
    assert "only the first frame or page was read of 2 images that have several" in others
    assert not any("least certain" in line for line in others)


def test_failures_are_counted_and_the_first_are_named_with_the_reason() -> None:
    assert run_log.failure_line(SUMMARY) == (
        "4 of 1,204 images could not be read: a.png (not-an-image: it begins like text), b.png (timeout: 10 s) "
        "and 2 more"
    )
    assert run_log.failure_line(PERFECT) is None


def test_the_message_without_a_champion_names_the_inbox_and_the_remedy() -> None:
    message = run_log.no_champion_message(Path("/root/inbox"))
    assert message.startswith("there is no champion yet, so nothing in /root/inbox was predicted; train a model")


def test_the_first_line_names_the_network_and_the_datasets() -> None:
    run = TrainingRun(datasets=("mnist", "/data/mine")).resolved()
    assert run_log.training_line(run) == "training compact on mnist + mine with preset default, 19 epochs"


def test_the_outcome_states_accuracy_decision_and_report() -> None:
    assert run_log.outcome_lines(OUTCOME) == [
        "model version 8 was trained on 54,000 images, of which 800 are reviewed ones",
        "accuracy: 98.82% on 10,200 test images",
        "accuracy by test set: mnist: 99.00%, reviewed: 90.00%",
        "promoted to champion: It is better on mnist.",
        "the report is /root/report.html",
    ]


def test_a_refusal_names_the_reasons_and_the_champion() -> None:
    lines = run_log.outcome_lines(replace(OUTCOME, promoted=False, champion=3))
    assert lines[-3:-1] == ["not promoted: It is better on mnist.", "the champion is version 3"]
    alone = run_log.outcome_lines(replace(OUTCOME, promoted=False, champion=None))
    assert not any("champion is" in line for line in alone)


def test_warnings_about_the_dataset_precede_the_report() -> None:
    lines = run_log.outcome_lines(replace(OUTCOME, warnings=("no class for the digit 4",)))
    assert lines[-2:] == ["warning: no class for the digit 4", "the report is /root/report.html"]


def test_a_run_without_changes_states_that() -> None:
    unchanged = replace(OUTCOME, new=False, promoted=False, reasons=("Nothing changed.",), facts=ModelFacts())
    assert run_log.outcome_lines(unchanged) == [
        "Nothing changed.",
        "the champion is version 8",
        "the report is /root/report.html",
    ]


def test_a_rollback_names_the_champion_and_how_its_rows_are_replaced() -> None:
    lines = run_log.rollback_lines(Promotion(3, "rollback", 1, ("rolled back from version 2", "by mistake")))
    assert lines[0] == "version 1 is the champion now: rolled back from version 2, by mistake"
    assert "--replace-version" in lines[1]


def test_a_study_states_what_it_searches_and_which_trials_exist(tmp_path: Path) -> None:
    space = {"training.learning_rate": Range(low=1e-6, high=1e-2, log=True)}
    study = Study(Store(tmp_path), TrainingRun().resolved(), space, ArtifactRef("arrays", "0" * 64), 0)
    study.path.mkdir(parents=True)
    assert run_log.study_line(study).endswith(" searches training.learning_rate; trials of earlier runs: none")
    for number, state in enumerate((TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE)):
        study.finish(Trial(number, {"training.learning_rate": 1e-3}, state))
    assert run_log.study_line(study).endswith("trials of earlier runs: complete: 2, pruned: 1")


def test_the_result_of_a_study_names_the_best_trial_and_the_file_of_its_settings() -> None:
    history = ({"validation_calibrated_loss": 0.1, "validation_accuracy": 0.9},)
    best = Trial(1, {"training.learning_rate": 0.004}, TrialState.COMPLETE, history)
    pruned = replace(best, number=0, state=TrialState.PRUNED)
    tuned = TuningResult("abc", (pruned, best), best, TrainingRun(), Path("/best.toml"), Path("/report.html"))
    assert run_log.tuning_lines(tuned) == [
        "trials: complete: 1, pruned: 1",
        "trial 1 is the best: loss 0.1000, accuracy 90.00%, with learning rate 0.004",
        "its settings are in /best.toml",
        "the report is /report.html",
    ]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(1, [0]), (3, [0, 1, 2]), (10, [2, 5, 8, 9]), (20, [4, 9, 14, 19]), (100, [24, 49, 74, 99])],
)
def test_a_series_of_epochs_has_at_most_four_lines_and_that_of_the_last_one(count: int, shown: list[int]) -> None:
    assert [number for number in range(count) if run_log.is_part_shown(number, count)] == shown


def test_what_was_removed_is_counted_by_reason_and_named() -> None:
    removed = [Removed(f"work/{number}", 1_000_000, "left by a process that was killed") for number in range(5)]
    lines = run_log.cleaning_lines(["train mnist"], [*removed, Removed("model/1", 500_000, "unused")])
    assert lines == [
        "runs set to Crashed: 1: train mnist",
        "removed 6 files and directories, 5.5 MB",
        "reasons of removal: left by a process that was killed: 5, unused: 1",
        "removed: work/0, work/1, work/2 and 3 more",
    ]


def test_a_run_that_changes_nothing_has_two_lines() -> None:
    assert run_log.cleaning_lines([], []) == ["runs set to Crashed: 0", "removed 0 files and directories, 0.0 MB"]
