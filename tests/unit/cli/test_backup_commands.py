"""Commands `backup`, `restore` and `janitor` without a Prefect server."""

import json
from pathlib import Path

import pytest

from digits.cli.backup import backup, restore
from digits.cli.system import janitor
from digits.server import logs
from digits.store.artifacts import Store
from digits.store.registry import Registry
from tests.support.networks import tiny_store


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Artifact root with one version."""
    return tiny_store(tmp_path / "artifacts")


def test_a_backup_is_checked_and_restored(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each command prints what the archive contains."""
    archive, new = tmp_path / "x.tar.zst", tmp_path / "new"
    backup(archive, artifacts=root, state=tmp_path / "state")
    printed = capsys.readouterr().out
    assert f"{archive}, 0.0 MB" in printed
    assert "not included" in printed
    restore(archive, check=True)
    printed = capsys.readouterr().out
    assert "Intact" in printed
    assert "not restored" in printed
    assert not new.exists()
    restore(archive, artifacts=new)
    printed = capsys.readouterr().out
    assert "Restored" in printed
    assert str(new) in printed
    assert Registry(Store(new)).resolve("champion").number == 1


def test_results_are_printed_as_json(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = tmp_path / "x.tar.zst"
    backup(archive, database=False, artifacts=root, json=True)
    made = json.loads(capsys.readouterr().out)
    assert (made["versions"], made["champion"], made["database"]) == (1, 1, False)
    restore(archive, artifacts=tmp_path / "new", json=True)
    restored = json.loads(capsys.readouterr().out)
    assert (restored["champion"], restored["artifacts"]) == (1, str(tmp_path / "new"))
    assert restored["files"] == made["files"]


def test_the_janitor_rotates_logs_and_takes_the_periods_of_tables_and_images(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a server it says that no runs were checked."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PREFECT_PROFILES_PATH", str(tmp_path / "profiles.toml"))
    monkeypatch.setattr(logs, "MAX_BYTES", 10)
    state = tmp_path / "state"
    state.mkdir()
    (state / "worker.log").write_text("x" * 11)
    janitor(table_days=1, inbox_days=1, state=state, artifacts=root, json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["rotated"] == "worker.log"
    assert printed["removed"].startswith("0 files")
    assert "no Prefect server" in printed["runs set to crashed"]
