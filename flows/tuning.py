"""Tuning flow: from named datasets and a search space to the best settings found within a budget."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Dimension
from digits.pipeline.study import TuningResult
from digits.wording import count
from flows.runs import HOOKS, with_final_message
from tasks.training import download_dataset, prepare_arrays
from tasks.tuning import begin_study, conclude_study, publish_study, require_own_file, run_trials

TIMEOUT_SECONDS = 7 * 24 * 3600
TRIALS = 20


def run_name() -> str:
    """Return the name of a run, such as `tune mnist-sample mlp 20 trials`."""
    from prefect.runtime import flow_run

    values = flow_run.parameters
    run = TrainingRun.model_validate(values.get("run", {})).resolved()
    names = " + ".join(Path(dataset).name for dataset in run.datasets)
    return f"tune {names} {run.model.architecture} {count(values.get('trials', TRIALS), 'trial')}"


@flow(
    name="tune",
    flow_run_name=run_name,
    timeout_seconds=TIMEOUT_SECONDS,
    **HOOKS,
)
@with_final_message
def tune(
    run: TrainingRun = TrainingRun(),  # noqa: B008 - frozen
    space: dict[str, Dimension] | None = None,
    trials: Annotated[int, Field(ge=1, le=1000)] = TRIALS,
    minutes: Annotated[float, Field(gt=0)] | None = None,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    out: Path | None = None,
    artifacts: Path | None = None,
    force: bool = False,
) -> tuple[TuningResult, str]:
    """Search for settings with a lower loss on the validation images, and write the best ones to a file.

    The first trial uses the settings as they are. A study with the same settings, data, search space and seed is
    resumed, even if its last run was killed, and several runs can work on it at once. Paths are those of the worker's
    machine.

    Args:
        run: Settings of the training runs, with which the search begins.
        space: Search space: a range or the choices for each setting, by dotted names such as
            `training.learning_rate`. Empty: the settings worth tuning for the network.
        trials: Total number of trials, including earlier runs.
        minutes: Time budget in minutes; no new epoch starts after it.
        seed: Random seed of the search. Another seed begins another study.
        out: Configuration file to write. Default: `studies/<study>/best.toml` under the artifact root.
        artifacts: Artifact root on the worker. Empty: the worker's `DIGITS_ARTIFACTS`, else `artifacts/` of the
            project.
        force: Overwrite the file even if Digits did not write it, or if it was changed since.
    """
    if out and not force:
        require_own_file(out, artifacts)
    run = run.resolved()
    sources = [download_dataset(source, run.arrays.normalize, artifacts) for source in run.datasets]
    prepared = prepare_arrays(sources, run.arrays, artifacts)
    study = begin_study(run, space, prepared, seed, artifacts)
    run_trials(study, trials, minutes)
    tuned = conclude_study(study, out, force)
    publish_study(tuned, artifacts)
    return tuned, f"trial {tuned.best.number} of {len(tuned.trials)} is the best; its settings are in {tuned.config}"
