"""Repair: regenerate damaged artifacts, and remove damaged files that are not needed."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from digits.data.config import ArraysConfig
from digits.errors import DigitsError
from digits.maintenance.integrity import BACKUP, Damage, Thing, damage_of, problem_of, record_of, things, why_not
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
class Repair:
    """What `repair` made again or removed, and what is left for a person."""

    repaired: list[str]
    left: list[Damage]


def repair(store: Store, *, progress: Progress = SILENT) -> Repair:
    """Put back a bit in a record, make again what has a recipe, remove what runs make again, and say what is left."""
    damaged = list(problem_of(list(things(store)), progress))
    repaired, left = [], []
    for thing, wrong in sorted(damaged, key=lambda found: _turn(store, found[0])):
        if not list(problem_of([thing], SILENT)):
            continue  # it was about another thing, which has been mended
        damage = damage_of(store, thing, wrong)
        how, refusal = "removed" if thing.spare else "made again", ""
        try:
            if _is_mended(thing):
                how = "put right: one bit had flipped"
            else:
                refusal = _mend(store, thing, progress)
        except (DigitsError, OSError, ValueError, KeyError, TypeError) as error:
            refusal = f"it could not be made again: {error}"
        if refusal:
            left.append(Damage(damage.kind, damage.path, damage.wrong, refusal))
        else:
            logger.warning("%s: %s; mended", damage.path, damage.wrong)
            repaired.append(f"{damage.path}: {how}")
    return Repair(repaired, left)


def _turn(store: Store, thing: Thing) -> tuple[int, bool]:
    """Order things by lineage; an average is made after its members, which are models too."""
    recipe = store.recipe(thing.ref) if thing.ref else None
    is_average = bool(recipe and thing.kind in {parent.kind for parent in recipe.parents})
    return KINDS.index(thing.kind) if thing.kind in KINDS else len(KINDS), is_average


def _is_mended(thing: Thing) -> bool:
    """Put back the one bit that has flipped in a thing's record, if that is all that is wrong with it."""
    record = record_of(thing)
    whole = repair_flipped_bit(record.read_bytes()) if record else None
    if record is None or whole is None:
        return False
    write_file(record, whole)
    return not list(problem_of([thing], SILENT))


def _mend(store: Store, thing: Thing, progress: Progress) -> str:
    """Mend a thing; give why it can't be."""
    if thing.spare:
        store.discard(thing.path)
        return ""
    if thing.ref is None:
        return BACKUP
    recipe = store.recipe(thing.ref)
    refusal = why_not(recipe)
    if refusal or recipe is None:
        return refusal
    try:
        artifact = store.open(thing.ref)
    except DigitsError:
        return _make_again(store, recipe, progress)
    for name in store.unlisted_files(artifact):
        store.discard(artifact.path / name)
    return ""


def _make_again(store: Store, recipe: Recipe, progress: Progress) -> str:
    if make_again(store, recipe, progress=progress) != recipe.ref:
        return f"the same step makes another artifact now; {BACKUP}"
    if recipe.kind != "model":
        return ""
    found = read_json(store.open(recipe.ref).file("model.json"))["weights_sha256"]
    for version in Registry(store).versions():
        if version.artifacts.get("model") == recipe.ref.digest and version.weights_sha256 != found:
            return (
                f"it was trained again, but this processor gave other weights than version {version.number} has; "
                f"{BACKUP}, or train anew"
            )
    return ""


def make_again(store: Store, recipe: Recipe, *, progress: Progress = SILENT) -> ArtifactRef:
    """Have the artifact of a recipe that one of these steps made; the recipe's parents must be there."""
    config, parents = dict(recipe.config), recipe.parents
    makers: dict[str, Callable[[], ArtifactRef]] = {
        "dataset": lambda: download_dataset(store, config["source"], normalize=config["normalize"], progress=progress),
        "arrays": lambda: prepare_arrays(store, parents, ArraysConfig(**config)),
        "network": lambda: _network_again(store, parents, config),
        "model": lambda: _model_again(store, parents, TrainingConfig(**config), progress),
        "onnx": lambda: export_model(store, *parents),
        "evaluation": lambda: evaluate_model(store, *parents),
        "report": lambda: report_model(store, *parents),
    }
    return makers[recipe.kind]()


def _network_again(store: Store, parents: Sequence[ArtifactRef], config: dict[str, Any]) -> ArtifactRef:
    arrays, *fitted = parents
    seed = config.pop("seed")
    return build_network(store, arrays, ModelConfig(**config), seed=seed, parent=fitted[0] if fitted else None)


def _model_again(
    store: Store, parents: Sequence[ArtifactRef], config: TrainingConfig, progress: Progress
) -> ArtifactRef:
    *fitted, arrays = parents
    if fitted[0].kind == "model":
        return average_models(store, fitted, arrays, config)
    return train_network(store, fitted[0], arrays, config, progress=progress)
