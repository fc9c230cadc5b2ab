"""No untrusted bytes become code or objects: an audit of the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = sorted(
    path for name in ("digits", "tasks", "flows") for path in Path(__file__).parents[2].glob(f"{name}/**/*.py")
)
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}


def offences(source: str) -> Iterator[str]:
    """Give what must not be in a source."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from MODULES.intersection(name.partition(".")[0] for name in names)
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            given = {word.arg: ast.unparse(word.value) for word in node.keywords}
            if called in {"eval", "exec", "compile"} or given.get("allow_pickle") == "True":
                yield called


def test_sources_neither_unpickle_nor_evaluate() -> None:
    """NumPy's own default is not to unpickle."""
    assert [(path.name, list(offences(path.read_text()))) for path in SOURCES if any(offences(path.read_text()))] == []


@pytest.mark.parametrize(
    "source", ["import pickle", "from marshal import loads", "eval(x)", "np.load(x, allow_pickle=True)"]
)
def test_the_audit_finds_offences(source: str) -> None:
    """Each kind."""
    assert list(offences(source))
