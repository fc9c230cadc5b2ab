"""Corruption campaign: a few flips are found and repaired, and injected defects are found."""

import pytest

from digits.maintenance import repair
from digits.store import artifacts
from digits.store.artifacts import Store
from tests.faults import corruption
from tests.support.small_fits import small_head

pytestmark = pytest.mark.campaign

FLIPS = 400


@pytest.fixture(scope="module")
def damaged(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with files of every kind."""
    place = tmp_path_factory.mktemp("corruption")
    with small_head():
        return corruption.make_store(place / "artifacts", place / "scans")


def test_flipped_bits_of_every_kind_are_found_and_repaired(damaged: Store) -> None:
    flips, undetected = corruption.flip(corruption.targets(damaged), FLIPS, seed=3)
    assert undetected.total() == 0
    assert len(flips) >= 13
    assert corruption.repair_flips(damaged, 4, seed=3) == []


def test_missing_verification_and_missing_repair_are_found(damaged: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "verify_file", lambda *_: None)
    _, undetected = corruption.flip(corruption.targets(damaged), FLIPS, seed=3)
    assert {"arrays", "dataset", "model", "onnx", "report"} <= {kind for kind, count in undetected.items() if count}
    monkeypatch.undo()
    monkeypatch.setattr(repair, "repair", lambda _: repair.RepairResult([], []))
    assert len(corruption.repair_flips(damaged, 1, seed=3)) == 1
