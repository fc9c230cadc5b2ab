"""Tests of deployments on a running system: redeployments, automations for dead runs, and notifications."""

import email.policy
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from tests.support.receivers import mail_server, webhook
from tests.support.running_system import RunningSystem, wait_for

HERE = Path(__file__).resolve().parents[2]
CRASH = "digits: crash runs without heartbeats"
SECONDS = 15
"""Seconds without heartbeats after which a run is set to Crashed in these tests."""


class Project:
    """Copy of the project whose files change, deployed to a system.

    Args:
        folder: directory of the copy.
        system: running system.
    """

    def __init__(self, folder: Path, system: RunningSystem) -> None:
        self.folder, self.system = folder, system

    def deploy(self, *options: str, code: int = 0, **more: str) -> Any:
        """Run `digits deploy` in the copy; return its facts, or its output if it fails."""
        command = [str(Path(sys.executable).with_name("digits")), "deploy", "--json", *options]
        environment = {**self.system.environment, **more}
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == code, done.stdout + done.stderr
        return yaml.safe_load(done.stdout) if code == 0 else done.stderr

    def change(self, file: str, old: str, new: str) -> None:
        """Replace a text in a file of the copy."""
        path = self.folder / file
        content = path.read_text()
        assert old in content
        path.write_text(content.replace(old, new))


