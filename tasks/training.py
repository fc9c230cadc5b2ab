"""Tasks of training: each calls the pipeline step of the same name."""

from pathlib import Path
from typing import Any

from prefect import State, Task, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import deployment

from digits.data.config import ArraysConfig
from digits.errors import DownloadError
from digits.images.formats import Mode
from digits.pipeline import champion, steps
from digits.pipeline.champion import Outcome
from digits.pipeline.config import TrainingRun
from digits.store.artifacts import ArtifactRef
from digits.store.registry import ModelVersion
from digits.training.config import ModelConfig, TrainingConfig
from tasks.edge import open_store, progress_for, terminal_progress

RETRY_AFTER_SECONDS: list[float] = [60, 300, 900]
"""Waiting times between attempts to download a dataset: a mirror that is down is often available after 15 minutes."""


def _is_worth_retrying(task: Task[Any, Any], run: TaskRun, state: State[Any]) -> bool:  # noqa: ARG001 - called by Prefect
    """Check whether a download failed in a run of a deployment; a command is not retried, so that no user waits."""
    return deployment.id is not None and isinstance(state.result(raise_on_failure=False), DownloadError)


@task(name="check", task_run_name="check for changes", cache_policy=NO_CACHE)
def find_unchanged_run(run: TrainingRun, root: Path | None) -> Outcome | None:
    """Return the outcome of an earlier run with the same data, configuration and code, if there is one."""
    return champion.find_unchanged_run(open_store(root), run)


def drop_empty_reviewed(run: TrainingRun, root: Path | None) -> TrainingRun:
    """Return the run without the dataset `reviewed` if there are no labels yet and the run has other datasets."""
    return steps.drop_empty_reviewed(open_store(root), run)


@task(
    name="download",
    task_run_name="download {source}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_AFTER_SECONDS),
    retry_delay_seconds=RETRY_AFTER_SECONDS,
    retry_condition_fn=_is_worth_retrying,
)
def download_dataset(source: str, normalize: Mode, root: Path | None) -> ArtifactRef:
    """Download or read a dataset and store it; if all its routes fail, a run of a deployment retries later."""
    return steps.download_dataset(open_store(root), source, normalize=normalize, progress=terminal_progress())


@task(name="preprocess", task_run_name="preprocess", cache_policy=NO_CACHE)
def prepare_arrays(datasets: list[ArtifactRef], config: ArraysConfig, root: Path | None) -> ArtifactRef:
    """Check the images, split them into training, validation and test images, and store them as arrays."""
    return steps.prepare_arrays(open_store(root), datasets, config, progress=terminal_progress())


@task(name="start", task_run_name="start from {config.start}", cache_policy=NO_CACHE)
def starting_point(config: TrainingConfig, root: Path | None) -> ArtifactRef | None:
    """Return the model whose weights are the initial weights of the training; None for random weights."""
    return steps.starting_point(open_store(root), config)


@task(name="build", task_run_name="build {config.architecture}", cache_policy=NO_CACHE)
def build_network(
    arrays: ArtifactRef, config: ModelConfig, seed: int, parent: ArtifactRef | None, root: Path | None
) -> ArtifactRef:
    """Build the network, with random weights or those of the model `parent`."""
    return steps.build_network(open_store(root), arrays, config, seed=seed, parent=parent, progress=terminal_progress())


@task(name="train", task_run_name="train {config.epochs} epochs", cache_policy=NO_CACHE)
def train_network(network: ArtifactRef, arrays: ArtifactRef, config: TrainingConfig, root: Path | None) -> ArtifactRef:
    """Train the network, or resume the training of a killed run after its last finished epoch."""
    progress = progress_for("training-progress", root)
    return steps.train_network(open_store(root), network, arrays, config, progress=progress)


@task(name="average", task_run_name="average", cache_policy=NO_CACHE)
def average_models(
    members: list[ArtifactRef], arrays: ArtifactRef, config: TrainingConfig, root: Path | None
) -> ArtifactRef:
    """Return a model that averages the probabilities of the trained networks; a single one is returned as it is."""
    return steps.average_models(open_store(root), members, arrays, config)


@task(name="export", task_run_name="export to ONNX", cache_policy=NO_CACHE)
def export_model(model: ArtifactRef, arrays: ArtifactRef, root: Path | None) -> ArtifactRef:
    """Export the model to ONNX, and check the export on the test images."""
    return steps.export_model(open_store(root), model, arrays, progress=terminal_progress())


@task(name="evaluate", task_run_name="evaluate", cache_policy=NO_CACHE)
def evaluate_model(exported: ArtifactRef, arrays: ArtifactRef, root: Path | None) -> ArtifactRef:
    """Evaluate the exported model on the test images."""
    return steps.evaluate_model(open_store(root), exported, arrays, progress=terminal_progress())


@task(name="report", task_run_name="report", cache_policy=NO_CACHE)
def report_model(evaluation: ArtifactRef, root: Path | None) -> ArtifactRef:
    """Write the report of the model."""
    return steps.report_model(open_store(root), evaluation, progress=terminal_progress())


@task(name="register", task_run_name="register", cache_policy=NO_CACHE)
def register_model(evaluation: ArtifactRef, report: ArtifactRef, root: Path | None) -> tuple[ModelVersion, bool]:
    """Register the model as a version; return the version, and whether it is new."""
    return steps.register_model(open_store(root), evaluation, report)


@task(name="decide", task_run_name="decide on version {version.number}", cache_policy=NO_CACHE)
def promote_model(
    version: ModelVersion, new: bool, arrays: ArtifactRef, run: TrainingRun, root: Path | None
) -> Outcome:
    """Promote the model if it beats the champion, and record the decision."""
    return champion.promote_model(open_store(root), version, arrays, run, new=new)
