"""Artifact store: atomic writing, reuse, verification and locking."""

import errno
import logging
import os
import re
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from digits.data.labels import LabelLog
from digits.errors import CorruptArtifactError, MissingArtifactError, StoreError
from digits.prediction.service import inbox_lock
from digits.server.services import System
from digits.store.artifacts import MANIFEST, Artifact, ArtifactRef, Recipe, Store
from digits.store.code_version import library_versions
from digits.store.processor import describe_processor
from tests.support import faults

pytestmark = pytest.mark.usefixtures("without_sync")

PARENT = ArtifactRef("dataset", "ab" * 32)
RECIPE = Recipe("arrays", {"fraction": 0.2, "seed": 7}, (PARENT,), "the-code")
NAMES = ["labels.npy", "notes/about.json", MANIFEST]


def write(directory: Path) -> None:
    """Write an artifact's files: an array, and a JSON file in a subdirectory."""
    np.save(directory / "labels.npy", np.arange(50, dtype=np.uint8))
    (directory / "notes").mkdir()
    (directory / "notes" / "about.json").write_text("{}")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return an empty store in a path with a space."""
    return Store(tmp_path / "my artifacts")


@pytest.fixture
def world_readable() -> Iterator[Path]:
    """Yield a directory that other users can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.parametrize("mask", [0o022, 0o000])
def test_a_root_that_is_created_can_be_entered_by_its_owner_and_group_only(tmp_path: Path, mask: int) -> None:
    """Whichever part creates it. The permissions of an existing root stay."""
    before = os.umask(mask)
    try:
        Store(tmp_path / "a" / "root").produce(RECIPE, write)
        LabelLog(tmp_path / "b" / "root" / "labels").save_image("0" * 64, b"")
        with System(tmp_path / "c" / "root" / "system", tmp_path / "c" / "root").exclusive():
            pass
        with inbox_lock(Store(tmp_path / "d" / "root"), tmp_path / "d" / "root" / "inbox"):
            pass
        given = tmp_path / "given"
        given.mkdir(mode=0o755)
        Store(given).produce(RECIPE, write)
    finally:
        os.umask(before)
    assert [stat.S_IMODE((tmp_path / name / "root").stat().st_mode) for name in "abcd"] == [0o750] * 4
    assert stat.S_IMODE(given.stat().st_mode) == 0o755


def counted(calls: list[Path]) -> Callable[[Path], None]:
    """Return a `write` that appends to `calls` each time it is called."""

    def write_and_count(directory: Path) -> None:
        calls.append(directory)
        write(directory)

    return write_and_count


def assert_empty(store: Store) -> None:
    """Check that the store has no artifact and no partial one."""
    assert not list(store.root.glob("arrays/*"))
    assert not list(store.temporary.glob("*"))


