"""Tests of the author of a change."""

import socket
from collections.abc import Iterator

import pytest

from digits.store.author import Author, current_run, this_author


@pytest.fixture
def run() -> Iterator[str]:
    """Set the flow run that this code is part of."""
    token = current_run.set("4c1e")
    yield "4c1e"
    current_run.reset(token)


def test_the_author_is_the_user_on_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
    assert this_author() == Author("anna", socket.gethostname())
    assert str(this_author()) == f"anna@{socket.gethostname()}"


def test_in_a_flow_run_the_author_names_the_run(run: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOGNAME", "anna")
    assert str(this_author()) == f"anna@{socket.gethostname()} in run {run}"


def test_a_user_without_a_name_is_a_number(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container, the password file may lack the user."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)
    assert this_author().user == "4000000"


def test_an_unknown_author_is_empty() -> None:
    assert str(Author()) == ""
