"""Artifact store: immutable directories, each identified by the recipe that it was made from.

An artifact is the directory `<root>/<kind>/<digest>/`: its files and a `manifest.json` with the SHA-256 and the size of
each file. The digest is the hash of the recipe (kind, configuration, input artifacts, code version), so that an
artifact is reused when the same recipe is requested again. Artifacts are written in `<root>/tmp/`, the manifest last,
synced to disk, and renamed to their final path. A crash therefore never leaves a partial artifact.
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
from digits.store.processor import describe_processor
from digits.store.records import Record, digest_of, read_record, write_record

MANIFEST = "manifest.json"
"""Name of the file in an artifact that lists its files and holds its recipe."""
ROOT_MODE = 0o750
"""Permissions of an artifact root that Digits creates."""
logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ArtifactRef:
    """Typed reference to an artifact. Tasks pass references instead of data.

    Args:
        kind: kind of the artifact, such as `arrays`.
        digest: SHA-256 of its recipe, as 64 hexadecimal digits.
    """

    kind: str
    digest: str

    def __str__(self) -> str:
        return f"{self.kind}/{self.digest[:12]}"


@dataclass(frozen=True)
class Recipe:
    """Everything that determines an artifact's content. The digest of the recipe is the artifact's name.

    Args:
        kind: kind of the artifact, such as `arrays`; also the name of the directory that holds it.
        config: configuration as JSON values, without times and absolute paths.
        parents: artifacts that the content is computed from.
        code: version of the code that computes it, from `code_version`.
    """

    kind: str
    config: Mapping[str, Any]
    parents: tuple[ArtifactRef, ...] = ()
    code: str = ""

    @property
    def ref(self) -> ArtifactRef:
        """Reference to the artifact of this recipe, whether or not it exists."""
        return ArtifactRef(self.kind, digest_of(self.as_record()))

    def as_record(self) -> Record:
        """Return the recipe as JSON values."""
        parents = [[parent.kind, parent.digest] for parent in self.parents]
        return {"kind": self.kind, "config": dict(self.config), "parents": parents, "code": self.code}


@dataclass(frozen=True)
class Artifact:
    """Artifact whose files have been verified against its manifest.

    Args:
        ref: reference to the artifact.
        path: directory of the artifact.
        manifest: content of its `manifest.json`.
    """

    ref: ArtifactRef
    path: Path
    manifest: Record = field(repr=False)

    @property
    def config(self) -> dict[str, Any]:
        """Configuration in the artifact's recipe."""
        config: dict[str, Any] = self.manifest["recipe"]["config"]
        return config

    @property
    def parents(self) -> list[ArtifactRef]:
        """Artifacts that this one was computed from."""
        return [ArtifactRef(*parent) for parent in self.manifest["recipe"]["parents"]]

    def file(self, name: str) -> Path:
        """Return the path of one of the artifact's files.

        Raises:
            MissingArtifactError: if the manifest does not list the file.
        """
        if name not in self.manifest["files"]:
            raise MissingArtifactError(f"{self.ref} has no file {name}; its files: {sorted(self.manifest['files'])}")
        return self.path / name


