"""Project of one's own: its files, which `digits init` writes, and the version of the library that they belong to.

<project>/digits-project.json    version of the library, and the hash of each file as it was written
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from digits.errors import UsageError
from digits.store.files import hash_file, write_file

RECORD = "digits-project.json"
UPGRADE = "digits init --upgrade"
_PATTERNS = ("flows/*.py", "tasks/*.py", "prefect.yaml", "deploy/*")
_TEMPLATES = "deploy/project"
"""Directory of files that a project has and a clone of Digits has not, or has with other content."""
_RENAMED = {
    "Dockerfile": "deploy/Dockerfile",
    "README.md": "README.md",
    "dockerignore": ".dockerignore",
    "gitignore": ".gitignore",
}
"""Path of each of these files in a project."""
_PRIVATE = ".env"


@dataclass(frozen=True)
class ProjectRecord:
    """Record of the files that `digits init` wrote.

    Args:
        version: version of the library that they belong to.
        files: SHA-256 of each file as it was written, by its path in the project.
    """

    version: str
    files: Mapping[str, str]


@dataclass(frozen=True)
class Changes:
    """Changes that an installation of the library makes in a project.

    Args:
        written: files to write.
        removed: files to remove, because the library has them no more.
        kept: files that differ from the library's and stay as they are, because the user changed or removed them.
    """

    written: tuple[str, ...]
    removed: tuple[str, ...]
    kept: tuple[str, ...]


def installed_version() -> str:
    """Return the version of the installed library."""
    return version("digits")


def project_files(package: Path | None = None) -> dict[str, bytes]:
    """Return the contents of the files of a new project, by path.

    They are part of the installed package. If the package is used from a clone, they are those of the clone.

    Args:
        package: directory of the package `digits`; None for the one in use.
    """
    package = package or Path(__file__).parent
    packed = package / "project_files"
    source = packed if packed.is_dir() else package.parent
    found = {
        path.relative_to(source).as_posix(): path.read_bytes()
        for pattern in _PATTERNS
        for path in sorted(source.glob(pattern))
        if path.is_file() and path.name != _PRIVATE
    }
    return found | {to: (source / _TEMPLATES / name).read_bytes() for name, to in _RENAMED.items()}


def read_record(project: Path) -> ProjectRecord | None:
    """Return the record of a project; None if `digits init` did not write it, as in a clone of Digits.

    Raises:
        UsageError: if the record cannot be read.
    """
    path = project / RECORD
    try:
        content = json.loads(path.read_text("utf-8"))
        return ProjectRecord(
            str(content["version"]), {str(name): str(hash_) for name, hash_ in content["files"].items()}
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{path}: not a readable record of a project ({error}); restore it from your repository"
        ) from error


def check_version(project: Path) -> None:
    """Check that the files of a project belong to the installed major version of the library.

    Raises:
        UsageError: if they belong to another one.
    """
    record = read_record(project)
    if record and _major(record.version) != _major(installed_version()):
        raise UsageError(
            f"{project}: the project's files belong to Digits {record.version}, and Digits {installed_version()} is "
            f"installed; update them with `{UPGRADE}`, or install Digits {'.'.join(map(str, _major(record.version)))}"
        )


def _major(release: str) -> tuple[int, ...]:
    """Return the numbers that change when old project files no longer work: `1` of 1.4.2, and `0.3` of 0.3.1."""
    numbers = [int(part) for part in release.split(".")[:2] if part.isdigit()]
    return tuple(numbers[:1] if numbers and numbers[0] else numbers)


def create_project(project: Path) -> Changes:
    """Write the files of a new project. Files that exist with the same content stay.

    Raises:
        UsageError: if the directory is a project already, or has a file of the same name with another content.
    """
    if read_record(project):
        raise UsageError(f"{project} is a project already; update its files with `{UPGRADE}`")
    files = project_files()
    changes = plan_changes({}, _hashes_on_disk(project, files), _hashes(files))
    if changes.kept:
        raise UsageError(
            f"{project} has {', '.join(changes.kept)} already; choose an empty directory, or move them away"
        )
    _apply(project, changes, files, {})
    return changes


def upgrade_project(project: Path) -> Changes:
    """Update the files of a project to the installed version of the library, except those that the user changed.

    Raises:
        UsageError: if `digits init` did not write the project.
    """
    record = read_record(project)
    if record is None:
        raise UsageError(f"{project} has no {RECORD}, which `digits init` writes; run it in the project's directory")
    files = project_files()
    changes = plan_changes(record.files, _hashes_on_disk(project, [*files, *record.files]), _hashes(files))
    _apply(project, changes, files, record.files)
    return changes


def plan_changes(recorded: Mapping[str, str], present: Mapping[str, str], shipped: Mapping[str, str]) -> Changes:
    """Decide which files of a project to write, to remove and to keep. All arguments are hashes by path.

    Args:
        recorded: files as `digits init` wrote them last.
        present: files that exist now.
        shipped: files of the installed library.
    """
    differing = [name for name, hash_ in shipped.items() if present.get(name) != hash_]
    untouched = {name for name in {*recorded, *shipped} if present.get(name) == recorded.get(name)}
    gone = [name for name in recorded if name not in shipped and name in present]
    return Changes(
        written=tuple(name for name in differing if name in untouched),
        removed=tuple(name for name in gone if name in untouched),
        kept=tuple(sorted(name for name in [*differing, *gone] if name not in untouched)),
    )


def _apply(project: Path, changes: Changes, files: Mapping[str, bytes], recorded: Mapping[str, str]) -> None:
    for name in changes.written:
        (project / name).parent.mkdir(parents=True, exist_ok=True)
        write_file(project / name, files[name])
    for name in changes.removed:
        (project / name).unlink()
    # A file that was kept has its old hash, or the empty one: the next upgrade finds again that the user changed it.
    hashes = {name: recorded.get(name, "") if name in changes.kept else hash_ for name, hash_ in _hashes(files).items()}
    content = {"version": installed_version(), "files": hashes}
    write_file(project / RECORD, (json.dumps(content, indent=1, sort_keys=True) + "\n").encode())


def _hashes(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}


def _hashes_on_disk(project: Path, names: Mapping[str, bytes] | list[str]) -> dict[str, str]:
    return {name: hash_file(project / name) for name in names if (project / name).is_file()}
