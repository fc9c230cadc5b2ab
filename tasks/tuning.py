"""Tasks of tuning: create or find a study, run its trials one after the other, and publish the result."""

from pathlib import Path

from prefect import State, task
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.states import Completed

from digits.pipeline import study as study_module
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Dimension, Trial, TrialState
from digits.pipeline.study import Budget, Study, TuningResult
from digits.pipeline.study_report import trial_rows, values_text
from digits.run_log import study_line, tuning_lines
from digits.store import written
from digits.store.artifacts import ArtifactRef
from tasks.edge import artifact_key, log_lines, log_to_run, open_store, progress_for
from tasks.reporting import BACKOFF, RETRIES


def require_own_file(out: Path, root: Path | None) -> None:
    """Check, before the search, that the configuration file overwrites no file that Digits did not write."""
    written.require_own_file(open_store(root), out)


@task(name="study", task_run_name="begin or find the study", cache_policy=NO_CACHE)
def begin_study(
    run: TrainingRun, space: dict[str, Dimension] | None, arrays: ArtifactRef, seed: int, root: Path | None
) -> Study:
    """Return the study with these settings, data, search space and seed; create it if it does not exist."""
    study = study_module.begin_study(open_store(root), run, space, arrays, seed=seed)
    log_lines([study_line(study)])
    return study


def run_trials(study: Study, trials: int, minutes: float | None) -> None:
    """Run one task per trial, until the study has enough trials or the time budget is spent.

    Args:
        study: study to work on; unfinished trials of killed processes are resumed first.
        trials: total number of trials, including earlier runs.
        minutes: time budget in minutes; None for no limit.
    """
    budget = Budget.starting_now(trials, minutes)
    while not budget.is_spent:
        with study.claim_trial(trials) as trial:
            if trial is None:
                return
            run_trial(study, trial, budget)


def trial_name() -> str:
    """Return the name of a task run with the settings of its trial: `trial 7: learning rate 0.004, dropout 0.2`."""
    from prefect.runtime import task_run

    trial: Trial = task_run.parameters["trial"]
    return f"trial {trial.number}: {values_text(trial.values)}"


@task(name="trial", task_run_name=trial_name, cache_policy=NO_CACHE)
def run_trial(study: Study, trial: Trial, budget: Budget) -> State[Trial]:
    """Train the network of a trial, or resume its training; the final state of the task shows how the trial ended."""
    log_to_run()
    ended = study_module.run_trial(study, trial, budget, progress_for("tuning-progress", study.store.root))
    name = None if ended.state is TrialState.COMPLETE else str(ended.state).capitalize()
    return Completed(name=name, message=study_module.describe_trial(ended), data=ended)


@task(name="conclude", task_run_name="write the best settings and the report", cache_policy=NO_CACHE)
def conclude_study(study: Study, out: Path | None, force: bool) -> TuningResult:
    """Write the best settings to a configuration file, and write the report of the study."""
    tuned = study_module.conclude_study(study, out, force=force)
    log_lines(tuning_lines(tuned))
    return tuned


@task(
    name="publish study",
    task_run_name="publish study",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
)
def publish_study(tuned: TuningResult, root: Path | None) -> None:
    """Publish the report of a study and the table of its trials as Prefect artifacts."""
    report = tuned.report.with_suffix(".md").read_text("utf-8")
    create_markdown_artifact(report, key=artifact_key("study-report", root), description=f"Study {tuned.study}")
    create_table_artifact(
        trial_rows(tuned.trials), key=artifact_key("trials", root), description=f"Trials of study {tuned.study}"
    )
