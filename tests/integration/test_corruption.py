"""Bits that flip in files of every kind: a few of the measurement's, and what is broken on purpose it finds out."""

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


def test_nothing_is_served_and_what_has_a_recipe_is_made_again(damaged: Store) -> None:
    """Of every kind."""
    flips, served = corruption.flip(corruption.targets(damaged), FLIPS, seed=3)
    assert served.total() == 0
    assert len(flips) >= 13
    assert corruption.mend(damaged, 4, seed=3) == []


def test_what_is_not_looked_at_is_found_out(damaged: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of artifacts that nobody hashes are served, and what is not repaired is named."""
    monkeypatch.setattr(artifacts, "_verify_file", lambda *_: None)
    _, served = corruption.flip(corruption.targets(damaged), FLIPS, seed=3)
    assert {"arrays", "dataset", "model", "onnx", "report"} <= {kind for kind, count in served.items() if count}
    monkeypatch.undo()
    monkeypatch.setattr(repair, "repair", lambda _: repair.RepairResult([], []))
    assert len(corruption.mend(damaged, 1, seed=3)) == 1
