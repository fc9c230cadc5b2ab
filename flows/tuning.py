"""The tuning flow: from named datasets and a search space to the best settings that were found within a budget."""

from pathlib import Path
from typing import Annotated

from prefect import flow
from pydantic import Field

from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Dimension
from flows.runs import WATCHED, told
from tasks.training import download_dataset, preprocess
from tasks.tuning import TuningResult, begin_study, conclude_study, publish_study, run_trials

LONGEST_SECONDS = 7 * 24 * 3600
TRIALS = 20


def run_name() -> str:
    """Name a flow run after what it tunes, such as `tune mnist-sample mlp 20 trials`."""
    from prefect.runtime import flow_run

    values = flow_run.parameters
    run = TrainingRun.model_validate(values.get("run", {})).resolved()
    names = " + ".join(Path(dataset).name for dataset in run.datasets)
    return f"tune {names} {run.model.architecture} {values.get('trials', TRIALS)} trials"


@flow(
    name="tune",
    flow_run_name=run_name,
    timeout_seconds=LONGEST_SECONDS,
    **WATCHED,
)
@told
def tune(
    run: TrainingRun = TrainingRun(),  # noqa: B008 - frozen
    space: dict[str, Dimension] | None = None,
    trials: Annotated[int, Field(ge=1, le=1000)] = TRIALS,
    minutes: Annotated[float, Field(gt=0)] | None = None,
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0,
    out: Path | None = None,
    artifacts: Path | None = None,
) -> tuple[TuningResult, str]:
    """Search hyperparameters with which a network has a lower loss on the validation images.

    The first trial has the settings as they are. A study of the same settings, data, space and seed goes on, also one
    that was killed; several runs may share one.

    Args:
        run: What is tuned, as the flow `train` has it.
        space: What is searched, by dotted names such as `training.learning_rate`; empty: what is worth it for the
            network.
        trials: How many the study is to have, those of earlier runs included.
        minutes: After which no epoch is begun.
        seed: Of the search; another one begins another study.
        out: The configuration file to write, on the worker; empty: `studies/<study>/best.toml` under the artifact root.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
    """
    run = run.resolved()
    sources = [download_dataset(source, run.arrays.normalize, artifacts) for source in run.datasets]
    prepared = preprocess(sources, run.arrays, artifacts)
    study = begin_study(run, space, prepared, seed, artifacts)
    run_trials(study, trials, minutes)
    tuned = conclude_study(study, out)
    publish_study(tuned)
    return tuned, f"trial {tuned.best.number} of {len(tuned.trials)} is the best; its settings are in {tuned.config}"
