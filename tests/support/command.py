"""The path of the `digits` command of this environment."""

import sys
from pathlib import Path

DIGITS = str(Path(sys.executable).with_name("digits"))
