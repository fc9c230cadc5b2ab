"""Tests of `digits doctor`: what it reads, what it finds wrong, and that it neither fails nor writes."""

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from digits.cli.maintenance import doctor, read_api
from digits.errors import StoreError
from digits.maintenance.doctor import (
    LEAST_FREE,
    MODULES,
    Api,
    Champion,
    Diagnosis,
    Place,
    describe,
    diagnose,
    find_features,
    find_problems,
    list_required,
    name_processor,
    read_champion,
    read_place,
)
from digits.store.artifacts import Recipe, Store
from digits.store.registry import ModelFacts, Registry
from tests.support.missing import HERE, run_without
from tests.support.tiny_model import write_model

CPUINFO = (
    "processor\t: 0\nmodel name\t: Some Processor\nflags\t\t: fpu avx avx2 avx512f\n\nprocessor\t: 1\nflags\t\t: fpu\n"
)
ROOT = Place(Path("/data"), exists=True, is_directory=True, writable=True, free_bytes=LEAST_FREE)
SOUND = Diagnosis(
    digits="1.0",
    python="3.12.0",
    executable="/bin/python",
    system="Linux",
    installed={"digits": "1.0", "numpy": "2.0", "prefect": "3.9"},
    required=("numpy",),
    extras=(),
    processor="Some Processor",
    features={"AVX2": True},
    cores=2,
    cores_of_machine=4,
    project=None,
    artifacts=ROOT,
    champion=Champion(1, 0.99),
    prefect=Api(None, None),
    unread=(),
)
UNKNOWN = replace(
    SOUND, installed={}, features={}, cores=None, cores_of_machine=None, artifacts=None, champion=None, prefect=None
)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Store with a champion."""
    store = Store(tmp_path / "root")
    onnx = store.produce(Recipe("onnx", {}), write_model)
    facts = ModelFacts(accuracy=0.98)
    registry = Registry(store)
    registry.register(artifacts={"onnx": onnx.digest}, weights_sha256="w", facts=facts)
    registry.promote(1, reasons=["first"])
    return store


def test_nothing_is_wrong_with_a_sound_installation() -> None:
    assert find_problems(SOUND) == []


def test_what_is_unknown_is_neither_wrong_nor_an_error() -> None:
    assert find_problems(UNKNOWN) == []
    assert {describe(UNKNOWN)[name] for name in ("artifacts", "champion", "prefect", "instructions")} == {"unknown"}


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"unread": ("a; b",)}, "a; b"),
        ({"required": ("numpy", "rich")}, "rich is not installed, and Digits requires it; run `pip install digits`"),
        (
            {"artifacts": replace(ROOT, is_directory=False)},
            "/data: no directory, expected the artifact root; name another one with DIGITS_ARTIFACTS",
        ),
        (
            {"artifacts": replace(ROOT, writable=False)},
            "/data: not writable for you; change the permissions, or name another one with DIGITS_ARTIFACTS",
        ),
        (
            {"artifacts": replace(ROOT, free_bytes=LEAST_FREE - 600_000_000)},
            "/data: 0.4 GB free, expected at least 1 GB; free disk space, or name another one with DIGITS_ARTIFACTS",
        ),
        (
            {"champion": Champion(None, None)},
            "there is no champion, which predictions need; run `digits train`, or `digits restore` with a backup",
        ),
        (
            {"prefect": Api("http://a", "it does not answer")},
            "it does not answer; start the server, or correct the settings of Prefect (`PREFECT_API_URL`)",
        ),
        (
            {"prefect": Api("http://a", None), "installed": {"numpy": "2.0"}},
            "a Prefect API is configured, but Prefect is not installed; run `pip install 'digits[flows]'`",
        ),
    ],
)
def test_each_problem_is_a_sentence_with_a_remedy(changes: dict[str, object], problem: str) -> None:
    assert find_problems(replace(SOUND, **changes)) == [problem]  # type: ignore[arg-type]


def test_two_builds_of_tensorflow_are_a_problem() -> None:
    both = {**SOUND.installed, "tensorflow": "2.21", "tensorflow-cpu": "2.21"}
    assert "expected one" in find_problems(replace(SOUND, installed=both))[0]
    assert describe(replace(SOUND, installed=both))["libraries"] == (
        "numpy 2.0, prefect 3.9, tensorflow 2.21, tensorflow-cpu 2.21"
    )


def test_the_processor_is_read_from_the_list_of_the_system() -> None:
    """Another system has no such list, or one without flags."""
    assert name_processor(CPUINFO) == "Some Processor"
    assert find_features(CPUINFO) == {"AVX2": True, "AVX-512": True, "VNNI": False}
    assert (name_processor(""), find_features(""), find_features("processor : 0\n")) == ("", {}, {})


def test_an_artifact_root_need_not_exist(tmp_path: Path) -> None:
    place = read_place(tmp_path / "a" / "b")
    assert (place.exists, place.is_directory, place.writable) == (False, True, True)
    assert place.free_bytes
    (tmp_path / "file").touch()
    assert not read_place(tmp_path / "file").is_directory
    assert not read_place(tmp_path / "file" / "below").is_directory


def test_the_champion_is_verified(store: Store) -> None:
    assert read_champion(store.root) == Champion(1, 0.98)
    model = next((store.root / "onnx").glob("*/*.onnx"))
    model.chmod(0o600)
    model.write_bytes(b"damaged")
    with pytest.raises(StoreError):
        read_champion(store.root)


def test_a_root_without_versions_has_no_champion(tmp_path: Path) -> None:
    assert read_champion(tmp_path) == Champion(None, None)


def test_a_part_that_cannot_be_read_is_a_finding() -> None:
    """The text of an unknown error is left out, because it may contain a password. That of ours is a sentence."""

    def root() -> Path:
        raise PermissionError(13, "Permission denied")

    def api() -> Api:
        raise ValueError("http://user:secret@host")

    found = diagnose(root, api)
    assert found.unread == (
        "the artifact root could not be read (Permission denied); check the installation with `pip check`",
        "the settings of Prefect could not be read (ValueError); check the installation with `pip check`",
    )
    assert (found.artifacts, found.champion, found.prefect) == (None, None, None)
    assert find_problems(found)[:2] == [*found.unread]


def test_each_extra_of_the_package_is_looked_for() -> None:
    """Except those that only join others."""
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    assert {*MODULES} == {*project["optional-dependencies"]} - {"all", "dev", "keras"}


def test_the_required_libraries_are_those_of_the_package() -> None:
    assert {"numpy", "onnxruntime", "typer"} <= {*list_required()}
    assert not {"keras", "tensorflow"} & {*list_required()}


def tree(place: Path) -> dict[str, tuple[int, int]]:
    """Return size and modification time of all files and directories, by path."""
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in place.rglob("*")}


def test_the_command_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It exits with 0 if nothing is wrong, else with 8."""
    monkeypatch.chdir(store.root.parent)
    monkeypatch.setattr("digits.cli.maintenance.read_api", lambda: Api(None, None))
    before = tree(store.root.parent)
    with pytest.raises(SystemExit) as ended:
        doctor(store.root, json=True)
    values = json.loads(capsys.readouterr().out)
    assert (ended.value.code, values["problems"]) == (0, [])
    assert values["champion"] == {"version": 1, "accuracy": 0.98}
    with pytest.raises(SystemExit) as ended:
        doctor(store.root.parent / "other", json=False)
    printed = " ".join(capsys.readouterr().out.split())
    assert ended.value.code == 8
    assert printed.startswith("needs attention: there is no champion")
    assert "not there yet" in printed
    assert tree(store.root.parent) == before


def test_the_address_of_the_prefect_api_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://user:secret@127.0.0.1:9/api")
    api = read_api()
    assert api.address == "http://***@127.0.0.1:9/api"
    assert api.problem
    assert "secret" not in api.problem
    monkeypatch.setenv("PREFECT_API_URL", "")
    assert read_api() == Api(None, None)


@pytest.mark.parametrize("missing", [["keras", "pandas", "prefect", "pyarrow", "sklearn", "tensorflow"], ["numpy"]])
def test_it_works_without_extras_and_in_a_broken_installation(tmp_path: Path, missing: list[str]) -> None:
    """It names the commands for what is missing. The directory is in no project."""
    code = "import sys; sys.argv[1:] = ['doctor', '--json']; from digits.cli.main import main; main()"
    done = run_without(missing, code, tmp_path)
    assert (done.returncode, done.stderr) == (8, "")
    values = json.loads(done.stdout)
    absent = {one["name"]: one["command"] for one in values["extras"] if not one["installed"]}
    if "prefect" in missing:
        assert {"flows", "pandas", "parquet", "train"} <= {*absent}
        assert absent["flows"] == "pip install 'digits[flows]'"
    assert values["project"] is None
    assert list((tmp_path / "work").iterdir()) == []
