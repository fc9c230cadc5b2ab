"""Tests of the whole pipeline on real digits, with the real flows on a real Prefect server."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, LogFilter, LogFilterFlowRunId
from prefect.client.schemas.sorting import ArtifactSort, FlowRunSort, LogSort, TaskRunSort
from prefect.task_runners import ProcessPoolTaskRunner

from digits.errors import DataError
from digits.pipeline.champion import Outcome
from digits.pipeline.config import PromotionPolicy
from digits.pipeline.lineage import trace_lineage
from digits.pipeline.training import write_test_images
from digits.settings import root_name
from digits.store.artifacts import Store
from digits.store.registry import Registry
from digits.training.config import ModelConfig, TrainingConfig
from flows.prediction import predict_folder
from flows.training import train
from tests.support.held_shards import held_shard

MLP = ModelConfig(architecture="mlp")
MANY = 3_000
HERE = Path(__file__).resolve().parents[2]


def rows_of(table: Path) -> list[dict[str, str]]:
    """Read a table with the csv module."""
    with table.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def artifacts_of(root: Path, kind: str) -> list[Any]:
    """Return the Prefect artifacts of a kind that an artifact root has published, oldest first."""
    key = f"{kind}-{root_name(root)}"
    with get_client(sync_client=True) as client:
        found = client.read_artifacts(
            artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[key])), limit=200, sort=ArtifactSort.UPDATED_DESC
        )
    return found[::-1]


def logs_of(runs: list[Any]) -> LogFilter:
    """Return a filter for the log lines of flow runs."""
    return LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run.id for run in runs]))


def run_command(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, without the Prefect settings of the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name("digits")), *arguments],
        env={**kept, **environment},
        capture_output=True,
        text=True,
        cwd=HERE,
        timeout=240,
        check=False,
    )


def test_the_first_model_becomes_champion(outcome: Outcome, root: Path) -> None:
    assert (outcome.version, outcome.new, outcome.promoted, outcome.champion) == (1, True, True, 1)
    assert outcome.facts.accuracy > 0.9
    assert "first model" in outcome.reasons[0]
    champion = Registry(Store(root)).champion()
    assert champion is not None
    assert champion.number == 1
    assert "<img" in outcome.report.read_text("utf-8")


def test_a_repeated_training_writes_and_registers_nothing(outcome: Outcome, root: Path) -> None:
    def stored() -> dict[Path, int]:
        kinds = ("dataset", "arrays", "network", "model", "onnx", "evaluation", "report", "registry")
        every = [path for kind in kinds for path in (root / kind).rglob("*")]
        return {path: path.stat().st_mtime_ns if path.is_file() else 0 for path in every}

    before = stored()
    again = train(datasets=("mnist-sample",), model=ModelConfig(architecture="mlp"), artifacts=root)
    assert (again.version, again.new, again.promoted) == (1, False, False)
    assert again.reasons == ("Nothing changed: data, configuration and code are those of version 1.",)
    assert stored() == before


def test_a_night_without_changes_imports_no_slow_package(outcome: Outcome, server: str, root: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from digits.training.config import ModelConfig;"
        "from flows.training import train;"
        "again = train(datasets=('mnist-sample',), model=ModelConfig(architecture='mlp'), artifacts=Path(sys.argv[1]));"
        "heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'scipy'} & set(sys.modules);"
        "print(again.version, again.new, sorted(heavy))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(root)]
    environment = {**os.environ, "PREFECT_API_URL": server}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=True, timeout=240)
    assert done.stdout == "1 False []\n"


def test_another_number_of_epochs_reuses_the_arrays_and_initial_weights(outcome: Outcome, root: Path) -> None:
    other = train(
        datasets=("mnist-sample",),
        model=ModelConfig(architecture="mlp"),
        training=TrainingConfig(epochs=1),
        artifacts=root,
    )
    assert other.new
    assert not other.promoted
    assert any("better than the champion" in reason for reason in other.reasons)
    first, second = (Registry(Store(root)).version(number).artifacts for number in (outcome.version, other.version))
    assert (first["arrays"], first["network"]) == (second["arrays"], second["network"])
    assert first["model"] != second["model"]


def test_a_refusal_is_reported_as_a_prefect_artifact(outcome: Outcome, root: Path) -> None:
    """It is that of the previous test's model."""
    page = artifacts_of(root, "decision")[-1]
    assert page.description.endswith(": refused")
    assert page.data.startswith("# Version 2 against version 1: not promoted")
    assert "| mnist-sample | 1,000 |" in page.data
    assert "multiplications per image" in page.data
    assert "data:image/png;base64," in page.data
    shown = run_command("models", "show", "2", "--artifacts", str(root), "--json")
    assert "against version 1: not promoted" in json.loads(shown.stdout)["decisions"][0]


