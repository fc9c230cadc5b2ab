"""`digits up` to a running system, seen as its operator sees it: commands, the real UI in a real browser."""

import base64
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from digits.outputs.summary import picture_path
from tests.support.browser import chromium, is_here, picture_shown, show, submit_folder, wait_for_text
from tests.support.running_system import RunningSystem, wait_for
from tests.support.server import free_port

IMAGES = 40
BETTER = {"datasets": ["mnist-sample"], "model": {"architecture": "cropped"}, "training": {"epochs": 12}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start Chromium without a screen."""
    if not is_here():
        pytest.skip("there is no Chromium with its driver here (Debian: chromium, chromium-driver)")
    with chromium(tmp_path_factory.mktemp("profile")) as started:
        yield started


def listening(port: int) -> set[str]:
    """Give the IPv4 addresses, as hexadecimal, at which the kernel has somebody listen at a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def test_up_again_changes_nothing(system: RunningSystem) -> None:
    """Server, worker and deployments are found; the state is for its owner only, and on loopback."""
    before = system.process("server"), system.process("worker")
    found = system.up()
    assert (found["server"], found["worker"], found["deployments"]) == (
        "running already",
        "running already",
        "as they were",
    )
    assert (system.process("server"), system.process("worker")) == before
    assert stat.S_IMODE(system.state.stat().st_mode) == 0o700
    assert stat.S_IMODE((system.state / "prefect" / "prefect.db").stat().st_mode) & 0o077 == 0
    assert listening(system.port) == {"0100007F"}  # 127.0.0.1, the last byte first


def test_status_is_quiet_when_all_is_well(system: RunningSystem) -> None:
    """It knows the deployments, when each runs next, and the champion."""
    wait_for(
        lambda: all(one["following"] for one in system.status()["deployments"] if "cron" in one["schedule"]), "runs"
    )
    status = wait_for(
        lambda: (found := system.status())["deployments"][0]["following"] and found, "the next night's run"
    )
    assert status["attention"] == []
    assert [one["name"] for one in status["deployments"]] == [
        "train/nightly",
        "rollback/rollback",
        "predict/folder",
        "predict/inbox",
        "janitor/janitor",
    ]
    assert status["champion"].startswith("version 1, ")
    assert "1 online" in status["worker"]


def test_a_folder_from_the_form(system: RunningSystem, browser: Any, folder: Path) -> None:
    """The analyst's way: the form, the run's page, the artifact with the pictures of this very run."""
    deployment = system.ask("/deployments/name/predict/folder")
    submit_folder(browser, system.url, deployment["id"], folder)
    chosen = {"flow_runs": {"deployment_id": {"any_": [deployment["id"]]}}, "sort": "START_TIME_DESC"}
    (run,) = wait_for(lambda: system.ask("/flow_runs/filter", chosen), "the run")
    message = system.ended(run["id"])["message"]
    name = f"predict {folder.parent.name}/{folder.name} {IMAGES + 1} images with model 1"
    show(browser, f"{system.url}/runs/flow-run/{run['id']}", name)
    wait_for_text(browser, "Completed")
    artifact = system.artifact("predictions")
    assert artifact["flow_run_id"] == run["id"]
    show(browser, f"{system.url}/artifacts/artifact/{artifact['id']}", "broken.png")
    table = Path(message.rpartition(" are in ")[2])
    expected = base64.b64encode(picture_path(table).read_bytes()).decode("ascii")
    assert picture_shown(browser) == f"data:image/png;base64,{expected}"
    rows = pd.read_csv(table, dtype=str, keep_default_na=False)
    assert len(rows) == IMAGES + 1
    assert dict(rows.status.value_counts())["not-an-image"] == 1
    written = wait_for(lambda: system.events("digits.predictions.written"), "the event")
    assert written[0]["payload"]["images"] == IMAGES + 1
    assert written[0]["resource"]["prefect.resource.name"] == str(table)
    progress = system.artifact("prediction-progress")
    assert (progress["flow_run_id"], float(progress["data"])) == (run["id"], 100)


def test_a_folder_by_command(system: RunningSystem, folder: Path, tmp_path: Path) -> None:
    """`digits predict --deploy` waits for the worker, and says where the table is."""
    out = tmp_path / "table.csv"
    ended = system.digits("predict", str(folder), "--out", str(out), "--deploy", "--top-k", "2", "--json")
    assert (ended["state"], ended["message"]) == ("Completed", f"{IMAGES + 1} images are in {out}")
    assert "top2" in pd.read_csv(out).columns


def test_pictures_that_are_no_digits_are_drift(system: RunningSystem, tmp_path: Path) -> None:
    """An event, a table and a picture tell of a folder that is unlike the test images; no event of one like them."""
    assert system.events("digits.drift") == []
    random = np.random.default_rng(1)
    for number in range(60):
        Image.fromarray(random.integers(0, 256, (28, 28), np.uint8)).save(tmp_path / f"{number}.png")
    system.ended(system.run("predict/folder", folder=str(tmp_path)))
    (event,) = wait_for(lambda: system.events("digits.drift"), "the event")
    assert event["resource"]["prefect.resource.id"] == f"digits.predictions.{tmp_path.name}"
    assert event["payload"]["features"]["no_digit"] > 1
    rows = {row["feature"]: row for row in json.loads(system.artifact("drift")["data"])}
    assert rows["share taken for no digit"]["drifted"]
    assert rows["share taken for no digit"]["psi"] == event["payload"]["features"]["no_digit"]
    assert "data:image/png;base64," in system.artifact("drift-trend")["data"]


def test_a_failure_is_one_sentence(system: RunningSystem) -> None:
    """What the run's page says can be acted on; the traceback is in the log, and an event tells of it."""
    run = system.run("predict/folder", folder="/no/such/folder")
    state = system.ended(run, "FAILED")
    assert "/no/such/folder" in state["message"]
    assert "\n" not in state["message"]
    assert not state["message"].startswith("Flow run encountered")
    wanted = {"logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": 40}}}
    wait_for(lambda: any("Traceback" in one["message"] for one in system.ask("/logs/filter", wanted)), "the traceback")
    assert (
        wait_for(lambda: system.events("digits.run.failed"), "the event")[0]["payload"]["message"] == state["message"]
    )
    assert any("the last run" in sentence for sentence in system.status()["attention"])


