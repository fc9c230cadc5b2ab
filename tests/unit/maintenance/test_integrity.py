"""`verify` finds what is damaged, wherever it is; `repair` removes or makes again, and says what it can't."""

import hashlib
import json
from pathlib import Path

import pytest

from digits.data.labels import Answer, LabelLog
from digits.maintenance import integrity, repair
from digits.store.artifacts import ArtifactRef, Recipe, Store
from digits.store.records import write_record
from digits.store.registry import ModelFacts, Registry


@pytest.fixture
def made(tmp_path: Path) -> tuple[Store, ArtifactRef]:
    """A store with an artifact of no step, a version that has it, a summary and a checkpoint that is none."""
    store = Store(tmp_path)
    ref = store.produce(
        Recipe("onnx", {}, code="another"), lambda path: (path / "model.onnx").write_bytes(b"12") and None
    )
    Registry(store).register(artifacts={"onnx": ref.digest}, weights_sha256="", facts=ModelFacts())
    write_record(tmp_path / "predictions" / "x.summary.json", {"images": 1})
    return store, ref


def test_what_is_sound_is_found_sound(made: tuple[Store, ArtifactRef]) -> None:
    """One of each."""
    found = integrity.verify(made[0])
    assert found.damaged == []
    assert found.table() == [("onnx", 1, 1, 0), ("registry", 2, 2, 0), ("summary", 1, 1, 0)]


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_any_flipped_bit_of_an_artifact_is_found(made: tuple[Store, ArtifactRef], name: str) -> None:
    """Also where it changes no value, such as a space of the manifest."""
    store, ref = made
    path = store.path(ref) / name
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert [one.kind for one in integrity.verify(store).damaged] == ["onnx"]


def test_odd_things_are_damage_and_no_crash(made: tuple[Store, ArtifactRef]) -> None:
    """A stranger in an artifact, a directory for a record, garbage for a checkpoint."""
    store, ref = made
    (store.path(ref) / "stranger").touch()
    (store.registry / "versions" / "000002.json").mkdir()
    store.work.mkdir()
    (store.work / "train-x.npz").write_text("garbage")
    kinds = {one.kind for one in integrity.verify(store).damaged}
    assert kinds == {"onnx", "registry", "checkpoint"}


def test_repair_removes_what_runs_make_again_and_says_what_it_can_not_do(made: tuple[Store, ArtifactRef]) -> None:
    """Another version of the code can't be run; a registry's record has no recipe."""
    store, ref = made
    (store.path(ref) / "model.onnx").write_bytes(b"other")
    store.work.mkdir()
    checkpoint = store.work / "train-x.npz"
    checkpoint.touch()
    record = store.registry / "versions" / "000001.json"
    record.write_text(json.dumps({}))
    done = repair.repair(store)
    assert done.repaired == ["work/train-x.npz: removed"]
    assert not checkpoint.exists()
    remedies = {one.kind: one.remedy for one in done.left}
    assert "another version of the code" in remedies["onnx"]
    assert "backup" in remedies["registry"]


def test_repair_puts_a_flipped_bit_of_a_record_back(made: tuple[Store, ArtifactRef]) -> None:
    """In the registry, which nothing could make again, and in a manifest, without which nothing could be."""
    store, ref = made
    for path in (store.registry / "versions" / "000001.json", store.path(ref) / "manifest.json"):
        content = path.read_bytes()
        path.write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
        damage = integrity.verify(store).damaged[0]
        assert damage.remedy.startswith("where one bit of its record has flipped, `digits repair` puts it back")
        done = repair.repair(store)
        assert [line.rpartition(": ")[2] for line in done.repaired if "one bit" in line] == ["one bit had flipped"]
        assert path.read_bytes() == content
    assert integrity.verify(store).damaged == []


def test_labels_and_studies_are_looked_at(made: tuple[Store, ArtifactRef]) -> None:
    """The log, the images that were kept, the trials."""
    store, _ = made
    log = LabelLog(store.labels)
    sha256 = hashlib.sha256(b"image").hexdigest()
    log.save_image(sha256, b"image")
    log.append([Answer("a", "2026-01-01", sha256, "7", "1", 0.5, "ok", 1, "sample", "0" * 64)])
    write_record(store.studies / "s" / "study.json", {"seed": 1})
    assert integrity.verify(store).damaged == []
    (store.labels / "images" / sha256).write_bytes(b"other")
    log.path.write_bytes(log.path.read_bytes().replace(b'"7"', b'"3"'))
    (store.studies / "s" / "study.json").write_bytes(b"{}")
    damaged = integrity.verify(store).damaged
    assert [one.kind for one in damaged] == ["study", "labels", "labelled image"]
    assert [one.remedy == integrity.BACKUP for one in damaged] == [False, True, True]
