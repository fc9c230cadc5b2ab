"""Doctor: what is installed, what the machine offers, where artifacts are, and what is wrong, with its remedy.

Nothing is written, and a part that cannot be read is a finding, not an error.
"""

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from digits.errors import DigitsError
from digits.extras import EXTRAS

MODULES = {
    **{
        extra: tuple(module for module, name in EXTRAS.items() if name == extra) for extra in sorted({*EXTRAS.values()})
    },
    "gpu": ("keras", "nvidia", "sklearn", "tensorflow"),
    "heif": ("pillow_heif",),
    "pdf": ("pypdfium2",),
}
"""Modules by which each extra is recognized."""
LIBRARIES = (
    *("numpy", "onnxruntime", "opencv-python-headless", "pillow", "pydantic", "typer", "fastapi"),
    *("prefect", "sqlalchemy", "pandas", "pyarrow", "keras", "tensorflow", "tensorflow-cpu", "scikit-learn"),
)
"""Distributions whose versions are shown, if they are installed."""
FEATURES = {"AVX2": "avx2", "AVX-512": "avx512f", "VNNI": "avx512_vnni"}
"""Instructions that make predictions faster, with Linux' names."""
LEAST_FREE = 10**9
"""Bytes that should be free on the disk of the artifact root."""
R = TypeVar("R")


@dataclass(frozen=True)
class Extra:
    """Extra of the package: whether its libraries are there, and the command that installs it."""

    name: str
    installed: bool
    command: str


@dataclass(frozen=True)
class Place:
    """Artifact root.

    Args:
        path: path of the directory.
        exists: whether there is something at the path.
        is_directory: whether it is a directory.
        writable: whether this user can write there, or can create it.
        free_bytes: free bytes of the disk; None if unknown.
    """

    path: Path
    exists: bool
    is_directory: bool
    writable: bool
    free_bytes: int | None


@dataclass(frozen=True)
class Champion:
    """Model version that predicts by default: its number and its test accuracy; None if no version is champion."""

    version: int | None
    accuracy: float | None


@dataclass(frozen=True)
class Api:
    """Configured Prefect API: its address without secrets, and why it cannot be used; None if there is none."""

    address: str | None
    problem: str | None


@dataclass(frozen=True)
class Diagnosis:
    """Findings of `digits doctor`.

    Args:
        digits: version of Digits.
        python: version of Python.
        executable: path of the Python interpreter.
        system: operating system and machine.
        installed: versions of all installed distributions, by name.
        required: distributions that Digits requires without extras.
        extras: extras of the package.
        processor: name of the processor.
        features: whether the processor has each of `FEATURES`; empty if unknown.
        cores: number of cores that this process may use; None if unknown.
        cores_of_machine: number of cores of the machine; None if unknown.
        project: directory of the project; None outside of one.
        artifacts: artifact root; None if unknown.
        champion: champion of the artifact root; None if unknown.
        prefect: configured Prefect API; None if unknown.
        unread: sentences about what could not be read.
    """

    digits: str
    python: str
    executable: str
    system: str
    installed: Mapping[str, str]
    required: tuple[str, ...]
    extras: tuple[Extra, ...]
    processor: str
    features: Mapping[str, bool]
    cores: int | None
    cores_of_machine: int | None
    project: Path | None
    artifacts: Place | None
    champion: Champion | None
    prefect: Api | None
    unread: tuple[str, ...]

    @property
    def libraries(self) -> dict[str, str]:
        """Versions of those of `LIBRARIES` that are installed."""
        return {name: self.installed[name] for name in LIBRARIES if name in self.installed}

    def as_record(self) -> dict[str, Any]:
        """Return what was found as JSON values, except paths, and the problems."""
        names = {"installed", "required", "unread"}
        facts = {name: value for name, value in asdict(self).items() if name not in names}
        return {**facts, "libraries": self.libraries, "problems": find_problems(self)}