def test_a_night(system: RunningSystem, browser: Any, folder: Path) -> None:
    """A better model is promoted, with its report in the UI; the promotion has the inbox predicted with it at once."""
    inbox = system.root / "inbox"
    inbox.mkdir(exist_ok=True)
    shutil.copy(folder / "000.png", inbox)
    run = system.run("train/nightly", **BETTER)
    message = system.ended(run)["message"]
    assert message.startswith("model version 2: ")
    promoted = wait_for(lambda: system.events("digits.model.promoted"), "the event")
    assert promoted[0]["resource"]["prefect.resource.id"] == "digits.model.2", message
    assert system.ask(f"/flow_runs/{run}")["name"] == "train mnist-sample cropped 12 epochs"
    assert float(system.artifact("training-progress")["data"]) == 100
    artifact = system.artifact("model-report")
    show(browser, f"{system.url}/artifacts/artifact/{artifact['id']}", "Version 2: promoted to champion")
    assert picture_shown(browser)
    sets = promoted[0]["payload"]["test_sets"]
    assert [(row["name"], row["count"]) for row in sets] == [("mnist-sample", 1000)]
    assert sets[0]["challenger"] > sets[0]["champion"]
    decision = system.artifact("decision")
    show(browser, f"{system.url}/artifacts/artifact/{decision['id']}", "Version 2 against version 1: promoted")
    assert picture_shown(browser)
    assert system.status()["champion"].startswith("version 2, ")
    (table,) = wait_for(lambda: list((system.root / "predictions").glob("inbox-*/predictions.csv")), "the inbox")
    wait_for(lambda: list(pd.read_csv(table, dtype=str).model_version) == ["2"], "the champion's rows")
    logs = system.ask("/logs/filter", {"logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": 20}}, "limit": 200})
    assert 5 <= len(logs) <= 60, [line["message"] for line in logs]


