"""Untrusted bytes: no module unpickles or evaluates data, and one module per format loads models."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SOURCES = sorted(path for folder in ("digits", "tasks", "flows") for path in (ROOT / folder).glob("**/*.py"))
RUNS_CODE = {"pickle", "cPickle", "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "shelve"}
LOADERS = {
    "load_model": {"digits/training/networks.py"},
    "InferenceSession": {"digits/model/onnx_model.py", "digits/training/novelty.py"},
}
"""Functions that load a model, with the modules that may call them; `novelty` runs a graph that it has just made."""
SAFE_YAML = {"yaml.safe_load", "yaml.safe_dump", "yaml.dump"}
COMPILERS = {"digits/store/code_version.py"}
"""Modules that compile sources of the installed package, without executing them."""


def violations(source: str, path: str) -> Iterator[str]:
    """Yield what a module does that it must not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from (f"imports {name}" for name in names if name.partition(".")[0] in RUNS_CODE)
        if isinstance(node, ast.Call):
            yield from violations_of_call(node, path)


def violations_of_call(node: ast.Call, path: str) -> Iterator[str]:
    """Yield what a call does that it must not."""
    called = ast.unparse(node.func)
    options = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    if called in ("eval", "exec", "compile", "__import__") and (called != "compile" or path not in COMPILERS):
        yield f"calls {called}"
    if called.startswith("yaml.") and called not in SAFE_YAML:
        yield f"constructs objects by {called}"
    if called == "np.load" and options.get("allow_pickle", "False") != "False":
        yield "allows NumPy to unpickle"
    last = called.rpartition(".")[2]
    if last in LOADERS and path not in LOADERS[last]:
        yield f"loads a model by {called}"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_module_executes_code_from_data(path: Path) -> None:
    """Checked for every module of the package, the tasks and the flows."""
    assert list(violations(path.read_text("utf-8"), path.relative_to(ROOT).as_posix())) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "import cloudpickle.compat",
        "eval('1')",
        "compile('1', '', 'eval')",
        "yaml.load(text, yaml.Loader)",
        "yaml.unsafe_load(text)",
        "np.load(path, allow_pickle=True)",
        "keras.saving.load_model(path)",
        "onnxruntime.InferenceSession(path)",
    ],
)
def test_each_kind_of_violation_is_detected(source: str) -> None:
    """One example of each kind."""
    assert list(violations(source, "digits/x.py"))
