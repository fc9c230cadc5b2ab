"""Test data: the archives in `tests/data`, and larger sets in the folder that DIGITS_TEST_DATA names."""

import os
import tarfile
from pathlib import Path

import pytest

DATA = Path(__file__).parents[1] / "data"
VARIABLE = "DIGITS_TEST_DATA"


def unpack(name: str, place: Path) -> Path:
    """Unpack an archive of `tests/data` into a new folder and return that folder."""
    place.mkdir(parents=True)
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        archive.extractall(place, filter="data")
    return place


def contents(name: str) -> dict[str, bytes]:
    """Return the files of an archive of `tests/data` by their paths, in the order of the paths."""
    with tarfile.open(DATA / f"{name}.tar.xz") as archive:
        files = {member.name: archive.extractfile(member) for member in archive if member.isfile()}
        return {path: file.read() for path, file in sorted(files.items()) if file}


def larger_set(path: str) -> Path:
    """Return a folder below the one that DIGITS_TEST_DATA names; skip the test if the folder is unavailable."""
    root = os.environ.get(VARIABLE)
    if root and (Path(root) / path).is_dir():
        return Path(root) / path
    pytest.skip(f"needs {path} in the folder that {VARIABLE} names; see tests/data/README.md")
