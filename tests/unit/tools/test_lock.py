"""The locked set: what is installed is that and nothing else, it names no place, and its licences are listed."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import licences
from tools.locked import LOCK, locked

HERE = Path(__file__).resolve().parents[3]
HASH = re.compile(r"sha256:[0-9a-f]{64}")
LOCAL = re.compile(r"://(127\.0\.0\.1|localhost|user:password@host)\b")


def test_what_is_installed_is_what_is_locked() -> None:
    """Every distribution, in that version; Digits besides, and nothing else."""
    installed = {canonicalize_name(each.name): each.version for each in distributions(path=site_packages())}
    expected = {each.name: each.version for each in locked() if each.here}
    del installed["digits"]
    assert installed == expected, "make clean setup installs the locked set, and only that"


def site_packages() -> list[str]:
    """Say where this interpreter's distributions are, without the directories that tests add."""
    return [path for path in sys.path if Path(path).is_relative_to(sys.prefix)]


def test_what_is_installed_fits_together() -> None:
    """Each distribution finds what it asks for, Digits as well: `pip` was told not to look."""
    found = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


def test_what_is_asked_for_is_locked() -> None:
    """Every dependency of pyproject.toml on every platform, the bounds that keep Prefect's server working too."""
    wanted = asked_for()
    versions = {each.name: each.version for each in locked()}
    unmet = [
        one for one in map(Requirement, wanted) if versions.get(canonicalize_name(one.name), "0") not in one.specifier
    ]
    assert unmet == []
    assert {"fastapi<0.151", "sqlalchemy<2.1"} <= set(wanted)


def asked_for() -> list[str]:
    """Read the dependencies of pyproject.toml, those of the extras too."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]


def test_each_dependency_has_its_reason() -> None:
    """In the documentation, and no other one has."""
    rows = re.findall(r"^\| ([a-z].*?) \| ", (HERE / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    told = {name for row in rows for name in re.findall(r"[a-z][\w-]+", re.sub(r"\(.*?\)", "", row))} - {"package"}
    named = {Requirement(one).name for one in asked_for()} - {"tensorflow"}
    assert told == named


def test_every_entry_has_hashes() -> None:
    """So that nothing else can be installed in its place."""
    assert all(each.hashes and all(map(HASH.fullmatch, each.hashes)) for each in locked())


def test_what_is_no_version_is_no_lock(tmp_path: Path) -> None:
    """A range in it would be resolved when it is installed."""
    (tmp_path / "lock").write_text("pillow>=11 --hash=sha256:0\n")
    with pytest.raises(ValueError, match="expected one version"):
        locked(tmp_path / "lock")


def test_no_registry_is_named() -> None:
    """Installers use the one that the machine is set up for."""
    files = [LOCK, HERE / "pyproject.toml", HERE / "Makefile", HERE / ".ci" / "run", HERE / "README.md"]
    for path in (*files, *(HERE / "docs").rglob("*.md")):
        text = LOCAL.sub("", path.read_text(encoding="utf-8"))
        assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text), path


def test_setup_takes_hashed_files_only() -> None:
    """From the lock, without resolving anything."""
    installs = [line for line in (HERE / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes --no-deps -r requirements.lock" in installs[0]
    assert "--no-build-isolation --no-deps -e ." in installs[1]


def test_the_page_of_licences_is_up_to_date() -> None:
    """Every distribution is in it, none without a licence."""
    assert licences.PAGE.read_text(encoding="utf-8") == licences.page(), "make licences writes it anew"
    names = {each.name for each in locked()}
    assert names == set(re.findall(r"^\| (\S+) \| \S+(?:, \S+)* \| \S.* \|$", licences.page(), re.MULTILINE)) - {
        "distribution"
    }
    assert set(licences._BY_HAND) <= names


def test_copyleft_is_pointed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before the list, with what it means."""
    monkeypatch.setitem(licences._BY_HAND, "numpy", ("LGPL-3.0-only", "this test"))
    assert "- numpy: LGPL-3.0-only; " in licences.page()


@pytest.mark.parametrize("name", ["no-such-distribution", "silent"])
def test_an_unknown_licence_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has to be found, and where it was."""
    silent = tmp_path / "silent-1.dist-info"
    silent.mkdir()
    (silent / "METADATA").write_text("Metadata-Version: 2.1\nName: silent\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError, match=f"{name} .*add .* to _BY_HAND"):
        licences.licence_of(name)
