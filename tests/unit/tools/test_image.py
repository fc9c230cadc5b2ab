"""Tests of the Dockerfile: its stages, its locks, and the reader that runs its steps in a Debian root."""

import re
from pathlib import Path

import pytest

from tools.image import DOCKERFILE, Stage, needed_stages, parse_dockerfile, size_of
from tools.locked import LOCK, read_lock

HERE = Path(__file__).resolve().parents[3]
LOCKS = {"predict": HERE / "requirements-predict.lock", "train": HERE / "requirements-train.lock"}
TOOLS = {"mypy", "pytest", "ruff", "selenium", "uv", "pip-audit", "hypothesis"}
TRAINING = {"tensorflow", "tensorflow-cpu", "keras", "scipy", "scikit-learn", "matplotlib", "optuna"}


@pytest.fixture(scope="module")
def stages() -> dict[str, Stage]:
    """Return the stages of deploy/Dockerfile."""
    return parse_dockerfile(DOCKERFILE.read_text())


def values(stage: Stage, name: str) -> list[str]:
    """Return the texts of a stage's instructions with a name."""
    return [step.text for step in stage.steps if step.name == name]


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_runs_as_a_user_without_privileges_under_an_init_with_a_health_check(
    stages: dict[str, Stage], target: str
) -> None:
    assert values(stages[target], "USER") == ["10001:10001"]
    assert values(stages[target], "ENTRYPOINT") == ['["tini", "--"]']
    assert len(values(stages[target], "HEALTHCHECK")) == 1
    assert "PREFECT_UI_STATIC_DIRECTORY=/state/ui" in values(stages["base"], "ENV")[0]


def test_the_base_image_is_named_by_its_digest(stages: dict[str, Stage]) -> None:
    outside = {stage.base for stage in stages.values()} - stages.keys()
    (image,) = outside
    assert re.fullmatch(r"python:3\.11-slim-bookworm@sha256:[0-9a-f]{64}", image)


@pytest.mark.parametrize("target", LOCKS)
def test_an_image_is_installed_from_its_own_lock(stages: dict[str, Stage], target: str) -> None:
    needed = needed_stages(stages, target)
    assert needed == ["base", "wheel", f"{target}-environment", target]
    copied = [text for name in needed for text in values(stages[name], "COPY") if ".lock" in text]
    assert copied == [f"requirements-{target}.lock /tmp/requirements.lock"]
    assert f"!{LOCKS[target].name}" in (HERE / ".dockerignore").read_text().splitlines()


@pytest.mark.parametrize("target", LOCKS)
def test_the_lock_of_an_image_is_part_of_the_whole_lock(target: str) -> None:
    whole = {(one.name, one.version): one.hashes for one in read_lock(LOCK)}
    part = {(one.name, one.version): one.hashes for one in read_lock(LOCKS[target])}
    assert part.items() <= whole.items(), "run `make lock`"
    assert "://" not in LOCKS[target].read_text()


def test_no_image_has_development_tools_and_only_one_has_the_training() -> None:
    names = {target: {one.name for one in read_lock(path)} for target, path in LOCKS.items()}
    assert not names["predict"] & (TOOLS | TRAINING | {"setuptools"})
    assert names["train"] & TOOLS == set()
    assert names["predict"] < names["train"]
    assert names["train"] >= TRAINING - {"tensorflow"}


def test_the_reader_joins_lines_expands_arguments_and_skips_comments() -> None:
    text = (
        "# note\nARG BASE=debian@sha256:0\nFROM ${BASE} AS a\nRUN one \\\n && two\nFROM a AS b\nCOPY --from=c /x /y\n"
    )
    stages = parse_dockerfile(f"{text}FROM a AS c\nFROM a AS d\n")
    assert stages["a"].base == "debian@sha256:0"
    assert [(step.name, " ".join(step.text.split())) for step in stages["a"].steps] == [("RUN", "one && two")]
    assert needed_stages(stages, "b") == ["a", "b", "c"]


def test_the_size_of_a_directory_is_that_of_its_files(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    (tmp_path / "below" / "file").write_bytes(b"1234")
    (tmp_path / "link").symlink_to("below/file")
    assert size_of(tmp_path) == 4 + len("below/file")
