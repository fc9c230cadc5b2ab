"""Tests of the deployments on a running system: nights, rollbacks, the inbox, and the UI in a real browser."""

import base64
import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from digits.data.datasets import load
from digits.outputs.summary import picture_path
from digits.store.artifacts import Store
from digits.store.registry import Registry
from tests.support.browser import chromium, is_available, log_in, show, submit_folder, wait_for_picture, wait_for_text
from tests.support.running_system import TIMEOUT, RunningSystem, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("postponed_night")]
IMAGES = 40
HERE = Path(__file__).resolve().parents[2]
BETTER = {"datasets": ["mnist-sample"], "model": {"architecture": "cropped"}, "training": {"epochs": 12}}


@pytest.fixture(scope="module")
def browser(system: RunningSystem, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start headless Chromium, in which the UI has its password; yield its driver."""
    if not is_available():
        pytest.skip("there is no Chromium with its driver here (Debian: chromium, chromium-driver)")
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        log_in(started, system.url, ":".join(system.password or ()))
        yield started


@pytest.mark.browser
def test_a_folder_submitted_in_the_form_is_predicted_and_reported(
    system: RunningSystem, browser: Any, folder: Path
) -> None:
    deployment = system.ask("/deployments/name/predict/folder")
    submit_folder(browser, system.url, deployment["id"], folder)
    chosen = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}, "sort": "START_TIME_DESC"}
    (run,) = wait_for(lambda: system.ask("/flow_runs/filter", chosen), "the run")
    message = system.wait_for_end(run["id"])["message"]
    name = f"predict {folder.parent.name}/{folder.name} {IMAGES + 1} images with model 1"
    show(browser, f"{system.url}/runs/flow-run/{run['id']}", name)
    wait_for_text(browser, "Completed")
    artifact = system.artifact("predictions")
    assert artifact["flow_run_id"] == run["id"]
    show(browser, f"{system.url}/artifacts/artifact/{artifact['id']}", "broken.png")
    table = Path(message.rpartition(" are in ")[2])
    expected = base64.b64encode(picture_path(table).read_bytes()).decode("ascii")
    assert wait_for_picture(browser) == f"data:image/png;base64,{expected}"
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert len(rows) == IMAGES + 1
    assert dict(rows.status.value_counts())["not-an-image"] == 1
    written = wait_for(lambda: system.events("digits.predictions.written"), "the event")
    assert written[0]["payload"]["images"] == IMAGES + 1
    assert written[0]["resource"]["prefect.resource.name"] == str(table)
    progress = system.artifact("prediction-progress")
    assert (progress["flow_run_id"], float(progress["data"])) == (run["id"], 100)
    lines = system.log(run["id"])
    assert lines[0] == f"found {IMAGES + 1} images in {folder}"
    assert f"the table is {table}" in lines
    assert lines[-1].startswith(f"1 of {IMAGES + 1} images could not be read: broken.png (not-an-image: ")
    assert len(lines) <= 10, lines


def test_two_artifact_roots_on_one_server_keep_their_reports_apart(
    system: RunningSystem, folder: Path, tmp_path: Path
) -> None:
    other = replace(system, root=tmp_path / system.root.name)
    shutil.copytree(system.root, other.root)
    for one in (system, other):
        system.wait_for_end(system.run("predict/folder", folder=str(folder), artifacts=str(one.root)))
    for one in (system, other):
        assert one.artifact("predictions")["description"].startswith(f"{one.root}/predictions/")


def test_an_inbox_without_a_champion_is_skipped_until_there_is_one(system: RunningSystem, tmp_path: Path) -> None:
    state = system.complete("predict/inbox", artifacts=str(tmp_path))
    assert state["name"] == "Skipped"
    assert state["message"].startswith(f"there is no champion yet, so nothing in {tmp_path}/inbox was predicted")


@pytest.mark.parametrize(
    ("parameters", "found"),
    [
        ({"folder": "scans"}, "folder: found the relative path scans"),
        ({"folder": "/", "out": "t.csv"}, "out: found the relative path t.csv"),
        ({"folder": "/", "artifacts": "mine"}, "artifacts: found the relative path mine"),
        ({"folder": "/", "options": {"files_from": "list"}}, "options.files_from: found the relative path list"),
        ({"folder": "/", "options": {"files_from": "-"}}, "options.files_from: found `-`, standard input"),
    ],
)
def test_a_relative_path_fails_with_the_directory_of_the_worker(
    system: RunningSystem, parameters: dict[str, Any], found: str
) -> None:
    message = system.wait_for_end(system.run("predict/folder", **parameters), "FAILED")["message"]
    assert message.startswith(found)
    assert message.endswith("on the machine of the worker")
    assert "standard input" in message or str(HERE) in message


def test_images_unlike_the_accepted_ones_raise_a_drift_event(system: RunningSystem, tmp_path: Path) -> None:
    """Images unlike the model's test images raise none before the operator has accepted others."""
    assert system.events("digits.drift") == []
    random = np.random.default_rng(1)
    for number, pixels in enumerate(load("mnist-sample", downloads=tmp_path).test_pixels[:200]):
        Image.fromarray(pixels // 2).save(tmp_path / f"{number}.png")
    message = system.complete("predict/folder", folder=str(tmp_path))["message"]
    table = message.rpartition(" are in ")[2]
    assert (
        "no alarm: the images differ from the model's test images"
        in system.digits("drift", "show", table, "--json")["state"]
    )
    assert system.digits("drift", "accept", table, "--json")["alarm"] is False
    for number in range(200):
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / f"{number}.png")
    system.complete("predict/folder", folder=str(tmp_path))
    (event,) = wait_for(lambda: system.events("digits.drift"), "the event")
    assert event["resource"]["prefect.resource.id"] == f"digits.predictions.{tmp_path.name}"
    assert event["payload"]["features"]["no_digit"] > 1
    rows = {row["feature"]: row for row in json.loads(system.artifact("drift")["data"])}
    assert rows["share rejected as no digit"]["drifted"]
    assert rows["share rejected as no digit"]["psi"] == event["payload"]["features"]["no_digit"]
    assert "data:image/png;base64," in system.artifact("drift-trend")["data"]
    assert system.digits("drift", "show", table, "--json")["alarm"] is True


def test_a_better_model_is_promoted_and_the_inbox_is_predicted_with_it(system: RunningSystem, folder: Path) -> None:
    inbox = system.root / "inbox"
    inbox.mkdir(exist_ok=True)
    shutil.copy(folder / "000.png", inbox)
    run = system.run("train/nightly", **BETTER)
    message = system.wait_for_end(run)["message"]
    assert message.startswith("model version 2: ")
    promoted = wait_for(lambda: system.events("digits.model.promoted"), "the event")
    assert promoted[0]["resource"]["prefect.resource.id"] == "digits.model.2", message
    assert system.ask(f"/flow_runs/{run}")["name"] == "train mnist-sample cropped 12 epochs"
    assert float(system.artifact("training-progress")["data"]) == 100
    sets = promoted[0]["payload"]["test_sets"]
    assert [(row["name"], row["count"]) for row in sets] == [("mnist-sample", 1000)]
    assert sets[0]["challenger"] > sets[0]["champion"]
    assert system.status()["champion"].startswith("version 2, ")
    (table,) = wait_for(lambda: list((system.root / "predictions").glob("inbox-*/predictions.csv")), "the inbox")
    wait_for_rows_of("2", table)
    lines = system.log(run)
    assert lines[0] == "training cropped on mnist-sample with preset default, 12 epochs"
    assert any(line.startswith("accuracy: ") for line in lines)
    assert any(line.startswith("promoted to champion: ") for line in lines)
    assert lines[-1].startswith("the report is ")
    assert 8 <= len(lines) <= 14, lines


def wait_for_rows_of(version: str, table: Path) -> None:
    """Wait until the one row of the inbox is of a version.

    If a scheduled run of the inbox was active when the champion changed, the next one, minutes later, predicts it.
    """
    wait_for(lambda: list(pd.read_csv(table, dtype=str).model_version) == [version], "the champion's rows", 2 * TIMEOUT)


@pytest.mark.browser
def test_the_reports_of_a_night_are_in_the_ui(system: RunningSystem, browser: Any) -> None:
    for key, title in (
        ("model-report", "Version 2: promoted to champion"),
        ("decision", "Version 2 against version 1: promoted"),
    ):
        show(browser, f"{system.url}/artifacts/artifact/{system.artifact(key)['id']}", title)
        assert wait_for_picture(browser)


def test_a_night_without_changes_trains_and_publishes_nothing(system: RunningSystem) -> None:
    before = system.artifact("decision")["id"]
    run = system.run("train/nightly", **BETTER)
    sentence = "Nothing changed: data, configuration and code are those of version 2."
    assert system.wait_for_end(run)["message"] == sentence
    tasks = system.ask("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    assert [task["name"] for task in tasks] == ["check for changes"]
    assert system.artifact("decision")["id"] == before


def test_a_refusal_raises_an_event_with_the_reasons_and_measures(system: RunningSystem) -> None:
    datasets = ["mnist-sample", "reviewed"]  # there are no reviewed images yet
    run = system.run("train/nightly", datasets=datasets, model={"architecture": "mlp"}, training={"epochs": 1})
    assert "worse than the champion, version 2" in system.wait_for_end(run)["message"]
    (event,) = wait_for(lambda: system.events("digits.model.refused"), "the event")
    assert event["resource"]["prefect.resource.id"] == "digits.model.3"
    assert event["payload"]["compared_with"] == event["payload"]["champion"] == 2
    assert event["payload"]["test_sets"][0]["lost"] > 0


def test_a_rollback_restores_the_former_champion_and_the_inbox(system: RunningSystem) -> None:
    (table,) = (system.root / "predictions").glob("inbox-*/predictions.csv")
    run = system.run("rollback/rollback", reason="the scanner was changed")
    message = "version 1 is the champion now: rolled back from version 2, the scanner was changed"
    assert system.wait_for_end(run)["message"] == message
    (event,) = wait_for(lambda: system.events("digits.model.rolled-back"), "the event")
    assert event["resource"]["prefect.resource.id"] == "digits.model.1"
    assert Registry(Store(system.root)).promotions()[-1].by.run == run
    assert system.status()["champion"].startswith("version 1, ")
    wait_for_rows_of("1", table)
    refused = system.run("rollback/rollback", version=3)
    assert "there is no champion before the current one (1)" in system.wait_for_end(refused, "FAILED")["message"]


def test_the_inbox_predicts_only_new_images(system: RunningSystem, folder: Path) -> None:
    """Overlapping runs leave one row per image."""
    inbox = system.root / "other inbox"
    inbox.mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(folder / name, inbox)
    system.complete("predict/inbox", folder=str(inbox))
    for path in inbox.iterdir():
        os.utime(path, (1, 1))
    system.complete("predict/inbox", folder=str(inbox))
    assert system.complete("predict/inbox", folder=str(inbox))["message"].startswith("nothing is new in ")
    assert wait_for(lambda: system.events("digits.inbox.empty"), "the event")
    shutil.copy(folder / "002.png", inbox)
    runs = [system.run("predict/inbox", folder=str(inbox)) for _ in range(3)]
    states = [system.wait_for_end(run, "COMPLETED", "CANCELLED") for run in runs]
    states.append(system.complete("predict/inbox", folder=str(inbox)))
    assert any("3 images are in" in (state["message"] or "") for state in states), states
    (table,) = (system.root / "predictions").glob("other-inbox-*/predictions.csv")
    assert sorted(pd.read_csv(table).path) == ["000.png", "001.png", "002.png"]


def test_an_inbox_keeps_an_edited_table_and_the_rows_of_images_that_are_gone(
    system: RunningSystem, folder: Path
) -> None:
    """A run fails with the reason until it is forced to, or until the images are back."""
    inbox, away = system.root / "mounted inbox", system.root / "away"

    def refuse(sentence: str, deployment: str = "predict/inbox") -> None:
        assert sentence in system.end_of(deployment, "FAILED", folder=str(inbox))["message"]

    refuse(f"{inbox}: found no such folder, expected the inbox")
    inbox.mkdir()
    for number in range(20):
        shutil.copy(folder / "000.png", inbox / f"{number}.png")
    system.complete("predict/inbox", folder=str(inbox))
    (table,) = (system.root / "predictions").glob("mounted-inbox-*/predictions.csv")
    edited = table.read_bytes() + b"\n"
    table.write_bytes(edited)
    refuse(f"{table} was changed after Digits wrote it, so the run stops before it overwrites anything")
    assert table.read_bytes() == edited
    system.complete("predict/inbox", folder=str(inbox), options={"force": True})
    content = table.read_bytes()
    assert content != edited
    inbox.rename(away)
    inbox.mkdir()
    for deployment in ("predict/inbox", "predict/folder"):
        refuse(f"{inbox}: 20 of the 20 images in {table} are gone", deployment)
    assert table.read_bytes() == content
    inbox.rmdir()
    away.rename(inbox)
    system.complete("predict/inbox", folder=str(inbox))
    assert table.read_bytes() == content