def test_flow_and_command_write_the_same_shadow_table(
    outcome: Outcome, root: Path, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "flow" / "t.csv"
    summary = predict_folder(folder, out=out, shadow="challenger", artifacts=root)
    assert summary.shadow is not None
    assert (summary.model_version, summary.shadow["version"]) == (1, len(Registry(Store(root)).versions()))
    rows = rows_of(Path(summary.shadow["table"]))
    assert len(rows) == summary.shadow["differing"]
    assert all(row["prediction"] != row["shadow_prediction"] or row["status"] != row["shadow_status"] for row in rows)
    common = ("--artifacts", str(root), "--json")
    result = run_command("predict", str(folder), "--shadow", "challenger", "--out", str(tmp_path / "t.csv"), *common)
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)["shadow"]
    assert found["differing"] == len(rows)
    assert Path(found["table"]).read_bytes() == Path(summary.shadow["table"]).read_bytes()


def test_after_a_rollback_only_the_rows_of_the_bad_version_are_replaced(
    outcome: Outcome, root: Path, folder: Path, tmp_path: Path
) -> None:
    own, table = tmp_path / "root", tmp_path / "t.csv"
    shutil.copytree(root, own)
    Registry(Store(own)).promote(2, reasons=["by mistake"])
    common = ("--artifacts", str(own), "--json")
    predict = ("predict", str(folder), "--out", str(table), *common)
    assert run_command(*predict).returncode == 0
    assert {row["model_version"] for row in rows_of(table)} == {"2"}
    back = run_command("rollback", "--reason", "it was a mistake", *common)
    assert json.loads(back.stdout)["reasons"] == ["rolled back from version 2", "it was a mistake"]
    replaced = run_command(*predict, "--replace-version", "2")
    assert (replaced.returncode, json.loads(replaced.stdout)["unchanged"]) == (0, 0)
    assert {row["model_version"] for row in rows_of(table)} == {"1"}
    again = run_command(*predict, "--replace-version", "2")
    assert (again.returncode, again.stdout) == (2, "")
    assert "version 2 wrote no row of this table; found 41 by version 1" in again.stderr
    nothing = run_command("rollback", *common)
    assert (nothing.returncode, "before the current one (1)" in nothing.stderr) == (5, True)


def test_test_images_as_files_get_the_predictions_of_the_evaluation(
    outcome: Outcome, root: Path, tmp_path: Path
) -> None:
    store = Store(root)
    folder = write_test_images(store, outcome.version, tmp_path / "scans")
    table = tmp_path / "out" / "predictions.csv"
    summary = predict_folder(folder, str(outcome.version), table, artifacts=root)
    rows = rows_of(table)
    lineage = trace_lineage(store, Registry(store).version(outcome.version).artifact("evaluation"))
    y_prob = np.load(lineage.evaluation.file("y_prob.npy"))
    expected = {f"{index:05}.png": probabilities for index, probabilities in enumerate(y_prob)}
    assert len(rows) == len(y_prob) == summary.images
    for row in rows:
        probabilities = expected[Path(row["path"]).name]
        assert row["prediction"] == str(probabilities.argmax())
        assert float(row["confidence"]) == pytest.approx(probabilities.max(), abs=1e-6)
        assert row["status"] == ("not-a-digit" if float(row["novelty"]) > 0 else "ok")
        assert row["model_version"] == str(outcome.version)
    rejected = sum(row["status"] == "not-a-digit" for row in rows)
    assert 0 < rejected < 0.03 * len(rows)
    assert rejected / len(rows) == pytest.approx(outcome.facts.rejected_share)


