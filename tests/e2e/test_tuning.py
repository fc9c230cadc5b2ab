"""Tests of tuning on a real Prefect server: a task per trial, reports, and an interrupted search."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterKey, FlowRunFilter, FlowRunFilterName
from prefect.client.schemas.sorting import ArtifactSort, TaskRunSort

from digits.errors import UsageError
from digits.pipeline.config import TrainingRun
from digits.pipeline.search import Range
from digits.settings import root_name
from digits.training.config import ModelConfig, TrainingConfig
from flows.tuning import tune

HERE = Path(__file__).resolve().parents[2]
RUN = TrainingRun(datasets=("mnist-sample",), model=ModelConfig(architecture="mlp"), training=TrainingConfig(epochs=2))
SPACE = {"training.learning_rate": Range(low=1e-6, high=1e-2, log=True)}
TRIALS, SEED = 5, 23
"""With this seed the last trial has such a small learning rate that it is pruned."""


@pytest.fixture(scope="module")
def tuning_root(server: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an artifact root that holds a study."""
    root = tmp_path_factory.mktemp("tuned")
    tune(RUN, SPACE, TRIALS, None, SEED, root / "best.toml", root)
    return root


def test_every_trial_is_a_task_with_its_settings_and_state(tuning_root: Path) -> None:
    with get_client(sync_client=True) as client:
        name = FlowRunFilterName(any_=[f"tune mnist-sample mlp {TRIALS} trials"])
        (run,) = client.read_flow_runs(flow_run_filter=FlowRunFilter(name=name))
        tasks = client.read_task_runs(
            flow_run_filter=FlowRunFilter.model_validate({"id": {"any_": [run.id]}}), sort=TaskRunSort.ID_DESC
        )
    trials = {task.name: task.state for task in tasks if task.name.startswith("trial ")}
    assert len(trials) == TRIALS
    assert "trial 0: learning rate 0.001" in trials
    states = {state.name for state in trials.values() if state}
    assert states == {"Completed", "Pruned"}
    assert all("loss" in (state.message or "") for state in trials.values() if state)
    assert run.state is not None
    assert f"of {TRIALS} is the best" in (run.state.message or "")


def test_the_report_and_the_table_of_trials_are_in_the_ui(tuning_root: Path) -> None:
    with get_client(sync_client=True) as client:
        found = {
            kind: client.read_artifacts(
                artifact_filter=ArtifactFilter(key=ArtifactFilterKey(any_=[f"{kind}-{root_name(tuning_root)}"])),
                sort=ArtifactSort.UPDATED_DESC,
            )[0]
            for kind in ("study-report", "trials")
        }
    assert found["study-report"].data.count("data:image/png;base64,") >= 4
    assert len(json.loads(found["trials"].data)) == TRIALS


def test_an_invalid_search_space_fails_the_run(tuning_root: Path) -> None:
    with pytest.raises(UsageError, match=r"training\.learning_rate: .*less than or equal to 10"):
        tune(RUN, {"training.learning_rate": Range(low=1, high=11)}, 1, artifacts=tuning_root)


def test_a_configuration_of_somebody_else_is_not_overwritten(tuning_root: Path) -> None:
    """It is found before the search begins."""
    out = tuning_root / "mine.toml"
    out.write_text("[training]\n")
    with pytest.raises(UsageError, match=r"mine\.toml was not written by Digits"):
        tune(RUN, SPACE, 1000, None, SEED, out, tuning_root)
    assert tune(RUN, SPACE, TRIALS, None, SEED, out, tuning_root, force=True).config == out
    assert out.read_text() == (tuning_root / "best.toml").read_text()


@pytest.mark.slow
def test_an_interrupted_search_resumes(server: str, tmp_path: Path) -> None:
    """Ctrl-C in a trial prints one message without a traceback. The same command completes the search."""
    digits = str(Path(sys.executable).with_name("digits"))
    root, space = tmp_path / "root", tmp_path / "space.toml"
    space.write_text("[training]\nlearning_rate = { low = 1e-4, high = 1e-2, log = true }\n")
    options = ["--dataset", "mnist-sample", "--architecture", "mlp", "--epochs", "2", "--trials", "3"]
    command = [digits, "tune", *options, "--space", str(space), "--artifacts", str(root), "--json"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment["PREFECT_API_URL"] = server
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores it
    process = subprocess.Popen(
        command, env=environment, cwd=HERE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    signal.signal(signal.SIGINT, before)
    while not list(root.glob("studies/*/trial-00001.json")):
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 130, errors
    assert errors.decode().rstrip().endswith("digits: interrupted; the same command resumes from what is finished")
    assert b"Traceback" not in errors
    first = next(root.glob("studies/*/trial-00000.json"))
    finished = first.stat().st_mtime_ns
    again = subprocess.run(command, env=environment, cwd=HERE, capture_output=True, text=True, timeout=240, check=False)
    assert again.returncode == 0, again.stderr
    result = json.loads(again.stdout)
    assert sum(result["trials"].values()) == 3
    assert first.stat().st_mtime_ns == finished
    assert Path(result["config"]).is_file()
    assert set(result["best"]["values"]) == {"training.learning_rate"}
