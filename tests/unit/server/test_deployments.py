"""Reading the deployments of a prefect.yaml."""

from pathlib import Path

import pytest

from digits.errors import OperationsError
from digits.server.deployments import DEPLOYMENTS, DeclaredDeployment, declared_deployments

PROJECT = Path(__file__).resolve().parents[3]
FLOWS = """from prefect import flow
raise SystemExit("flows are not executed")
@flow(name="predict", retries=unknown)
def predict_inbox(): ...
@flow
def count_pages(): ...
"""


def write_project(folder: Path, declaration: str) -> Path:
    """Write a project with two flows and a prefect.yaml; return its directory."""
    (folder / "flows").mkdir()
    (folder / "flows" / "own.py").write_text(FLOWS)
    (folder / "prefect.yaml").write_text(declaration)
    return folder


def test_the_project_declares_the_deployments_that_the_commands_use() -> None:
    declared = declared_deployments(PROJECT)
    assert tuple(one.name for one in declared) == DEPLOYMENTS
    assert {one.pool for one in declared} == {"digits"}
    scheduled = [one.name for one in declared if one.scheduled]
    assert scheduled == ["train/nightly", "predict/inbox", "janitor/janitor"]


def test_names_pools_and_schedules_are_read_without_executing_the_flows(tmp_path: Path) -> None:
    project = write_project(
        tmp_path,
        """
definitions: {pool: &pool {name: elsewhere}}
deployments:
  - {name: second inbox, entrypoint: "flows/own.py:predict_inbox", work_pool: *pool, schedule: {cron: "* * * * *"}}
  - {name: pages, entrypoint: "flows/own.py:count_pages", schedules: [{cron: "* * * * *", active: false}]}
""",
    )
    assert declared_deployments(project) == (
        DeclaredDeployment("predict/second inbox", "elsewhere", scheduled=True),
        DeclaredDeployment("count-pages/pages", None, scheduled=False),
    )


def test_a_project_without_deployments_declares_none(tmp_path: Path) -> None:
    assert declared_deployments(write_project(tmp_path, "name: digits\ndeployments:\n")) == ()


@pytest.mark.parametrize(
    "declaration",
    [
        "deployments: [",
        "name: digits",
        "deployments: [{name: x}]",
        "deployments: [{name: x, entrypoint: 'flows/own.py:absent'}]",
        "deployments: [{name: x, entrypoint: 'flows/absent.py:x'}]",
        "deployments: [text]",
        "deployments: [{name: x, entrypoint: 'flows/own.py:count_pages', work_pool: digits}]",
        "- list",
    ],
)
def test_an_error_in_prefect_yaml_is_one_sentence_with_a_remedy(tmp_path: Path, declaration: str) -> None:
    with pytest.raises(OperationsError, match=r"prefect\.yaml: found no readable list.*; correct it$"):
        declared_deployments(write_project(tmp_path, declaration))


def test_a_missing_prefect_yaml_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperationsError, match=r"prefect\.yaml: there is no such file"):
        declared_deployments(tmp_path)
