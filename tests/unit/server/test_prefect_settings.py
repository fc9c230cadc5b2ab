"""Sources of Prefect's settings, compared with the answers of Prefect itself."""

import subprocess
import sys
from pathlib import Path

import pytest

from digits.errors import UsageError
from digits.server.prefect_settings import check_sources, prefect_setting
from tests.support.prefect_cases import CASES, DEEP, ERROR, LONG, SETTINGS, Answer, Case, ask_prefect, placed


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Answer]:
    """Return Prefect's answer to each case."""
    return ask_prefect(tmp_path_factory.mktemp("prefect"))


def found(case: Case, place: Path) -> Answer:
    """Return our answer to a case."""
    with placed(case, place):
        try:
            check_sources()
            return [prefect_setting(*path) for path in SETTINGS]
        except UsageError as error:
            return ERROR if "\n" not in str(error) else str(error)


@pytest.mark.parametrize("name", CASES)
def test_a_setting_has_the_value_that_prefect_uses(name: str, answers: dict[str, Answer], tmp_path: Path) -> None:
    """Where importing Prefect would fail, there is one sentence."""
    assert found(CASES[name], tmp_path) == answers[name]


def test_the_cases_have_various_answers(answers: dict[str, Answer]) -> None:
    assert sum(answer == ERROR for answer in answers.values()) > 10
    assert len({str(answer) for answer in answers.values()}) > 15


@pytest.mark.parametrize(("content", "reason"), [(DEEP, "nested too deeply"), (LONG, "too many digits")])
@pytest.mark.parametrize("name", ["prefect.toml", "pyproject.toml"])
def test_the_error_names_the_file_and_the_reason(name: str, content: str, reason: str, tmp_path: Path) -> None:
    with placed(Case(here={name: content}), tmp_path), pytest.raises(UsageError, match=rf"here/{name}: .*{reason}"):
        prefect_setting("api", "url")


def test_prefect_is_not_imported() -> None:
    """It takes 1.5 to 4 s."""
    program = "from digits.server.prefect_settings import configured_api; configured_api()"
    code = f"import sys; {program}; print('prefect' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