@pytest.fixture(scope="module")
def project(system: RunningSystem, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a copy of the project that is deployed to the system."""
    folder = tmp_path_factory.mktemp("project")
    for name in ("flows", "tasks", "deploy"):
        shutil.copytree(HERE / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "prefect.yaml", folder)
    made = Project(folder, system)
    assert made.deploy()["deployments"] == "deployed"
    return made


def named(system: RunningSystem, name: str) -> dict[str, Any]:
    """Return a deployment."""
    return dict(system.ask(f"/deployments/name/{name}"))


def described(system: RunningSystem) -> dict[str, tuple[str, str]]:
    """Return the version and the description of each deployment."""
    return {one["name"]: (one["version"], one["description"]) for one in system.ask("/deployments/filter", {})}


def automation(system: RunningSystem, name: str) -> dict[str, Any]:
    """Return the automation with a name."""
    (found,) = [one for one in system.ask("/automations/filter", {}) if one["name"] == name]
    return dict(found)


def test_without_changes_nothing_is_deployed(project: Project) -> None:
    assert project.deploy() == {"deployments": "as they were"}


def test_a_dry_run_changes_nothing_and_names_what_it_would_do(project: Project) -> None:
    before = described(project.system)
    project.change("prefect.yaml", "Makes a former champion", "Restores a former champion")
    found = project.deploy("--dry-run")
    assert found["server"] == f"{project.system.url}/api"
    assert found["train/nightly"] == "update; 15 2 * * * Etc/UTC"
    assert found[CRASH] == "unchanged; on"
    assert found["digits: notify of drift"] == "off; --notify turns it on"
    assert described(project.system) == before


def test_a_redeployment_keeps_what_the_operator_changed_unless_the_file_changed_there(project: Project) -> None:
    """Pauses, schedules, parameters and a switched-off automation."""
    system = project.system
    nightly, inbox = named(system, "train/nightly"), named(system, "predict/inbox")
    (schedule,) = nightly["schedules"]
    system.ask(f"/deployments/{nightly['id']}/schedules/{schedule['id']}", {"active": False}, method="PATCH")
    changed = {"parameters": {"datasets": ["reviewed"], "training": {"epochs": 3}}}
    system.ask(f"/deployments/{nightly['id']}", changed, method="PATCH")
    system.ask(f"/deployments/{inbox['id']}/pause_deployment", {})
    system.ask(f"/automations/{automation(system, CRASH)['id']}", {"enabled": False}, method="PATCH")
    project.change("prefect.yaml", "datasets: [mnist, reviewed]", "datasets: [mnist]")
    facts = project.deploy()
    assert facts["deployments"] == "deployed"
    kept = "train/nightly: schedules, parameters.training; predict/inbox: paused"
    assert facts["kept from the server"] == kept
    assert facts["taken from the file"] == "train/nightly: parameters.datasets"
    nightly, inbox = named(system, "train/nightly"), named(system, "predict/inbox")
    assert [one["active"] for one in nightly["schedules"]] == [False]
    assert nightly["parameters"] == {"datasets": ["mnist"], "training": {"epochs": 3}}
    assert inbox["paused"] is True
    assert nightly["global_concurrency_limit"]["limit"] == 1
    assert nightly["concurrency_options"] == {"collision_strategy": "CANCEL_NEW", "grace_period_seconds": 180}
    assert automation(system, CRASH)["enabled"] is False
    system.ask(f"/automations/{automation(system, CRASH)['id']}", {"enabled": True}, method="PATCH")


def test_schedules_at_another_server_need_a_confirmation(project: Project, tmp_path: Path) -> None:
    """This process did not start the server, as far as its state directory shows."""
    elsewhere = {"DIGITS_STATE": str(tmp_path), **project.system.client}
    project.change("prefect.yaml", "  - name: folder", "  - name: second\n    <<: *copy\n  - name: folder")
    project.change(
        "prefect.yaml",
        "deployments:\n",
        "copy: &copy\n  entrypoint: flows/rollback.py:rollback\n  work_pool: *pool\n  tags: [digits]\n"
        '  schedules: [{cron: "0 0 1 1 *"}]\ndeployments:\n',
    )
    refused = project.deploy(code=2, **elsewhere)
    assert "rollback/second would run on a schedule" in refused
    assert "--yes" in refused
    assert project.deploy("--yes", **elsewhere)["deployments"] == "deployed"
    assert named(project.system, "rollback/second")["schedules"]
    assert project.deploy(**elsewhere)["deployments"] == "as they were"


def test_what_the_file_no_longer_declares_is_named_and_pruned(project: Project) -> None:
    """A deployment that Digits did not make stays."""
    system = project.system
    foreign = make_foreign_deployment(system)
    project.change("prefect.yaml", "  - name: second\n    <<: *copy\n", "")
    facts = project.deploy()
    assert facts["no longer declared (--prune removes them)"] == "rollback/second"
    assert named(system, "rollback/second")
    assert project.deploy("--prune")["removed"] == "rollback/second"
    names = {one["name"] for one in system.ask("/deployments/filter", {})}
    assert names == {"nightly", "rollback", "folder", "inbox", "janitor", "foreign"}
    assert project.deploy() == {
        "deployments": "as they were",
        "kept from the server": "train/nightly: schedules, parameters.training; predict/inbox: paused",
    }
    assert system.ask(f"/deployments/{foreign}")


def make_foreign_deployment(system: RunningSystem) -> str:
    """Create a deployment as others on the same server have."""
    flow = system.ask("/flows/", {"name": "train"})["id"]
    found = system.ask("/deployments/filter", {"deployments": {"name": {"any_": ["foreign"]}}})
    made = found[0] if found else system.ask("/deployments/", {"name": "foreign", "flow_id": flow, "tags": ["train"]})
    return str(made["id"])


def start_silent_run(system: RunningSystem, deployment: str, **parameters: Any) -> str:
    """Create a run of a deployment that is Running without a process, so that it sends no heartbeats."""
    wanted = {"state": {"type": "PENDING"}, "parameters": parameters}
    run = system.ask(f"/deployments/{deployment}/create_flow_run", wanted)["id"]
    system.ask(f"/flow_runs/{run}/set_state", {"state": {"type": "RUNNING"}, "force": True})
    return str(run)


def test_runs_without_heartbeats_crash_and_foreign_runs_are_left_alone(project: Project) -> None:
    system = project.system
    project.change("deploy/automations.yaml", "within: 180", f"within: {SECONDS}")
    assert project.deploy()["deployments"] == "deployed"
    assert automation(system, CRASH)["trigger"]["within"] == SECONDS
    foreign = start_silent_run(system, make_foreign_deployment(system))
    ours = start_silent_run(system, str(named(system, "predict/folder")["id"]), folder="/scans")
    cancelled = start_silent_run(system, str(named(system, "rollback/rollback")["id"]))
    system.ask(f"/flow_runs/{cancelled}/set_state", {"state": {"type": "CANCELLING"}, "force": True})
    assert "no heartbeat" in system.wait_for_end(ours, "CRASHED")["message"]
    assert "did not end" in system.wait_for_end(cancelled, "CANCELLED")["message"]
    assert system.state_of(foreign)["type"] == "RUNNING"


@pytest.mark.parametrize("service", ["webhook", "e-mail"])
def test_a_failed_run_is_notified_and_the_address_stays_secret(project: Project, service: str) -> None:
    system = project.system
    secret = "s3cret-t0ken"  # noqa: S105 - a part of addresses
    with webhook() as (port, posted), mail_server() as (mail_port, mails):
        addresses = {
            "webhook": f"http://127.0.0.1:{port}/hook/{secret}?key={secret}",
            "e-mail": f"smtp://127.0.0.1:{mail_port}?from=digits@example.com&to=ops@example.com&name={secret}",
        }
        project.deploy(DIGITS_NOTIFY=addresses[service])
        assert automation(system, "digits: notify of failed runs")["enabled"]
        run = system.run("predict/folder", folder="/no/such/folder")
        sentence = system.wait_for_end(run, "FAILED")["message"]
        if service == "webhook":
            path, body = wait_for(lambda: [one for one in posted if "failed" in one[1]["title"]], "the call")[0]
            assert path == f"/hook/{secret}?key={secret}"
            assert body["message"] == f"{sentence}\n{system.url}/runs/flow-run/{run}"
        else:
            mail = wait_for(lambda: mails, "the e-mail")[0]
            received = email.message_from_string(mail, policy=email.policy.default)
            assert received["subject"].endswith(" failed")
            assert received["to"] == "ops@example.com"
            body = received.get_body(("plain", "html"))
            assert body is not None
            assert sentence in " ".join(str(body.get_content()).split())
    for path in system.state.rglob("*.log"):
        assert secret not in path.read_text(errors="replace")
    assert secret not in str(system.ask("/block_documents/filter", {}))
    assert secret not in str(system.ask("/automations/filter", {}))
    assert secret.encode() not in b"".join(path.read_bytes() for path in (system.state / "prefect").glob("prefect.db*"))


def emit(system: RunningSystem, event: str, resource: str, **payload: Any) -> None:
    """Emit an event as a flow does."""
    subject = {"prefect.resource.id": resource, "prefect.resource.name": resource.removeprefix("digits.")}
    moment = datetime.now(UTC).isoformat()
    made = {"id": str(uuid4()), "occurred": moment, "event": event, "resource": subject, "payload": payload}
    system.ask("/events", [made])


def test_crashes_refusals_drift_and_stale_tables_are_notified(project: Project) -> None:
    system = project.system
    project.change("deploy/automations.yaml", "within: 3600", f"within: {SECONDS}")
    with webhook() as (port, posted):
        project.deploy(DIGITS_NOTIFY=f"http://127.0.0.1:{port}/hook")
        emit(system, "digits.model.refused", "digits.model.7", reasons=["worse on mnist", "slower"], champion=3)
        emit(system, "digits.drift", "digits.predictions.scans", images=60, features={"no_digit": 1.5, "ink": 0.4})
        crashed, completed = (
            start_silent_run(system, str(named(system, name)["id"]), **parameters)
            for name, parameters in (("predict/folder", {"folder": "/scans"}), ("predict/inbox", {}))
        )
        for run, end in ((crashed, "CRASHED"), (completed, "COMPLETED")):
            system.ask(f"/flow_runs/{run}/set_state", {"state": {"type": end, "message": "the end"}, "force": True})
        titles = [
            "Digits: model.7 is refused",
            "Digits: drift in predictions.scans",
            f"Digits: {system.ask(f'/flow_runs/{crashed}')['name']} crashed",
            "Digits: the table of an inbox is stale",
        ]
        wait_for(lambda: {body["title"] for _, body in posted} >= set(titles), "the notifications")
    found = {body["title"]: body["message"] for _, body in posted}
    refused, drifted, ended, stale = (found[title] for title in titles)
    assert refused == "worse on mnist; slower\nThe champion is version 3."
    assert drifted.startswith("60 images drifted: ")
    assert "no_digit" in drifted
    assert ended.startswith("the end")
    assert stale.startswith("No run of inbox has completed for an hour")


def test_notifications_are_turned_off(project: Project) -> None:
    project.deploy("--notify", "off")
    names = [one["name"] for one in project.system.ask("/automations/filter", {})]
    assert len(names) == 4
    assert not any("notify" in name for name in names)


def test_an_address_of_an_unknown_service_is_refused_without_being_shown(project: Project) -> None:
    refused = project.deploy("--notify", "xmpp://user:hidden@host", code=2)
    assert "'xmpp'" in refused
    assert "hidden" not in refused
