"""Tests of `digits init`: the files of a project, its upgrade, and the refusal of another major version."""

import json
import shutil
from pathlib import Path

import pytest
import yaml

from digits import project
from digits.cli.runtime import require_project
from digits.errors import UsageError
from digits.project import Changes, plan_changes
from digits.settings import find_project

HERE = Path(__file__).resolve().parents[2]


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Return a new project."""
    project.create_project(tmp_path / "own")
    return tmp_path / "own"


def claim(own: Path, version: str) -> None:
    """Change the version that a project records."""
    path = own / project.RECORD
    path.write_text(json.dumps({**json.loads(path.read_text()), "version": version}))


def test_a_new_project_has_flows_tasks_deployments_and_an_example_of_its_environment(own: Path) -> None:
    for name in ("flows/training.py", "tasks/edge.py", "deploy/compose.yaml", "deploy/.env.example", ".gitignore"):
        assert (own / name).is_file()
    assert (own / "prefect.yaml").read_bytes() == (HERE / "prefect.yaml").read_bytes()
    assert "FROM digits-predict:" in (own / "deploy" / "Dockerfile").read_text()
    assert find_project(own / "flows") == own
    assert json.loads((own / project.RECORD).read_text())["version"] == project.installed_version()


def test_every_deployment_of_a_new_project_has_its_flow(own: Path) -> None:
    for file in ("prefect.yaml", "deploy/prefect.docker.yaml", "deploy/prefect.kubernetes.yaml"):
        for deployment in yaml.safe_load((own / file).read_text())["deployments"]:
            path, _, flow = deployment["entrypoint"].partition(":")
            assert f"def {flow}(" in (own / path).read_text()


def test_secrets_and_templates_are_no_files_of_a_project(tmp_path: Path) -> None:
    clone = tmp_path / "clone"
    for directory in ("digits", "deploy", "flows", "tasks"):
        shutil.copytree(HERE / directory, clone / directory, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / "prefect.yaml", clone)
    (clone / "deploy" / ".env").write_text("AUTH=secret")
    files = project.project_files(clone / "digits")
    assert files == project.project_files()
    assert not [name for name in files if name.endswith("/.env") or name.startswith("deploy/project")]


def test_a_project_is_not_written_over_files_of_the_user(tmp_path: Path) -> None:
    (tmp_path / "prefect.yaml").write_text("name: mine\n")
    with pytest.raises(UsageError, match=r"has prefect\.yaml already; choose an empty directory"):
        project.create_project(tmp_path)
    assert not (tmp_path / "flows").exists()
    assert (tmp_path / "prefect.yaml").read_text() == "name: mine\n"


def test_an_interrupted_init_is_completed(own: Path) -> None:
    """The record is written last."""
    (own / project.RECORD).unlink()
    (own / "flows" / "tuning.py").unlink()
    assert project.create_project(own).written == ("flows/tuning.py",)
    with pytest.raises(UsageError, match="is a project already"):
        project.create_project(own)


def test_another_major_version_is_refused_and_the_upgrade_keeps_what_the_user_changed(own: Path) -> None:
    (own / "prefect.yaml").write_text("name: digits\ndeployments: []\n")
    (own / "tasks" / "edge.py").unlink()
    old = own / "flows" / "old.py"
    old.write_text("")
    record = json.loads((own / project.RECORD).read_text())
    (own / "flows" / "tuning.py").write_text("# as an old version wrote it\n")
    files = record["files"] | {name: project.hash_file(own / name) for name in ("flows/tuning.py", "flows/old.py")}
    (own / project.RECORD).write_text(json.dumps({"version": "999.2.0", "files": files}))
    with pytest.raises(
        UsageError, match=r"belong to Digits 999\.2\.0, and .*`digits init --upgrade`, or .* Digits 999$"
    ):
        project.check_version(own)

    changes = project.upgrade_project(own)
    assert changes == Changes(("flows/tuning.py",), ("flows/old.py",), ("prefect.yaml", "tasks/edge.py"))
    project.check_version(own)
    assert "deployments: []" in (own / "prefect.yaml").read_text()
    assert (own / "flows" / "tuning.py").read_bytes() == (HERE / "flows" / "tuning.py").read_bytes()
    assert not old.exists()
    assert project.upgrade_project(own) == Changes((), (), ("prefect.yaml", "tasks/edge.py"))


def test_commands_in_a_project_of_another_major_version_name_the_upgrade(
    own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own / "flows")
    assert require_project() == own
    claim(own, "999.0.0")
    with pytest.raises(UsageError, match="digits init --upgrade"):
        require_project()


def test_plans_of_files() -> None:
    """A file that the library got or lost, and one that the user has made or changed."""
    recorded = {"same": "1", "updated": "1", "changed": "1", "lost": "1", "lost and changed": "1"}
    present = {**recorded, "changed": "user", "lost and changed": "user", "in the way": "user", "equal": "2"}
    shipped = {"same": "1", "updated": "2", "changed": "2", "new": "2", "in the way": "2", "equal": "2"}
    assert plan_changes(recorded, present, shipped) == Changes(
        written=("updated", "new"), removed=("lost",), kept=("changed", "in the way", "lost and changed")
    )


@pytest.mark.parametrize(
    ("recorded", "compatible"),
    [("0.1.0", True), ("0.1.7", True), ("0.2.0", False), ("1.1.0", False), ("999.0", False)],
)
def test_the_second_number_counts_while_the_first_is_zero(own: Path, recorded: str, compatible: bool) -> None:
    assert project.installed_version().startswith("0.1."), "adjust the versions of this test"
    claim(own, recorded)
    if compatible:
        project.check_version(own)
    else:
        with pytest.raises(UsageError, match="belong to Digits"):
            project.check_version(own)


@pytest.mark.parametrize("content", ["", "[]", '{"version": "1"}', '{"version": "1", "files": []}'])
def test_a_damaged_record_is_an_error(own: Path, content: str) -> None:
    (own / project.RECORD).write_text(content)
    with pytest.raises(UsageError, match="not a readable record of a project"):
        project.check_version(own)


def test_only_a_project_can_be_upgraded(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"has no {project.RECORD}"):
        project.upgrade_project(tmp_path)
    project.check_version(tmp_path)
