"""Which machine a measurement was made on, and when."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path


def describe() -> str:
    """Give one line: date, processor, usable processors, Python."""
    day = datetime.now(UTC).date()
    return f"{day}, {_processor()}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())
