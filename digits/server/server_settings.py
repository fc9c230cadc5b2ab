"""Server settings: the settings with which Digits starts a Prefect server, and those of the server's retention.

The systemd units and the Compose file in deploy/ have the same settings.
"""

from collections.abc import Mapping

HEARTBEAT_SECONDS = 60
"""Seconds between two heartbeats of a run; prefect.yaml sets them for all deployments (Prefect's default: 180)."""
LEASE_SECONDS = 180
"""Seconds after which a slot of a deployment is free if its run never started (Prefect's default: 300)."""
RETENTION_DAYS = 30
"""Days after which a server that Digits started removes ended runs with their logs and Prefect artifacts."""

REQUIRED_SETTINGS: Mapping[str, str] = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    # By default leases are kept in memory: the slots of runs that die after a restart would never be released.
    "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": "prefect.server.concurrency.lease_storage.filesystem",
}
"""Settings that differ from Prefect's defaults, and that you cannot change."""

DEFAULT_SETTINGS: Mapping[str, str] = {
    "PREFECT_SERVER_CONCURRENCY_INITIAL_DEPLOYMENT_LEASE_DURATION": str(LEASE_SECONDS),
    "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    "PREFECT_SERVER_SERVICES_DB_VACUUM_RETENTION_PERIOD": str(RETENTION_DAYS * 24 * 3600),
}
"""Settings that differ from Prefect's defaults, and that variables of the environment override."""


def server_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables of a Prefect server that Digits starts, without its address and password."""
    return {**DEFAULT_SETTINGS, **environment, **REQUIRED_SETTINGS}
