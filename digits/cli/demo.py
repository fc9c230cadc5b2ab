"""Command `demo`."""

from typing import TYPE_CHECKING

from digits.cli import runtime
from digits.cli.app import Artifacts, NoProgress, Quiet, Verbose
from digits.cli.predict import predict_here
from digits.cli.train import describe_outcome, train_model

if TYPE_CHECKING:
    from pathlib import Path

    from digits.pipeline.champion import Outcome


def demo(
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
) -> None:
    """Train a model on MNIST, promote it, predict the test images as PNG files, and print where the results are."""
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    from digits.errors import DownloadError
    from digits.pipeline.config import TrainingRun
    from digits.settings import artifact_root
    from digits.terminal import print_notice

    root = artifact_root(artifacts)
    try:
        outcome = train_model(TrainingRun(), root)
    except DownloadError as error:
        print_notice(
            f"{error}\n\nMNIST is unavailable; continuing with the bundled sample of 7,000 images, mnist-sample"
        )
        outcome = train_model(TrainingRun(datasets=("mnist-sample",)), root)
    _predict_test_images(root, outcome)


def _predict_test_images(root: "Path", outcome: "Outcome") -> None:
    from digits.cli.output import describe_summary, print_pairs
    from digits.pipeline.training import write_test_images
    from digits.prediction.config import PredictionConfig
    from digits.store.artifacts import Store

    store = Store(root)
    folder = store.demo / outcome.facts.test_set[:12]
    write_test_images(store, outcome.version, folder)
    out = store.demo / "predictions.csv"
    summary = predict_here(folder, str(outcome.version), out, PredictionConfig(), root)
    trained = describe_outcome(outcome)
    trained["model report"] = trained.pop("report")
    following = f"digits predict FOLDER --out FILE.csv   or   digits models show {outcome.version}"
    print_pairs("Digits", trained | describe_summary(summary) | {"next": following})
