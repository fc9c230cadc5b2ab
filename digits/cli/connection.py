"""Connection of a command to the system and its Prefect API."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from digits.server.services import System


def open_system(state: Path | None, artifacts: Path | None) -> "System":
    """Return the system of the options `--state` and `--artifacts`."""
    from digits.server.services import System, state_directory
    from digits.settings import artifact_root

    root = artifact_root(artifacts)
    return System(state_directory(state, root), root)


def use_api(system: "System", api: str) -> None:
    """Set the Prefect API of this process and its password, before Prefect is imported.

    Prefect sends no usage statistics, also not to a server that allows them.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    from digits.server.prefect_settings import check_sources

    check_sources()
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.update(system.environment(api))


def require_api(system: "System") -> str:
    """Set the Prefect API of this process to that of the system, and return its address.

    Raises:
        OperationsError: if there is none, it does not answer, or requires another password.
    """
    from digits.errors import OperationsError
    from digits.server.services import require_access

    api, _ = system.api()
    if api is None:
        raise OperationsError("no Prefect server runs here, and none is configured; start one with `digits up`")
    require_access(system, api)
    use_api(system, api)
    return api
