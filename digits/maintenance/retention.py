"""Retention: removal of unused artifacts, abandoned work and temporary files after their retention period."""

import logging
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from digits.errors import StoreError, os_errors_as
from digits.maintenance.expiry import remove_old_tables, remove_predicted_images
from digits.prediction.planning import remove_stale_plans
from digits.settings import Settings
from digits.store.artifacts import ArtifactRef, Store
from digits.store.files import find_temporary_files
from digits.store.registry import Registry


class RetentionConfig(Settings):
    """Retention periods, after which the janitor removes unused files."""

    artifact_days: float = Field(
        30,
        ge=1,
        description="Days after which an unused artifact is removed. An artifact is unused if no model version needs "
        "it and no run has created or reused it in this time.",
    )
    work_days: float = Field(
        30,
        ge=1,
        description="Days after which the state of an interrupted training or prediction, from which it could resume, "
        "is removed. For predictions at most 30, because each prediction removes older states.",
    )
    temporary_hours: float = Field(
        24, ge=1, description="Hours after which the temporary files of a killed process are removed."
    )
    table_days: float | None = Field(
        None,
        ge=1,
        description="Days after which a prediction table under the artifact root is removed, with its summary and the "
        "files beside it. Edited and moved tables are kept, and tables that incremental runs update. Default: never.",
    )
    inbox_days: float | None = Field(
        None,
        ge=1,
        description="Days after which an image of the inbox under the artifact root is removed, if the published table "
        "has its row. The row is copied to a table of removed rows beside it. Default: never.",
    )


DAY, HOUR = 24 * 3600, 3600
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Removed:
    """Removed file or directory: its path relative to the artifact root, its size in bytes, and the reason."""

    path: str
    bytes: int
    reason: str


def sweep_store(store: Store, config: RetentionConfig) -> list[Removed]:
    """Remove unused artifacts, abandoned work and old temporary files, and return what was removed.

    Other runs can use the store at the same time. Only one process sweeps it at a time.

    Raises:
        CorruptArtifactError: if a record of the registry or a manifest is damaged, so that it is unknown which
            artifacts are needed. In that case no artifact is removed.
        StoreError: if a file cannot be removed.
    """
    remedy = "fix the cause; the next run removes the rest"
    with os_errors_as(StoreError, store.root, "the artifact store could not be cleaned", remedy):
        removed = _sweep(store, config)
    for one in removed:
        logger.debug("removed %s: %s", one.path, one.reason)
    return removed


def _sweep(store: Store, config: RetentionConfig) -> list[Removed]:
    with store.lock("sweep"):
        now = time.time()
        # Plans come first: removing temporary files in them would change their modification times.
        plans = remove_stale_plans(store.plans, plan_seconds=config.work_days * DAY)
        removed = [Removed(_below(store, path), 0, "an interrupted prediction that was not resumed") for path in plans]
        removed += [_discard(store, path, reason) for path, reason in _leftovers(store, config, now)]
        removed += _expired(store, config, now)
        oldest = now - config.artifact_days * DAY
        return removed + _sweep_artifacts(store, oldest)


def _expired(store: Store, config: RetentionConfig, now: float) -> Iterator[Removed]:
    """Remove old images of the inbox and old tables, as far as the configuration asks for it."""
    if config.inbox_days is not None:
        for path, size in remove_predicted_images(store, now - config.inbox_days * DAY):
            yield Removed(_below(store, path), size, "an image of the inbox that is in its table")
    if config.table_days is not None:
        for path, size in remove_old_tables(store, now - config.table_days * DAY):
            yield Removed(_below(store, path), size, "an old prediction table")


def unused(used: dict[ArtifactRef, float], kept: set[ArtifactRef], oldest: float) -> list[ArtifactRef]:
    """Return the artifacts that can be removed, least recently used first: not kept, and not used since `oldest`.

    Args:
        used: time of the last use of each artifact, in seconds since the epoch.
        kept: artifacts that are needed.
        oldest: artifacts whose last use was before this time can be removed, in seconds since the epoch.
    """
    return sorted((ref for ref, time in used.items() if time <= oldest and ref not in kept), key=lambda ref: used[ref])


def with_ancestors(store: Store, refs: Iterable[ArtifactRef]) -> set[ArtifactRef]:
    """Return artifacts together with all artifacts they were made from."""
    found: set[ArtifactRef] = set()
    waiting = list(refs)
    while waiting:
        ref = waiting.pop()
        if ref not in found:
            found.add(ref)
            waiting += store.parents(ref)
    return found


def _sweep_artifacts(store: Store, oldest: float) -> list[Removed]:
    used = store.refs()
    named = [version.artifact(kind) for version in Registry(store).versions() for kind in version.artifacts]
    recent = [ref for ref, time in used.items() if time > oldest]
    removed = []
    for ref in unused(used, with_ancestors(store, [*named, *recent]), oldest):
        size = _size(store.path(ref))
        if store.remove(ref, unused_since=oldest):
            removed.append(Removed(_below(store, store.path(ref)), size, "unused, and needed by no model version"))
    return removed


def _leftovers(store: Store, config: RetentionConfig, now: float) -> Iterator[tuple[Path, str]]:
    """Yield old files of killed processes, abandoned trainings and damaged artifacts, with the reason for removal."""
    killed = "left by a process that was killed"
    kinds = (
        (store.temporary.glob("*"), config.temporary_hours * HOUR, killed),
        *((find_temporary_files(place), config.temporary_hours * HOUR, killed) for place in _directories(store)),
        (store.work.glob("train-*.npz"), config.work_days * DAY, "an interrupted training that was not resumed"),
        (store.damaged.glob("*"), config.artifact_days * DAY, "damaged, and recomputed since"),
    )
    for paths, seconds, reason in kinds:
        yield from ((path, reason) for path in list(paths) if now - _last_change(path) > seconds)


def _directories(store: Store) -> tuple[Path, ...]:
    """Return the directories in which a killed process can leave temporary files."""
    records = (store.registry, store.studies, store.labels)
    return (*records, store.work, store.predictions, store.inspections, store.demo)


def _last_change(path: Path) -> float:
    """Return the last modification time of a path and everything in it; infinity if it was removed meanwhile."""
    times = [float("inf")]
    with suppress(OSError):
        times = [entry.lstat().st_mtime for entry in (path, *path.rglob("*"))]
    return max(times)


def _discard(store: Store, path: Path, reason: str) -> Removed:
    size = _size(path)
    store.discard(path)
    return Removed(_below(store, path), size, reason)


def _below(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()


def _size(path: Path) -> int:
    return sum(file.lstat().st_size for file in (path, *path.rglob("*")) if file.is_file())
