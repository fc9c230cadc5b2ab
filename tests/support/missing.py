"""Python processes in which libraries are missing, as in an environment without some extras."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
HOOK = '''
import os, sys

class Without:
    """Finder that finds none of the missing libraries."""

    def __init__(self, finder):
        self._finder = finder

    def find_spec(self, name, path=None, target=None):
        missing = name.partition(".")[0] in os.environ["MISSING_LIBRARIES"].split()
        return None if missing else self._finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)

sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
'''


def run_without(libraries: Sequence[str], code: str, place: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a directory without some libraries, also in the processes that it starts.

    Args:
        libraries: names of modules that are not found.
        code: Python code to run.
        place: an empty directory; the current directory is `place / "work"`.
        arguments: arguments of the program.
    """
    (place / "hook").mkdir(parents=True, exist_ok=True)
    (place / "work").mkdir(exist_ok=True)
    (place / "hook" / "sitecustomize.py").write_text(HOOK)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PREFECT_", "DIGITS_"))}
    paths = os.pathsep.join([str(place / "hook"), str(HERE)])
    environment = {**kept, "PYTHONPATH": paths, "MISSING_LIBRARIES": " ".join(libraries), "PREFECT_HOME": str(place)}
    return subprocess.run(
        [sys.executable, "-P", "-W", "ignore", "-c", code, *arguments],
        cwd=place / "work",
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
