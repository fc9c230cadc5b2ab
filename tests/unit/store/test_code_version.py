"""Code versions: hashes over the sources and libraries that a step uses."""

import ast
import compileall
import gc
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from digits.errors import StoreError
from digits.pipeline import recipes
from digits.store import code_version as code_version_module
from digits.store.code_version import code_version, library_versions

SOURCES = {
    "__init__": "def __getattr__(name):\n    from digits.unrelated import x\n",
    "a": "from digits.b import thing\nimport json\n",
    "b": "def late():\n    from digits import c\n",
    "c": "from digits.a import back\nfrom digits.pkg import by_name\nimport digits.pkg.whole as whole\n",
    "pkg/__init__": '"""Modules: by_name, whole."""\n',
    "pkg/by_name": "from digits.coded import constant\n",
    "pkg/whole": "import typing\nif typing.TYPE_CHECKING:\n    import digits.typed\nelse:\n    import digits.untyped\n",
    "pkg/unrelated": "from digits.a import x\n",
    "coded/__init__": "from digits.coded.inner import constant\n",
    "coded/inner": "constant = 1\n",
    "coded/unrelated": "constant = 2\n",
    "typed": "x = 1\n",
    "untyped": "from digits.beside.inner import y\n",
    "beside/__init__": "import sys\n",
    "beside/inner": "y = 1\n",
    "unrelated": "x = 1\n",
}
IMPORTED = ("a", "b", "c", "pkg/by_name", "pkg/whole", "coded/__init__", "coded/inner", "untyped", "beside/inner")


@pytest.fixture
def package(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Yield a small package on disk that is used in place of this one, and can be edited."""
    root = tmp_path / "digits"
    for name, source in SOURCES.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.py").write_text(source)
    monkeypatch.setattr(code_version_module, "PACKAGE", root)
    code_version.cache_clear()
    yield root
    code_version.cache_clear()


def version_after(change: Path, text: str) -> str:
    """Append to a module and return the version of `digits.a`, as a new process would compute it."""
    change.write_text(change.read_text() + text)
    code_version.cache_clear()
    return code_version("digits.a")


@pytest.mark.parametrize("module", [*IMPORTED, "beside/__init__"])
def test_a_change_in_any_imported_module_changes_the_version(package: Path, module: str) -> None:
    """Imports are followed in each spelling, into packages and their `__init__`, inside functions and in a cycle."""
    assert code_version("digits.a") != version_after(package / f"{module}.py", "# changed\n")


@pytest.mark.parametrize("module", ["__init__", "pkg/unrelated", "coded/unrelated", "typed", "unrelated"])
def test_a_change_in_code_that_is_not_imported_keeps_the_version(package: Path, module: str) -> None:
    """Such code is in lazily loaded names, in imports for type checking, and in other modules of a package."""
    assert code_version("digits.a") == version_after(package / f"{module}.py", "y = 2\n")


def test_bytecode_that_python_has_cached_changes_nothing(package: Path) -> None:
    """The cache is used while it is that of the source."""
    before = code_version("digits.a")
    compileall.compile_dir(package, quiet=1)
    assert (package / "__pycache__").exists()
    assert version_after(package / "a.py", "") == before
    after = version_after(package / "c.py", "import digits.unrelated\n")
    assert version_after(package / "unrelated.py", "x = 2\n") != after


def test_a_package_is_part_of_the_version_only_if_it_has_code(package: Path) -> None:
    """A changed docstring keeps the version; an import changes it."""
    before, file = code_version("digits.a"), package / "pkg" / "__init__.py"
    file.write_text('"""Modules: by_name, unrelated, whole."""\n')
    assert version_after(file, "") == before
    assert version_after(file, "import digits.unrelated\n") != before


def test_every_module_that_a_step_loads_is_part_of_its_version() -> None:
    """The modules that a new process loads when it imports a step's modules are among the hashed sources."""
    steps = [*recipes.STEP_MODULES.values(), ("digits.prediction.worker", "digits.prediction.incremental")]
    command = [sys.executable, "-c", LOADED, json.dumps(steps)]
    loaded = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
    for modules, names in zip(steps, loaded, strict=True):
        assert set(modules) <= set(names) <= set(code_version_module.find_sources(modules))


LOADED = """
import importlib, json, sys
loaded = []
for modules in json.loads(sys.argv[1]):
    for name in [name for name in sys.modules if name.startswith("digits")]:
        del sys.modules[name]
    for name in modules:
        importlib.import_module(name)
    files = [name for name, module in sys.modules.items() if not hasattr(module, "__path__")]
    loaded.append([name for name in files if name.partition(".")[0] == "digits"])
print(json.dumps(loaded))
"""


def test_another_version_of_a_numeric_library_changes_the_code_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is not among `libraries` does not change it."""
    before, without = code_version("digits.errors"), code_version("digits.errors", libraries=("pillow",))
    code_version.cache_clear()
    monkeypatch.setattr(code_version_module, "library_versions", lambda: {**library_versions(), "numpy": "9.9"})
    assert code_version("digits.errors") != before
    assert code_version("digits.errors", libraries=("pillow",)) == without
    code_version.cache_clear()


def test_libraries_that_are_not_installed_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without TensorFlow, as in an installation for prediction only, there is a code version."""
    assert library_versions()["numpy"] == importlib.metadata.version("numpy")
    monkeypatch.setattr(code_version_module, "NUMERIC_LIBRARIES", ("numpy", "no-such-library"))
    library_versions.cache_clear()
    assert list(library_versions()) == ["numpy"]
    library_versions.cache_clear()


def test_modules_of_this_package_have_different_versions() -> None:
    """A module without a source is an error."""
    names = ("store.records", "store.artifacts", "training.config", "training.fit")
    assert len({code_version(f"digits.{name}") for name in names}) == 4
    with pytest.raises(StoreError, match=r"digits\.absent: no source found"):
        code_version("digits.absent")


def test_computing_the_version_in_a_thread_does_not_disturb_parsing() -> None:
    """In Python before 3.11.8, `ast.parse` fails if another thread uses it during a garbage collection.

    Prefect uses it while a run starts.
    """
    source, every = (
        Path(ast.__file__).read_text(),
        [module for step in recipes.STEP_MODULES.values() for module in step],
    )
    with switches_of_threads_in_collections(), ThreadPoolExecutor(1) as pool:
        version = pool.submit(code_version_module.find_sources, every)
        while not version.done():
            ast.parse(source)
        assert version.result()


@contextmanager
def switches_of_threads_in_collections() -> Iterator[None]:
    """Collect garbage often, and let another thread run during each collection."""

    def switch(phase: str, info: dict[str, int]) -> None:
        time.sleep(1e-5)

    threshold = gc.get_threshold()
    gc.set_threshold(100)
    gc.callbacks.append(switch)
    try:
        yield
    finally:
        gc.callbacks.remove(switch)
        gc.set_threshold(*threshold)