class Reader:
    """Reader that collects sentences about what cannot be read."""

    def __init__(self) -> None:
        self.unread: list[str] = []

    def read(self, part: str, function: Callable[[], R], default: R) -> R:
        """Return what a function reads, or the default if it fails in any way."""
        try:
            return function()
        except DigitsError as error:
            self.unread.append(str(error))
        except Exception as error:  # noqa: BLE001 - the text of an unknown error may contain a password
            reason = error.strerror if isinstance(error, OSError) else type(error).__name__
            self.unread.append(f"{part} could not be read ({reason}); check the installation with `pip check`")
        return default


def diagnose(root: Callable[[], Path], api: Callable[[], Api]) -> Diagnosis:
    """Return what is installed, what the machine offers, and where artifacts are.

    Args:
        root: function that returns the artifact root.
        api: function that returns the configured Prefect API.
    """
    reader = Reader()
    read = reader.read
    installed: dict[str, str] = read("the list of installed packages", list_installed, {})
    cpuinfo = read("the list of processors", _cpuinfo, "")
    path: Path | None = read("the artifact root", root, None)
    return Diagnosis(
        digits=installed.get("digits", "unknown"),
        python=platform.python_version(),
        executable=sys.executable,
        system=platform.platform(),
        installed=installed,
        required=read("the list of required packages", list_required, ()),
        extras=read("the list of extras", find_extras, ()),
        processor=name_processor(cpuinfo) or platform.machine(),
        features=find_features(cpuinfo),
        cores=read("the number of cores", _usable_cpus, None),
        cores_of_machine=os.cpu_count(),
        project=read("the project", _find_project, None),
        artifacts=read("the artifact root", lambda: read_place(path), None) if path else None,
        champion=read("the champion", lambda: read_champion(path), None) if path else None,
        prefect=read("the settings of Prefect", api, None),
        unread=tuple(reader.unread),
    )


def list_installed() -> dict[str, str]:
    """Return the versions of all installed distributions, by name."""
    found = importlib.metadata.distributions()
    return {_normalize(one.metadata["Name"]): one.version for one in found if one.metadata["Name"]}


def list_required() -> tuple[str, ...]:
    """Return the distributions that Digits requires without extras and on every system."""
    declared = importlib.metadata.requires("digits") or []
    return tuple(_normalize(re.split(r"[^A-Za-z0-9._-]", one)[0]) for one in declared if ";" not in one)


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def find_extras() -> tuple[Extra, ...]:
    """Return the extras of the package, and which of them are installed."""
    return tuple(
        Extra(name, all(map(is_present, modules)), f"pip install 'digits[{name}]'") for name, modules in MODULES.items()
    )


def is_present(module: str) -> bool:
    """Check whether a module is installed, without importing it."""
    return importlib.util.find_spec(module) is not None


def _cpuinfo() -> str:
    from digits.store.processor import CPUINFO

    return CPUINFO.read_text("utf-8", "replace") if CPUINFO.is_file() else ""


def name_processor(cpuinfo: str) -> str:
    """Return the name of the first processor in Linux' list; empty if the list has no name."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else ""


def find_features(cpuinfo: str) -> dict[str, bool]:
    """Return whether the first processor in Linux' list has each of `FEATURES`; empty if the list does not say."""
    from digits.store.processor import parse_cpuinfo

    flags = parse_cpuinfo(cpuinfo)
    return {name: flag in flags for name, flag in FEATURES.items()} if "\nflags" in cpuinfo else {}


def _usable_cpus() -> int | None:
    from digits.prediction.pool import usable_cpus

    return usable_cpus()


def _find_project() -> Path | None:
    from digits.project import check_version
    from digits.settings import find_project

    project = find_project()
    if project:
        check_version(project)
    return project


def read_place(root: Path) -> Place:
    """Return the state of an artifact root, which need not exist."""
    existing = next(path for path in (root, *root.parents) if path.exists())
    writable = os.access(existing, os.W_OK | os.X_OK)
    return Place(root, root.exists(), existing.is_dir(), writable, shutil.disk_usage(existing).free)


