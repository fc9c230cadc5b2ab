"""Reader of the locks: the locked distributions, where each is installed, and the hashes of its files.

`python -m tools.audit` and `python -m tools.licences` use it.
"""

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"
FORMATS_LOCK = LOCK.with_name("requirements-formats.lock")
"""Lock of the packages for prediction with the libraries of more image formats, which `make setup` does not install."""


@dataclass(frozen=True)
class LockedDistribution:
    """Distribution in the lock.

    Args:
        name: normalized name.
        version: version that is installed.
        here: whether it is installed for this interpreter on this platform.
        hashes: hashes of the files that may be installed, such as `sha256:...`.
    """

    name: str
    version: str
    here: bool
    hashes: frozenset[str]


def read_lock(path: Path = LOCK) -> list[LockedDistribution]:
    """Read a lock.

    A name appears twice if its version depends on the version of Python.

    Raises:
        ValueError: if an entry does not have exactly one version.
    """
    lines = path.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return [_parse_line(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _parse_line(line: str) -> LockedDistribution:
    text, *hashes = line.split("--hash=")
    requirement = Requirement(text.strip())
    here = requirement.marker is None or requirement.marker.evaluate()
    return LockedDistribution(
        canonicalize_name(requirement.name), _version(requirement), here, frozenset(hash_.strip() for hash_ in hashes)
    )


def _version(requirement: Requirement) -> str:
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==":
        raise ValueError(f"{requirement}: expected one version (NAME==VERSION); `make lock` writes such entries")
    return specifiers[0].version
