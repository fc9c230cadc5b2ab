"""Run a measurement, with something in it broken on purpose or not."""

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]


def measure(module: str, *options: str, broken_by: tuple[Path, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run a module, with code that every interpreter runs when it starts, and a folder to put that into."""
    path = [str(HERE)]
    if broken_by:
        folder, code = broken_by
        (folder / "sitecustomize.py").write_text(code)
        path.insert(0, str(folder))
    command = [sys.executable, "-W", "ignore", "-m", module, *options]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    return subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
