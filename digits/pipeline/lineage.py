"""Lineage: the artifacts that an evaluation was made from, and the facts of a model version."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from digits.data.arrays import Finding, NamedTestSet
from digits.pipeline import recipes
from digits.store.artifacts import Artifact, ArtifactRef, Store
from digits.store.records import digest_of
from digits.store.registry import ModelFacts


def read_json(path: Path) -> Any:
    """Load a JSON file of an opened artifact; opening has verified it."""
    return json.loads(path.read_text("utf-8"))


def test_sets_of(arrays: Artifact) -> list[NamedTestSet]:
    """Return the test sets that are recorded with the arrays."""
    return [NamedTestSet(**one) for one in read_json(arrays.file("arrays.json"))["test_sets"]]


def findings_of(arrays: Path) -> list[Finding]:
    """Return the findings about the datasets that are recorded with the arrays in a directory."""
    return [Finding(**one) for one in read_json(arrays / "arrays.json")["findings"]]


def load_samples(arrays: Artifact, part: str) -> Any:
    """Return the images and labels of a part of the arrays (`train`, `validation` or `test`), memory-mapped."""
    from digits.training.fit import Samples

    pixels, labels = (
        np.load(arrays.file(f"{part}_{name}.npy"), mmap_mode="r", allow_pickle=False) for name in ("pixels", "labels")
    )
    return Samples(pixels, labels)


def dataset_names(datasets: Iterable[Artifact]) -> list[str]:
    """Return a distinct name for each dataset, which is also the name of its test set."""
    return recipes.unique_names(str(dataset.config["name"]) for dataset in datasets)


@dataclass(frozen=True)
class Lineage:
    """Artifacts that an evaluation was made from, all of them verified, and the evaluation itself."""

    evaluation: Artifact
    onnx: Artifact
    model: Artifact
    network: Artifact
    arrays: Artifact
    datasets: tuple[Artifact, ...]

    def artifacts(self) -> dict[str, str]:
        """Return the digest of each artifact by its kind, as in a record of the registry; datasets are not included."""
        parts = (self.evaluation, self.onnx, self.model, self.network, self.arrays)
        return {part.ref.kind: part.ref.digest for part in parts}

    @property
    def sources(self) -> list[str]:
        """Names of the datasets."""
        return dataset_names(self.datasets)

    @property
    def test_set(self) -> str:
        """Digest of the test images and labels; evaluations with the same digest can be compared."""
        files = self.arrays.manifest["files"]
        return digest_of([files[f"test_{part}.npy"]["sha256"] for part in ("pixels", "labels")])


def trace_lineage(store: Store, evaluation: ArtifactRef) -> Lineage:
    """Return the artifacts from which an evaluation was made, back to its datasets."""
    measured = store.open(evaluation)
    onnx, arrays = (store.open(parent) for parent in measured.parents)
    model = store.open(onnx.parents[0])
    first = model.parents[0]
    network = store.open(store.open(first).parents[0] if first.kind == "model" else first)
    return Lineage(measured, onnx, model, network, arrays, tuple(store.open(parent) for parent in arrays.parents))


def model_facts(lineage: Lineage) -> ModelFacts:
    """Return the facts of a model version: datasets, sizes and metrics."""
    evaluation = read_json(lineage.evaluation.file("evaluation.json"))
    history = read_json(lineage.model.file("model.json"))["history"]
    right = np.load(lineage.evaluation.file("y_prob.npy")).argmax(axis=1) == load_samples(lineage.arrays, "test").labels
    return ModelFacts(
        datasets=tuple(lineage.sources),
        architecture=lineage.network.config["architecture"],
        epochs=len(history),
        train_images=len(load_samples(lineage.arrays, "train")),
        test_images=evaluation["count"],
        test_set=lineage.test_set,
        test_sets={one.name: float(right[one.images].mean()) for one in test_sets_of(lineage.arrays)},
        validation_accuracy=history[-1]["validation_accuracy"],
        **{name: evaluation[name] for name in ("accuracy", "loss", "ece", "rejected_share")},
        **own_facts(lineage),
    )


def own_facts(lineage: Lineage) -> dict[str, Any]:
    """Return the number of your own labelled images and their share of the training images, repetitions included."""
    own = read_json(lineage.arrays.file("arrays.json"))["own"]
    if not own["images"]:
        return {}
    share = own["rows"] / len(load_samples(lineage.arrays, "train"))
    return {"own_images": own["images"], "own_share": round(share, 4)}
