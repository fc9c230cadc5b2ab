"""Description of the machine and the date, which `python -m benchmarks NAME` prints before its figures."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def describe_machine() -> str:
    """Return one line with the date (UTC), the processor, the number of usable cores, and the version of Python."""
    day = datetime.now(UTC).date()
    return f"{day}, {_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
