"""No code comes out of bytes: nothing is unpickled or evaluated, and models have one way in each."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for folder in ("digits", "tasks", "flows") for path in (HERE / folder).glob("**/*.py"))
RUNS_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve", "yaml"}
WAYS_IN = {
    "load_model": {"digits/training/networks.py"},
    "InferenceSession": {"digits/model/onnx_model.py", "digits/training/novelty.py"},
}
"""`novelty` runs a graph that it has just made, from memory."""


def faults(source: str, place: str) -> Iterator[str]:
    """Name what a module must not do."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in RUNS_CODE)
        if isinstance(node, ast.Call):
            yield from faults_of_call(node, place)


def faults_of_call(node: ast.Call, place: str) -> Iterator[str]:
    """Name what a call must not do."""
    called = ast.unparse(node.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in ("eval", "exec", "compile", "__import__"):
        yield f"calls {called}"
    if called == "np.load" and options.get("allow_pickle", "False") != "False":
        yield "lets NumPy unpickle"
    last = called.rpartition(".")[2]
    if last in WAYS_IN and place not in WAYS_IN[last]:
        yield f"loads a model by {called}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(HERE).as_posix())
def test_no_code_comes_out_of_bytes(path: Path) -> None:
    """In any module."""
    assert list(faults(path.read_text("utf-8"), path.relative_to(HERE).as_posix())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle.compat",
        "eval('1')",
        "np.load(path, allow_pickle=True)",
        "keras.saving.load_model(path)",
        "onnxruntime.InferenceSession(path)",
    ],
)
def test_what_would_be_found(source: str) -> None:
    """Each kind."""
    assert list(faults(source, "digits/x.py"))
