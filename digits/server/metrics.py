"""Metrics: the status of a system in the text format of Prometheus."""

import time
from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import NamedTuple

from digits.server.status import SystemStatus
from digits.status import STATUSES


class Sample(NamedTuple):
    """Value of a metric, with its labels."""

    value: float
    labels: Mapping[str, str] = {}


class Metric(NamedTuple):
    """Metric, a gauge: its name, its description, and its samples."""

    name: str
    help: str
    samples: list[Sample]


def format_metrics(status: SystemStatus, now: float | None = None) -> str:
    """Return the metrics of a status, without those that are unknown.

    Times are in seconds since the epoch, so that they stay correct while the file is not written again.

    Args:
        status: status of a system.
        now: time at which the status was read; None for the current time.
    """
    known = (metric for metric in _metrics(status, time.time() if now is None else now) if metric.samples)
    return "".join(line + "\n" for metric in known for line in _lines(metric))


def _metrics(status: SystemStatus, now: float) -> Iterator[Metric]:
    yield Metric("digits_status_timestamp_seconds", "Time at which the status was read.", [Sample(now)])
    yield Metric("digits_attention", "Number of things that need attention.", [Sample(len(status.attention))])
    yield Metric("digits_server_up", "Whether the Prefect server answers.", [Sample(status.answers)])
    workers = [Sample(status.workers)] if status.answers else []
    yield Metric("digits_workers", "Number of workers online.", workers)
    version = [] if status.champion_version is None else [Sample(status.champion_version)]
    yield Metric("digits_champion_version", "Version of the champion.", version)
    accuracy = [] if status.champion_accuracy is None else [Sample(status.champion_accuracy)]
    yield Metric("digits_champion_accuracy", "Accuracy of the champion on its test images, from 0 to 1.", accuracy)
    yield Metric("digits_disk_free_bytes", "Free bytes on the disk of the artifacts.", [Sample(status.free_bytes)])
    queue = vars(status.queue) if status.queue else {}
    yield Metric(
        "digits_runs",
        "Number of runs that wait or run.",
        [Sample(count, {"state": name}) for name, count in queue.items()],
    )
    yield from _deployment_metrics(status)
    yield from _table_metrics(status)


def _deployment_metrics(status: SystemStatus) -> Iterator[Metric]:
    starts = {one.name: one.last_start for one in status.deployments}
    yield Metric("digits_last_run_timestamp_seconds", "Start of the last run of each deployment.", _times(starts))
    ends = {one.name: one.last_success for one in status.deployments}
    yield Metric(
        "digits_last_success_timestamp_seconds", "End of the last completed run of each deployment.", _times(ends)
    )
    failed = [
        Sample(one.last_type in ("FAILED", "CRASHED"), {"deployment": one.name})
        for one in status.deployments
        if one.last
    ]
    yield Metric("digits_last_run_failed", "Whether the last run of each deployment failed or crashed.", failed)


def _table_metrics(status: SystemStatus) -> Iterator[Metric]:
    tables = status.tables
    yield Metric(
        "digits_images",
        "Number of images in each of the latest tables, by status.",
        [
            Sample(one.statuses.get(name, 0), {"table": one.path, "deployment": one.deployment, "status": name})
            for one in tables
            for name in STATUSES
        ],
    )
    yield Metric(
        "digits_table_timestamp_seconds",
        "Time at which each of the latest tables was written.",
        [Sample(one.written.timestamp(), {"table": one.path, "deployment": one.deployment}) for one in tables],
    )
    yield Metric(
        "digits_table_model_version",
        "Model version that wrote each of the latest tables.",
        [Sample(one.model_version, {"table": one.path, "deployment": one.deployment}) for one in tables],
    )
    yield Metric(
        "digits_drift_psi",
        "Population stability index of each feature of the images in each of the latest tables.",
        [Sample(psi, {"table": one.path, "feature": name}) for one in tables for name, psi in one.drift.items()],
    )
    yield Metric(
        "digits_drifted_features",
        "Number of features that drifted from the baseline of each of the latest tables.",
        [Sample(len(one.drifted), {"table": one.path}) for one in tables if one.drift],
    )


def _times(moments: Mapping[str, datetime | None]) -> list[Sample]:
    return [Sample(moment.timestamp(), {"deployment": name}) for name, moment in moments.items() if moment]


def _lines(metric: Metric) -> Iterator[str]:
    yield f"# HELP {metric.name} {metric.help}"
    yield f"# TYPE {metric.name} gauge"
    for sample in metric.samples:
        yield f"{metric.name}{_label_text(sample.labels.items())} {float(sample.value)!r}"


def _label_text(labels: Iterable[tuple[str, str]]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    valid = value.encode("utf-8", "replace").decode()  # a path may contain bytes that are no UTF-8
    return valid.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