def flip(path: Path, position: int = -1) -> None:
    """Flip one bit of a file in place."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# Reuse


def test_an_artifact_is_opened_with_its_files_config_and_parents(store: Store) -> None:
    """The artifact is stored under its kind and digest, with its recipe and the versions of the libraries."""
    artifact = store.open(store.produce(RECIPE, write))
    assert artifact.path == store.root / "arrays" / RECIPE.ref.digest
    assert np.array_equal(np.load(artifact.file("labels.npy")), np.arange(50))
    assert artifact.file("notes/about.json").read_text() == "{}"
    assert artifact.config == {"fraction": 0.2, "seed": 7}
    assert artifact.parents == [PARENT]
    assert artifact.manifest["versions"] == library_versions()
    assert artifact.manifest["processor"] == describe_processor()


def test_an_artifact_is_made_once_per_recipe(store: Store) -> None:
    """Further requests for the same recipe return the same reference and compute nothing."""
    calls: list[Path] = []
    references = {store.produce(RECIPE, counted(calls)) for _ in range(3)}
    assert len(references) == len(calls) == 1


@pytest.mark.parametrize(
    "other",
    [
        Recipe("network", RECIPE.config, RECIPE.parents, RECIPE.code),
        Recipe("arrays", {"fraction": 0.2, "seed": 8}, RECIPE.parents, RECIPE.code),
        Recipe("arrays", RECIPE.config, (), RECIPE.code),
        Recipe("arrays", RECIPE.config, (ArtifactRef("dataset", "cd" * 32),), RECIPE.code),
        Recipe("arrays", RECIPE.config, RECIPE.parents, "other code"),
    ],
)
def test_a_recipe_that_differs_in_any_part_makes_another_artifact(store: Store, other: Recipe) -> None:
    """The parts are the kind, the settings, the inputs and the code version."""
    calls: list[Path] = []
    assert store.produce(RECIPE, counted(calls)) != store.produce(other, counted(calls))
    assert len(calls) == 2


def test_a_missing_artifact_or_file_is_an_error_that_names_it(store: Store) -> None:
    """The messages name the store, or the files that the artifact has."""
    with pytest.raises(MissingArtifactError, match=re.escape(f"{RECIPE.ref}: not in the store at {store.root}")):
        store.open(RECIPE.ref)
    artifact = store.open(store.produce(RECIPE, write))
    with pytest.raises(MissingArtifactError, match=r"no file pixels.npy; its files: \['labels.npy', 'notes/about.j"):
        artifact.file("pixels.npy")


def test_an_artifact_that_a_process_reuses_often_is_named_once_in_the_log(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    """All trials of a study reuse the same initial weights."""
    caplog.set_level(logging.INFO)
    for _ in range(3):
        store.produce(RECIPE, write)
    assert [record.getMessage() for record in caplog.records] == [f"{RECIPE.ref}: reused from the store"]


# Damage


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [0, 20, -1])
def test_an_artifact_with_a_flipped_bit_is_detected_and_made_again(
    store: Store, caplog: pytest.LogCaptureFixture, name: str, position: int
) -> None:
    """In any file: opening names the file; the next run makes the artifact again and keeps the damaged one."""
    damaged = store.path(store.produce(RECIPE, write)) / name
    flip(damaged, min(position, damaged.stat().st_size - 1))
    with pytest.raises(CorruptArtifactError, match=damaged.name):
        store.open(RECIPE.ref)
    calls: list[Path] = []
    store.open(store.produce(RECIPE, counted(calls)))
    assert len(calls) == 1
    (kept,) = store.damaged.iterdir()
    assert (kept / name).is_file()
    assert "made again" in caplog.text
    assert damaged.name in caplog.text


@pytest.mark.parametrize("name", NAMES)
def test_an_artifact_with_a_missing_file_is_detected_and_made_again(store: Store, name: str) -> None:
    """Even if the manifest is missing, later runs succeed."""
    (store.path(store.produce(RECIPE, write)) / name).unlink()
    with pytest.raises((CorruptArtifactError, MissingArtifactError), match=str(RECIPE.ref)):
        store.open(RECIPE.ref)
    store.produce(RECIPE, write)
    assert store.open(RECIPE.ref).file("labels.npy").is_file()
    assert len(list(store.damaged.iterdir())) == 1


def test_an_artifact_in_the_directory_of_another_is_refused(store: Store) -> None:
    """Its manifest is intact, but holds another recipe."""
    other = Recipe("arrays", {})
    target = store.path(other.ref)
    store.path(store.produce(RECIPE, write)).rename(target)
    with pytest.raises(CorruptArtifactError, match=r"belongs to another artifact; delete"):
        store.open(other.ref)


# Kills


def test_a_writer_that_is_killed_while_it_writes_leaves_no_artifact_and_no_lock(store: Store) -> None:
    """After a SIGKILL, the next run makes the artifact without waiting."""
    begun, report = os.pipe()

    def write_half(directory: Path) -> None:
        (directory / "labels.npy").write_bytes(b"half")
        os.write(report, b"!")
        time.sleep(60)

    child = faults.in_child(lambda: store.produce(RECIPE, write_half))
    with faults.at_most(10):
        assert os.read(begun, 1) == b"!"
    os.kill(child, signal.SIGKILL)
    assert faults.wait(child) == -signal.SIGKILL
    assert not store.has(RECIPE.ref)
    with faults.at_most(10):
        store.produce(RECIPE, write)
    assert np.array_equal(np.load(store.open(RECIPE.ref).file("labels.npy")), np.arange(50))
    os.close(begun)
    os.close(report)


def test_an_artifact_is_whole_or_absent_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    """After a SIGKILL before any system call, the artifact opens or is missing, and the next run makes it."""
    there = []
    for at in range(1, 60):
        store = Store(tmp_path / str(at))
        with faults.fault(store.root, at, faults.die):
            status = faults.wait(faults.in_child(lambda store=store: store.produce(RECIPE, write)))
        there.append(store.has(RECIPE.ref))
        if there[-1]:
            store.open(RECIPE.ref)
        with faults.at_most(10):
            store.open(store.produce(RECIPE, write))
        assert not list(store.damaged.glob("*"))
        if status == 0:
            break
    assert status == 0
    assert there == sorted(there), "missing up to some call, whole after it"
    assert there.count(False) > 10


def test_files_are_synced_before_the_artifact_gets_its_name(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and directory is synced before the rename, and the rename after it: a power failure loses no part."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_ino))
    real, before = os.rename, []

    def rename(source: Path, target: Path) -> None:
        before.extend(synced)
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    path = store.path(store.produce(RECIPE, write))
    assert {entry.stat().st_ino for entry in (path, *path.rglob("*"))} <= set(before)
    assert path.parent.stat().st_ino in synced[len(before) :]


# Disks


def test_an_artifact_is_whole_or_absent_whichever_write_fails(tmp_path: Path) -> None:
    """If any system call finds the disk full, the error says so, no partial artifact is left, and a rerun succeeds."""
    failures = []
    for at in range(1, 60):
        store = Store(tmp_path / str(at))
        with faults.fault(store.root, at, faults.no_space) as fault:
            failures.append(faults.failure_of(lambda store=store: store.produce(RECIPE, write)))
        if failures[-1] and not store.has(RECIPE.ref):
            assert_empty(store)
        store.open(store.produce(RECIPE, write))
        if not fault.happened:
            break
    messages = [message for message in failures if message]
    assert not failures[-1]
    assert len(messages) > 10
    assert all("No space left on device" in message and str(tmp_path) in message for message in messages)


@pytest.mark.parametrize("size", [10_000, 3_000_000])
def test_a_full_disk_is_an_error_that_names_the_root(store: Store, size: int) -> None:
    """The write fails halfway: the message names the root and the remedy, and no file is left."""

    def write_much(directory: Path) -> None:
        np.save(directory / "pixels.npy", np.zeros(size, np.uint8))

    with faults.full_disk(4096), pytest.raises(StoreError) as caught:
        store.produce(RECIPE, write_much)
    message = str(caught.value)
    assert str(store.root) in message
    assert "None" not in message
    assert "--artifacts" in message
    assert_empty(store)


def test_an_error_without_an_error_number_keeps_its_message(store: Store) -> None:
    """NumPy reports a full disk by an `OSError` without `errno`."""

    def write_badly(directory: Path) -> None:
        raise OSError("9000 requested and 12 written")

    with pytest.raises(StoreError, match="9000 requested and 12 written"):
        store.produce(RECIPE, write_badly)


def test_an_error_of_the_writer_passes_through_and_leaves_no_artifact(store: Store) -> None:
    """A bug or a bad dataset is not reported as an error of the store."""

    def fail(directory: Path) -> None:
        write(directory)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.produce(RECIPE, fail)
    assert_empty(store)
    store.open(store.produce(RECIPE, write))


def test_a_read_only_root_is_an_error_that_names_it(world_readable: Path) -> None:
    """The message names the root and the cause."""
    root = world_readable / "artifacts"
    root.mkdir(mode=0o555)
    with (
        faults.without_root(),
        pytest.raises(StoreError, match=rf"{root}: could not write to the artifact root \(Permission den"),
    ):
        Store(root).produce(RECIPE, write)
    with faults.without_root(), pytest.raises(StoreError, match=str(root)):
        Store(root).workspace(Store(root).work)
    assert not list(root.iterdir())


def test_a_damaged_artifact_that_cannot_be_moved_is_an_error_that_names_the_root(world_readable: Path) -> None:
    """The store belongs to another user, who alone can move the artifact."""
    store = Store(world_readable / "artifacts")
    flip(store.path(store.produce(RECIPE, write)) / "labels.npy")
    for path in store.locks.iterdir():
        path.chmod(0o666)
    store.root.chmod(0o555)
    with faults.without_root(), pytest.raises(StoreError) as caught:
        store.produce(RECIPE, write)
    store.root.chmod(0o755)
    assert str(store.root) in str(caught.value)


def test_an_artifact_without_read_permission_is_not_reported_as_damaged(world_readable: Path) -> None:
    """The error names the file, and the artifact stays where it is."""
    store = Store(world_readable / "artifacts")
    (store.path(store.produce(RECIPE, write)) / "labels.npy").chmod(0)
    with faults.without_root(), pytest.raises(StoreError, match=r"could not read .*labels\.npy\)") as caught:
        store.open(RECIPE.ref)
    assert not isinstance(caught.value, CorruptArtifactError)


# Concurrency


def test_processes_with_the_same_recipe_make_its_artifact_once(store: Store) -> None:
    """The others wait for the first one's result and reuse it."""
    tally = store.root.parent / "tally"

    def write_slowly(directory: Path) -> None:
        with tally.open("a") as file:
            file.write("x")
        time.sleep(0.2)
        write(directory)

    children = [faults.in_child(lambda: store.produce(RECIPE, write_slowly)) for _ in range(4)]
    assert [faults.wait(child) for child in children] == [0] * 4
    assert tally.read_text() == "x"
    assert isinstance(store.open(RECIPE.ref), Artifact)


def test_different_recipes_do_not_wait_for_each_other(store: Store) -> None:
    """Each digest has its own lock."""
    with store.lock(f"{RECIPE.ref.kind}-{RECIPE.ref.digest}"), faults.at_most(10):
        store.produce(Recipe("arrays", {"fraction": 0.3}), write)


def test_an_error_on_closing_a_lock_file_is_ignored(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """It hides neither success nor an error of the body, and nothing was written to the lock file."""
    close = os.close

    def close_with_error(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", close_with_error)
    with store.lock("a"):
        pass
    with pytest.raises(StoreError, match="full"), store.lock("a"):
        raise StoreError("full")


def test_a_held_lock_makes_others_wait(store: Store) -> None:
    """A lock has one holder at a time."""
    with store.lock("registry"), pytest.raises(faults.StillWaitingError), faults.at_most(0.1), store.lock("registry"):
        pytest.fail("two hold the same lock")


def test_a_workspace_keeps_its_files(store: Store) -> None:
    """A checkpoint is still there when the workspace is requested again."""
    (store.workspace(store.work) / "checkpoint").write_text("epoch 3")
    assert (store.workspace(store.work) / "checkpoint").read_text() == "epoch 3"
