"""Retention: what is needed or was used recently is kept, the rest is removed."""

import os
import time
from pathlib import Path

import pytest

from digits.errors import CorruptArtifactError, StoreError
from digits.maintenance.retention import DAY, HOUR, RetentionConfig, sweep_store, unused, with_ancestors
from digits.store.artifacts import MANIFEST, ArtifactRef, Recipe, Store
from digits.store.records import write_record
from digits.store.registry import ModelFacts, Registry

pytestmark = pytest.mark.usefixtures("without_sync")

CONFIG = RetentionConfig()
OLD = 31 * DAY


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Empty store in a path with a space."""
    return Store(tmp_path / "my artifacts")


def make(store: Store, kind: str, *parents: ArtifactRef, name: str = "") -> ArtifactRef:
    """Store an artifact with these parents."""
    return store.produce(
        Recipe(kind, {"name": name}, parents), lambda place: (place / "file").write_bytes(b"12345") and None
    )


def age(path: Path, seconds: float = OLD) -> None:
    """Set the modification time of a path and everything in it back."""
    then = time.time() - seconds
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (then, then))


def test_artifacts_of_a_model_version_and_their_ancestors_are_kept(store: Store) -> None:
    """Of two old lines of artifacts, the one that is not registered is removed."""
    data = make(store, "dataset")
    lines = {}
    for name in ("kept", "gone"):
        model = make(store, "model", make(store, "arrays", data, name=name))
        lines[name] = [model, make(store, "evaluation", make(store, "onnx", model)), make(store, "report", model)]
    registered = {ref.kind: ref.digest for ref in lines["kept"]}
    Registry(store).register(artifacts=registered, weights_sha256="x", facts=ModelFacts())
    every = store.refs()
    for ref in every:
        age(store.path(ref))
    removed = sweep_store(store, CONFIG)
    kept = set(store.refs())
    assert kept == with_ancestors(store, lines["kept"])
    assert data in kept
    assert {one.path for one in removed} == {f"{ref.kind}/{ref.digest}" for ref in every.keys() - kept}
    assert {one.reason for one in removed} == {"unused, and needed by no model version"}
    assert all(one.bytes > 5 for one in removed)
    assert sweep_store(store, CONFIG) == []


def test_an_artifact_that_was_reused_recently_is_kept_with_its_ancestors(store: Store) -> None:
    """A run that reuses an artifact is about to read it."""
    data = make(store, "dataset")
    arrays = make(store, "arrays", data)
    for ref in (data, arrays):
        age(store.path(ref))
    make(store, "arrays", data)
    assert sweep_store(store, CONFIG) == []
    age(store.path(arrays))
    assert len(sweep_store(store, CONFIG)) == 2


def test_an_artifact_that_is_reused_during_the_sweep_is_kept(store: Store) -> None:
    """A run may reuse it between the decision and the removal."""
    ref = make(store, "dataset")
    assert not store.remove(ref, unused_since=time.time() - DAY)
    assert store.has(ref)
    assert not store.remove(ArtifactRef("dataset", "ab" * 32), unused_since=time.time())


@pytest.mark.parametrize(
    ("place", "seconds"),
    [
        ("tmp/0011223344556677/half.npy", 25 * HOUR),
        ("predictions/x/.predictions.csv.0123456789abcdef.tmp", 25 * HOUR),
        ("registry/versions/.000001.json.0123456789abcdef.tmp", 25 * HOUR),
        ("work/train-ab.npz", OLD),
        ("damaged/model-ab-cd/model.keras", OLD),
    ],
)
def test_files_of_killed_processes_are_removed_when_they_are_old(store: Store, place: str, seconds: float) -> None:
    """Not before, because a process may still be writing them."""
    path = store.root / place
    path.parent.mkdir(parents=True)
    path.write_bytes(b"123")
    assert sweep_store(store, CONFIG) == []
    age(path.parent if path.parent.parent != store.predictions else path, seconds)
    age(path, seconds)
    (removed,) = sweep_store(store, CONFIG)
    assert place.startswith(removed.path)
    assert removed.bytes >= 3
    assert not path.exists()


def test_an_interrupted_prediction_is_removed_when_it_is_old(store: Store) -> None:
    """Until then it can be resumed."""
    plan = store.plans / "abc"
    (plan / "parts").mkdir(parents=True)
    write_record(plan / "plan.json", {})
    assert sweep_store(store, CONFIG) == []
    age(plan)
    assert [one.path for one in sweep_store(store, CONFIG)] == ["work/predictions/abc"]
    assert not plan.exists()


def test_an_unfinished_plan_is_removed_with_its_temporary_files(store: Store) -> None:
    """Removing the temporary files first would renew the modification time of the plan."""
    draft = store.plans / "tmp-0123456789abcdef"
    draft.mkdir(parents=True)
    for name in ("listing", ".plan.json.0123456789abcdef.tmp"):
        (draft / name).write_text("half")
    age(draft)
    sweep_store(store, CONFIG)
    assert not draft.exists()


def test_tables_and_files_of_users_are_kept(store: Store) -> None:
    """At any age."""
    paths = [store.root / name for name in ("predictions/x/predictions.csv", "notes.txt", "mine/old/manifest.json")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
        age(path, 400 * DAY)
    assert sweep_store(store, CONFIG) == []
    assert all(path.exists() for path in paths)


def test_nothing_is_removed_if_a_registry_record_is_damaged(store: Store) -> None:
    """Without the registry it is unknown which artifacts are needed."""
    ref = make(store, "model")
    Registry(store).register(artifacts={"model": ref.digest}, weights_sha256="x", facts=ModelFacts())
    other = make(store, "model", name="other")
    age(store.path(other))
    record = store.registry / "versions" / "000001.json"
    record.write_bytes(record.read_bytes().replace(b'"x"', b'"y"'))
    with pytest.raises(CorruptArtifactError, match="000001"):
        sweep_store(store, CONFIG)
    assert store.has(other)


def test_a_file_that_cannot_be_removed_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a read-only disk."""
    path = store.work / "train-ab.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    age(path)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="Read-only"):
        sweep_store(store, CONFIG)


def test_a_manifest_that_cannot_be_read_is_an_error(store: Store) -> None:
    """The message names the store."""
    manifest = store.path(make(store, "dataset")) / MANIFEST
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(StoreError, match="could not be cleaned"):
        sweep_store(store, CONFIG)


def test_unused_artifacts_are_sorted_by_their_last_use() -> None:
    """Without those that are kept or were used recently."""
    first, second, third = (ArtifactRef("model", name) for name in "abc")
    assert unused({third: 9, second: 2, first: 1}, {third}, 5) == [first, second]
    assert unused({first: 6}, set(), 5) == []


def test_an_artifact_without_a_manifest_has_no_parents(store: Store) -> None:
    """The store does not list it."""
    assert store.parents(ArtifactRef("model", "ab" * 32)) == []
    ref = make(store, "model")
    (store.path(ref) / MANIFEST).unlink()
    assert store.refs() == {}


def test_try_lock_does_not_wait_for_a_lock_that_is_held(store: Store) -> None:
    """As predictions of an inbox use it."""
    with store.try_lock("inbox") as first, store.try_lock("inbox") as second:
        assert (first, second) == (True, False)
    with store.try_lock("inbox") as third:
        assert third
