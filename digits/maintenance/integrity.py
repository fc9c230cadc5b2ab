"""Whether everything under an artifact root is as it was written, and making again what can be.

Nothing here is needed for safety: whoever opens an artifact, a record or a part file verifies it first. `verify` looks
at all of them at once, also at those that nobody opens; `repair` makes again what has a recipe, in order of lineage.
"""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

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

BACKUP = "restore it from a backup of the artifact root"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Thing:
    """Something under the artifact root that can be checked.

    Args:
        kind: as it is counted: an artifact's kind, or `registry`, `plan`, `part`, `ledger`, `checkpoint`, `summary`,
            `study`, `labels`, `labelled image`.
        path: where it is.
        check: raises what is wrong with it.
        ref: of an artifact.
        spare: whether it may be removed, since a run makes it again by itself.
    """

    kind: str
    path: Path
    check: Callable[[], None] = field(repr=False)
    ref: ArtifactRef | None = None
    spare: bool = False


@dataclass(frozen=True)
class Damage:
    """Something that is not as it was written: what it is, what is wrong, what to do."""

    kind: str
    path: str
    wrong: str
    remedy: str


@dataclass(frozen=True)
class Verification:
    """What a look at everything found: things by kind, and those that are damaged."""

    checked: dict[str, int]
    damaged: list[Damage]

    def table(self) -> list[tuple[str, int, int, int]]:
        """Give kind, checked, sound, damaged."""
        bad = Counter(one.kind for one in self.damaged)
        return [(kind, count, count - bad[kind], bad[kind]) for kind, count in self.checked.items()]


def verify(store: Store, *, progress: Progress = SILENT) -> Verification:
    """Check everything; nothing is changed, and no damage keeps it from looking at the rest."""
    found = list(things(store))
    damaged = [damage_of(store, thing, wrong) for thing, wrong in problem_of(found, progress)]
    return Verification(dict(Counter(thing.kind for thing in found)), damaged)


def why_not(recipe: Recipe | None) -> str:
    """Say why an artifact can't be made again; empty where it can."""
    if recipe is None:
        return f"its recipe can't be read any more; {BACKUP}, or run `digits train` with the options it was made with"
    if recipe.kind not in KINDS:
        return f"no step of training makes it; {BACKUP}"
    if recipe.code != code_of(recipe.kind):
        return f"it was made by another version of the code or of a library, train anew; or {BACKUP}"
    return ""


def damage_of(store: Store, thing: Thing, wrong: str) -> Damage:
    if thing.spare:
        remedy = "`digits repair` removes it, and the next run makes it again"
    elif thing.ref is not None:
        remedy = why_not(store.recipe(thing.ref)) or "`digits repair` makes it again"
    else:
        remedy = BACKUP
    if record_of(thing):
        remedy = f"where one bit of its record has flipped, `digits repair` puts it back; else {remedy}"
    return Damage(thing.kind, str(thing.path.relative_to(store.root)), wrong, remedy)


def record_of(thing: Thing) -> Path | None:
    """Give the sealed record that a thing is or has, if that is a file and damaged."""
    record = thing.path / MANIFEST if thing.ref else thing.path
    if record.suffix != ".json" or not record.is_file():
        return None
    try:
        read_record(record)
    except CorruptArtifactError:
        return record
    return None


def problem_of(found: Sequence[Thing], progress: Progress) -> Iterator[tuple[Thing, str]]:
    bar = progress.start("Verifying", len(found))
    for thing in found:
        try:
            thing.check()
        except Exception as error:  # noqa: BLE001 - damaged bytes make any reader fail in any way
            yield thing, str(error) or type(error).__name__
        bar.advance()
    bar.close()


def things(store: Store) -> Iterator[Thing]:
    """Give everything under an artifact root that can be checked."""
    yield from _artifacts(store)
    yield from _records(store)
    yield from (
        Thing("checkpoint", path, partial(_check_checkpoint, path), spare=True)
        for path in _found(store.work, "train-*.npz")
    )
    for path in _found(store.plans, "*"):
        if path.is_dir() and path.name != LEDGERS and not path.name.startswith("tmp-"):
            yield from _plan(path)
    for path in _found(store.plans / LEDGERS, "*/*"):
        yield Thing("ledger", path, partial(_check_ledger, path), spare=True)
    for path in _found(store.predictions, "**/*.summary.json"):
        yield Thing("summary", path, partial(_check_record, path))
    for path in _found(store.studies, "*/*.json"):
        yield Thing("study", path, partial(_check_record, path), spare=True)
    yield from _labels(store.labels)


def _found(directory: Path, pattern: str) -> list[Path]:
    return sorted(path for path in directory.glob(pattern) if not path.name.endswith(".tmp"))


def _artifacts(store: Store) -> Iterator[Thing]:
    for path in _found(store.root, "*/" + "[0-9a-f]" * 64):
        ref = ArtifactRef(path.parent.name, path.name)
        yield Thing(ref.kind, path, partial(_check_artifact, store, ref), ref)


def _check_artifact(store: Store, ref: ArtifactRef) -> None:
    if unlisted_files := store.unlisted_files(store.open(ref)):
        raise CorruptArtifactError(f"{ref}: {', '.join(unlisted_files)} is not in its manifest")


def _records(store: Store) -> Iterator[Thing]:
    registry = store.registry
    for path in _found(registry, "*/*"):
        yield Thing("registry", path, partial(_check_record, path))
    if registry.exists():
        yield Thing("registry", registry, partial(_check_registry, store))


def _labels(directory: Path) -> Iterator[Thing]:
    for path in _found(directory, LOG_FILE):
        yield Thing("labels", path, partial(_check_labels, directory))
    for path in _found(directory / IMAGES, "*"):
        yield Thing("labelled image", path, partial(_check_image, path))


def _check_labels(directory: Path) -> None:
    LabelLog(directory)


def _check_image(path: Path) -> None:
    if hash_file(path) != path.name:
        raise CorruptArtifactError(f"{path}: damaged after it was kept")


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


def _plan(path: Path) -> Iterator[Thing]:
    yield Thing("plan", path, partial(_check_plan, path), spare=True)
    for found in _found(path / "parts", "*.json"):
        yield Thing("part", found, partial(_check_part, path, found.stem), spare=True)
    for found in _found(path / "parts", "*.blame"):
        yield Thing("part", found, partial(_check_record, found), spare=True)


def _check_plan(path: Path) -> None:
    plan = Plan.open(path)
    expected = {LISTING_FILE: plan.listing_sha256}
    expected |= {KNOWN_FILE: plan.former.sha256} if plan.former else {}
    for name, sha256 in expected.items():
        if hash_file(path / name) != sha256:
            raise CorruptArtifactError(f"{path / name}: damaged after it was written")


def _check_part(path: Path, shard: str) -> None:
    read_part(Plan.open(path), int(shard))
