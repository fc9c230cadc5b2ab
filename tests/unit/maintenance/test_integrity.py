"""Verification and repair of the files under an artifact root."""

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
    """Store with an artifact of another code version, a model version that has it, and a summary."""
    store = Store(tmp_path)
    ref = store.produce(
        Recipe("onnx", {}, code="another"), lambda path: (path / "model.onnx").write_bytes(b"12") and None
    )
    Registry(store).register(artifacts={"onnx": ref.digest}, weights_sha256="", facts=ModelFacts())
    write_record(tmp_path / "predictions" / "x.summary.json", {"images": 1})
    return store, ref


def test_an_intact_store_has_no_damage(made: tuple[Store, ArtifactRef]) -> None:
    """The table has one row per kind of item."""
    found = integrity.verify(made[0])
    assert found.damaged == []
    assert found.table() == [("onnx", 1, 1, 0), ("registry", 2, 2, 0), ("summary", 1, 1, 0)]


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_any_flipped_bit_of_an_artifact_is_damage(made: tuple[Store, ArtifactRef], name: str) -> None:
    """Also if it changes no value, such as a space in the manifest."""
    store, ref = made
    path = store.path(ref) / name
    content = path.read_bytes()
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert [one.kind for one in integrity.verify(store).damaged] == ["onnx"]


def test_unexpected_files_are_damage_and_not_a_crash(made: tuple[Store, ArtifactRef]) -> None:
    """An unlisted file in an artifact, a directory in place of a record, and garbage in place of a checkpoint."""
    store, ref = made
    (store.path(ref) / "unlisted").touch()
    (store.registry / "versions" / "000002.json").mkdir()
    store.work.mkdir()
    (store.work / "train-x.npz").write_text("garbage")
    kinds = {one.kind for one in integrity.verify(store).damaged}
    assert kinds == {"onnx", "registry", "checkpoint"}


def test_repair_removes_what_runs_create_again_and_reports_the_rest(made: tuple[Store, ArtifactRef]) -> None:
    """Artifacts of another code version and registry records without a flipped bit cannot be repaired."""
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


def test_repair_restores_a_flipped_bit_of_a_record(made: tuple[Store, ArtifactRef]) -> None:
    """In the registry, which cannot be regenerated, and in the manifest of an artifact."""
    store, ref = made
    for path in (store.registry / "versions" / "000001.json", store.path(ref) / "manifest.json"):
        content = path.read_bytes()
        path.write_bytes(content[:40] + bytes([content[40] ^ 4]) + content[41:])
        damage = integrity.verify(store).damaged[0]
        assert damage.remedy.startswith("if a single bit of its record has flipped, `digits repair` restores it")
        done = repair.repair(store)
        assert [line.rpartition(": ")[2] for line in done.repaired if "one bit" in line] == ["one bit had flipped"]
        assert path.read_bytes() == content
    assert integrity.verify(store).damaged == []


def test_damage_of_labels_and_studies_is_found(made: tuple[Store, ArtifactRef]) -> None:
    """In the label log, the labelled images, and the records of a study."""
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
    assert [one.remedy == integrity.BACKUP_REMEDY for one in damaged] == [False, True, True]
