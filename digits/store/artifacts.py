"""The artifact store: immutable directories that are found again by the recipe that made them.

An artifact is `<root>/<kind>/<digest>/`: its files and a `manifest.json` with the SHA-256 and the size of each. The
digest names the recipe (stage, configuration, digests of the inputs, version of the code), so the same recipe is
found instead of computed again. It is written under `<root>/tmp/`, synced, the manifest last, and renamed into place:
an artifact is there whole or not at all.
"""

import hashlib
import json
import logging
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from digits.errors import CorruptArtifactError, MissingArtifactError, StoreError, os_errors_as
from digits.store.code_version import library_versions
from digits.store.files import hash_file, locked, sync_directory
from digits.store.records import Record, digest_of, read_record, write_record

MANIFEST = "manifest.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArtifactRef:
    """A typed pointer to an artifact: what tasks hand to each other."""

    kind: str
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.digest[:12]}"


@dataclass(frozen=True)
class Recipe:
    """What makes an artifact what it is; its digest is the artifact's name.

    Args:
        kind: the directory it lives under, such as `arrays`.
        config: JSON values; no clocks, no absolute paths.
        parents: the artifacts it is made from.
        code: the version of the code that makes it, from `code_version`.
    """

    kind: str
    config: Mapping[str, Any]
    parents: tuple[ArtifactRef, ...] = ()
    code: str = ""

    @property
    def ref(self) -> ArtifactRef:
        """The reference under which this recipe's result is stored."""
        return ArtifactRef(self.kind, digest_of(self.as_record()))

    def as_record(self) -> Record:
        """Give the recipe as JSON values."""
        parents = [[parent.kind, parent.digest] for parent in self.parents]
        return {"kind": self.kind, "config": dict(self.config), "parents": parents, "code": self.code}


