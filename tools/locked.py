"""What requirements.lock holds: the distributions, where each is installed, and the hashes of its files."""

from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCK = Path(__file__).resolve().parents[1] / "requirements.lock"


@dataclass(frozen=True)
class Locked:
    """A distribution of the lock.

    Args:
        name: in the form in which names are compared.
        version: the only one that is installed.
        here: whether this interpreter on this platform installs it.
        hashes: of the files that may be installed, such as `sha256:...`.
    """

    name: str
    version: str
    here: bool
    hashes: frozenset[str]


def locked(path: Path = LOCK) -> list[Locked]:
    """Read a lock. A name is there twice where two versions of Python get different ones of its versions."""
    lines = path.read_text(encoding="utf-8").replace("\\\n", "").splitlines()
    return [_locked(line) for line in lines if line.strip() and not line.lstrip().startswith("#")]


def _locked(line: str) -> Locked:
    text, *hashes = line.split("--hash=")
    requirement = Requirement(text.strip())
    here = requirement.marker is None or requirement.marker.evaluate()
    return Locked(
        canonicalize_name(requirement.name), _version(requirement), here, frozenset(hash_.strip() for hash_ in hashes)
    )


def _version(requirement: Requirement) -> str:
    specifiers = list(requirement.specifier)
    if len(specifiers) != 1 or specifiers[0].operator != "==":
        raise ValueError(f"{requirement}: expected one version (NAME==VERSION); make lock writes such")
    return specifiers[0].version
