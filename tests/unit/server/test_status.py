"""Status of a system without a server, and the choice of the command's output."""

import json
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner, Result

from digits.cli.commands import app
from digits.server.services import System
from digits.server.status import read_status
from digits.store.artifacts import Store
from digits.store.registry import ModelFacts, Registry


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an artifact root, for commands that find no server."""
    for name in ("PREFECT_API_URL", "PREFECT_PROFILE", "DIGITS_STATE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIGITS_ARTIFACTS", str(tmp_path))
    return tmp_path


def status(*options: str) -> Result:
    """Run `digits status`."""
    return CliRunner().invoke(app, ["status", *options])


def test_without_a_server_and_a_champion_two_things_need_attention(root: Path) -> None:
    done = status("--quiet")
    assert done.exit_code == 8
    assert [line.partition(",")[0] for line in done.output.splitlines()] == [
        "no Prefect server runs here",
        "there is no champion",
    ]


def test_every_form_of_output_has_the_same_facts(root: Path) -> None:
    found = status("--json")
    assert found.exit_code == 8
    record = json.loads(found.output)
    assert (record["server"], record["worker"], record["queue"]) == ("not available", "not running", None)
    assert "needs attention: no Prefect server" in status().output
    metrics = status("--prometheus")
    assert metrics.exit_code == 0
    values = {one.name: one.samples[0].value for one in text_string_to_metric_families(metrics.output)}
    assert values["digits_attention"] == len(record["attention"]) == 2
    assert values["digits_server_up"] == 0


def test_forms_of_output_exclude_each_other(root: Path) -> None:
    assert "expected at most one" in str(status("--quiet", "--json").exception)


def test_a_champion_whose_files_are_missing_needs_attention(root: Path) -> None:
    registry = Registry(Store(root))
    version, _ = registry.register(
        artifacts={"onnx": "ab" * 32}, weights_sha256="w", facts=ModelFacts(datasets=("mnist",), accuracy=0.99)
    )
    registry.promote(version.number, reasons=["first"])
    found = read_status(System(root / "state", root))
    assert any("the files of the champion, version 1, are not in" in sentence for sentence in found.attention)
    assert (found.champion, found.champion_version) == ("unknown", None)
    (Store(root).root / "onnx" / ("ab" * 32)).mkdir(parents=True)
    (Store(root).root / "onnx" / ("ab" * 32) / "manifest.json").write_text("{}")
    found = read_status(System(root / "state", root))
    assert found.champion == "version 1, 99.00% on mnist"
    assert (found.champion_version, found.champion_accuracy) == (1, 0.99)
