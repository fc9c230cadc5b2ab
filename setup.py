"""Wheel of Digits: adds the project's files (flows, tasks, prefect.yaml, deploy/), which `digits init` writes."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

FILES = ("flows/*.py", "tasks/*.py", "prefect.yaml", "deploy/**/*")


class BuildWithProject(build_py):
    """Build of the package, with the project's files in `digits/project_files/`."""

    def run(self) -> None:
        """Build the package, and copy the files unless the install is editable."""
        super().run()
        if not self.editable_mode:
            for file in (
                file for pattern in FILES for file in Path().glob(pattern) if file.is_file() and file.name != ".env"
            ):
                target = Path(self.build_lib) / "digits" / "project_files" / file
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file, target)


setup(cmdclass={"build_py": BuildWithProject})
