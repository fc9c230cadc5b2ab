"""The artifact store: whole or not at all, found again, verified, one writer at a time."""

import errno
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from digits.errors import CorruptArtifactError, MissingArtifactError, StoreError
from digits.pipeline import recipes
from digits.store import code_version as code_version_module
from digits.store.artifacts import MANIFEST, Artifact, ArtifactRef, Recipe, Store
from digits.store.code_version import code_version, library_versions
from tests.support import faults

PARENT = ArtifactRef("dataset", "ab" * 32)
RECIPE = Recipe("arrays", {"fraction": 0.2, "seed": 7}, (PARENT,), "the-code")
NAMES = ["labels.npy", "notes/about.json", MANIFEST]


def write(directory: Path) -> None:
    """Fill an artifact: an array, and a file in a folder of its own."""
    np.save(directory / "labels.npy", np.arange(50, dtype=np.uint8))
    (directory / "notes").mkdir()
    (directory / "notes" / "about.json").write_text("{}")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a path with a space."""
    return Store(tmp_path / "my artifacts")


@pytest.fixture
def world_readable() -> Iterator[Path]:
    """A directory that other users can reach, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def counted(calls: list[Path]) -> Callable[[Path], None]:
    """Give a `write` that says when it was called."""

    def write_and_count(directory: Path) -> None:
        calls.append(directory)
        write(directory)

    return write_and_count


def assert_nothing_begun(store: Store) -> None:
    """No artifact, and no half of one."""
    assert not list(store.root.glob("arrays/*"))
    assert not list(store.temporary.glob("*"))


def flip(path: Path, position: int = -1) -> None:
    """Flip one bit of a file in place."""
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


# Found again


def test_an_artifact_is_opened_with_its_files_config_and_parents(store: Store) -> None:
    """What was produced is there, under its kind and digest, with what made it."""
    artifact = store.open(store.produce(RECIPE, write))
    assert artifact.path == store.root / "arrays" / RECIPE.ref.digest
    assert np.array_equal(np.load(artifact.file("labels.npy")), np.arange(50))
    assert artifact.file("notes/about.json").read_text() == "{}"
    assert artifact.config == {"fraction": 0.2, "seed": 7}
    assert artifact.parents == [PARENT]
    assert artifact.manifest["versions"] == library_versions()


def test_the_same_recipe_is_found_and_not_made_again(store: Store) -> None:
    """The second run asks the store and computes nothing."""
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
def test_every_part_of_a_recipe_counts(store: Store, other: Recipe) -> None:
    """Another kind, setting, input or version of the code is another artifact."""
    calls: list[Path] = []
    assert store.produce(RECIPE, counted(calls)) != store.produce(other, counted(calls))
    assert len(calls) == 2


def test_what_is_not_in_the_store_is_named(store: Store) -> None:
    """A missing artifact, and a missing file of one, say what there is and where it was looked for."""
    with pytest.raises(MissingArtifactError, match=re.escape(f"{RECIPE.ref}: not in the store at {store.root}")):
        store.open(RECIPE.ref)
    artifact = store.open(store.produce(RECIPE, write))
    with pytest.raises(MissingArtifactError, match=r"no pixels.npy in it, only \['labels.npy', 'notes/about.json'\]"):
        artifact.file("pixels.npy")


# Damage


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("position", [0, 20, -1])
def test_a_flipped_bit_is_found_named_and_made_good(
    store: Store, caplog: pytest.LogCaptureFixture, name: str, position: int
) -> None:
    """Whichever file was damaged: opening names it, the next run makes the artifact again and keeps the damaged one."""
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
def test_a_lost_file_is_found_and_made_good(store: Store, name: str) -> None:
    """A file that was deleted, even the manifest, is no reason for every later run to fail."""
    (store.path(store.produce(RECIPE, write)) / name).unlink()
    with pytest.raises((CorruptArtifactError, MissingArtifactError), match=str(RECIPE.ref)):
        store.open(RECIPE.ref)
    store.produce(RECIPE, write)
    assert store.open(RECIPE.ref).file("labels.npy").is_file()
    assert len(list(store.damaged.iterdir())) == 1


def test_an_artifact_in_the_place_of_another_is_refused(store: Store) -> None:
    """A manifest is intact in itself, but speaks of another recipe."""
    other = Recipe("arrays", {})
    target = store.path(other.ref)
    store.path(store.produce(RECIPE, write)).rename(target)
    with pytest.raises(CorruptArtifactError, match=r"belongs to another artifact; delete"):
        store.open(other.ref)


# Kills


def test_a_writer_that_is_killed_while_it_writes_leaves_no_artifact_and_no_lock(store: Store) -> None:
    """SIGKILL from outside: nothing is taken for whole, and the next run is not kept waiting."""
    begun, tell = os.pipe()

    def write_half(directory: Path) -> None:
        (directory / "labels.npy").write_bytes(b"half")
        os.write(tell, b"!")
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
    os.close(tell)


