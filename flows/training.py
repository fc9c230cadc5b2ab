"""Training flow: from named datasets to a registered model and, if it beats the champion, a new champion."""

from pathlib import Path

from prefect import flow

from digits.data.config import ArraysConfig
from digits.pipeline.champion import Outcome
from digits.pipeline.config import Preset, PromotionPolicy, TrainingRun
from digits.run_log import outcome_lines, training_line
from digits.training.config import ModelConfig, TrainingConfig
from digits.wording import count
from flows.runs import HOOKS, with_final_message
from tasks.edge import log_lines
from tasks.reporting import publish_training, publish_versions
from tasks.training import (
    average_models,
    build_network,
    download_dataset,
    drop_empty_reviewed,
    evaluate_model,
    export_model,
    find_unchanged_run,
    prepare_arrays,
    promote_model,
    register_model,
    report_model,
    starting_point,
    train_network,
)

DEFAULTS = TrainingRun()
TIMEOUT_SECONDS = 12 * 3600


def run_name() -> str:
    """Return the name of a run, such as `train mnist cnn 5 epochs`."""
    from prefect.runtime import flow_run

    values = flow_run.parameters
    known = {name: values[name] for name in ("datasets", "preset", "model", "training") if name in values}
    run = TrainingRun.model_validate(known).resolved()
    names = " + ".join(Path(dataset).name for dataset in run.datasets)
    return f"train {names} {run.model.architecture} {count(run.training.epochs or 0, 'epoch')}"


@flow(
    name="train",
    flow_run_name=run_name,
    timeout_seconds=TIMEOUT_SECONDS,
    **HOOKS,
)
@with_final_message
def train(
    datasets: tuple[str, ...] = DEFAULTS.datasets,
    preset: Preset = DEFAULTS.preset,
    model: ModelConfig = DEFAULTS.model,
    training: TrainingConfig = DEFAULTS.training,
    arrays: ArraysConfig = DEFAULTS.arrays,
    promotion: PromotionPolicy = DEFAULTS.promotion,
    artifacts: Path | None = None,
) -> tuple[Outcome, str]:
    """Train a model, evaluate and register it, and promote it if it beats the champion.

    Nothing is done when data, configuration and code are unchanged since an earlier run. Steps whose result is in the
    artifact store are not repeated. Paths are those of the worker's machine.

    Args:
        datasets: Dataset to train on: `mnist`, `mnist-sample`, `fashion-mnist`, `reviewed` (the labels saved by
            `digits review`), or the path of an `.npz` file, of a folder with IDX files, or of a folder of labelled
            images (`<folder>/<class>/*.png`). Several datasets are joined.
        preset: Preset that supplies every option you do not set: `default` for images from any source; `quick` for
            images in MNIST's own form, trained in seconds; `best` for the average of three larger networks, which
            takes several times as long to train and to predict. If you choose an architecture, its defaults are used
            instead.
        model: Settings of the network: architecture and layer sizes.
        training: Settings of the training: epochs, optimizer, loss, augmentation and additional training images.
        arrays: Settings of the training data: normalization, split, and the limits that a dataset must meet.
        promotion: Limits that the model must meet to replace the champion.
        artifacts: Artifact root on the worker. Empty: the worker's `DIGITS_ARTIFACTS`, else `artifacts/` of the
            project.
    """
    run = TrainingRun(
        datasets=datasets, preset=preset, model=model, training=training, arrays=arrays, promotion=promotion
    ).resolved()
    run = drop_empty_reviewed(run, artifacts)
    log_lines([training_line(run)])
    if unchanged := find_unchanged_run(run, artifacts):
        log_lines(outcome_lines(unchanged))
        return unchanged, " ".join(unchanged.reasons)
    sources = [download_dataset(source, run.arrays.normalize, artifacts) for source in run.datasets]
    prepared = prepare_arrays(sources, run.arrays, artifacts)
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
    log_lines(outcome_lines(outcome))
    return outcome, f"model version {outcome.version}: {' '.join(outcome.reasons)}"
