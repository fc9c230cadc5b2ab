"""Sentences about what needs attention in a system."""

import re
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from digits.errors import RegistryError
from digits.server.api import Access
from digits.server.attention import (
    MISSED,
    STARTING,
    TIME_LIMITS,
    TOLERANCE,
    ActiveRun,
    CrashedRun,
    DeploymentFacts,
    Findings,
    Origin,
    Pool,
    Queue,
    Run,
    Schedule,
    Table,
    list_attention,
)
from digits.store.registry import ModelFacts, ModelVersion
from flows.janitor import clean_up
from flows.prediction import predict_folder, predict_inbox
from flows.rollback import rollback
from flows.training import train
from flows.tuning import tune

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
CHAMPION = ModelVersion(3, {}, "", ModelFacts(datasets=("mnist",), accuracy=0.99))
RUN = Run("read scans", "predict/inbox", "Running", "2026-11-28 10:00", type="RUNNING", id="1234")
DONE = replace(RUN, state="Completed", type="COMPLETED")
TABLE = Table("/a/t.csv", "predict/inbox", 1000, {"ok": 990, "uncertain": 6, "not-a-digit": 4}, NOW, 3)
INBOX = DeploymentFacts(
    "predict/inbox",
    is_scheduled=True,
    schedules=[Schedule("s1", "*/5 * * * * Etc/UTC")],
    updated=NOW - timedelta(days=1),
    following=NOW + timedelta(minutes=5),
    last=DONE,
    completed=NOW - timedelta(minutes=5),
    deployed=NOW - timedelta(days=1),
    table=TABLE,
)
WELL = Findings(
    Access.OPEN,
    "http://x/api",
    NOW,
    Path("/state"),
    ours=True,
    pools=[Pool("digits", 1)],
    deployments=[INBOX, DeploymentFacts("predict/folder", last=DONE)],
    active=[ActiveRun(RUN, "predict", NOW - timedelta(hours=5))],
    queue=Queue(scheduled=30, running=1),
    champion=CHAMPION,
)


def active(kind: str, flow: str, age: timedelta, **more: Any) -> dict[str, Any]:
    """Return the change of the findings that makes one run active."""
    run = replace(RUN, type=kind, state=kind.capitalize())
    return {"active": [ActiveRun(run, flow, NOW - age, **more)]}


def inbox(**changes: Any) -> dict[str, Any]:
    """Return the change of the findings that changes the facts about the inbox."""
    return {"deployments": [replace(INBOX, **changes)]}


def ended(state: str, identity: str = "1234") -> Run:
    """Return a run that ended."""
    return replace(RUN, state=state.capitalize(), type=state, message="the disk is full", id=identity)


def test_nothing_needs_attention_when_all_is_well() -> None:
    assert list_attention(WELL) == []