def test_runs_tasks_logs_and_reports_are_in_the_ui(outcome: Outcome, root: Path) -> None:
    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(limit=200, sort=FlowRunSort.START_TIME_DESC)
        story = [run for run in runs if run.name == "train mnist-sample mlp 10 epochs"]
        logs = client.read_logs(logs_of(story), limit=200, offset=0, sort=LogSort.TIMESTAMP_ASC)
        tasks = {task.name for task in client.read_task_runs(limit=200, sort=TaskRunSort.ID_DESC)}
    assert story
    assert all(run.state is not None and run.state.is_completed() for run in story)
    assert {
        "download mnist-sample",
        "preprocess",
        "build mlp",
        "train 10 epochs",
        "export to ONNX",
        "evaluate",
    } <= tasks
    assert any("epoch 10/10" in log.message for log in logs)
    report = artifacts_of(root, "model-report")[0]
    assert "data:image/png;base64," in report.data
    assert "promoted to champion" in report.data
    assert '"champion"' in artifacts_of(root, "model-versions")[-1].data


def test_a_dataset_with_test_images_in_its_training_set_fails_the_run(server: str, root: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 255, (200, 28, 28), np.uint8)
    labels = np.arange(200, dtype=np.uint8) % 10
    leaking = tmp_path / "leaking.npz"
    np.savez(leaking, x_train=pixels, y_train=labels, x_test=pixels[:100], y_test=labels[:100])
    with pytest.raises(DataError, match="100 of 100 test images"):
        train(datasets=(str(leaking),), artifacts=root)


def test_an_invalid_parameter_is_refused_before_the_run(server: str) -> None:
    from prefect.exceptions import ParameterTypeError

    with pytest.raises(ParameterTypeError, match="epochs"):
        train(training={"epochs": 0})


def test_the_command_predicts_without_prefect(outcome: Outcome, root: Path, tmp_path: Path) -> None:
    folder = write_test_images(Store(root), outcome.version, tmp_path / "images")
    result = run_command(
        "predict",
        str(folder / "7"),
        "--model",
        "1",
        "--out",
        str(tmp_path / "sevens.csv"),
        "--artifacts",
        str(root),
        "--json",
        PREFECT_HOME=str(tmp_path / "no profile"),
    )
    assert result.returncode == 0, result.stderr
    assert "PREFECT_API_URL" in result.stderr
    summary = json.loads(result.stdout)
    assert summary["images"] == len(rows_of(tmp_path / "sevens.csv")) > 50
    assert not (tmp_path / "no profile").exists()