@dataclass(frozen=True)
class Artifact:
    """An artifact that was found and whose files have the hashes of its manifest."""

    ref: ArtifactRef
    path: Path
    manifest: Record = field(repr=False)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that made it."""
        config: dict[str, Any] = self.manifest["recipe"]["config"]
        return config

    @property
    def parents(self) -> list[ArtifactRef]:
        """The artifacts it was made from."""
        return [ArtifactRef(*parent) for parent in self.manifest["recipe"]["parents"]]

    def file(self, name: str) -> Path:
        """Give the path of one of its files."""
        if name not in self.manifest["files"]:
            raise MissingArtifactError(f"{self.ref}: there is no {name} in it, only {sorted(self.manifest['files'])}")
        return self.path / name


class Store:
    """The artifacts under one root directory."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def downloads(self) -> Path:
        """Directory of files as they were downloaded."""
        return self.root / "downloads"

    @property
    def labels(self) -> Path:
        """Directory of the labels that people gave."""
        return self.root / "labels"

    @property
    def registry(self) -> Path:
        """Directory of the records of model versions, promotions and decisions."""
        return self.root / "registry"

    @property
    def studies(self) -> Path:
        """Directory of the studies of tuning."""
        return self.root / "studies"

    @property
    def predictions(self) -> Path:
        """Directory of the tables for which no other place was named."""
        return self.root / "predictions"

    @property
    def inspections(self) -> Path:
        """Directory of the pictures of inspected images."""
        return self.root / "inspections"

    @property
    def inbox(self) -> Path:
        """Directory of the images that a deployment predicts as they arrive."""
        return self.root / "inbox"

    @property
    def demo(self) -> Path:
        """Directory of the images and the table of the demonstration."""
        return self.root / "demo"

    @property
    def work(self) -> Path:
        """Directory of unfinished work that is resumed after a kill, such as checkpoints."""
        return self.root / "work"

    @property
    def plans(self) -> Path:
        """Directory of the plans of unfinished predictions."""
        return self.work / "predictions"

    @property
    def temporary(self) -> Path:
        """Directory of what is being written, and of what is being deleted."""
        return self.root / "tmp"

    @property
    def damaged(self) -> Path:
        """Directory of damaged artifacts that were set aside."""
        return self.root / "damaged"

    @property
    def locks(self) -> Path:
        """Directory of the files that are locked."""
        return self.root / "locks"

    def path(self, ref: ArtifactRef) -> Path:
        """Give the directory where an artifact is, or would be."""
        return self.root / ref.kind / ref.digest

    def has(self, ref: ArtifactRef) -> bool:
        """Tell whether an artifact is there; its files are not verified."""
        return (self.path(ref) / MANIFEST).is_file()

    def open(self, ref: ArtifactRef) -> Artifact:
        """Find an artifact and verify every file of it against the manifest.

        Raises:
            MissingArtifactError: it is not in the store.
            CorruptArtifactError: a file or the manifest was changed after it was written.
        """
        path = self.path(ref)
        if not self.has(ref):
            raise MissingArtifactError(f"{ref}: not in the store at {self.root}; run the step that makes it again")
        with reading(self.root):
            artifact = Artifact(ref, path, read_record(path / MANIFEST))
            if Recipe(**_recipe_fields(artifact.manifest["recipe"])).ref != ref:
                raise CorruptArtifactError(f"{ref}: its manifest belongs to another artifact; delete {path}")
            for name, expected in artifact.manifest["files"].items():
                _require_inside(ref, name)
                _verify_file(ref, path / name, expected)
        return artifact

    def recipe(self, ref: ArtifactRef) -> Recipe | None:
        """Give what made an artifact, however damaged it is; None where its manifest does not tell any more.

        The digest in its name is the recipe's, so a recipe that fits it is right whatever else has changed.
        """
        try:
            found = Recipe(**_recipe_fields(json.loads((self.path(ref) / MANIFEST).read_bytes())["recipe"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return found if found.ref == ref else None

    def unlisted_files(self, artifact: Artifact) -> list[str]:
        """Give the names of files in an artifact's directory that are not in its manifest."""
        found = {path.relative_to(artifact.path).as_posix() for path in artifact.path.rglob("*") if not path.is_dir()}
        return sorted(found - {MANIFEST, *artifact.manifest["files"]})

    def produce(self, recipe: Recipe, write: Callable[[Path], None]) -> ArtifactRef:
        """Find the recipe's artifact, or make it: `write` fills an empty directory.

        One process makes it while others wait for the result. A damaged artifact is set aside and made again.
        """
        ref = recipe.ref
        with self.lock(f"{ref.kind}-{ref.digest}"):
            if not self.has_valid(ref):
                self._write(recipe, write)
        return ref

    def has_valid(self, ref: ArtifactRef) -> bool:
        """Tell whether an artifact is there and whole, and note that it is in use; a damaged one is set aside."""
        if not self.path(ref).exists():
            return False
        try:
            self.open(ref)
        except (MissingArtifactError, CorruptArtifactError) as error:
            logger.warning("%s; it is made again", error)
            self._set_aside(ref)
            return False
        with suppress(OSError):  # a store that can only be read has no retention either
            os.utime(self.path(ref))
        logger.info("%s: found, not computed again", ref)
        return True

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Hold a named lock; the kernel drops it when its holder dies."""
        with self._locked(name, wait=True):
            yield

    def refs(self) -> dict[ArtifactRef, float]:
        """Give every artifact that is there, with when it was made or last found, as seconds since the epoch."""
        found = {}
        for path in (manifest.parent for manifest in self.root.glob(f"*/*/{MANIFEST}")):
            if _is_digest(path.name):
                ref = ArtifactRef(path.parent.name, path.name)
                with suppress(FileNotFoundError):
                    found[ref] = self._used(ref)
        return found

    def _used(self, ref: ArtifactRef) -> float:
        return max(path.stat().st_mtime for path in (self.path(ref), self.path(ref) / MANIFEST))

    def parents(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Give what an artifact was made from, by its manifest alone; nothing where it is not in the store."""
        try:
            return list(_recipe_fields(read_record(self.path(ref) / MANIFEST)["recipe"])["parents"])
        except FileNotFoundError:
            return []

    def remove(self, ref: ArtifactRef, *, unused_since: float) -> bool:
        """Remove an artifact, unless a run has found it since then; tell whether it is gone."""
        with self.lock(f"{ref.kind}-{ref.digest}"):
            if not self.has(ref) or self._used(ref) > unused_since:
                return False
            self.discard(self.path(ref))
        return True

    def discard(self, path: Path) -> None:
        """Remove a file or a directory below the root: renamed first, so that no half of it is ever found."""
        grave = self.temporary / secrets.token_hex(8)
        with writing(self.root):
            grave.parent.mkdir(parents=True, exist_ok=True)
            path.rename(grave)
            if grave.is_dir():
                shutil.rmtree(grave)
            else:
                grave.unlink()

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Hold a named lock if nobody else does, and tell whether that is so."""
        with self._locked(name, wait=False) as free:
            yield free

    @contextmanager
    def _locked(self, name: str, *, wait: bool) -> Iterator[bool]:
        path = self.locks / name
        with ExitStack() as stack:
            with writing(self.root):
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = stack.enter_context(locked(path, wait=wait))
            yield lock.held

    def workspace(self, place: Path) -> Path:
        """Make one of the directories for work that is resumed after a kill; whoever made it removes it."""
        with writing(self.root):
            place.mkdir(parents=True, exist_ok=True)
        return place

    def _set_aside(self, ref: ArtifactRef) -> None:
        target = self.damaged / f"{ref.kind}-{ref.digest}-{secrets.token_hex(4)}"
        with writing(self.root):
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path(ref).rename(target)

    def _write(self, recipe: Recipe, write: Callable[[Path], None]) -> None:
        temporary = self.temporary / secrets.token_hex(8)
        try:
            with writing(self.root):
                temporary.mkdir(parents=True)
                write(temporary)
                self._publish(recipe, temporary)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def _publish(self, recipe: Recipe, temporary: Path) -> None:
        files = {path.relative_to(temporary).as_posix(): _sealed_file(path) for path in _files_under(temporary)}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(
            temporary / MANIFEST,
            {"recipe": recipe.as_record(), "files": files, "created_at": created, "versions": library_versions()},
        )
        for directory in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            sync_directory(directory)
        target = self.path(recipe.ref)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
        sync_directory(target.parent)


def writing(root: Path) -> AbstractContextManager[None]:
    """Raise a `StoreError` where something below an artifact root can't be written."""
    remedy = "free space or choose another place with --artifacts or DIGITS_ARTIFACTS"
    return os_errors_as(StoreError, root, "could not write to the artifact root", remedy)


def reading(root: Path) -> AbstractContextManager[None]:
    """Raise a `StoreError` where something below an artifact root can't be read."""
    remedy = "check its permissions and its disk, or choose another place with --artifacts or DIGITS_ARTIFACTS"
    return os_errors_as(StoreError, root, "could not read from the artifact root", remedy)


def _is_digest(name: str) -> bool:
    return len(name) == hashlib.sha256().digest_size * 2 and set(name) <= set("0123456789abcdef")


def _recipe_fields(record: Record) -> dict[str, Any]:
    return {**record, "parents": tuple(ArtifactRef(*parent) for parent in record["parents"])}


def _require_inside(ref: ArtifactRef, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise CorruptArtifactError(f"{ref}: its manifest names {name!r}, a file outside of it; delete it")


def _verify_file(ref: ArtifactRef, path: Path, expected: Mapping[str, Any]) -> None:
    found = hash_file(path) if path.is_file() else "no file"
    if found != expected["sha256"]:
        raise CorruptArtifactError(
            f"{ref}: {path.name} should have SHA-256 {expected['sha256'][:12]}, found {found[:12]}; "
            f"it was damaged after it was written; delete {path.parent} to have it made again"
        )


def _files_under(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _sealed_file(path: Path) -> Record:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}
