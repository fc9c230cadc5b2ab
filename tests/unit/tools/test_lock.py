"""Checks of the lock: the environment is what is locked, no registry is named, and the licences are listed."""

import re
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tools import licences
from tools.locked import FORMATS_LOCK, LOCK, read_lock

HERE = Path(__file__).resolve().parents[3]
HASH = re.compile(r"sha256:[0-9a-f]{64}")
LOCAL = re.compile(
    r"://(127\.0\.0\.1|localhost|user:password@host|USER:PASSWORD@SMTP-SERVER|hooks\.slack\.com|[a-z-]+\.example\.com)\b"
)


def test_the_environment_has_the_locked_distributions_and_digits_alone() -> None:
    installed = {canonicalize_name(each.name): each.version for each in distributions(path=site_packages())}
    expected = {each.name: each.version for each in read_lock() if each.here}
    del installed["digits"]
    assert installed == expected, "run `make clean setup` to install the locked distributions and nothing else"


def site_packages() -> list[str]:
    """Return the directories of this interpreter's distributions, without those that tests add."""
    return [path for path in sys.path if Path(path).is_relative_to(sys.prefix)]


def test_the_installed_distributions_meet_each_others_requirements() -> None:
    """`make setup` installs them with `--no-deps`, so pip has not checked it."""
    done = subprocess.run([sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_wheel_has_every_package() -> None:
    """A package that is missing in pyproject.toml is found in a clone, but not in an installed wheel."""
    declared = tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    found = {".".join(path.parent.relative_to(HERE).parts) for path in (HERE / "digits").rglob("__init__.py")}
    assert found <= set(declared)


def test_the_citation_has_the_version_and_the_licence_of_the_project() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((HERE / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["keywords"] == project["keywords"]


def test_the_package_declares_that_it_has_types() -> None:
    assert (
        "py.typed"
        in tomllib.loads((HERE / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["digits"]
    )
    assert (HERE / "digits" / "py.typed").is_file()


def test_each_build_of_tensorflow_has_an_extra_of_its_own() -> None:
    """Where both are installed, each has overwritten files of the other."""
    settings = tomllib.loads((HERE / "pyproject.toml").read_text())
    extras = settings["project"]["optional-dependencies"]
    assert all("digits[keras]" in extras[name] for name in ("train", "gpu"))
    assert not any("tensorflow" in one for one in extras["keras"])
    linux = {"sys_platform": "linux", "platform_machine": "x86_64"}
    builds = {name: [one for one in map(Requirement, extras[name]) if one.marker] for name in ("train", "gpu")}
    chosen = {
        name: [str(one).split(">")[0] for one in found if one.marker.evaluate(linux)] for name, found in builds.items()
    }
    assert chosen == {"train": ["tensorflow-cpu"], "gpu": ["tensorflow[and-cuda]"]}
    assert settings["tool"]["uv"]["conflicts"] == [[{"extra": name}, {"extra": "gpu"}] for name in ("train", "all")]


def test_all_has_every_extra_that_users_install_except_the_one_for_gpus() -> None:
    extras = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (everything,) = map(Requirement, extras["all"])
    assert everything.extras == extras.keys() - {"all", "dev", "gpu", "keras"}


def test_the_lock_meets_the_dependencies_of_the_project_on_every_platform() -> None:
    """Two bounds keep the server of Prefect working."""
    wanted = dependencies()
    versions = {each.name: each.version for path in (FORMATS_LOCK, LOCK) for each in read_lock(path)}
    unmet = [
        one for one in map(Requirement, wanted) if versions.get(canonicalize_name(one.name), "0") not in one.specifier
    ]
    assert unmet == []
    assert {"fastapi<0.151", "sqlalchemy<2.1"} <= set(wanted)


def dependencies() -> list[str]:
    """Return the dependencies in pyproject.toml, including those of the extras."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]


def test_the_documentation_gives_a_reason_for_each_dependency_and_for_no_other() -> None:
    rows = re.findall(r"^\| ([a-z].*?) \| ", (HERE / "docs" / "dependencies.md").read_text(), re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"[a-z][\w-]+", re.sub(r"\(.*?\)", "", row))} - {
        "package"
    }
    expected = {Requirement(one).name for one in dependencies()} - {"digits", "tensorflow"}
    assert documented == expected


def test_every_entry_of_the_lock_has_hashes() -> None:
    for path in (LOCK, FORMATS_LOCK):
        assert all(each.hashes and all(map(HASH.fullmatch, each.hashes)) for each in read_lock(path))


def test_the_lock_of_the_formats_adds_their_libraries_to_the_other_lock() -> None:
    """All other versions are the same."""
    locked = {(each.name, each.version) for each in read_lock()}
    assert {each.name for each in read_lock(FORMATS_LOCK) if (each.name, each.version) not in locked} == {"pillow-heif"}


def test_a_lock_with_a_range_of_versions_is_an_error(tmp_path: Path) -> None:
    """A range would be resolved only when it is installed."""
    (tmp_path / "lock").write_text("pillow>=11 --hash=sha256:0\n")
    with pytest.raises(ValueError, match="expected one version"):
        read_lock(tmp_path / "lock")


def test_no_file_names_a_package_registry() -> None:
    """Installers use the registry that the machine is configured for."""
    files = [LOCK, HERE / "pyproject.toml", HERE / "Makefile", HERE / ".ci" / "run", HERE / "README.md"]
    for path in (*files, *(HERE / "docs").rglob("*.md")):
        text = LOCAL.sub("", path.read_text(encoding="utf-8"))
        assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text), path


def test_make_setup_installs_from_the_lock_with_hashes_and_resolves_nothing() -> None:
    installs = [line for line in (HERE / "Makefile").read_text().splitlines() if "pip install" in line]
    assert len(installs) == 2
    assert "--require-hashes --no-deps -r requirements.lock" in installs[0]
    assert "--no-build-isolation --no-deps -e ." in installs[1]


def test_the_page_of_licences_is_up_to_date_and_lists_every_distribution() -> None:
    assert licences.PAGE.read_text(encoding="utf-8") == licences.render_page(), "run `make licences`"
    names = {each.name for each in read_lock()}
    assert names == set(re.findall(r"^\| (\S+) \| \S+(?:, \S+)* \| \S.* \|$", licences.render_page(), re.MULTILINE)) - {
        "distribution"
    }
    assert set(licences.BY_HAND) <= names


def test_the_page_lists_copyleft_licences_with_their_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(licences.BY_HAND, "numpy", ("LGPL-3.0-only", "this test"))
    assert "- numpy: LGPL-3.0-only; " in licences.render_page()


@pytest.mark.parametrize("name", ["no-such-distribution", "silent"])
def test_an_unknown_licence_is_an_error(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "silent-1.dist-info"
    silent.mkdir()
    (silent / "METADATA").write_text("Metadata-Version: 2.1\nName: silent\nVersion: 1\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(LookupError, match=f"{name} .*add .* to BY_HAND"):
        licences.find_licence(name)
