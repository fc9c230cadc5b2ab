"""The Prefect steps of tuning: a study, its trials one after the other, what came of it."""

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
from digits.store.artifacts import ArtifactRef
from tasks.edge import log_to_run, open_store, progress_for
from tasks.reporting import BACKOFF, RETRIES

__all__ = ["TuningResult", "begin_study", "conclude_study", "publish_study", "run_trials"]


@task(name="study", task_run_name="begin or find the study", cache_policy=NO_CACHE)
def begin_study(
    run: TrainingRun, space: dict[str, Dimension] | None, arrays: ArtifactRef, seed: int, root: Path | None
) -> Study:
    """Find the study of the same settings, data, space and seed, with its trials; or begin it."""
    return study_module.begin_study(open_store(root), run, space, arrays, seed=seed)


def run_trials(study: Study, trials: int, minutes: float | None) -> None:
    """Run a task a trial until the study has enough, or the time is over.

    Args:
        study: trials that a dead process has left are finished first.
        trials: that the study is to have.
        minutes: after which no epoch is begun; None: as long as it takes.
    """
    budget = Budget.starting_now(trials, minutes)
    while not budget.is_spent:
        with study.claim_trial(trials) as trial:
            if trial is None:
                return
            run_trial(study, trial, budget)


def trial_name() -> str:
    """Name a task after what is tried: `trial 7: learning rate 0.004, dropout 0.2`."""
    from prefect.runtime import task_run

    trial: Trial = task_run.parameters["trial"]
    return f"trial {trial.number}: {values_text(trial.values)}"


@task(name="trial", task_run_name=trial_name, cache_policy=NO_CACHE)
def run_trial(study: Study, trial: Trial, budget: Budget) -> State[Trial]:
    """Fit a trial's network, or go on with it; the state of the task says how it ended."""
    log_to_run()
    ended = study_module.run_trial(study, trial, budget, progress_for("tuning-progress"))
    name = None if ended.state is TrialState.COMPLETE else str(ended.state).capitalize()
    return Completed(name=name, message=study_module.describe_trial(ended), data=ended)


@task(name="conclude", task_run_name="write the best settings and the report", cache_policy=NO_CACHE)
def conclude_study(study: Study, out: Path | None) -> TuningResult:
    """Write the best settings as a configuration file, and the study's report."""
    log_to_run()
    return study_module.conclude_study(study, out)


@task(
    name="publish study",
    task_run_name="publish study",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACKOFF,
)
def publish_study(tuned: TuningResult) -> None:
    """Put the study's report and the table of its trials where the UI shows them."""
    report = tuned.report.with_suffix(".md").read_text("utf-8")
    create_markdown_artifact(report, key="study-report", description=f"Study {tuned.study}")
    create_table_artifact(trial_rows(tuned.trials), key="trials", description=f"Trials of study {tuned.study}")
