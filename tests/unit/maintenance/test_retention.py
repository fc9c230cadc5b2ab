"""Retention: what is referred to, or was used lately, stays; the rest goes, whole."""

import os
import time
from pathlib import Path

import pytest

from digits.errors import CorruptArtifactError, StoreError
from digits.maintenance.retention import DAY, HOUR, RetentionConfig, sweep_store, unused, with_ancestors
from digits.store.artifacts import MANIFEST, ArtifactRef, Recipe, Store
from digits.store.records import write_record
from digits.store.registry import ModelFacts, Registry
from tests.support import faults

CONFIG = RetentionConfig()
OLD = 31 * DAY


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the disk."""
    monkeypatch.setattr(os, "fsync", faults.no_sync)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty store in a path with a space."""
    return Store(tmp_path / "my artifacts")


def make(store: Store, kind: str, *parents: ArtifactRef, name: str = "") -> ArtifactRef:
    """Make an artifact from others."""
    return store.produce(
        Recipe(kind, {"name": name}, parents), lambda place: (place / "file").write_bytes(b"12345") and None
    )


def age(path: Path, seconds: float = OLD) -> None:
    """Have a file, or a directory and all in it, be so old."""
    then = time.time() - seconds
    for entry in (*path.rglob("*"), path):
        os.utime(entry, (then, then))


def test_what_a_version_is_made_from_stays_for_ever(store: Store) -> None:
    """Of two old lines of artifacts, the registered one stays with all its ancestors."""
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
    assert {one.reason for one in removed} == {"in no model version, and long unused"}
    assert all(one.bytes > 5 for one in removed)
    assert sweep_store(store, CONFIG) == []


def test_what_was_found_lately_stays_with_its_ancestors(store: Store) -> None:
    """A run that finds an artifact is about to use it."""
    data = make(store, "dataset")
    arrays = make(store, "arrays", data)
    for ref in (data, arrays):
        age(store.path(ref))
    make(store, "arrays", data)
    assert sweep_store(store, CONFIG) == []
    age(store.path(arrays))
    assert len(sweep_store(store, CONFIG)) == 2


def test_an_artifact_that_is_found_meanwhile_is_not_removed(store: Store) -> None:
    """Between the decision and the removal, a run may come."""
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
def test_what_kills_leave_goes_when_it_is_old(store: Store, place: str, seconds: float) -> None:
    """And not before: whoever writes it may be at it."""
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


def test_plans_that_nobody_went_on_with_go(store: Store) -> None:
    """Interrupted predictions are kept for a while, to go on from."""
    plan = store.plans / "abc"
    (plan / "parts").mkdir(parents=True)
    write_record(plan / "plan.json", {})
    assert sweep_store(store, CONFIG) == []
    age(plan)
    assert [one.path for one in sweep_store(store, CONFIG)] == ["work/predictions/abc"]
    assert not plan.exists()


def test_a_draft_goes_with_what_was_left_in_it(store: Store) -> None:
    """Not that file first, which would make its directory young."""
    draft = store.plans / "tmp-0123456789abcdef"
    draft.mkdir(parents=True)
    for name in ("listing", ".plan.json.0123456789abcdef.tmp"):
        (draft / name).write_text("half")
    age(draft)
    sweep_store(store, CONFIG)
    assert not draft.exists()


def test_tables_and_what_is_not_ours_stay(store: Store) -> None:
    """Whatever their age."""
    paths = [store.root / name for name in ("predictions/x/predictions.csv", "notes.txt", "mine/old/manifest.json")]
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"1")
        age(path, 400 * DAY)
    assert sweep_store(store, CONFIG) == []
    assert all(path.exists() for path in paths)


def test_a_damaged_record_keeps_everything(store: Store) -> None:
    """Without the registry nobody knows what must be kept."""
    ref = make(store, "model")
    Registry(store).register(artifacts={"model": ref.digest}, weights_sha256="x", facts=ModelFacts())
    other = make(store, "model", name="other")
    age(store.path(other))
    record = store.registry / "versions" / "000001.json"
    record.write_bytes(record.read_bytes().replace(b'"x"', b'"y"'))
    with pytest.raises(CorruptArtifactError, match="000001"):
        sweep_store(store, CONFIG)
    assert store.has(other)


def test_what_can_not_be_removed_is_an_error(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A read-only disk says so."""
    path = store.work / "train-ab.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"1")
    age(path)

    def refuse(*_: object) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(StoreError, match="Read-only"):
        sweep_store(store, CONFIG)


def test_what_can_not_be_read_is_an_error(store: Store) -> None:
    """With what to do."""
    manifest = store.path(make(store, "dataset")) / MANIFEST
    manifest.unlink()
    manifest.mkdir()
    with pytest.raises(StoreError, match="could not be cleaned"):
        sweep_store(store, CONFIG)


def test_the_oldest_go_first() -> None:
    """A pure choice."""
    first, second, third = (ArtifactRef("model", name) for name in "abc")
    assert unused({third: 9, second: 2, first: 1}, {third}, 5) == [first, second]
    assert unused({first: 6}, set(), 5) == []


def test_an_artifact_without_a_manifest_has_no_parents(store: Store) -> None:
    """It is not there."""
    assert store.parents(ArtifactRef("model", "ab" * 32)) == []
    ref = make(store, "model")
    (store.path(ref) / MANIFEST).unlink()
    assert store.refs() == {}


def test_a_lock_that_is_held_is_not_waited_for(store: Store) -> None:
    """The inbox's way to be alone."""
    with store.try_lock("inbox") as first, store.try_lock("inbox") as second:
        assert (first, second) == (True, False)
    with store.try_lock("inbox") as third:
        assert third
