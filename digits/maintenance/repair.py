"""Repair: restoration of damaged records and artifacts, and removal of damaged files that runs create again."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from digits.data.config import ArraysConfig
from digits.errors import DigitsError
from digits.maintenance.integrity import (
    BACKUP_REMEDY,
    Damage,
    StoredItem,
    damaged_record_of,
    describe_damage,
    find_problems,
    list_items,
    why_not_regenerable,
)
from digits.pipeline.lineage import read_json
from digits.pipeline.recipes import KINDS
from digits.pipeline.steps import (
    average_models,
    build_network,
    download_dataset,
    evaluate_model,
    export_model,
    prepare_arrays,
    report_model,
    train_network,
)
from digits.progress import SILENT, Progress
from digits.store.artifacts import ArtifactRef, Recipe, Store
from digits.store.files import write_file
from digits.store.records import repair_flipped_bit
from digits.store.registry import Registry
from digits.training.config import ModelConfig, TrainingConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RepairResult:
    """Result of a repair: one line per repaired item with what was done, and the damage that is left."""

    repaired: list[str]
    left: list[Damage]

    def as_record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {"repaired": self.repaired, "left": [one.as_record() for one in self.left]}


def repair(store: Store, *, progress: Progress = SILENT) -> RepairResult:
    """Repair all damage under an artifact root as far as possible.

    If a single bit of a record has flipped, it is flipped back. An artifact is recomputed from its recipe, after its
    parents. A file that the next run creates again is removed.
    """
    damaged = list(find_problems(list(list_items(store)), progress))
    repaired, left = [], []
    for item, problem in sorted(damaged, key=lambda found: _lineage_order(store, found[0])):
        if not list(find_problems([item], SILENT)):
            continue  # the cause was another item, which has been repaired
        damage = describe_damage(store, item, problem)
        how, obstacle = "removed" if item.regenerable else "recomputed", ""
        try:
            if _restore_record(item):
                how = "restored: one bit had flipped"
            else:
                obstacle = _repair_item(store, item, progress)
        except (DigitsError, OSError, ValueError, KeyError, TypeError) as error:
            obstacle = f"it could not be recomputed: {error}"
        if obstacle:
            left.append(Damage(damage.kind, damage.path, damage.problem, obstacle))
        else:
            logger.warning("%s: %s; %s", damage.path, damage.problem, how)
            repaired.append(f"{damage.path}: {how}")
    return RepairResult(repaired, left)


def _lineage_order(store: Store, item: StoredItem) -> tuple[int, bool]:
    """Return the sort key that puts parents before children; an average comes after its members, also models."""
    recipe = store.recipe(item.ref) if item.ref else None
    is_average = bool(recipe and item.kind in {parent.kind for parent in recipe.parents})
    return KINDS.index(item.kind) if item.kind in KINDS else len(KINDS), is_average


def _restore_record(item: StoredItem) -> bool:
    """Restore the record of an item if one bit has flipped, and return whether that repaired the item."""
    record = damaged_record_of(item)
    whole = repair_flipped_bit(record.read_bytes()) if record else None
    if record is None or whole is None:
        return False
    write_file(record, whole)
    return not list(find_problems([item], SILENT))


def _repair_item(store: Store, item: StoredItem, progress: Progress) -> str:
    """Remove or regenerate an item, and return the reason if that is impossible; empty if the item is repaired."""
    if item.regenerable:
        store.discard(item.path)
        return ""
    if item.ref is None:
        return BACKUP_REMEDY
    recipe = store.recipe(item.ref)
    obstacle = why_not_regenerable(recipe)
    if obstacle or recipe is None:
        return obstacle
    try:
        artifact = store.open(item.ref)
    except DigitsError:
        return _regenerate_and_compare(store, recipe, progress)
    for name in store.unlisted_files(artifact):
        store.discard(artifact.path / name)
    return ""


def _regenerate_and_compare(store: Store, recipe: Recipe, progress: Progress) -> str:
    """Regenerate an artifact, and return how it differs from the original, with a remedy; empty if it does not."""
    if regenerate(store, recipe, progress=progress) != recipe.ref:
        return f"the same training step now produces another artifact; {BACKUP_REMEDY}"
    if recipe.kind != "model":
        return ""
    found = read_json(store.open(recipe.ref).file("model.json"))["weights_sha256"]
    for version in Registry(store).versions():
        if version.artifacts.get("model") == recipe.ref.digest and version.weights_sha256 != found:
            return (
                f"it was trained again, but its weights are not those of version {version.number}, probably because "
                f"another processor was used; {BACKUP_REMEDY}, or train a new version"
            )
    return ""


def regenerate(store: Store, recipe: Recipe, *, progress: Progress = SILENT) -> ArtifactRef:
    """Run the training step of a recipe, whose parents must be in the store, and return its artifact."""
    config, parents = dict(recipe.config), recipe.parents
    makers: dict[str, Callable[[], ArtifactRef]] = {
        "dataset": lambda: download_dataset(store, config["source"], normalize=config["normalize"], progress=progress),
        "arrays": lambda: prepare_arrays(store, parents, ArraysConfig(**config)),
        "network": lambda: _rebuild_network(store, parents, config),
        "model": lambda: _retrain_model(store, parents, TrainingConfig(**config), progress),
        "onnx": lambda: export_model(store, *parents),
        "evaluation": lambda: evaluate_model(store, *parents),
        "report": lambda: report_model(store, *parents),
    }
    return makers[recipe.kind]()


def _rebuild_network(store: Store, parents: Sequence[ArtifactRef], config: dict[str, Any]) -> ArtifactRef:
    arrays, *fitted = parents
    seed = config.pop("seed")
    return build_network(store, arrays, ModelConfig(**config), seed=seed, parent=fitted[0] if fitted else None)


def _retrain_model(
    store: Store, parents: Sequence[ArtifactRef], config: TrainingConfig, progress: Progress
) -> ArtifactRef:
    *fitted, arrays = parents
    if fitted[0].kind == "model":
        return average_models(store, fitted, arrays, config)
    return train_network(store, fitted[0], arrays, config, progress=progress)