def test_an_artifact_is_whole_or_absent_whenever_its_writer_is_killed(tmp_path: Path) -> None:
    """SIGKILL before every call to the kernel: the artifact opens or is not there, and the next run has it."""
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
    assert there == sorted(there), "absent until some call, whole from there on"
    assert there.count(False) > 10


def test_everything_is_on_disk_before_the_artifact_is_there(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each file and directory is synced before the rename, and the rename is: a power cut loses all or nothing."""
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
    """No space at every call to the kernel: a clear error, no half artifact, and a rerun succeeds."""
    failures = []
    for at in range(1, 60):
        store = Store(tmp_path / str(at))
        with faults.fault(store.root, at, faults.no_space) as fault:
            failures.append(failure_of(lambda store=store: store.produce(RECIPE, write)))
        if failures[-1] and not store.has(RECIPE.ref):
            assert_nothing_begun(store)
        store.open(store.produce(RECIPE, write))
        if not fault.happened:
            break
    messages = [message for message in failures if message]
    assert not failures[-1]
    assert len(messages) > 10
    assert all("No space left on device" in message and str(tmp_path) in message for message in messages)


def failure_of(work: Callable[[], object]) -> str:
    """Give the message of the `StoreError` that some work ends with."""
    try:
        work()
    except StoreError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("size", [10_000, 3_000_000])
def test_a_full_disk_is_an_error_that_names_the_root(store: Store, size: int) -> None:
    """A write that the kernel cuts off: the message names the root and the remedy, and nothing is left."""

    def write_much(directory: Path) -> None:
        np.save(directory / "pixels.npy", np.zeros(size, np.uint8))

    with faults.full_disk(4096), pytest.raises(StoreError) as caught:
        store.produce(RECIPE, write_much)
    message = str(caught.value)
    assert str(store.root) in message
    assert "None" not in message
    assert "--artifacts" in message
    assert_nothing_begun(store)


def test_an_error_without_a_number_still_says_what_went_wrong(store: Store) -> None:
    """NumPy tells of a full disk in words of its own, without an `errno`."""

    def write_badly(directory: Path) -> None:
        raise OSError("9000 requested and 12 written")

    with pytest.raises(StoreError, match="9000 requested and 12 written"):
        store.produce(RECIPE, write_badly)


def test_an_error_in_the_work_itself_passes_through_and_leaves_nothing(store: Store) -> None:
    """A bug or a bad dataset is not called a fault of the store."""

    def fail(directory: Path) -> None:
        write(directory)
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.produce(RECIPE, fail)
    assert_nothing_begun(store)
    store.open(store.produce(RECIPE, write))


def test_a_read_only_root_is_an_error_that_names_it(world_readable: Path) -> None:
    """No place to write: said at once, with the root and the remedy."""
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


def test_a_damaged_artifact_that_can_not_be_set_aside_is_an_error_that_names_the_root(world_readable: Path) -> None:
    """The store is somebody else's: the damage is found, and why it stays is said."""
    store = Store(world_readable / "artifacts")
    flip(store.path(store.produce(RECIPE, write)) / "labels.npy")
    for path in store.locks.iterdir():
        path.chmod(0o666)
    store.root.chmod(0o555)
    with faults.without_root(), pytest.raises(StoreError) as caught:
        store.produce(RECIPE, write)
    store.root.chmod(0o755)
    assert str(store.root) in str(caught.value)


def test_an_artifact_that_may_not_be_read_is_not_called_damaged(world_readable: Path) -> None:
    """Permissions can be mended: an error that says so, and nothing is set aside."""
    store = Store(world_readable / "artifacts")
    (store.path(store.produce(RECIPE, write)) / "labels.npy").chmod(0)
    with faults.without_root(), pytest.raises(StoreError, match=r"could not read .*labels\.npy\)") as caught:
        store.open(RECIPE.ref)
    assert not isinstance(caught.value, CorruptArtifactError)


# Many at once


def test_two_processes_with_the_same_recipe_write_it_once(store: Store) -> None:
    """The second one waits for the first one's result and finds it."""
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


def test_other_recipes_do_not_wait_for_each_other(store: Store) -> None:
    """A lock is on one digest: while one artifact is made, others can be."""
    with store.lock(f"{RECIPE.ref.kind}-{RECIPE.ref.digest}"), faults.at_most(10):
        store.produce(Recipe("arrays", {"fraction": 0.3}), write)


def test_a_lock_file_that_fails_to_close_hides_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work under the lock is done, or has an error of its own to tell; nothing was written to the lock's file."""
    close = os.close

    def close_with_error(descriptor: int) -> None:
        close(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "close", close_with_error)
    with store.lock("a"):
        pass
    with pytest.raises(StoreError, match="full"), store.lock("a"):
        raise StoreError("full")


def test_a_lock_is_held_by_one(store: Store) -> None:
    """While a lock is held, another holder waits for it."""
    with store.lock("registry"), pytest.raises(faults.StillWaitingError), faults.at_most(0.1), store.lock("registry"):
        pytest.fail("two hold the same lock")


def test_a_workspace_outlives_its_maker(store: Store) -> None:
    """Checkpoints are found where they were left."""
    (store.workspace(store.work) / "checkpoint").write_text("epoch 3")
    assert (store.workspace(store.work) / "checkpoint").read_text() == "epoch 3"


# The version of the code

SOURCES = {
    "__init__": "def __getattr__(name):\n    from digits.unrelated import x\n",
    "a": "from digits.b import thing\nimport json\n",
    "b": "def late():\n    from digits import c\n",
    "c": "from digits.a import back\nfrom digits.pkg import by_name\nimport digits.pkg.whole as whole\n",
    "pkg/__init__": '"""Modules: by_name, whole."""\n',
    "pkg/by_name": "from digits.coded import constant\n",
    "pkg/whole": "import typing\nif typing.TYPE_CHECKING:\n    import digits.typed\nelse:\n    import digits.untyped\n",
    "pkg/unrelated": "from digits.a import x\n",
    "coded/__init__": "from digits.coded.inner import constant\n",
    "coded/inner": "constant = 1\n",
    "coded/unrelated": "constant = 2\n",
    "typed": "x = 1\n",
    "untyped": "from digits.beside.inner import y\n",
    "beside/__init__": "import sys\n",
    "beside/inner": "y = 1\n",
    "unrelated": "x = 1\n",
}
IMPORTED = ("a", "b", "c", "pkg/by_name", "pkg/whole", "coded/__init__", "coded/inner", "untyped", "beside/inner")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A package on disk in place of this one, to be edited."""
    root = tmp_path / "digits"
    for name, source in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(source)
    monkeypatch.setattr(code_version_module, "_PACKAGE", root)
    code_version.cache_clear()
    yield root
    code_version.cache_clear()


def version_after(change: Path, text: str) -> str:
    """Append to a module and return the version of `digits.a`, as a new process would compute it."""
    change.write_text(change.read_text() + text)
    code_version.cache_clear()
    return code_version("digits.a")


@pytest.mark.parametrize("module", [*IMPORTED, "beside/__init__"])
def test_a_change_in_any_imported_module_is_another_version(package: Path, module: str) -> None:
    """Imports are followed: by each spelling, into packages and their code, inside functions, round a circle."""
    assert code_version("digits.a") != version_after(package / f"{module}.py", "# changed\n")


@pytest.mark.parametrize("module", ["__init__", "pkg/unrelated", "coded/unrelated", "typed", "unrelated"])
def test_a_change_elsewhere_is_the_same_version(package: Path, module: str) -> None:
    """What the step does not run can change without computing it again: lazy names, types, neighbours."""
    assert code_version("digits.a") == version_after(package / f"{module}.py", "y = 2\n")


def test_a_package_counts_once_it_has_code(package: Path) -> None:
    """The list of modules in its docstring can change."""
    before, place = code_version("digits.a"), package / "pkg" / "__init__.py"
    place.write_text('"""Modules: by_name, unrelated, whole."""\n')
    assert version_after(place, "") == before
    assert version_after(place, "import digits.unrelated\n") != before


def test_every_module_that_a_step_loads_has_a_part_in_its_version() -> None:
    """What a new process has loaded after importing the modules of a step is among the sources that are hashed."""
    steps = [*recipes.STEP_MODULES.values(), ("digits.prediction.worker", "digits.prediction.incremental")]
    command = [sys.executable, "-c", LOADED, json.dumps(steps)]
    loaded = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    for modules, names in zip(steps, loaded, strict=True):
        assert set(modules) <= set(names) <= set(code_version_module._sources(modules))


LOADED = """
import importlib, json, sys
loaded = []
for modules in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.startswith("digits")]:
        del sys.modules[name]
    for name in modules:
        importlib.import_module(name)
    files = [name for name, module in sys.modules.items() if not hasattr(module, "__path__")]
    loaded.append([name for name in files if name.partition(".")[0] == "digits"])
