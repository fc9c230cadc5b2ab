"""Runner for the measurements in `tests.faults`, with or without a defect injected into their code."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def measure(module: str, *options: str, broken_by: tuple[Path, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module.

    Args:
        module: name of the module.
        options: its command-line options.
        broken_by: a folder, and code that each interpreter of the run executes from there when it starts.
    """
    path = [str(HERE)]
    if broken_by:
        folder, code = broken_by
        (folder / "sitecustomize.py").write_text(code)
        path.insert(0, str(folder))
    command = [sys.executable, "-W", "ignore", "-m", module, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
