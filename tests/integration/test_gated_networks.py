"""The gate with real networks: a sabotaged dataset, and a training that goes on from the champion."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from digits.data.datasets import SAMPLE_FILE
from digits.errors import ModelError
from digits.pipeline import champion, steps
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


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Digits of four classes in folders that are not called after them, with their labels and with shuffled ones.

    Such classes get no head that tells other things apart, which would take a minute to fit.
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
    """Do what the training flow does."""
    run = TrainingRun.model_validate({"datasets": [str(folder)], **SETTINGS, **changes}).resolved()
    if standing := champion.find_unchanged_run(store, run):
        return standing
    source = steps.download_dataset(store, str(folder), normalize=run.arrays.normalize)
    arrays = steps.prepare_arrays(store, [source], run.arrays)
    parent = steps.starting_point(store, run.training)
    network = steps.build_network(store, arrays, run.model, seed=run.training.seed, parent=parent)
    exported = steps.export_model(store, steps.train_network(store, network, arrays, run.training), arrays)
    evaluation = steps.evaluate_model(store, exported, arrays)
    version, new = steps.register_model(store, evaluation, steps.report_model(store, evaluation))
    return champion.promote_model(store, version, arrays, run, new=new)


@pytest.fixture(scope="module")
def trained(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Outcome]:
    """A store whose champion was trained on the true labels."""
    store = Store(tmp_path_factory.mktemp("artifacts"))
    return store, train(store, folders["true"])


def test_shuffled_labels_are_refused(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """A dataset of the same name with labels that mean nothing: on its own test images neither model is any good."""
    store, first = trained
    assert first.promoted
    assert first.facts.test_sets == {"scans": first.facts.accuracy}
    sabotaged = train(store, folders["shuffled"])
    assert (sabotaged.new, sabotaged.promoted, sabotaged.champion) == (True, False, first.version)
    assert "below the lowest accuracy that the policy allows" in sabotaged.reasons[0]
    assert any("not better than the champion" in reason for reason in sabotaged.reasons)


def test_training_again_is_nothing_to_do(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """Until a label is put right: then the data is other data."""
    store, first = trained
    again = train(store, folders["true"])
    assert (again.version, again.new, again.decision) == (first.version, False, None)
    assert again.reasons[0].startswith("Nothing changed: data, configuration and code")


def test_a_training_goes_on_from_the_champion(trained: tuple[Store, Outcome], folders: dict[str, Path]) -> None:
    """In its lineage is the champion's model, it begins as good as that, and it is the same every time."""
    store, first = trained
    start = {"training": {"epochs": 1, "learning_rate": 1e-5, "start": "champion", "seed": 7}}
    with_champion = train(store, folders["true"], **start)
    registry = Registry(store)
    assert with_champion.new
    versions = registry.version(first.version), registry.version(with_champion.version)
    parents = store.parents(versions[1].artifact("network"))
    assert parents == [versions[0].artifact("arrays"), versions[0].artifact("model")]
    anew = train(store, folders["true"], training={"epochs": 1, "learning_rate": 1e-5, "seed": 7})
    assert with_champion.facts.accuracy > first.facts.accuracy - 0.05
    assert anew.facts.accuracy < 0.6 < with_champion.facts.accuracy
    other = Store(store.root.parent / "again")
    train(other, folders["true"])
    repeated = train(other, folders["true"], **start)
    assert Registry(other).version(repeated.version).weights_sha256 == versions[1].weights_sha256
    assert train(store, folders["true"], **start).reasons[0].startswith("Nothing changed")


def test_a_training_can_not_go_on_from_another_network(
    trained: tuple[Store, Outcome], folders: dict[str, Path]
) -> None:
    """One is told which networks these are."""
    store, _ = trained
    start = {"epochs": 1, "start": "champion"}
    with pytest.raises(ModelError, match=r"the network mlp of 25,252 weights, and mlp of 50,500 is to be trained"):
        train(store, folders["true"], training=start, model={"architecture": "mlp", "hidden": [64]})


def test_without_a_champion_a_training_begins_anew(
    folders: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Which is said."""
    config = TrainingRun.model_validate({"training": {"start": "champion"}}).training
    assert steps.starting_point(Store(tmp_path), config) is None
    assert "no champion to start from: the training begins anew" in caplog.text
