"""Merging: which values of a deployment or automation a redeployment takes from its file, and which it leaves as is.

Operators change parameters, schedules and pauses in the Prefect UI. A redeployment keeps these changes, field by field,
unless the field itself has changed in the file since the last deployment. Therefore each deployment records a digest of
every field in the file.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from digits.store.records import digest_of

DIGEST_LENGTH = 8
"""Number of hexadecimal digits of a field's recorded digest. Only two successive values of one field are compared."""
CONCURRENCY, PAUSED, SCHEDULES = "concurrency limit", "paused", "schedules"
PARAMETERS, JOB_VARIABLES = "parameters.", "job variables."
"""Prefixes of the fields that are entries of a mapping."""
TEMPLATE = "{{"
"""Text that a value contains if Prefect replaces a part of it during the deployment."""
_SCHEDULE_DEFAULTS = {"active": True, "timezone": "UTC", "day_or": True, "parameters": {}, "slug": None}

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Merge:
    """Merged fields of a deployment or automation.

    Args:
        values: fields to deploy, by name.
        kept: names of the fields whose value differs from the file because it was changed on the server.
        replaced: names of the fields whose value on the server is replaced by the file's.
        record: digests of the fields in the file.
    """

    values: Fields
    kept: tuple[str, ...]
    replaced: tuple[str, ...]
    record: Mapping[str, str]


def merge(declared: Fields, current: Fields | None, recorded: Mapping[str, str] | None) -> Merge:
    """Merge the fields of a file into those on the server.

    Args:
        declared: fields in the file.
        current: fields on the server; None if there is nothing on the server yet.
        recorded: digests of the fields in the file at the last deployment. None if it was not recorded; then the
            server's values are kept.
    """
    record = {name: digest_of(value)[:DIGEST_LENGTH] for name, value in declared.items()}
    if current is None:
        return Merge(declared, (), (), record)
    names = [*declared, *(name for name in current if name not in declared)]
    unchanged = {name for name in names if recorded is None or recorded.get(name) == record.get(name)}
    fixed = {name for name in declared if TEMPLATE in json.dumps(declared[name])}
    values = {
        name: source[name] for name in names if name in (source := current if name in unchanged - fixed else declared)
    }
    differing = [name for name in names if not covers(declared.get(name), current.get(name))]
    return Merge(
        values,
        tuple(name for name in differing if name in unchanged - fixed),
        tuple(name for name in differing if name not in unchanged | fixed),
        record,
    )


def covers(declared: Any, current: Any) -> bool:
    """Check whether a value on the server is what a file declares; the server may have added details to mappings."""
    if isinstance(declared, Mapping) and isinstance(current, Mapping):
        return all(covers(value, current.get(name)) for name, value in declared.items())
    if isinstance(declared, list) and isinstance(current, list):
        return len(declared) == len(current) and all(map(covers, declared, current))
    return bool(declared == current)


def declared_fields(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a deployment in prefect.yaml that operators change in the UI."""
    schedules = entry.get("schedules") or ([entry["schedule"]] if entry.get("schedule") else [])
    pool = entry.get("work_pool") or {}
    found: dict[str, Any] = as_json(
        {
            PAUSED: bool(entry.get("paused")),
            SCHEDULES: [{**_SCHEDULE_DEFAULTS, **schedule} for schedule in schedules],
            CONCURRENCY: _limit(entry.get("concurrency_limit")),
            **_prefixed(PARAMETERS, entry.get("parameters")),
            **_prefixed(JOB_VARIABLES, pool.get("job_variables")),
        }
    )
    return found


def current_fields(deployment: Any) -> dict[str, Any]:
    """Return the same fields of a Prefect deployment on the server."""
    limit, options = deployment.global_concurrency_limit, deployment.concurrency_options
    found: dict[str, Any] = as_json(
        {
            PAUSED: deployment.paused,
            SCHEDULES: [_schedule(schedule) for schedule in sorted(deployment.schedules, key=_creation)],
            CONCURRENCY: limit and {"limit": limit.limit, **(options.model_dump(mode="json") if options else {})},
            **_prefixed(PARAMETERS, deployment.parameters),
            **_prefixed(JOB_VARIABLES, deployment.job_variables),
        }
    )
    return found


def replace_job_variables(fields: Fields, others: Fields) -> dict[str, Any]:
    """Return fields with the job variables of others, because those of one work pool mean nothing to another."""
    return {
        **{name: value for name, value in fields.items() if not name.startswith(JOB_VARIABLES)},
        **{name: value for name, value in others.items() if name.startswith(JOB_VARIABLES)},
    }


def merged_entry(entry: Mapping[str, Any], values: Fields) -> dict[str, Any]:
    """Return a deployment of prefect.yaml with merged fields."""
    kept = {name: value for name, value in entry.items() if name != "schedule"}
    pool = {**(entry.get("work_pool") or {}), "job_variables": dict(_entries(values, JOB_VARIABLES))}
    return {
        **kept,
        "paused": values[PAUSED],
        "schedules": values[SCHEDULES],
        "concurrency_limit": values[CONCURRENCY],
        "parameters": dict(_entries(values, PARAMETERS)),
        "work_pool": pool,
    }


def as_json(value: Any) -> Any:
    """Return a value with JSON's types; a date becomes a string."""
    return json.loads(json.dumps(value, default=str))


def _limit(declared: Any) -> Any:
    return {"limit": declared} if isinstance(declared, int) else declared


def _prefixed(prefix: str, values: Mapping[str, Any] | None) -> dict[str, Any]:
    return {f"{prefix}{name}": value for name, value in (values or {}).items()}


def _entries(values: Fields, prefix: str) -> Iterator[tuple[str, Any]]:
    return ((name.removeprefix(prefix), value) for name, value in values.items() if name.startswith(prefix))


def _creation(schedule: Any) -> Any:
    return schedule.created, str(schedule.id)


def _schedule(schedule: Any) -> dict[str, Any]:
    """Return a schedule on the server as prefect.yaml declares it."""
    when = schedule.schedule.model_dump(mode="json")
    if "interval" in when:
        when["interval"] = schedule.schedule.interval.total_seconds()
    found = {**when, "active": schedule.active, "parameters": schedule.parameters, "slug": schedule.slug}
    return {**_SCHEDULE_DEFAULTS, **{name: value for name, value in found.items() if value is not None}}