def read_champion(root: Path) -> Champion:
    """Return the champion of an artifact root, after verifying its model.

    Raises:
        StoreError: if the registry or the model is damaged.
    """
    from digits.store.artifacts import Store
    from digits.store.registry import Registry

    store = Store(root)
    version = Registry(store).champion()
    if version is None:
        return Champion(None, None)
    store.open(version.artifact("onnx"))
    return Champion(version.number, version.facts.accuracy)


def find_problems(found: Diagnosis) -> list[str]:
    """Return what is wrong, each as a sentence with its remedy."""
    from digits.training.devices import find_conflict

    missing = [name for name in found.required if name not in found.installed] if found.installed else []
    return [
        *found.unread,
        *(f"{name} is not installed, and Digits requires it; run `pip install digits`" for name in missing),
        *filter(None, [find_conflict(found.installed)]),
        *(_problems_of_place(found.artifacts) if found.artifacts else ()),
        *(_problems_of_champion(found.champion) if found.champion else ()),
        *(_problems_of_api(found.prefect, found.installed) if found.prefect else ()),
    ]


def _problems_of_place(place: Place) -> Iterator[str]:
    if not place.is_directory:
        yield f"{place.path}: no directory, expected the artifact root; name another one with DIGITS_ARTIFACTS"
    elif not place.writable:
        yield f"{place.path}: not writable for you; change the permissions, or name another one with DIGITS_ARTIFACTS"
    if place.free_bytes is not None and place.free_bytes < LEAST_FREE:
        free = f"{place.free_bytes / 1e9:.1f} GB free, expected at least {LEAST_FREE / 1e9:.0f} GB"
        yield f"{place.path}: {free}; free disk space, or name another one with DIGITS_ARTIFACTS"


def _problems_of_champion(champion: Champion) -> Iterator[str]:
    if champion.version is None:
        yield "there is no champion, which predictions need; run `digits train`, or `digits restore` with a backup"


def _problems_of_api(api: Api, installed: Mapping[str, str]) -> Iterator[str]:
    if api.problem:
        yield f"{api.problem}; start the server, or correct the settings of Prefect (`PREFECT_API_URL`)"
    if api.address and installed and "prefect" not in installed:
        yield "a Prefect API is configured, but Prefect is not installed; run `pip install 'digits[flows]'`"


def describe(found: Diagnosis) -> dict[str, object]:
    """Return what was found as facts by name."""
    place, champion, api = found.artifacts, found.champion, found.prefect
    free = f", {place.free_bytes / 1e9:,.1f} GB free" if place and place.free_bytes is not None else ""
    missing = [
        f"{one.name} ({one.command}{', in place of train' if one.name == 'gpu' else ''})"
        for one in found.extras
        if not one.installed
    ]
    return {
        "python": f"{found.python}, {found.executable}",
        "system": found.system,
        "libraries": ", ".join(f"{name} {version}" for name, version in found.libraries.items()) or "unknown",
        "extras": ", ".join(one.name for one in found.extras if one.installed) or "none",
        "not installed": ", ".join(missing) or "none",
        "processor": found.processor,
        "instructions": _describe_features(found.features),
        "cores": f"{found.cores or 'unknown'} of {found.cores_of_machine or 'unknown'} allowed",
        "project": found.project or "none",
        "artifacts": (place and f"{place.path}{'' if place.exists else ' (not there yet)'}{free}") or "unknown",
        "champion": _describe_champion(champion),
        "prefect": _describe_api(api),
    }


def _describe_features(features: Mapping[str, bool]) -> str:
    return ", ".join(f"{name} {'yes' if has else 'no'}" for name, has in features.items()) or "unknown"


def _describe_champion(champion: Champion | None) -> str:
    if champion is None:
        return "unknown"
    return f"version {champion.version}, accuracy {champion.accuracy:.2%}" if champion.version else "none"


def _describe_api(api: Api | None) -> str:
    if api is None:
        return "unknown"
    if api.address is None:
        return "no API is configured"
    return f"{api.address}, {'which cannot be used' if api.problem else 'which answers'}"
