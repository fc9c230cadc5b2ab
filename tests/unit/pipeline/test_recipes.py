"""Recipes: data, configuration and code of a training run, and the test sets of joined datasets."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from digits.data.arrays import LabelledArrays, join, locate_test_sets
from digits.data.datasets import identify
from digits.pipeline import recipes
from digits.pipeline.config import TrainingRun
from digits.store import code_version
from digits.store.artifacts import ArtifactRef

RUN: dict[str, Any] = {"datasets": ["mnist-sample"]}
NO_SOURCES = {"__pycache__", "sample"}


def digest_of(**changes: Any) -> str:
    """Return the digest of a run with these settings."""
    run = TrainingRun.model_validate({**RUN, **changes}).resolved()
    return recipes.digest_of_run(recipes.arrays_of_run(run, identify), run)


def test_the_same_run_has_the_same_digest() -> None:
    """Also if a default is set explicitly."""
    assert digest_of() == digest_of(preset="default") == digest_of(training={"epochs": 19})


@pytest.mark.parametrize(
    "change",
    [
        {"datasets": ["mnist"]},
        {"datasets": ["mnist-sample", "mnist"]},
        {"preset": "quick"},
        {"preset": "best"},
        {"model": {"architecture": "mlp"}},
        {"training": {"seed": 1}},
        {"training": {"start": "champion"}},
        {"training": {"members": 2}},
        {"arrays": {"split_seed": 1}},
        {"arrays": {"normalize": "none"}},
    ],
)
def test_a_run_with_other_settings_has_another_digest(change: dict[str, Any]) -> None:
    """Other data, another network, or another training."""
    assert digest_of(**change) != digest_of()


def test_the_promotion_policy_does_not_change_the_digest() -> None:
    """The policy does not change the model."""
    assert digest_of(promotion={"min_accuracy": 0.5}) == digest_of()


@pytest.fixture
def sources(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Compute code versions from a copy of the package, and return its path."""
    package = Path(recipes.__file__).parents[1]
    copy = Path(shutil.copytree(package, tmp_path / package.name, ignore=lambda _, names: set(names) & NO_SOURCES))
    monkeypatch.setattr(code_version, "PACKAGE", copy)
    code_version.code_version.cache_clear()
    yield copy
    code_version.code_version.cache_clear()


@pytest.mark.parametrize(
    ("settings", "steps"),
    [
        ("data/config.py", {"arrays"}),
        ("training/config.py", {"network", "model", "onnx"}),  # an export loads networks
        ("pipeline/config.py", set()),
        ("prediction/config.py", set()),
        ("maintenance/retention.py", set()),
    ],
)
def test_a_help_text_is_part_of_the_code_version_of_its_own_steps_only(
    sources: Path, settings: str, steps: set[str]
) -> None:
    """A better description of a retention setting does not train a model again."""
    before = {kind: recipes.code_of(kind) for kind in recipes.KINDS}
    changed = (sources / settings).read_text("utf-8").replace('description="', 'description="Changed. ', 1)
    assert "Changed. " in changed
    (sources / settings).write_text(changed, "utf-8")
    code_version.code_version.cache_clear()
    assert {kind for kind in recipes.KINDS if recipes.code_of(kind) != before[kind]} == steps


def test_changed_code_of_a_training_step_changes_the_digest(sources: Path) -> None:
    """A comment in the module that fits networks is enough."""
    before, module = digest_of(), sources / "training" / "fit.py"
    original = module.read_text("utf-8")
    module.write_text(original + "# changed\n", "utf-8")
    code_version.code_version.cache_clear()
    assert digest_of() != before
    module.write_text(original, "utf-8")
    code_version.code_version.cache_clear()
    assert digest_of() == before


def test_another_label_of_an_image_changes_the_digest(tmp_path: Path) -> None:
    """The identity of a labelled folder includes the labels."""
    names = []
    for label in ("1", "7"):
        place = tmp_path / label / "scans" / label
        place.mkdir(parents=True)
        (place / "a.png").write_bytes(b"the same")
        names.append(digest_of(datasets=[str(place.parent)]))
    assert names[0] != names[1]


def test_the_recipe_of_a_network_includes_its_initial_weights() -> None:
    """A training that starts from a model has that model in its lineage."""
    arrays, model = ArtifactRef("arrays", "a"), ArtifactRef("model", "m")
    config = TrainingRun().resolved().model
    alone = recipes.network(arrays, config, seed=1)
    assert recipes.network(arrays, config, seed=1, parent=model).parents == (arrays, model)
    assert recipes.network(arrays, config, seed=1, parent=model).ref != alone.ref


def test_datasets_are_named_by_the_last_part_of_their_path() -> None:
    """Repeated names get a number."""
    sources = ["mnist", "/data/scans", "more/scans", "a.npz", "mnist"]
    named = [str(recipes.dataset(source, {}, "auto").config["name"]) for source in sources]
    assert recipes.unique_names(named) == ["mnist", "scans", "scans-2", "a.npz", "mnist-2"]


# The test sets of joined datasets


def dataset(count: int, level: int) -> LabelledArrays:
    """Return a dataset of this number of images of one grey level."""
    pixels, labels = np.full((count, 2, 2), level, np.uint8), np.zeros(count, np.uint8)
    return LabelledArrays(pixels, labels, pixels, labels, ("0", "1"))


def test_each_joined_dataset_is_a_test_set() -> None:
    """It has the name of the dataset and a range of images; a dataset without test images is no test set."""
    parts = [dataset(3, 1), dataset(0, 0), dataset(2, 9)]
    sets = locate_test_sets(parts, ["a", "b", "c"])
    assert [(one.name, one.start, one.stop) for one in sets] == [("a", 0, 3), ("c", 3, 5)]
    joined = join(parts)
    assert {one.name: set(joined.test_pixels[one.images].ravel().tolist()) for one in sets} == {"a": {1}, "c": {9}}
    assert sets[0].sha256 != sets[1].sha256
    (alone,) = locate_test_sets([dataset(2, 9)], ["other name"])
    assert alone.sha256 == sets[1].sha256