PROBLEMS = [
    ({"access": None, "api": None}, "start one with `digits up`"),
    ({"access": Access.ABSENT, "ours": False}, "at http://x/api does not answer; start it"),
    (
        {"access": Access.ABSENT},
        "runs, but does not answer; see /state/server.log, then run `digits down` and `digits up`",
    ),
    ({"access": Access.DENIED}, "requires another password: set PREFECT_API_AUTH_STRING"),
    ({"pools": [Pool("digits", 0)]}, "no worker is online in the work pool digits, so no run of it starts; start one"),
    ({"pools": [Pool("k8s", 0)]}, "start one with `prefect worker start --pool k8s`"),
    ({"pools": [Pool("digits", None)]}, "has no work pool digits, so no run of it starts; create it with `digits up`"),
    ({"pools": [Pool("k8s", None)]}, "create it with `prefect work-pool create --type process k8s`"),
    ({"pools": [Pool("my pool", 1, paused=True)]}, "resume it with `prefect work-pool resume 'my pool'`"),
    ({"pools": [Pool("digits", 1, silent=True)]}, "the worker runs, but the server has not heard from it"),
    ({"missing": ["train/nightly"]}, "not deployed: train/nightly; deploy with `digits up`"),
    (
        {"disabled": ["digits: end"]},
        "the automation digits: end is disabled; enable it with `prefect automation resume 'digits: end'`, or set",
    ),
    ({"queue": Queue(late=2)}, "2 runs are more than 10 minutes late"),
    (
        active("RUNNING", "predict", timedelta(minutes=1), dead=True),
        (
            "read scans is Running and holds the slot of predict/inbox, but its process is gone; end it with "
            "`digits janitor`"
        ),
    ),
    (
        active("PENDING", "predict", STARTING + timedelta(seconds=1)),
        "has been Pending since 2026-11-28 11:44, so no worker starts it; delete it with `prefect flow-run delete",
    ),
    (
        {**active("PENDING", "predict", STARTING + timedelta(seconds=1)), "ours": False},
        (
            "has been Pending since 2026-11-28 11:44 and holds the slot of predict/inbox, so no worker starts it; "
            "delete it with `prefect flow-run delete 1234`"
        ),
    ),
    (
        active("CANCELLING", "train", STARTING * 2),
        "so no worker ends it; delete it with `prefect flow-run delete 1234`",
    ),
    (
        active("RUNNING", "rollback", TIME_LIMITS["rollback"] + TOLERANCE * 2),
        "longer than its limit of 0.167 h; cancel it with `prefect flow-run cancel 1234`",
    ),
    (active("RUNNING", "predict", TIME_LIMITS["predict"] + TOLERANCE * 2), "longer than its limit of 24 h"),
    (
        active("RUNNING", "predict", timedelta(hours=2), blocked=3),
        "3 scheduled runs were cancelled or skipped meanwhile; wait for its end, or cancel it with",
    ),
    (inbox(last=ended("FAILED")), "predict/inbox: the last run, read scans, is Failed: the disk is full"),
    (inbox(last=ended("CRASHED")), "predict/inbox: the last run, read scans, is Crashed: the disk is full"),
    (
        {"crashed": [CrashedRun(ended("CRASHED"), "`digits predict /scans --deploy`")], **inbox(last=ended("CRASHED"))},
        "read scans crashed at 2026-11-28 10:00; continue it with `digits predict /scans --deploy`",
    ),
    (
        inbox(paused=True, id="d1"),
        (
            "predict/inbox is paused, so no run starts automatically; resume it with "
            "`prefect api POST /deployments/d1/resume_deployment`"
        ),
    ),
    (
        inbox(schedules=[Schedule("s1", "*/5 * * * *", active=False)], following=None),
        (
            "predict/inbox: its schedule is paused, so no run starts automatically; resume it with "
            "`prefect deployment schedule resume predict/inbox s1`, or set `active: false` in prefect.yaml"
        ),
    ),
    (inbox(schedules=[], following=None), "has a schedule in prefect.yaml, but none on the server"),
    (inbox(following=None), "has a schedule, but no scheduled run"),
    (
        inbox(missed=MISSED),
        (
            "predict/inbox: the table /a/t.csv was not refreshed since 2026-11-28 11:55, although its schedule "
            "(*/5 * * * * Etc/UTC) came due; start a run with `prefect deployment run predict/inbox`, and read its log"
        ),
    ),
    (
        inbox(missed=MISSED, table=None, completed=None, last=None),
        "predict/inbox: no run has completed since 2026-11-27 12:00, although",
    ),
    (
        inbox(table=replace(TABLE, statuses={"ok": 990, "uncertain": 5, "unreadable": 4, "timeout": 1, "crashed": 0})),
        (
            "predict/inbox: 5 of 1,000 images in /a/t.csv have no prediction (4 unreadable, 1 timeout); its column "
            "`error` has the reasons"
        ),
    ),
    (
        {"deployments": [DeploymentFacts("predict/old", Origin.REMOVED)]},
        "predict/old is deployed, but no longer in prefect.yaml; remove it with `digits up --prune`",
    ),
    (
        {"deployments": [DeploymentFacts("etl/load", Origin.FOREIGN, last=ended("FAILED"), missed=MISSED)]},
        "etl/load is not in prefect.yaml, but uses the work pool digits, so its code runs in",
    ),
    ({"problems": ["prefect.yaml: not readable"]}, "prefect.yaml: not readable"),
    ({"champion": None}, "there is no champion, so nothing can be predicted; train one with `digits train`"),
    ({"champion": RegistryError("damaged")}, "damaged"),
    ({"free": 10**9}, "only 1.0 GB are free on the disk of the artifacts"),
]


