"""Known vulnerabilities of what is locked, by pip-audit and the database of OSV: nothing is resolved or installed.

make audit
python -m tools.audit --ignore-vuln ID      # and what else pip-audit takes

A vulnerability is a failure. Where the database can't be asked, a line says so and why: that is no failure, and no
clean bill either.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.locked import LOCK

PATIENCE = 300
"""Seconds for all of it; one answer has ten."""

_AUDIT = [sys.executable, "-W", "ignore", "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off"]
_LONGEST = 200


def main(arguments: Sequence[str]) -> int:
    """Print what is known of the lock's distributions; 1 when one is vulnerable, or the lock can't be read."""
    command = [*_AUDIT, "--requirement", str(LOCK), "--vulnerability-service", "osv", "--timeout", "10", *arguments]
    readable = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False)
    if readable.returncode != 0:
        print(readable.stderr.strip())
        return 1
    report, trouble = _report(command)
    if report is None:
        print(f"not audited, as the database of vulnerabilities could not be asked: {trouble}")
        return 0
    faults = list(_vulnerable(report))
    audited = sum("vulns" in each for each in report)
    print("\n".join(faults) or f"{audited} of {len(report)} locked distributions audited, no vulnerability is known")
    return int(bool(faults))


def _report(command: Sequence[str]) -> tuple[list[Mapping[str, Any]] | None, str]:
    """Give what was found for each distribution; None, and why, where nothing could be."""
    with tempfile.TemporaryDirectory() as place:
        found = Path(place) / "report.json"
        options = ["--format", "json", "--output", str(found), "--cache-dir", place]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=PATIENCE, check=False)
        except subprocess.TimeoutExpired:
            return None, f"no end within {PATIENCE} s"
        if not found.exists():
            return None, (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1][
                :_LONGEST
            ]
        return json.loads(found.read_bytes())["dependencies"], ""


def _vulnerable(report: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in report:
        for known in each.get("vulns", ()):
            remedy = ", ".join(known["fix_versions"]) or "no version"
            yield f"{each['name']} {each['version']}: {known['id']}, mended in {remedy}: {known['description']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
