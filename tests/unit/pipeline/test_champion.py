"""Promotion with a real store and linear models of real digits, fitted by least squares without TensorFlow."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from digits.images.normalize import SPEC
from digits.outputs.version_tables import version_details
from digits.pipeline import champion as champion_module
from digits.pipeline import steps
from digits.pipeline.champion import Outcome
from digits.pipeline.config import PromotionPolicy, TrainingRun
from digits.store.artifacts import ArtifactRef, Recipe, Store
from digits.store.decisions import ChangedImage
from digits.store.registry import ModelFacts, ModelVersion, Registry

LABELS, PIXELS = "train_labels.npy", "train_pixels.npy"
POLICY = {"min_accuracy": 0.7, "target_error": 0.2, "max_ece_increase": 0.5, "max_coverage_drop": 0.9}
"""Limits that linear models can meet, which are badly calibrated."""


class Lab:
    """Store with prepared arrays, in which models are fitted, registered and decided on."""

    def __init__(self, root: Path, *sources: str) -> None:
        self.store = Store(root)
        self.registry = Registry(self.store)
        self.sources, self.names = sources, [Path(source).name for source in sources]
        datasets = [steps.download_dataset(self.store, source) for source in sources]
        self.arrays = steps.prepare_arrays(self.store, datasets, self.run().arrays)

    def run(self, **changes: Any) -> TrainingRun:
        """Return a resolved run with these settings."""
        settings = {"datasets": self.sources, "promotion": POLICY, "arrays": {"max_duplicates": 0.5}, **changes}
        return TrainingRun.model_validate(settings).resolved()

    def register(self, name: str, *, images: int = 5_000, noise: float = 0, shuffled: bool = False) -> ModelVersion:
        """Fit a model to this number of training images, impair it, and register it."""
        exported = self.export(name, fitted(self.store, self.arrays, images, noise=noise, shuffled=shuffled))
        evaluated = self.store.open(steps.evaluate_model(self.store, exported, self.arrays))
        accuracy = json.loads(evaluated.file("evaluation.json").read_text())["accuracy"]
        facts = ModelFacts(accuracy=accuracy, datasets=tuple(self.names), architecture=name)
        version, _ = self.registry.register(
            artifacts={"onnx": exported.digest, "report": self.report()}, weights_sha256=name, facts=facts
        )
        return version

    def report(self) -> str:
        """Store a report and return its digest."""
        write = lambda place: (place / "report.md").write_text("A report") and None  # noqa: E731
        return self.store.produce(Recipe("report", {}), write).digest

    def export(self, name: str, weights: npt.NDArray[np.float32], classes: str = "0123456789") -> ArtifactRef:
        """Store a linear model."""
        return self.store.produce(Recipe("onnx", {"name": name}), lambda place: write_linear(place, weights, classes))

    def decide(self, version: ModelVersion, *, new: bool = True, **changes: Any) -> Outcome:
        """Decide on the promotion of a version."""
        return champion_module.promote_model(self.store, version, self.arrays, self.run(**changes), new=new)


def fitted(store: Store, arrays: ArtifactRef, images: int, *, noise: float, shuffled: bool) -> npt.NDArray[np.float32]:
    """Return (784, 10) weights fitted by least squares, optionally to shuffled labels."""
    opened, random = store.open(arrays), np.random.default_rng(1)
    pixels = np.load(opened.file(PIXELS))[:images].reshape(images, -1).astype(np.float64) / 255
    labels = np.load(opened.file(LABELS))[:images]
    labels = random.permutation(labels) if shuffled else labels
    square = pixels.T @ pixels + 10 * np.eye(pixels.shape[1])
    weights = np.linalg.solve(square, pixels.T @ np.eye(10)[labels])
    return (weights * (1 + noise * random.normal(size=weights.shape))).astype(np.float32)


def write_linear(directory: Path, weights: npt.NDArray[np.float32], classes: str) -> None:
    """Write a linear model in the form of an exported one, without novelty."""
    from onnx import TensorProto, helper, numpy_helper, save

    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["images"], ["flat"]),
            helper.make_node("MatMul", ["flat", "weights"], ["scores"]),
            helper.make_node("Softmax", ["scores"], ["probabilities"], axis=1),
        ],
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 28, 28, 1])],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", len(classes)])],
        [numpy_helper.from_array(weights / 255 * 5, "weights")],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), directory / "model.onnx")
    spec = {
        "class_names": list(classes),
        "input_shape": [28, 28],
        "normalization": dict(SPEC),
        "calibration": {"temperature": 1, "steps": [[0.3, 600, 10, 0.15]]},
    }
    (directory / "spec.json").write_text(json.dumps(spec))


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """Lab with the arrays of the bundled sample."""
    return Lab(tmp_path / "artifacts", "mnist-sample")


@pytest.fixture
def champion(lab: Lab) -> ModelVersion:
    """Champion: a first model, fitted to few images."""
    version = lab.register("weak", images=900)
    assert lab.decide(version).promoted
    return version


def test_a_first_model_that_meets_the_policy_is_promoted(lab: Lab, champion: ModelVersion) -> None:
    """Its decision has no champion and no examples."""
    (made,) = lab.registry.decisions()
    assert (made.version, made.champion, made.decision.promote, made.examples) == (1, None, True, ())
    assert "is the first model" in made.decision.reasons[0]
    assert lab.registry.champion() == champion


def test_a_better_model_replaces_the_champion(lab: Lab, champion: ModelVersion) -> None:
    """The record has figures, policy and examples of both kinds; the page shows them."""
    outcome = lab.decide(lab.register("strong"))
    assert outcome.promoted, outcome.reasons
    assert outcome.as_record()["facts"] == lab.registry.version(2).facts.as_record()
    assert (outcome.champion, outcome.decision, outcome.new) == (2, 2, True)
    made = champion_module.load_decision(lab.store, 2)
    (row,) = made.decision.sets
    assert (row.name, row.count, made.champion) == ("mnist-sample", 1000, 1)
    assert row.challenger - row.champion == pytest.approx((row.gained - row.lost) / 1000)
    assert row.p < 0.05
    assert [check.name.split(" on ")[0] for check in made.decision.checks] == [
        "calibration error",
        "share not flagged at an error of 0.2",
        "multiplications per image",
        "size of the network",
    ]
    assert {example.is_gained for example in made.examples} == {True, False}
    page = champion_module.render_decision(lab.store, made, lab.arrays)
    assert page.startswith("# Version 2 against version 1: promoted\n")
    assert "| mnist-sample | 1,000 |" in page
    assert "(data:image/png;base64," in page
    assert "max\\_accuracy\\_drop" in page
    details = version_details(lab.registry, lab.registry.version(2))
    assert "against version 1: promoted: Version 2 is better" in details["decisions"][0]
    assert f"(+{row.gained} -{row.lost} images)" in details["decisions"][0]


def test_a_model_trained_on_shuffled_labels_is_refused(lab: Lab, champion: ModelVersion) -> None:
    """The reasons are its low accuracy, and that it is worse than the champion and not better on any test set."""
    outcome = lab.decide(lab.register("sabotaged", shuffled=True))
    assert not outcome.promoted
    text = " ".join(outcome.reasons)
    assert all(
        words in text
        for words in ("below the lowest accuracy", "is worse than the champion", "not significantly better")
    )
    assert lab.registry.champion() == champion


def test_a_model_as_good_as_the_champion_is_refused(lab: Lab, champion: ModelVersion) -> None:
    """With nearly the same weights, the prediction changes for some images in either direction."""
    outcome = lab.decide(lab.register("twin", images=900, noise=0.01))
    assert not outcome.promoted
    assert "is not significantly better than the champion" in outcome.reasons[0]


def test_a_model_that_is_better_on_one_dataset_and_worse_on_another_is_refused(tmp_path: Path) -> None:
    """Each dataset is a test set; the reason names the one on which the model is worse."""
    np.savez(tmp_path / "mirrored.npz", **mirrored(tmp_path))
    lab = Lab(tmp_path / "both", "mnist-sample", str(tmp_path / "mirrored.npz"))
    joined = fitted(lab.store, lab.arrays, 5_000, noise=0, shuffled=False)
    mirror = np.ascontiguousarray(joined.reshape(28, 28, 10)[:, ::-1]).reshape(784, 10)
    for number, weights in enumerate([joined, mirror], start=1):
        version, _ = lab.registry.register(
            artifacts={"onnx": lab.export(f"m{number}", weights).digest, "report": lab.report()},
            weights_sha256=str(number),
            facts=ModelFacts(datasets=tuple(lab.names), accuracy=0.0),
        )
        outcome = lab.decide(version, promotion={**POLICY, "min_accuracy": 0.1})
    assert not outcome.promoted
    (reason,) = outcome.reasons
    assert reason.startswith("Version 2 is worse than the champion, version 1, on mnist-sample: ")
    rows = {row.name: row for row in lab.registry.decisions()[-1].decision.sets}
    assert set(rows) == {"mnist-sample", "mirrored.npz"}
    assert rows["mirrored.npz"].challenger > rows["mirrored.npz"].champion + 0.1
    assert rows["mirrored.npz"].p < 0.05 < rows["mnist-sample"].p


def mirrored(place: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """Return the bundled sample with mirrored images."""
    store = Store(place / "other")
    opened = store.open(steps.download_dataset(store, "mnist-sample"))
    names = {"x_train": "train_pixels", "y_train": "train_labels", "x_test": "test_pixels", "y_test": "test_labels"}
    arrays = {ours: np.load(opened.file(f"{name}.npy")) for ours, name in names.items()}
    return {name: array[:, :, ::-1] if array.ndim == 3 else array for name, array in arrays.items()}


def test_a_damaged_champion_is_not_replaced(lab: Lab, champion: ModelVersion) -> None:
    """The reason is that it cannot be evaluated, and how to promote the challenger anyway."""
    strong = lab.register("strong")
    onnx = lab.store.path(champion.artifact("onnx")) / "model.onnx"
    onnx.write_bytes(onnx.read_bytes()[:-1])
    outcome = lab.decide(strong)
    assert not outcome.promoted
    (reason,) = outcome.reasons
    assert "the champion, version 1, cannot be evaluated on the same test sets: onnx/" in reason
    assert "`digits promote 2`" in reason


def test_a_champion_with_other_classes_is_not_replaced(lab: Lab) -> None:
    """A model of letters cannot be evaluated on digits."""
    letters = lab.export("letters", np.ones((784, 10), np.float32), classes="abcdefghij")
    lab.registry.register(artifacts={"onnx": letters.digest}, weights_sha256="l", facts=ModelFacts())
    lab.registry.promote(1, reasons=[])
    outcome = lab.decide(lab.register("strong"))
    assert not outcome.promoted
    assert "cannot be evaluated on the same test sets: the model has the classes a, " in outcome.reasons[0]


def test_a_challenger_without_all_test_sets_of_the_champion_is_refused(lab: Lab) -> None:
    """A model of the sample alone does not replace one of the sample and of reviewed images."""
    exported = lab.export("both", fitted(lab.store, lab.arrays, 900, noise=0, shuffled=False))
    facts = ModelFacts(datasets=("mnist-sample", "reviewed"))
    lab.registry.register(artifacts={"onnx": exported.digest}, weights_sha256="b", facts=facts)
    lab.registry.promote(1, reasons=[])
    outcome = lab.decide(lab.register("strong"))
    assert not outcome.promoted
    assert "version 1, was also tested on reviewed; train on the same datasets" in outcome.reasons[0]


# Repeated runs


def test_a_run_that_would_change_nothing_is_found(lab: Lab, champion: ModelVersion) -> None:
    """Not if the settings or the policy differ, or if a file of the model version is missing."""
    unchanged = champion_module.find_unchanged_run(lab.store, lab.run())
    assert unchanged is not None
    assert (unchanged.version, unchanged.new, unchanged.promoted, unchanged.decision) == (1, False, False, None)
    assert unchanged.reasons == ("Nothing changed: data, configuration and code are those of version 1.",)
    assert champion_module.find_unchanged_run(lab.store, lab.run(training={"seed": 1})) is None
    assert champion_module.find_unchanged_run(lab.store, lab.run(promotion={"min_accuracy": 0.6})) is None
    (lab.store.path(champion.artifact("onnx")) / "spec.json").unlink()
    assert champion_module.find_unchanged_run(lab.store, lab.run()) is None


def test_a_training_from_the_champion_is_not_repeated_after_its_promotion(lab: Lab) -> None:
    """The promotion changes the champion, but not data, configuration and code."""
    start = {"training": {"start": "champion"}}
    assert lab.decide(lab.register("weak", images=900), **start).promoted
    assert lab.decide(lab.register("strong"), **start).promoted
    unchanged = champion_module.find_unchanged_run(lab.store, lab.run(**start))
    assert unchanged is not None
    assert unchanged.version == 2


def test_a_version_is_decided_on_once_per_policy(lab: Lab, champion: ModelVersion) -> None:
    """A version that was champion before a rollback is not promoted again by a rerun."""
    strong = lab.register("strong")
    assert not lab.decide(strong, promotion={**POLICY, "promote": False}).promoted
    again = lab.decide(strong, new=False, promotion={**POLICY, "promote": False})
    assert (again.promoted, again.decision) == (False, None)
    assert again.reasons == ("Nothing changed: this model is version 2 already.",)
    assert lab.decide(strong, new=False).promoted
    lab.registry.roll_back()
    rerun = lab.decide(strong, new=False, promotion={**POLICY, "min_accuracy": 0.71})
    assert (rerun.promoted, rerun.champion) == (False, 1)


def test_a_champion_that_changes_during_the_comparison_is_compared_again(
    lab: Lab, champion: ModelVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision that is recorded is about the current champion."""
    strong, other = lab.register("strong"), lab.register("other", images=4_000)
    real = champion_module.find_changed_images

    def meanwhile(*arguments: Any) -> list[ChangedImage]:
        monkeypatch.setattr(champion_module, "find_changed_images", real)
        lab.registry.promote(other.number, reasons=["by hand"])
        return real(*arguments)

    monkeypatch.setattr(champion_module, "find_changed_images", meanwhile)
    lab.decide(strong)
    assert lab.registry.decisions()[-1].champion == other.number


def test_a_decision_records_its_policy(lab: Lab, champion: ModelVersion) -> None:
    """With all settings."""
    (made,) = lab.registry.decisions()
    assert made.policy == PromotionPolicy(**POLICY).model_dump(mode="json")
