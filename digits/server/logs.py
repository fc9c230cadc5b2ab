"""Logs: rotation of the output of the processes that `digits up` starts.

The processes keep their log open for appending. So a log that has become too large is copied to `server.log.1`, and
emptied. Lines that are written between the two steps, within milliseconds, are lost.
"""

import logging
import os
import shutil
from contextlib import suppress
from pathlib import Path

from digits.store.files import locked, replacing

LOGS = ("server.log", "worker.log")
MAX_BYTES = 10 * 10**6
"""Size from which a log is rotated."""
KEPT = 5
"""Number of former logs that are kept, the newest of them with the number 1."""
logger = logging.getLogger(__name__)


def rotate_logs(state: Path) -> list[Path]:
    """Rotate the logs in a state directory that are too large, and return their paths.

    A log that cannot be rotated, such as on a full disk, is left as it is, and a warning is logged.

    Args:
        state: state directory; need not exist.
    """
    large = [state / name for name in LOGS if _size(state / name) > MAX_BYTES]
    return [path for path in large if _rotate(path)]


def _size(path: Path) -> int:
    with suppress(OSError):
        return path.stat().st_size
    return 0


def _rotate(path: Path) -> bool:
    try:
        with locked(path.with_name("logs.lock"), wait=False) as lock:
            if not lock.held or _size(path) <= MAX_BYTES:  # another process is rotating the logs, or has done so
                return False
            _copy_to_first(path)
            os.truncate(path, 0)
    except OSError as error:
        logger.warning("%s: the log could not be rotated (%s); free disk space", path, error.strerror)
        return False
    return True


def _copy_to_first(path: Path) -> None:
    """Copy a log to its first former one, and give the former ones the next higher numbers."""
    with replacing(_former(path, 0), durable=False) as copy, path.open("rb") as log:
        shutil.copyfileobj(log, copy)
    _former(path, 0).chmod(0o600)
    for number in reversed(range(KEPT)):
        with suppress(FileNotFoundError):
            _former(path, number).replace(_former(path, number + 1))


def _former(path: Path, number: int) -> Path:
    return path.with_name(f"{path.name}.{number}")
