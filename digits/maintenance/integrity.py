"""Integrity: verification that no file under an artifact root was damaged after it was written.

Every reader of an artifact, a record or a part file verifies it first. `verify` checks all of them at once, including
those that no run reads. `digits.maintenance.repair` repairs what is damaged.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from digits.data.labels import IMAGES, LOG_FILE, LabelLog
from digits.errors import CorruptArtifactError
from digits.pipeline.recipes import KINDS, code_of
from digits.prediction.incremental import LEDGERS, read_ledger
from digits.prediction.plan import KNOWN_FILE, LISTING_FILE, Plan
from digits.prediction.publish import read_part
from digits.progress import SILENT, Progress
from digits.store.artifacts import MANIFEST, ArtifactRef, Recipe, Store
from digits.store.files import hash_file
from digits.store.records import read_record
from digits.store.registry import Registry
from digits.training.fit import read_checkpoint

BACKUP_REMEDY = "restore it from a backup of the artifact root"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class StoredItem:
    """File or directory under the artifact root that can be verified.

    Args:
        kind: kind of the artifact, or `registry`, `plan`, `part`, `ledger`, `checkpoint`, `summary`, `baseline`,
            `study`, `labels`, `labelled image`.
        path: path of the file or directory.
        check: function that raises an error if the item is damaged.
        ref: reference, if the item is an artifact.
        regenerable: whether the item can simply be removed, because the next run creates it again.
    """

    kind: str
    path: Path
    check: Callable[[], None] = field(repr=False)
    ref: ArtifactRef | None = None
    regenerable: bool = False


@dataclass(frozen=True)
class Damage:
    """Damage of a stored item, with its remedy.

    Args:
        kind: kind of the item.
        path: path of the item, relative to the artifact root.
        problem: what is wrong with the item.
        remedy: what you can do about it.
    """

    kind: str
    path: str
    problem: str
    remedy: str

    def as_record(self) -> dict[str, str]:
        """Return the damage as JSON values; the problem has the key `wrong`."""
        return {"kind": self.kind, "path": self.path, "wrong": self.problem, "remedy": self.remedy}


@dataclass(frozen=True)
class Verification:
    """Result of a verification: the number of items by kind, and the damaged ones."""

    checked: dict[str, int]
    damaged: list[Damage]

    def table(self) -> list[tuple[str, int, int, int]]:
        """Return rows of kind, and the numbers of checked, sound and damaged items."""
        damaged = Counter(one.kind for one in self.damaged)
        return [(kind, count, count - damaged[kind], damaged[kind]) for kind, count in self.checked.items()]

    def as_record(self) -> dict[str, Any]:
        """Return the result as JSON values."""
        return {"checked": self.checked, "damaged": [one.as_record() for one in self.damaged]}


def verify(store: Store, *, progress: Progress = SILENT) -> Verification:
    """Verify all files under an artifact root; no file is changed."""
    items = list(list_items(store))
    damaged = [describe_damage(store, item, problem) for item, problem in find_problems(items, progress)]
    return Verification(dict(Counter(item.kind for item in items)), damaged)


def why_not_regenerable(recipe: Recipe | None) -> str:
    """Return the reason why an artifact cannot be regenerated, with a remedy; empty if it can be."""
    if recipe is None:
        return f"its recipe is unreadable; {BACKUP_REMEDY}, or run `digits train` with the same options as before"
    if recipe.kind not in KINDS:
        return f"no training step produces this kind of artifact; {BACKUP_REMEDY}"
    if recipe.code != code_of(recipe.kind):
        return f"it was made by another version of the code or of a library; train again, or {BACKUP_REMEDY}"
    return ""


def describe_damage(store: Store, item: StoredItem, problem: str) -> Damage:
    """Return the damage of an item, with its remedy."""
    if item.regenerable:
        remedy = "`digits repair` removes it, and the next run creates it again"
    elif item.ref is not None:
        remedy = why_not_regenerable(store.recipe(item.ref)) or "`digits repair` recomputes it"
    else:
        remedy = BACKUP_REMEDY
    if damaged_record_of(item):
        remedy = f"if a single bit of its record has flipped, `digits repair` restores it; otherwise {remedy}"
    return Damage(item.kind, str(item.path.relative_to(store.root)), problem, remedy)


def damaged_record_of(item: StoredItem) -> Path | None:
    """Return the path of an item's record if the record is damaged; None if it is intact or the item has none.

    The record of an artifact is its manifest. Other items with the extension `.json` are records themselves.
    """
    record = item.path / MANIFEST if item.ref else item.path
    if record.suffix != ".json" or not record.is_file():
        return None
    try:
        read_record(record)
    except CorruptArtifactError:
        return record
    return None


def find_problems(items: Sequence[StoredItem], progress: Progress) -> Iterator[tuple[StoredItem, str]]:
    """Yield each damaged item with its problem; all items are checked, however many are damaged."""
    bar = progress.start("Verifying", len(items))
    for item in items:
        try:
            item.check()
        except Exception as error:  # noqa: BLE001 - damaged bytes can cause any error
            yield item, str(error) or type(error).__name__
        bar.advance()
    bar.close()


def list_items(store: Store) -> Iterator[StoredItem]:
    """Yield all files and directories under an artifact root that can be verified."""
    yield from _artifacts(store)
    yield from _records(store)
    yield from (
        StoredItem("checkpoint", path, partial(_check_checkpoint, path), regenerable=True)
        for path in _found(store.work, "train-*.npz")
    )
    for path in _found(store.plans, "*"):
        if path.is_dir() and path.name != LEDGERS and not path.name.startswith("tmp-"):
            yield from _plan(path)
    for path in _found(store.plans / LEDGERS, "*/*"):
        yield StoredItem("ledger", path, partial(_check_ledger, path), regenerable=True)
    for path in _found(store.predictions, "**/*.summary.json"):
        yield StoredItem("summary", path, partial(_check_record, path))
    for path in _found(store.predictions, "**/*.drift.json"):
        yield StoredItem("baseline", path, partial(_check_record, path), regenerable=True)
    for path in _found(store.studies, "*/*.json"):
        yield StoredItem("study", path, partial(_check_record, path), regenerable=True)
    yield from _labels(store.labels)


def _found(directory: Path, pattern: str) -> list[Path]:
    return sorted(path for path in directory.glob(pattern) if not path.name.endswith(".tmp"))


def _artifacts(store: Store) -> Iterator[StoredItem]:
    for path in _found(store.root, "*/" + "[0-9a-f]" * 64):
        ref = ArtifactRef(path.parent.name, path.name)
        yield StoredItem(ref.kind, path, partial(_check_artifact, store, ref), ref)


def _check_artifact(store: Store, ref: ArtifactRef) -> None:
    if unlisted_files := store.unlisted_files(store.open(ref)):
        raise CorruptArtifactError(f"{ref}: files that are not in its manifest: {', '.join(unlisted_files)}")


def _records(store: Store) -> Iterator[StoredItem]:
    registry = store.registry
    for path in _found(registry, "*/*"):
        yield StoredItem("registry", path, partial(_check_record, path))
    if registry.exists():
        yield StoredItem("registry", registry, partial(_check_registry, store))


def _labels(directory: Path) -> Iterator[StoredItem]:
    for path in _found(directory, LOG_FILE):
        yield StoredItem("labels", path, partial(_check_labels, directory))
    for path in _found(directory / IMAGES, "*"):
        yield StoredItem("labelled image", path, partial(_check_image, path))


def _check_labels(directory: Path) -> None:
    LabelLog(directory)


def _check_image(path: Path) -> None:
    if hash_file(path) != path.name:
        raise CorruptArtifactError(f"{path}: damaged after it was saved")


def _check_record(path: Path) -> None:
    read_record(path)


def _check_registry(store: Store) -> None:
    registry = Registry(store)
    registry.promotions()
    for version in registry.versions():
        for kind in version.artifacts:
            if not store.path(version.artifact(kind)).exists():
                raise CorruptArtifactError(f"version {version.number} needs {version.artifact(kind)}, which is missing")


def _check_checkpoint(path: Path) -> None:
    read_checkpoint(path)


def _check_ledger(path: Path) -> None:
    read_ledger(path.with_suffix(".json"))


def _plan(path: Path) -> Iterator[StoredItem]:
    yield StoredItem("plan", path, partial(_check_plan, path), regenerable=True)
    for found in _found(path / "parts", "*.json"):
        yield StoredItem("part", found, partial(_check_part, path, found.stem), regenerable=True)
    for found in _found(path / "parts", "*.blame"):
        yield StoredItem("part", found, partial(_check_record, found), regenerable=True)


def _check_plan(path: Path) -> None:
    plan = Plan.open(path)
    expected = {LISTING_FILE: plan.listing_sha256}
    expected |= {KNOWN_FILE: plan.former.sha256} if plan.former else {}
    for name, sha256 in expected.items():
        if hash_file(path / name) != sha256:
            raise CorruptArtifactError(f"{path / name}: damaged after it was written")


def _check_part(path: Path, shard: str) -> None:
    read_part(Plan.open(path), int(shard))