def test_the_command_runs_as_a_flow_if_an_api_is_configured(
    server: str, outcome: Outcome, root: Path, tmp_path: Path
) -> None:
    folder = write_test_images(Store(root), outcome.version, tmp_path / "tracked images")
    result = run_command(
        "predict",
        str(folder / "3"),
        "--out",
        str(tmp_path / "threes.parquet"),
        "--artifacts",
        str(root),
        "--track",
        PREFECT_API_URL=server,
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("\n") <= 3, f"too many messages: {result.stderr}"
    newest = artifacts_of(root, "predictions")[-1]
    assert newest.description == str(tmp_path / "threes.parquet")
    assert "data:image/png;base64," in newest.data


def test_an_unreachable_server_is_a_warning_and_with_track_an_error(
    outcome: Outcome, root: Path, tmp_path: Path
) -> None:
    image = next(write_test_images(Store(root), 1, tmp_path / "images").rglob("*.png"))
    dead = {"PREFECT_API_URL": "http://127.0.0.1:9/api"}
    common = ("predict", str(image), "--model", "1", "--artifacts", str(root), "--out", str(tmp_path / "one.jsonl"))
    assert run_command(*common, "--track", **dead).returncode == 7
    assert not (tmp_path / "one.jsonl").exists()
    warned = run_command(*common, **dead)
    assert warned.returncode == 0, warned.stderr
    assert warned.stderr.count("does not answer") == 1
    assert json.loads((tmp_path / "one.jsonl").read_text("utf-8"))["status"] == "ok"


def test_inspect_shows_the_prediction_of_the_table(outcome: Outcome, root: Path, tmp_path: Path) -> None:
    """Files that cannot be read, folders and unwritable outputs are errors."""
    folder = write_test_images(Store(root), outcome.version, tmp_path / "images")
    image, table = folder / "7" / "00000.png", tmp_path / "seven.csv"
    common = ("--model", "1", "--artifacts", str(root))
    assert run_command("predict", str(image), "--out", str(table), *common).returncode == 0
    shown = run_command("inspect", str(image), *common)
    assert (shown.returncode, shown.stderr) == (0, "")
    assert f"prediction  {rows_of(table)[0]['prediction']} (" in shown.stdout
    assert (root / "inspections" / "00000.png.png").read_bytes().startswith(b"\x89PNG")
    result = run_command("inspect", str(image), "--out", str(tmp_path / "seven.png"), "--json", *common)
    assert sum(json.loads(result.stdout)["probabilities"].values()) == pytest.approx(1, abs=1e-4)
    drawing = tmp_path / "seven.png"
    again = ("inspect", str(image), "--out", str(drawing), *common)
    assert run_command(*again).returncode == 0
    drawing.write_bytes(b"edited")
    kept = run_command(*again)
    assert kept.returncode == 2
    assert f"digits: {drawing} was changed after Digits wrote it" in kept.stderr
    assert drawing.read_bytes() == b"edited"
    assert run_command(*again, "--force").returncode == 0
    refused = run_command("inspect", str(table), *common)
    assert refused.returncode == 2
    assert "not-an-image" in refused.stderr
    assert run_command("inspect", str(folder), *common).returncode == 2
    nowhere = run_command("inspect", str(image), "--out", "/proc/no.png", *common)
    assert nowhere.returncode == 4
    assert "Traceback" not in refused.stderr + nowhere.stderr


@pytest.mark.slow
def test_another_task_runner_gives_the_same_table(outcome: Outcome, root: Path, tmp_path: Path) -> None:
    """Run the tasks in processes of their own, which receive only the path of the plan."""
    folder = write_test_images(Store(root), outcome.version, tmp_path / "scans")
    by_processes = predict_folder.with_options(task_runner=ProcessPoolTaskRunner(max_workers=2))
    tables = [tmp_path / name / "p.csv" for name in ("threads", "processes")]
    for flow, table in zip((predict_folder, by_processes), tables, strict=True):
        assert flow(folder, out=table, artifacts=root).reused == 0
    assert tables[0].read_bytes() == tables[1].read_bytes()


@pytest.mark.parametrize("tracked", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_an_interrupted_prediction_resumes(
    outcome: Outcome, root: Path, server: str, tmp_path: Path, tracked: bool
) -> None:
    """Ctrl-C ends all processes, reports how to resume, and leaves no table."""
    folder, table = tmp_path / "scans", tmp_path / "p.csv"
    folder.mkdir()
    (first,) = write_test_images(Store(root), outcome.version, tmp_path / "first").glob("7/00000.png")
    for number in range(MANY):
        (folder / f"{number:05}.png").hardlink_to(first)
    digits = str(Path(sys.executable).with_name("digits"))
    command = [digits, "predict", str(folder), "--out", str(table), "--artifacts", str(root)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    if tracked:
        environment["PREFECT_API_URL"] = server
    with held_shard(root, folder, table):
        before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
        process = subprocess.Popen(command, env=environment, cwd=HERE, stderr=subprocess.PIPE, start_new_session=True)
        signal.signal(signal.SIGINT, before)
        parts = root / "work" / "predictions"
        while not list(parts.glob("[0-9a-f]*/parts/*.json")):
            assert process.poll() is None
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.decode().rstrip().endswith("digits: interrupted; the same command resumes from what is finished")
    assert b"Traceback" not in errors
    assert not table.exists()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    summary = predict_folder(folder, out=table, artifacts=root)
    assert (summary.images, len(rows_of(table))) == (MANY, MANY)
    assert summary.reused > 0


@pytest.mark.slow
def test_members_are_trained_separately_and_averaged_in_one_model(outcome: Outcome, root: Path) -> None:
    """The lineage of the average leads through the first member to the arrays."""
    settings = TrainingConfig(members=2, epochs=1)
    policy = PromotionPolicy(promote=False)
    averaged = train(("mnist-sample",), model=MLP, training=settings, promotion=policy, artifacts=root)
    store = Store(root)
    lineage = trace_lineage(store, Registry(store).version(averaged.version).artifact("evaluation"))
    first, second, _ = (store.open(parent) for parent in lineage.model.parents)
    assert [first.config["seed"], second.config["seed"], lineage.model.config["members"]] == [42, 43, 2]
    assert (first.ref.kind, lineage.network.config["architecture"]) == ("model", "mlp")
    assert averaged.facts.epochs == 1
    assert averaged.facts.accuracy > 0.8
    assert outcome.version != averaged.version
