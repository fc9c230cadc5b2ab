"""Tests of the settings of `digits predict` and `digits train`: files, variables and options, in this order."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from digits.cli import predict, train
from digits.cli.app import settings_in
from digits.cli.commands import app
from digits.errors import UsageError
from digits.prediction.config import PredictionConfig


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """File with prediction settings."""
    path = tmp_path / "predict.toml"
    path.write_text('top_k = 3\nmax_error = 0.01\ninclude = ["*.dat"]\n')
    return path


def test_without_file_variables_and_options_the_defaults_hold() -> None:
    assert predict.read_options(None, top_k=None, include=None) == PredictionConfig()


def test_options_override_variables_and_these_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIGITS_PREDICT_TOP_K", "4")
    monkeypatch.setenv("DIGITS_PREDICT_MAX_ERROR", "0.02")
    found = predict.read_options(file, top_k=5, max_error=None)
    assert found == PredictionConfig(top_k=5, max_error=0.02, include=("*.dat",))


def test_sections_of_a_training_run_are_separated_from_their_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.toml").write_text('preset = "quick"\n[training]\nepochs = 2\nseed = 7\n')
    monkeypatch.setenv("DIGITS_TRAIN_TRAINING__EPOCHS", "3")
    monkeypatch.setenv("DIGITS_TRAIN_DATASETS", '["mnist-sample", "reviewed"]')
    run = train.read_run({"training": {"epochs": None, "batch_size": 64}}, tmp_path / "train.toml")
    assert (run.preset, run.datasets) == ("quick", ("mnist-sample", "reviewed"))
    assert (run.training.epochs, run.training.seed, run.training.batch_size) == (3, 7, 64)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ('["a", "b"]', ["a", "b"]),
        ('"3"', "3"),
        ("mnist", "mnist"),
        ("scans/list of paths.txt", "scans/list of paths.txt"),
        ("1\nother = 2", "1\nother = 2"),
    ],
)
def test_the_value_of_a_variable_is_one_of_toml_or_a_text(text: str, value: object) -> None:
    assert [*settings_in({"DIGITS_X_A": text}, "DIGITS_X_")] == [("DIGITS_X_A", {"a": value})]


def test_variables_with_another_name_or_without_a_value_are_left_out() -> None:
    assert [*settings_in({"DIGITS_PREDICT_TOP_K": "", "DIGITS_ARTIFACTS": "/a", "TOP_K": "3"}, "DIGITS_PREDICT_")] == []


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("DIGITS_PREDICT_TOPK", "3", "DIGITS_PREDICT_TOPK: topk: there is no such setting; check its name"),
        (
            "DIGITS_PREDICT_TOP_K",
            "0",
            "DIGITS_PREDICT_TOP_K: top_k: input should be greater than or equal to 1, found 0",
        ),
        ("DIGITS_PREDICT_TOP_K__A", "1", "DIGITS_PREDICT_TOP_K__A: top_k: input should be a valid integer"),
    ],
)
def test_an_error_names_the_variable(name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(UsageError) as caught:
        predict.read_options(None)
    assert str(caught.value).startswith(message)


def test_an_error_names_the_file(file: Path) -> None:
    file.write_text("top-k = 3\n")
    with pytest.raises(UsageError) as caught:
        predict.read_options(file)
    assert str(caught.value) == f"{file}: top-k: there is no such setting; check its name"


def test_settings_of_a_file_count_where_an_option_does(tmp_path: Path) -> None:
    """Standard output takes no incremental table, whoever asks for it."""
    (tmp_path / "predict.toml").write_text("incremental = true\n")
    arguments = ["predict", str(tmp_path), "--out", "-", "--config", str(tmp_path / "predict.toml")]
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, UsageError)
    assert "found --incremental, which standard output does not support" in str(result.exception)
