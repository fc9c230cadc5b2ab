"""Docstrings: a function's begins with a verb in the imperative, a module's or a class's with a noun phrase.

Ruff's D401 checks the mood of functions and methods. Checked here is what it does not.
"""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCES = sorted(
    path
    for folder in ("digits", "flows", "tasks", "tools", "benchmarks", "tests")
    for path in (ROOT / folder).glob("**/*.py")
)
VAGUE = {"Give", "Tell", "Say", "Have", "Be"}
"""Verbs that leave open whether something is returned, printed or changed."""
VERBS = {
    "Check",
    "Compare",
    "Draw",
    "Find",
    "Load",
    "Make",
    "Measure",
    "Print",
    "Raise",
    "Read",
    "Return",
    "Run",
    "Write",
}
CLAUSES = {"How", "That", "What", "When", "Where", "Whether", "Which", "Who", "Why"}


def faults(source: str) -> Iterator[str]:
    """Yield each docstring of a module that begins with a word it should not begin with."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = (ast.get_docstring(node) or "").partition("\n")[0]
            word = first.partition(" ")[0].rstrip(".,:;")
            unfit = VAGUE if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) else VAGUE | VERBS | CLAUSES
            if word in unfit:
                yield first


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_docstrings_begin_as_contributing_describes(path: Path) -> None:
    assert list(faults(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ('"""What is read."""\n', ["What is read."]),
        ('"""Reader: bytes to arrays."""\n\nclass Reader:\n    """Read bytes."""\n', ["Read bytes."]),
        ('def size():\n    """Give the size.\n\n    In bytes.\n    """\n', ["Give the size."]),
        ('def size():\n    """Return the size."""\n', []),
        ('class Size:\n    """Size in bytes."""\n\n    def show(self):\n        """Tell it."""\n', ["Tell it."]),
    ],
)
def test_docstrings_that_begin_otherwise_are_found(source: str, found: list[str]) -> None:
    assert list(faults(source)) == found
