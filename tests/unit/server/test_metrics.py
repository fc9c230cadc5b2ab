"""Metrics of a status in the text format of Prometheus, and the dashboard that shows them."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from digits.server.attention import Queue, Table
from digits.server.metrics import format_metrics
from digits.server.status import Deployment, SystemStatus
from digits.status import STATUSES

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
TABLE = Table(
    '/scans "new"\\\n\udcff.csv',
    "predict/inbox",
    images=5,
    statuses={"ok": 4, "unreadable": 1},
    written=NOW,
    model_version=3,
    drift={"ink": 0.25, "slant": 0.01},
    drifted=["ink"],
)
STATUS = SystemStatus(
    "http://x/api",
    "started by digits up",
    "2 online",
    "version 3",
    deployments=[
        Deployment("predict/inbox", "*/5 * * * *", "", "Failed", "FAILED", "", NOW, NOW),
        Deployment("predict/folder", "on demand", ""),
    ],
    attention=["one", "two"],
    answers=True,
    workers=2,
    champion_version=3,
    champion_accuracy=0.995,
    queue=Queue(30, 1, 2, 3),
    tables=[TABLE],
    free_bytes=10**9,
)
DASHBOARD = Path(__file__).resolve().parents[3] / "deploy" / "grafana.json"


def samples(status: SystemStatus) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the values of each metric by the values of its labels, as Prometheus' own parser reads them."""
    families = text_string_to_metric_families(format_metrics(status, now=NOW.timestamp()))
    return {
        family.name: {tuple(sample.labels.values()): sample.value for sample in family.samples}
        for family in families
        if family.type == "gauge" and family.documentation
    }


def test_the_parser_of_prometheus_reads_every_value() -> None:
    found, moment = samples(STATUS), NOW.timestamp()
    path = '/scans "new"\\\n?.csv'
    assert found.pop("digits_images") == {
        (path, "predict/inbox", name): {"ok": 4, "unreadable": 1}.get(name, 0) for name in STATUSES
    }
    assert found == {
        "digits_status_timestamp_seconds": {(): moment},
        "digits_attention": {(): 2},
        "digits_server_up": {(): 1},
        "digits_workers": {(): 2},
        "digits_champion_version": {(): 3},
        "digits_champion_accuracy": {(): 0.995},
        "digits_disk_free_bytes": {(): 1e9},
        "digits_runs": {("scheduled",): 30, ("late",): 1, ("pending",): 2, ("running",): 3},
        "digits_last_run_timestamp_seconds": {("predict/inbox",): moment},
        "digits_last_success_timestamp_seconds": {("predict/inbox",): moment},
        "digits_last_run_failed": {("predict/inbox",): 1},
        "digits_table_timestamp_seconds": {(path, "predict/inbox"): moment},
        "digits_table_model_version": {(path, "predict/inbox"): 3},
        "digits_drift_psi": {(path, "ink"): 0.25, (path, "slant"): 0.01},
        "digits_drifted_features": {(path,): 1},
    }


def test_what_is_unknown_without_a_server_or_a_champion_is_left_out() -> None:
    unknown = SystemStatus(None, "not available", "not running", "none", attention=["no server"])
    assert samples(unknown).keys() == {
        "digits_status_timestamp_seconds",
        "digits_attention",
        "digits_server_up",
        "digits_disk_free_bytes",
    }
    undrifted = replace(STATUS, tables=[replace(TABLE, drift={}, drifted=())])
    assert "digits_drifted_features" not in samples(undrifted)


def queries(node: Any) -> list[str]:
    """Return the Prometheus queries of a dashboard."""
    if isinstance(node, dict):
        own = [value for name, value in node.items() if name in ("expr", "query") and isinstance(value, str)]
        return own + [query for value in node.values() for query in queries(value)]
    return [query for value in node for query in queries(value)] if isinstance(node, list) else []


def test_the_dashboard_shows_every_metric_and_no_other() -> None:
    used = {name for query in queries(json.loads(DASHBOARD.read_text())) for name in re.findall(r"digits_\w+", query)}
    assert used == samples(STATUS).keys()


@pytest.mark.parametrize("label", ["status", "state", "deployment", "table", "feature"])
def test_the_dashboard_uses_labels_that_exist(label: str) -> None:
    text = DASHBOARD.read_text()
    assert f"{{{{{label}}}}}" in text
    assert f'{label}="' in format_metrics(STATUS)


def test_panels_do_not_overlap() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    covered = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
