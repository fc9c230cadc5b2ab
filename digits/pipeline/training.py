"""Training run without Prefect: all steps from the datasets to the promotion decision, and the test images as files."""

from pathlib import Path

import numpy as np
from PIL import Image

from digits.pipeline import champion, steps
from digits.pipeline.champion import Outcome
from digits.pipeline.config import TrainingRun
from digits.progress import SILENT, Progress
from digits.store.artifacts import Store
from digits.store.registry import Registry
from digits.training.backend import require_training


def train(store: Store, run: TrainingRun, *, progress: Progress = SILENT) -> Outcome:
    """Train a model, evaluate it, register it, and promote it if it beats the champion.

    If data, configuration and code are those of an earlier run, nothing is done, and the outcome of that run is
    returned. Finished steps of an interrupted run are reused.

    Args:
        store: artifact store.
        run: settings of the run.
        progress: receiver of the progress.

    Raises:
        UsageError: if a dataset does not exist.
        DataError: if a dataset is unavailable or unsuitable for training.
        ModelError: if the extra `train` is not installed, the training diverged, or the exported model differs from the
            trained one.
        StoreError: if the disk is full or not writable.
    """
    run = steps.drop_empty_reviewed(store, run.resolved())
    if outcome := champion.find_unchanged_run(store, run):
        return outcome
    require_training()
    sources = [
        steps.download_dataset(store, source, normalize=run.arrays.normalize, progress=progress)
        for source in run.datasets
    ]
    prepared = steps.prepare_arrays(store, sources, run.arrays, progress=progress)
    parent = steps.starting_point(store, run.training)
    members = []
    for config in run.members():
        network = steps.build_network(store, prepared, run.model, seed=config.seed, parent=parent, progress=progress)
        members.append(steps.train_network(store, network, prepared, config, progress=progress))
    trained = steps.average_models(store, members, prepared, run.training)
    exported = steps.export_model(store, trained, prepared, progress=progress)
    evaluation = steps.evaluate_model(store, exported, prepared, progress=progress)
    report = steps.report_model(store, evaluation, progress=progress)
    version, new = steps.register_model(store, evaluation, report)
    return champion.promote_model(store, version, prepared, run, new=new)


def write_test_images(store: Store, version: int, folder: Path) -> Path:
    """Write the test images of a model version as `<folder>/<class id>/<index>.png`, and return the folder."""
    arrays = store.open(Registry(store).version(version).artifact("arrays"))
    pixels, labels = (np.load(arrays.file(f"test_{part}.npy"), allow_pickle=False) for part in ("pixels", "labels"))
    for label in np.unique(labels):
        (folder / str(label)).mkdir(parents=True, exist_ok=True)
    for index, (image, label) in enumerate(zip(pixels, labels, strict=True)):
        path = folder / str(label) / f"{index:05}.png"
        if not path.exists():
            Image.fromarray(image).save(path)
    return folder