@pytest.fixture(autouse=True)
def _in_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Show times in UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "UTC")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.parametrize(("change", "words"), PROBLEMS)
def test_each_problem_is_one_sentence(change: dict[str, Any], words: str) -> None:
    (sentence,) = list_attention(replace(WELL, **change))
    assert words in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize(
    "change",
    [
        active("PENDING", "predict", STARTING),
        active("RUNNING", "predict", TIME_LIMITS["predict"]),
        active("RUNNING", "of one's own", timedelta(days=30)),
        active("RUNNING", "predict", timedelta(hours=2), blocked=2),
        inbox(missed=MISSED - 1),
        inbox(missed=MISSED, active=True),
        inbox(following=None, updated=NOW - timedelta(seconds=30)),
        inbox(is_scheduled=False, schedules=[Schedule("s1", "* * * * *", active=False)], following=None, missed=0),
        {"pools": []},
    ],
)
def test_what_is_plausible_needs_no_attention(change: dict[str, Any]) -> None:
    assert list_attention(replace(WELL, **change)) == []


def test_an_inbox_that_waits_for_a_champion_is_not_stale() -> None:
    (sentence,) = list_attention(replace(WELL, champion=None, **inbox(missed=MISSED, table=None)))
    assert sentence.startswith("there is no champion")


@pytest.mark.parametrize(("lease", "words"), [(300.0, "its lease ends, after 300 s, as"), (None, "its lease ends, as")])
def test_on_another_server_a_dead_run_holds_its_slot_until_its_lease_ends(lease: float | None, words: str) -> None:
    found = replace(WELL, ours=False, lease=lease, **active("RUNNING", "predict", timedelta(0), dead=True))
    (sentence,) = list_attention(found)
    assert words in sentence
    assert "at most 4 minutes" in replace(found, ours=True).slots


def test_every_flow_has_its_time_limit() -> None:
    flows = (train, tune, rollback, predict_folder, predict_inbox, clean_up)
    assert {flow.name: flow.timeout_seconds for flow in flows} == {
        name: limit.total_seconds() for name, limit in TIME_LIMITS.items()
    }


def explained() -> list[re.Pattern[str]]:
    """Return the sentences that docs/troubleshooting.md explains; words in capitals stand for any text."""
    text = (Path(__file__).resolve().parents[3] / "docs" / "troubleshooting.md").read_text("utf-8")
    section = text.partition("## What `digits status` says")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)
    return [re.compile(re.sub(r"\b[A-Z]{2,}\b(?! are free)|\bSIZE\b", ".+", re.escape(row))) for row in rows]


@pytest.mark.parametrize(("change", "_words"), PROBLEMS)
def test_the_docs_explain_every_sentence(change: dict[str, Any], _words: str) -> None:
    (sentence,) = list_attention(replace(WELL, **change))
    if sentence in ("damaged", "prefect.yaml: not readable"):  # errors of other modules
        return
    assert any(row.match(sentence) for row in explained()), sentence


def test_the_docs_explain_no_other_sentence() -> None:
    sentences = [sentence for change, _ in PROBLEMS for sentence in list_attention(replace(WELL, **change))]
    others = ("ERROR in the registry", "FILE: found no readable list")
    unused = [row.pattern for row in explained() if not any(row.match(sentence) for sentence in sentences)]
    assert len(unused) == len(others), unused