class Store:
    """Artifact store in one root directory.

    Args:
        root: artifact root; need not exist.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()
        self._reused: set[ArtifactRef] = set()

    @property
    def downloads(self) -> Path:
        """Directory of downloaded files, unchanged."""
        return self.root / "downloads"

    @property
    def labels(self) -> Path:
        """Directory of the labels that users assigned to their own images."""
        return self.root / "labels"

    @property
    def registry(self) -> Path:
        """Directory of the records of model versions, promotions and decisions."""
        return self.root / "registry"

    @property
    def studies(self) -> Path:
        """Directory of the hyperparameter studies."""
        return self.root / "studies"

    @property
    def predictions(self) -> Path:
        """Default directory of prediction tables."""
        return self.root / "predictions"

    @property
    def inspections(self) -> Path:
        """Default directory of the drawings that `digits inspect` writes."""
        return self.root / "inspections"

    @property
    def inbox(self) -> Path:
        """Default directory of the images that the inbox deployment predicts."""
        return self.root / "inbox"

    @property
    def demo(self) -> Path:
        """Directory of the images and the table of `digits demo`."""
        return self.root / "demo"

    @property
    def work(self) -> Path:
        """Directory of unfinished work that an interrupted run resumes from, such as checkpoints."""
        return self.root / "work"

    @property
    def plans(self) -> Path:
        """Directory of the plans of unfinished predictions."""
        return self.work / "predictions"

    @property
    def written(self) -> Path:
        """Directory of the records of files that users named, see `digits.store.written`."""
        return self.work / "written"

    @property
    def temporary(self) -> Path:
        """Directory of artifacts that are being written or deleted."""
        return self.root / "tmp"

    @property
    def damaged(self) -> Path:
        """Directory that damaged artifacts are moved to."""
        return self.root / "damaged"

    @property
    def locks(self) -> Path:
        """Directory of the lock files."""
        return self.root / "locks"

    def path(self, ref: ArtifactRef) -> Path:
        """Return the directory of an artifact, whether or not it exists."""
        return self.root / ref.kind / ref.digest

    def has(self, ref: ArtifactRef) -> bool:
        """Return whether an artifact exists. Its files are not verified."""
        return (self.path(ref) / MANIFEST).is_file()

    def open(self, ref: ArtifactRef) -> Artifact:
        """Return an artifact after verifying each of its files against the manifest.

        Raises:
            MissingArtifactError: if it is not in the store.
            CorruptArtifactError: if a file or the manifest was changed after it was written.
            StoreError: if a file cannot be read.
        """
        path = self.path(ref)
        if not self.has(ref):
            raise MissingArtifactError(f"{ref}: not in the store at {self.root}; rerun the step that makes it")
        with reading(self.root):
            artifact = Artifact(ref, path, read_record(path / MANIFEST))
            if Recipe(**_recipe_fields(artifact.manifest["recipe"])).ref != ref:
                raise CorruptArtifactError(f"{ref}: its manifest belongs to another artifact; delete {path}")
            for name, expected in artifact.manifest["files"].items():
                _require_inside(ref, name)
                verify_file(ref, path / name, expected)
        return artifact

    def recipe(self, ref: ArtifactRef) -> Recipe | None:
        """Return the recipe of an artifact that may be damaged, or None if the recipe in its manifest is damaged.

        The recipe is verified by its digest, which is the artifact's name, so the rest of the manifest may be damaged.
        """
        try:
            found = Recipe(**_recipe_fields(json.loads((self.path(ref) / MANIFEST).read_bytes())["recipe"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            return None
        return found if found.ref == ref else None

    def unlisted_files(self, artifact: Artifact) -> list[str]:
        """Return the sorted names of the files in an artifact's directory that its manifest does not list."""
        found = {path.relative_to(artifact.path).as_posix() for path in artifact.path.rglob("*") if not path.is_dir()}
        return sorted(found - {MANIFEST, *artifact.manifest["files"]})

    def produce(self, recipe: Recipe, write: Callable[[Path], None]) -> ArtifactRef:
        """Return the artifact of a recipe, creating it if the store does not have it.

        Only one process creates it; other processes that request the same recipe wait for it. A damaged artifact is
        moved to `damaged` and created again.

        Args:
            recipe: recipe of the artifact.
            write: function that writes the artifact's files into an empty directory.

        Raises:
            StoreError: if the store cannot be read or written.
        """
        ref = recipe.ref
        with self.lock(f"{ref.kind}-{ref.digest}"):
            if not self.reuse(ref):
                self._write(recipe, write)
        return ref

    def reuse(self, ref: ArtifactRef) -> bool:
        """Reuse an artifact: verify its files, update the time of its last use, and return True.

        Return False if the artifact does not exist, or is damaged. A damaged artifact is moved to `damaged`, so that it
        can be created again.
        """
        if not self.path(ref).exists():
            return False
        try:
            self.open(ref)
        except (MissingArtifactError, CorruptArtifactError) as error:
            logger.warning("%s; it will be made again", error)
            self._set_aside(ref)
            return False
        with suppress(OSError):  # retention, which reads this time, does not run on a read-only store
            os.utime(self.path(ref))
        if ref not in self._reused:  # all trials of a study reuse the same initial weights
            logger.info("%s: reused from the store", ref)
            self._reused.add(ref)
        return True

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Wait for a named lock and hold it. The kernel releases it when the process ends."""
        with self._locked(name, wait=True):
            yield

    def refs(self) -> dict[ArtifactRef, float]:
        """Return every artifact in the store with the time of its creation or last use, in seconds since 1970."""
        found = {}
        for path in (manifest.parent for manifest in self.root.glob(f"*/*/{MANIFEST}")):
            if _is_digest(path.name):
                ref = ArtifactRef(path.parent.name, path.name)
                with suppress(FileNotFoundError):
                    found[ref] = self._last_used(ref)
        return found

    def _last_used(self, ref: ArtifactRef) -> float:
        return max(path.stat().st_mtime for path in (self.path(ref), self.path(ref) / MANIFEST))

    def parents(self, ref: ArtifactRef) -> list[ArtifactRef]:
        """Return the parents of an artifact, from its manifest; none if the artifact is not in the store.

        Raises:
            CorruptArtifactError: if the manifest is damaged.
        """
        try:
            return list(_recipe_fields(read_record(self.path(ref) / MANIFEST)["recipe"])["parents"])
        except FileNotFoundError:
            return []

    def remove(self, ref: ArtifactRef, *, unused_since: float) -> bool:
        """Remove an artifact unless it has been used since a given time, and return whether it was removed.

        Args:
            ref: reference to the artifact.
            unused_since: time in seconds since 1970.
        """
        with self.lock(f"{ref.kind}-{ref.digest}"):
            if not self.has(ref) or self._last_used(ref) > unused_since:
                return False
            self.discard(self.path(ref))
        return True

    def discard(self, path: Path) -> None:
        """Remove a file or a directory below the root. It is renamed first, so that no reader finds it half removed."""
        renamed = self.temporary / secrets.token_hex(8)
        with writing(self.root):
            renamed.parent.mkdir(parents=True, exist_ok=True)
            path.rename(renamed)
            if renamed.is_dir():
                shutil.rmtree(renamed)
            else:
                renamed.unlink()

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """Acquire a named lock without waiting, and yield whether it was acquired."""
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

    def workspace(self, path: Path) -> Path:
        """Create a directory for unfinished work, such as `plans`, and return it. The caller removes it."""
        with writing(self.root):
            path.mkdir(parents=True, exist_ok=True)
        return path

    @contextmanager
    def scratch(self, name: str) -> Iterator[Path]:
        """Yield an empty directory below `temporary`, which only its owner can enter, and remove it at the end.

        Args:
            name: start of the directory's name.
        """
        path = self.temporary / f"{name}-{secrets.token_hex(8)}"
        with writing(self.root):
            path.mkdir(parents=True, mode=0o700)
        try:
            yield path
        finally:
            shutil.rmtree(path, ignore_errors=True)

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
        files = {path.relative_to(temporary).as_posix(): _sync_and_hash(path) for path in _files_under(temporary)}
        created = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(
            temporary / MANIFEST,
            {
                "recipe": recipe.as_record(),
                "files": files,
                "created_at": created,
                "versions": library_versions(),
                "processor": describe_processor(),
            },
        )
        for directory in (temporary, *(path for path in temporary.rglob("*") if path.is_dir())):
            sync_directory(directory)
        target = self.path(recipe.ref)
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(target)
        sync_directory(target.parent)


def create_root(root: Path) -> None:
    """Create an artifact root unless it exists; only its owner and its group can enter it."""
    root.mkdir(parents=True, exist_ok=True, mode=ROOT_MODE)


@contextmanager
def writing(root: Path) -> Iterator[None]:
    """Raise a `StoreError` if the body of the `with` statement cannot write to an artifact root; create the root."""
    remedy = "free space or choose another place with --artifacts or DIGITS_ARTIFACTS"
    with os_errors_as(StoreError, root, "could not write to the artifact root", remedy):
        create_root(root)
        yield


def reading(root: Path) -> AbstractContextManager[None]:
    """Raise a `StoreError` if the body of the `with` statement cannot read from an artifact root."""
    remedy = "check its permissions and its disk, or choose another place with --artifacts or DIGITS_ARTIFACTS"
    return os_errors_as(StoreError, root, "could not read from the artifact root", remedy)


def _is_digest(name: str) -> bool:
    return len(name) == hashlib.sha256().digest_size * 2 and set(name) <= set("0123456789abcdef")


def _recipe_fields(record: Record) -> dict[str, Any]:
    return {**record, "parents": tuple(ArtifactRef(*parent) for parent in record["parents"])}


def _require_inside(ref: ArtifactRef, name: str) -> None:
    if name.startswith("/") or ".." in name.split("/"):
        raise CorruptArtifactError(f"{ref}: its manifest lists {name!r}, outside its directory; delete the artifact")


def verify_file(ref: ArtifactRef, path: Path, expected: Mapping[str, Any]) -> None:
    """Check that a file of an artifact has the hash in the manifest.

    Args:
        ref: reference to the artifact, for the message.
        path: path of the file.
        expected: the manifest's entry of the file.

    Raises:
        CorruptArtifactError: if the file is missing or damaged.
    """
    found = hash_file(path) if path.is_file() else "no file"
    if found != expected["sha256"]:
        raise CorruptArtifactError(
            f"{ref}: expected {path.name} with SHA-256 {expected['sha256'][:12]}, found {found[:12]}; "
            f"it was damaged after it was written; delete {path.parent} to have it made again"
        )


def _files_under(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def _sync_and_hash(path: Path) -> Record:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return {"sha256": digest, "bytes": path.stat().st_size}