def test_a_night_without_news(system: RunningSystem) -> None:
    """Neither data, configuration nor code have changed: the run says so, and trains, decides and publishes nothing."""
    before = system.artifact("decision")["id"]
    run = system.run("train/nightly", **BETTER)
    sentence = "Nothing changed: data, configuration and code are those of version 2."
    assert system.ended(run)["message"] == sentence
    tasks = system.ask("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [run]}}})
    assert [task["name"] for task in tasks] == ["look for what has changed"]
    assert system.artifact("decision")["id"] == before


def test_a_refusal_is_an_event(system: RunningSystem) -> None:
    """With the reasons and the figures."""
    datasets = ["mnist-sample", "reviewed"]  # of which there is nothing yet
    run = system.run("train/nightly", datasets=datasets, model={"architecture": "mlp"}, training={"epochs": 1})
    assert "worse than the champion, version 2" in system.ended(run)["message"]
    (event,) = wait_for(lambda: system.events("digits.model.refused"), "the event")
    assert event["resource"]["prefect.resource.id"] == "digits.model.3"
    assert event["payload"]["compared_with"] == event["payload"]["champion"] == 2
    assert event["payload"]["test_sets"][0]["lost"] > 0


def test_a_rollback(system: RunningSystem) -> None:
    """By the deployment: the former champion is back, an event tells of it, and the inbox is predicted with it."""
    (table,) = (system.root / "predictions").glob("inbox-*/predictions.csv")
    run = system.run("rollback/rollback", reason="the scanner was changed")
    words = "version 1 is the champion now: rolled back from version 2, the scanner was changed"
    assert system.ended(run)["message"] == words
    (event,) = wait_for(lambda: system.events("digits.model.rolled-back"), "the event")
    assert event["resource"]["prefect.resource.id"] == "digits.model.1"
    assert system.status()["champion"].startswith("version 1, ")
    wait_for(lambda: list(pd.read_csv(table, dtype=str).model_version) == ["1"], "the former champion's rows")
    refused = system.run("rollback/rollback", version=3)
    assert "there is no champion before the present one (1)" in system.ended(refused, "FAILED")["message"]


def test_the_inbox_takes_what_is_new(system: RunningSystem, folder: Path) -> None:
    """Only that, and nothing where nothing is; runs that overlap leave one row an image."""
    inbox = system.root / "other inbox"
    inbox.mkdir()
    for name in ("000.png", "001.png"):
        shutil.copy(folder / name, inbox)
    system.ended(system.run("predict/inbox", folder=str(inbox)))
    for path in inbox.iterdir():
        os.utime(path, (1, 1))
    system.ended(system.run("predict/inbox", folder=str(inbox)))
    first = system.run("predict/inbox", folder=str(inbox))
    assert system.ended(first)["message"].startswith("nothing is new in ")
    assert wait_for(lambda: system.events("digits.inbox.empty"), "the event")
    shutil.copy(folder / "002.png", inbox)
    runs = [system.run("predict/inbox", folder=str(inbox)) for _ in range(3)]
    states = [system.ended(run, "COMPLETED", "CANCELLED") for run in runs]
    assert any("3 images are in" in (state["message"] or "") for state in states), states
    (table,) = (system.root / "predictions").glob("other-inbox-*/predictions.csv")
    assert sorted(pd.read_csv(table).path) == ["000.png", "001.png", "002.png"]


def test_clear_words_where_it_can_not_start(system: RunningSystem, tmp_path: Path) -> None:
    """A port that is taken, a server of somebody else's, one that does not answer."""
    other = RunningSystem(system.root, tmp_path / "state", system.home, free_port())
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        assert "give another --port" in other.digits("up", "--port", str(other.port), code=7)
    assert "has not started" in other.digits("up", "--port", str(system.port), code=7)
    gone = f"http://127.0.0.1:{free_port()}/api"
    assert "does not answer" in other.digits("up", code=7, PREFECT_API_URL=gone)
    assert "was not running" in other.digits("down")
    assert any("digits up" in sentence for sentence in other.status()["attention"])
    assert "digits up" in other.digits("predict", str(tmp_path), "--deploy", code=7)


def test_a_foreign_server_is_used_and_left_alone(system: RunningSystem, tmp_path: Path) -> None:
    """With PREFECT_API_URL, `up` starts only a worker, and `down` stops only that."""
    other = RunningSystem(system.root, tmp_path / "state", system.home, system.port)
    found = other.up(PREFECT_API_URL=f"{system.url}/api")
    assert (found["server"], found["worker"]) == ("running already, not by digits", "started")
    assert other.down()["server"].startswith("was not started by digits up")
    assert system.status()["attention"] is not None
    assert system.ask("/health") is True
