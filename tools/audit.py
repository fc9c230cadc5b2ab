"""Known vulnerabilities of the locked distributions, from the OSV database by pip-audit. Nothing is installed.

python -m tools.audit                       # or `make audit`
python -m tools.audit --ignore-vuln ID      # and any other option of pip-audit

The exit code is 1 if there is a vulnerability. If the database cannot be queried, a line says why and the exit code is
0; this does not mean that there are no vulnerabilities.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.locked import FORMATS_LOCK, LOCK

TIMEOUT = 300
"""Seconds for the whole audit. Each answer of the database has ten."""

_AUDIT = [sys.executable, "-W", "ignore", "-m", "pip_audit", "--disable-pip", "--progress-spinner", "off"]
_MAX_REASON = 200


def main(arguments: Sequence[str]) -> int:
    """Print the known vulnerabilities; return 1 if there are any, or if the lock cannot be read.

    Args:
        arguments: options for pip-audit.
    """
    parser = argparse.ArgumentParser(
        description="Audit the locked distributions. Other options are passed to pip-audit."
    )
    _, rest = parser.parse_known_args(arguments)
    locks = [option for lock in (LOCK, FORMATS_LOCK) for option in ("--requirement", str(lock))]
    command = [*_AUDIT, *locks, "--vulnerability-service", "osv", "--timeout", "10", *rest]
    readable = subprocess.run([*command, "--dry-run"], capture_output=True, text=True, check=False)
    if readable.returncode != 0:
        print(readable.stderr.strip())
        return 1
    report, reason = _report(command)
    if report is None:
        print(f"not audited, because the vulnerability database could not be queried: {reason}")
        return 0
    vulnerabilities = list(_describe_vulnerabilities(report))
    audited = sum("vulns" in each for each in report)
    print(
        "\n".join(vulnerabilities) or f"{audited} of {len(report)} locked distributions audited, no known vulnerability"
    )
    return int(bool(vulnerabilities))


def _report(command: Sequence[str]) -> tuple[list[Mapping[str, Any]] | None, str]:
    """Return pip-audit's report of each distribution, or None and the reason if there is no report."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "report.json"
        options = ["--format", "json", "--output", str(path), "--cache-dir", directory]
        try:
            done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            return None, f"no result within {TIMEOUT} s"
        if not path.exists():
            messages = done.stderr.strip().splitlines() or [f"pip-audit ended with exit code {done.returncode}"]
            return None, messages[-1][:_MAX_REASON]
        return json.loads(path.read_bytes())["dependencies"], ""


def _describe_vulnerabilities(report: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for each in report:
        for known in each.get("vulns", ()):
            remedy = ", ".join(known["fix_versions"]) or "no version"
            yield f"{each['name']} {each['version']}: {known['id']}, fixed in {remedy}: {known['description']}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
