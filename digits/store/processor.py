"""Processor: its vector instructions and how TensorFlow uses them, both of which affect computed numbers."""

import os
from functools import cache
from pathlib import Path
from typing import Any

CPUINFO = Path("/proc/cpuinfo")
"""File in which Linux lists the instructions of the processor."""
INSTRUCTIONS = ("avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile")
"""Instructions for which the numeric libraries have code of their own, by Linux' names."""
ONEDNN_VARIABLE = "TF_ENABLE_ONEDNN_OPTS"
"""Environment variable that makes TensorFlow use oneDNN (1) or not (0)."""


def describe_processor() -> dict[str, Any]:
    """Return `instructions`, and as `onednn` the value of `ONEDNN_VARIABLE`, or None if it is not set."""
    return {"instructions": list(vector_instructions()), "onednn": os.environ.get(ONEDNN_VARIABLE)}


@cache
def vector_instructions() -> tuple[str, ...]:
    """Return those of `INSTRUCTIONS` that the processor has; none if the system has no `CPUINFO`."""
    return parse_cpuinfo(CPUINFO.read_text("utf-8", "replace")) if CPUINFO.is_file() else ()


def parse_cpuinfo(text: str) -> tuple[str, ...]:
    """Return those of `INSTRUCTIONS` that the content of `CPUINFO` lists for the first processor."""
    flags = next((line.partition(":")[2].split() for line in text.splitlines() if line.startswith("flags")), [])
    return tuple(name for name in INSTRUCTIONS if name in flags)
