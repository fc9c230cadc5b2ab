"""Tests of `digits up`, `status` and `down` on a running system with a password."""

import shutil
import socket
import sqlite3
import stat
from contextlib import closing
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image

from tests.support.running_system import RunningSystem, wait_for
from tests.support.server import free_port

IMAGES = 40


@pytest.fixture(scope="module")
def system(guarded_system: RunningSystem) -> RunningSystem:
    """Return the system with a password."""
    return guarded_system


def listening_addresses(port: int) -> set[str]:
    """Return the IPv4 addresses, as hexadecimal numbers, on which a process listens at a port."""
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    places = [line[1].split(":") for line in lines if line[3] == "0A"]
    return {address for address, number in places if int(number, 16) == port}


def test_a_repeated_up_changes_nothing(system: RunningSystem) -> None:
    """The state is accessible only to its owner, and the server listens only on loopback."""
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
    assert listening_addresses(system.port) == {"0100007F"}  # 127.0.0.1, the last byte first


def test_status_reports_deployments_and_champion_and_nothing_to_attend_to(system: RunningSystem) -> None:
    """Other tests may have predicted the folder before, whose broken image is named."""

    def scheduled() -> Any:
        found = system.status()
        return all(one["following"] for one in found["deployments"] if "cron" in one["schedule"]) and found

    status = wait_for(scheduled, "the next runs")
    assert status["deployments"][0]["following"]
    assert [line for line in status["attention"] if "1 not-an-image" not in line] == []
    assert [one["name"] for one in status["deployments"]] == [
        "train/nightly",
        "rollback/rollback",
        "predict/folder",
        "predict/inbox",
        "janitor/janitor",
    ]
    assert status["champion"].startswith("version 1, ")
    assert "1 online" in status["worker"]


def test_predict_with_deploy_waits_for_the_worker_and_reports_the_table(
    system: RunningSystem, folder: Path, tmp_path: Path
) -> None:
    out = tmp_path / "table.csv"
    ended = system.digits("predict", str(folder), "--out", str(out), "--deploy", "--top-k", "2", "--json")
    message = f"{IMAGES + 1} images, of which 1 could not be read, are in {out}"
    assert (ended["state"], ended["message"]) == ("Completed", message)
    assert ended["statuses"]["not-an-image"] == 1
    assert sum(ended["statuses"].values()) == ended["images"] == IMAGES + 1
    assert "top2" in pd.read_csv(out).columns


def test_a_deployed_run_writes_a_row_per_page_unless_only_the_first_is_asked_for(
    system: RunningSystem, folder: Path, tmp_path: Path
) -> None:
    """Each page has the prediction of the same image as a file of its own."""
    pages = [folder / "000.png", folder / "001.png"]
    first, second = map(Image.open, pages)
    scans, out = tmp_path / "scans", tmp_path / "table.csv"
    scans.mkdir()
    first.save(scans / "pages.tif", save_all=True, append_images=[second])
    for path in pages:
        shutil.copy(path, scans)
    columns = ["prediction", "confidence", "novelty"]
    system.complete("predict/folder", folder=str(scans), out=str(out))
    table = pd.read_csv(out)
    assert list(table.path) == ["000.png", "001.png", "pages.tif", "pages.tif"]
    assert list(table.page.fillna(0)) == [0, 0, 1, 2]
    assert table[columns][2:].to_numpy().tolist() == table[columns][:2].to_numpy().tolist()
    system.complete("predict/folder", folder=str(scans), out=str(out), options={"pages": "first"})
    assert list(pd.read_csv(out).path) == ["000.png", "001.png", "pages.tif"]


def test_a_failed_run_has_a_message_of_one_sentence_and_an_event(system: RunningSystem) -> None:
    """The traceback is only in the log."""
    run = system.run("predict/folder", folder="/no/such/folder")
    state = system.wait_for_end(run, "FAILED")
    assert "/no/such/folder" in state["message"]
    assert "\n" not in state["message"]
    assert not state["message"].startswith("Flow run encountered")
    wanted = {"logs": {"flow_run_id": {"any_": [run]}, "level": {"ge_": 40}}}
    wait_for(lambda: any("Traceback" in one["message"] for one in system.ask("/logs/filter", wanted)), "the traceback")
    wait_for(
        lambda: any(one["payload"]["message"] == state["message"] for one in system.events("digits.run.failed")),
        "the event",
    )
    assert any("the last run" in sentence for sentence in system.status()["attention"])


def test_a_backup_has_the_database_of_the_running_server_and_no_password(system: RunningSystem, tmp_path: Path) -> None:
    """A run is submitted just before; logs, the password and locks are not restored."""
    run = system.run("predict/folder", folder="/no/such/folder")
    archive, root = str(tmp_path / "x.tar.zst"), tmp_path / "restored"
    assert system.digits("backup", archive, "--tables", "--json")["database"] is True
    restored = system.digits("restore", archive, "--artifacts", str(root), "--json")
    assert (restored["champion"], restored["artifacts"]) == (1, str(root))
    with closing(sqlite3.connect(root / "system" / "prefect" / "prefect.db")) as database:
        assert (run,) in database.execute("SELECT id FROM flow_run").fetchall()
    assert [path.name for path in (root / "system").rglob("*") if path.is_file()] == ["prefect.db"]
    word = str(system.password and system.password[1])
    assert [path for path in root.rglob("*") if path.is_file() and word.encode() in path.read_bytes()] == []
    assert system.digits("verify", "--artifacts", str(root), "--json")["damaged"] == []
    system.wait_for_end(run, "FAILED")


def test_the_janitor_rotates_the_log_of_the_running_worker(system: RunningSystem) -> None:
    """The worker continues to write to the log that was emptied."""
    log, former = system.state / "worker.log", system.state / "worker.log.1"
    with log.open("ab") as file:
        file.write(b"a long line " * 10**6 + b"\n")
    system.complete("janitor/janitor")
    assert former.stat().st_size > 10**7
    wait_for(log.read_bytes, "a line of the worker")
    assert log.stat().st_size < 10**6
    assert b"\0" not in log.read_bytes()


def test_errors_of_up_and_down_name_the_remedy(system: RunningSystem, tmp_path: Path) -> None:
    """Use a port in use, another Prefect server, and a server that does not answer."""
    other = RunningSystem(system.root, tmp_path / "state", system.home, free_port(), system.secrets)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", other.port))
        taken.listen()
        assert "choose another --port" in other.digits("up", "--port", str(other.port), code=7)
    assert "did not start" in other.digits("up", "--port", str(system.port), code=7)
    gone = f"http://127.0.0.1:{free_port()}/api"
    assert "does not answer" in other.digits("up", code=7, PREFECT_API_URL=gone)
    assert "was not running" in other.digits("down")
    assert any("digits up" in sentence for sentence in other.status()["attention"])
    assert "digits up" in other.digits("predict", str(tmp_path), "--deploy", code=7)


@pytest.mark.slow
def test_up_with_another_server_starts_and_stops_only_a_worker(system: RunningSystem, tmp_path: Path) -> None:
    other = RunningSystem(system.root, tmp_path / "state", system.home, system.port, system.secrets)
    found = other.up(PREFECT_API_URL=f"{system.url}/api")
    assert (found["server"], found["worker"]) == ("running already, not by digits", "started")
    assert other.down()["server"].startswith("was not started by digits up")
    assert system.status()["attention"] is not None
    assert system.ask("/health") is True
