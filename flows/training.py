"""The training flow: from named datasets to a registered model and, if it is good enough, a new champion."""

from pathlib import Path

from prefect import flow

from digits.data.config import ArraysConfig
from digits.pipeline.champion import Outcome
from digits.pipeline.config import Preset, PromotionPolicy, TrainingRun
from digits.training.config import ModelConfig, TrainingConfig
from flows.runs import WATCHED, told
from tasks.reporting import publish_training, publish_versions
from tasks.training import (
    average_models,
    build_network,
    download_dataset,
    drop_empty_reviewed,
    evaluate_model,
    export_model,
    find_unchanged_run,
    preprocess,
    promote_model,
    register_model,
    report_model,
    starting_point,
    train_network,
)

DEFAULTS = TrainingRun()
LONGEST_SECONDS = 12 * 3600


def run_name() -> str:
    """Name a flow run after what it trains, such as `train mnist cnn 5 epochs`."""
    from prefect.runtime import flow_run

    values = flow_run.parameters
    known = {name: values[name] for name in ("datasets", "preset", "model", "training") if name in values}
    run = TrainingRun.model_validate(known).resolved()
    names = " + ".join(Path(dataset).name for dataset in run.datasets)
    return f"train {names} {run.model.architecture} {run.training.epochs} epochs"


@flow(
    name="train",
    flow_run_name=run_name,
    timeout_seconds=LONGEST_SECONDS,
    **WATCHED,
)
@told
def train(
    datasets: tuple[str, ...] = DEFAULTS.datasets,
    preset: Preset = DEFAULTS.preset,
    model: ModelConfig = DEFAULTS.model,
    training: TrainingConfig = DEFAULTS.training,
    arrays: ArraysConfig = DEFAULTS.arrays,
    promotion: PromotionPolicy = DEFAULTS.promotion,
    artifacts: Path | None = None,
) -> tuple[Outcome, str]:
    """Train a model, evaluate it, register it, and promote it to champion if it is better.

    When neither data, configuration nor code have changed since a run before, there is nothing to do. A step whose
    result is in the artifact store already is not run again.

    Args:
        datasets: What to train on: `mnist`, `mnist-sample`, `fashion-mnist`, `reviewed` (the labels that
            `digits review` has kept; beside others it may have none yet), or paths on the worker of an `.npz`, of a
            folder with IDX files, or of a folder of labelled images (`<root>/<class>/*.png`). Several are joined.
        preset: What fills the empty fields below: `default`, `quick` to train, or `best`.
        model: Which network, and its sizes. A network chosen here brings its own recommended values.
        training: How the weights are fitted. Empty fields take the recommended value.
        arrays: How the images are split, and when they must not be trained on.
        promotion: When the new model takes the champion's place.
        artifacts: The artifact root on the worker; empty: its `DIGITS_ARTIFACTS`, or `artifacts/` of the project.
    """
    run = TrainingRun(
        datasets=datasets, preset=preset, model=model, training=training, arrays=arrays, promotion=promotion
    ).resolved()
    run = drop_empty_reviewed(run, artifacts)
    if standing := find_unchanged_run(run, artifacts):
        return standing, " ".join(standing.reasons)
    sources = [download_dataset(source, run.arrays.normalize, artifacts) for source in run.datasets]
    prepared = preprocess(sources, run.arrays, artifacts)
    parent = starting_point(run.training, artifacts)
    networks = [build_network(prepared, run.model, member.seed, parent, artifacts) for member in run.members()]
    members = [train_network(one, prepared, how, artifacts) for one, how in zip(networks, run.members(), strict=True)]
    trained = average_models(members, prepared, run.training, artifacts)
    exported = export_model(trained, prepared, artifacts)
    evaluation = evaluate_model(exported, prepared, artifacts)
    report = report_model(evaluation, artifacts)
    version, new = register_model(evaluation, report, artifacts)
    outcome = promote_model(version, new, prepared, run, artifacts)
    publish_training(outcome, prepared, artifacts)
    publish_versions(artifacts)
    return outcome, f"model version {outcome.version}: {' '.join(outcome.reasons)}"
