"""Promotion with real networks: shuffled labels, and trainings that start from the champion."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.data.datasets import SAMPLE_FILE
from digits.errors import ModelError
from digits.pipeline import steps, training
from digits.pipeline.champion import Outcome
from digits.pipeline.config import TrainingRun
from digits.store.artifacts import Store
from digits.store.registry import Registry

CLASSES = ("zero", "one", "two", "three")
IMAGES = 1_200
SETTINGS: dict[str, Any] = {
    "model": {"architecture": "mlp", "hidden": [32]},
    "training": {"epochs": 4},
    "promotion": {"min_accuracy": 0.5},
}
START: dict[str, Any] = {"training": {"epochs": 1, "learning_rate": 1e-5, "start": "champion", "seed": 7}}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write folders of digits of four classes, with the true labels and with shuffled ones, and return their paths.

    The classes have names that are not digits, so no novelty head is fitted, which would take a minute.
    """
    random = np.random.default_rng(0)
    with np.load(SAMPLE_FILE) as sample:
        chosen = np.flatnonzero(sample["y_train"] < len(CLASSES))[:IMAGES]
        pixels, labels = sample["x_train"][chosen], sample["y_train"][chosen]
    places = {}
    for name, given in {"true": labels, "shuffled": random.permutation(labels)}.items():
        places[name] = tmp_path_factory.mktemp(name) / "scans"
        for number, (image, label) in enumerate(zip(pixels, given, strict=True)):
            path = places[name] / CLASSES[label] / f"{number:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(path)
    return places


def train(store: Store, folder: Path, **changes: Any) -> Outcome:
    """Train on a folder with these settings."""
    run = TrainingRun.model_validate({**SETTINGS, **changes})
    return training.train(store, run.model_copy(update={"datasets": (str(folder),)}))


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome]:
    """Return a store with a champion trained on the true labels, and the outcome of its training."""
    store = Store(tmp_path_factory.mktemp("artifacts"))
    return store, train(store, folders["true"])


def test_shuffled_labels_are_refused(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """A dataset with the same name and shuffled labels, on whose test images neither model is accurate."""
    store, first = trained
    assert first.promoted
    assert first.facts.test_sets == {"scans": first.facts.accuracy}
    sabotaged = train(store, folders["shuffled"])
    assert (sabotaged.new, sabotaged.promoted, sabotaged.champion) == (True, False, first.version)
    assert "below the lowest accuracy that the policy allows" in sabotaged.reasons[0]
    assert any("not significantly better than the champion" in reason for reason in sabotaged.reasons)


def test_training_again_changes_nothing(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """The reason is that data, configuration and code are the same."""
    store, first = trained
    again = train(store, folders["true"])
    assert (again.version, again.new, again.decision) == (first.version, False, None)
    assert again.reasons[0].startswith("Nothing changed: data, configuration and code")


def test_a_training_starts_from_the_champion(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """The champion is in its lineage, and its accuracy is as high."""
    store, first = trained
    with_champion = train(store, folders["true"], **START)
    registry = Registry(store)
    assert with_champion.new
    versions = registry.version(first.version), registry.version(with_champion.version)
    parents = store.parents(versions[1].artifact("network"))
    assert parents == [versions[0].artifact("arrays"), versions[0].artifact("model")]
    assert with_champion.facts.accuracy > first.facts.accuracy - 0.05
    assert train(store, folders["true"], **START).reasons[0].startswith("Nothing changed")


@pytest.mark.slow
def test_a_repeated_start_from_the_champion_gives_the_same_weights(folders: dict[str, Path], tmp_path: Path) -> None:
    """A start from scratch is worse after as short a training."""
    stores = [Store(tmp_path / name) for name in ("first", "second")]
    for store in stores:
        train(store, folders["true"])
    first, second = (train(store, folders["true"], **START) for store in stores)
    digests = [Registry(store).version(first.version).weights_sha256 for store in stores]
    assert digests[0] == digests[1]
    scratch = train(stores[0], folders["true"], training={**START["training"], "start": "random"})
    assert scratch.facts.accuracy < 0.6 < first.facts.accuracy == second.facts.accuracy


def test_a_training_cannot_start_from_another_network(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """The message names both networks."""
    store, _ = trained
    start = {"epochs": 1, "start": "champion"}
    with pytest.raises(
        ModelError, match="network is mlp with 25,252 weights, but mlp with 50,500 weights is to be trained"
    ):
        train(store, folders["true"], training=start, model={"architecture": "mlp", "hidden": [64]})


def test_without_a_champion_a_training_starts_from_scratch(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A warning states it."""
    config = TrainingRun.model_validate({"training": {"start": "champion"}}).training
    assert steps.starting_point(Store(tmp_path), config) is None
    assert "there is no champion to start from; training from scratch" in caplog.text
