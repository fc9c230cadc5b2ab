"""Tests of `digits predict --deploy` that need no server: the options for the worker, and what is printed."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from digits.cli.deployed import EndedRun, options_for_worker, print_ended
from digits.errors import UsageError
from digits.prediction.config import PredictionConfig
from tests.support.summaries import EMPTY

SUMMARY = replace(EMPTY, images=3, predictions={"4": 2}, statuses={"ok": 2, "timeout": 1})
ENDED = EndedRun("predict scans", "Completed", "3 images are in /table.csv", "http://ui/run", SUMMARY)


def test_a_list_of_files_has_an_absolute_path_on_the_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    options = options_for_worker(PredictionConfig(files_from=Path("list"), top_k=2))
    assert options.model_dump(exclude_unset=True) == {"files_from": tmp_path / "list", "top_k": 2}
    assert options_for_worker(PredictionConfig()) == PredictionConfig()


def test_a_list_of_files_on_standard_input_is_refused() -> None:
    with pytest.raises(UsageError, match=r"^files_from: found `-`, standard input, which a run of a deployment"):
        options_for_worker(PredictionConfig(files_from=Path("-")))


def test_the_counts_of_the_run_are_printed_as_those_of_a_prediction_here(capsys: pytest.CaptureFixture[str]) -> None:
    print_ended(ENDED, json=False)
    shown = capsys.readouterr().out
    for line in ("predict scans", "statuses   ok: 2, timeout: 1", "table      /table.csv", "run        http://ui/run"):
        assert line in shown


def test_the_json_output_has_the_summary_and_the_state(capsys: pytest.CaptureFixture[str]) -> None:
    print_ended(ENDED, json=True)
    shown = json.loads(capsys.readouterr().out)
    assert (shown["statuses"], shown["images"]) == ({"ok": 2, "timeout": 1}, 3)
    assert (shown["name"], shown["state"], shown["run"]) == ("predict scans", "Completed", "http://ui/run")


@pytest.mark.parametrize("as_json", [True, False])
def test_a_run_that_did_not_complete_ends_with_exit_code_1(capsys: pytest.CaptureFixture[str], as_json: bool) -> None:
    """It has published no summary."""
    failed = replace(ENDED, state="Failed", message="no such folder", summary=None)
    with pytest.raises(SystemExit) as exit_:
        print_ended(failed, json=as_json)
    assert exit_.value.code == 1
    assert "no such folder" in capsys.readouterr().out
