"""Tests of the tables of model versions."""

from dataclasses import replace
from pathlib import Path

import pytest

from digits.outputs.version_tables import version_details, version_rows
from digits.store.artifacts import Store
from digits.store.author import this_author
from digits.store.registry import ModelFacts, ModelVersion, Registry

FACTS = ModelFacts(accuracy=0.99523, ece=0.0041, architecture="cnn", epochs=4, datasets=("mnist", "my/scans"))


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    """Three versions: the first was champion, then the second, which was rolled back."""
    registry = Registry(Store(tmp_path))
    for number in range(1, 4):
        facts = replace(FACTS, epochs=number)
        registry.register(artifacts={"model": f"{number}" * 64}, weights_sha256=f"w{number}", facts=facts)
    registry.promote(1, reasons=["The first.", "Good enough."])
    registry.promote(2, reasons=["Better."])
    registry.roll_back()
    return registry


def test_an_empty_registry_gives_no_rows(tmp_path: Path) -> None:
    assert version_rows(Registry(Store(tmp_path))) == []


def test_each_version_has_one_row_and_one_is_marked_champion(registry: Registry) -> None:
    rows = version_rows(registry)
    assert [(row["version"], row["champion"], row["epochs"]) for row in rows] == [
        (1, "champion", 1),
        (2, "", 2),
        (3, "", 3),
    ]
    assert rows[0]["accuracy"] == "99.52%"
    assert rows[0]["ece"] == "0.41%"
    assert rows[0]["datasets"] == "mnist + my/scans"
    assert rows[0]["created"].endswith("+00:00")


def test_version_details_contain_facts_paths_and_promotions(registry: Registry, tmp_path: Path) -> None:
    details = version_details(registry, registry.version(1))
    assert details["champion"] is True
    assert details["accuracy"] == 0.99523
    assert details["weights_sha256"] == "w1"
    assert details["model"] == str(tmp_path / "model" / ("1" * 64))
    promoted, rolled_back = details["promotions"]
    assert promoted.endswith(f" promote by {this_author()}: The first. Good enough.")
    assert rolled_back.endswith(f" rollback by {this_author()}: rolled back from version 2")


def test_a_version_that_was_never_champion_has_no_promotions(registry: Registry) -> None:
    version: ModelVersion = registry.version(3)
    details = version_details(registry, version)
    assert details["champion"] is False
    assert details["promotions"] == []


def test_details_name_the_label_list_only_of_versions_trained_on_labels(tmp_path: Path) -> None:
    registry = Registry(Store(tmp_path))
    for number, facts in enumerate((FACTS, replace(FACTS, own_images=412, own_share=0.1))):
        artifacts = {"arrays": f"{number}" * 64}
        registry.register(artifacts=artifacts, weights_sha256=f"w{number}", facts=facts)
    without, with_labels = (version_details(registry, version) for version in registry.versions())
    assert "labels" not in without
    assert with_labels["labels"] == str(tmp_path / "arrays" / ("1" * 64) / "labels.csv")
    assert (with_labels["own_images"], with_labels["own_share"]) == (412, 0.1)