print(json.dumps(loaded))
"""


def test_another_version_of_a_numeric_library_is_another_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of a library that numbers depend on computes again; where it plays no part, it does not."""
    before, apart = code_version("digits.errors"), code_version("digits.errors", libraries=("pillow",))
    code_version.cache_clear()
    monkeypatch.setattr(code_version_module, "library_versions", lambda: {**library_versions(), "numpy": "9.9"})
    assert code_version("digits.errors") != before
    assert code_version("digits.errors", libraries=("pillow",)) == apart
    code_version.cache_clear()


def test_only_installed_libraries_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """A prediction worker has no TensorFlow, and needs none to name its versions."""
    assert library_versions()["numpy"] == importlib.metadata.version("numpy")
    monkeypatch.setattr(code_version_module, "NUMERIC_LIBRARIES", ("numpy", "no-such-library"))
    library_versions.cache_clear()
    assert list(library_versions()) == ["numpy"]
    library_versions.cache_clear()


def test_the_real_modules_have_versions() -> None:
    """Every module's imports lead to sources: the version of each stage can be told."""
    assert (
        len(
            {
                code_version(f"digits.{name}")
                for name in ("store.records", "store.artifacts", "training.config", "training.fit")
            }
        )
        == 4
    )
    with pytest.raises(StoreError, match=r"digits\.absent: there is no source"):
        code_version("digits.absent")
