"""Code version: a hash over the sources that a stage uses and the versions of numeric libraries."""

import ast
import hashlib
import importlib.metadata
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import TypeGuard

from digits.errors import StoreError
from digits.store.records import digest_of

PACKAGE = Path(__file__).parents[__name__.count(".") - 1]
"""Directory of the top-level package. Only imports of its modules are followed."""

NUMERIC_LIBRARIES = ("keras", "numpy", "onnxruntime", "pillow", "scikit-learn", "tensorflow", "tensorflow-cpu")
"""Distributions whose versions affect computed numbers."""


@cache
def library_versions() -> dict[str, str]:
    """Return the versions of the installed libraries that affect computed numbers, by distribution name."""
    versions = {}
    for name in NUMERIC_LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@cache
def code_version(*modules: str, libraries: tuple[str, ...] = NUMERIC_LIBRARIES) -> str:
    """Return the code version of modules: a SHA-256 over their sources, all that they import, and library versions.

    Imports are followed within this package, also those inside functions. A source that is only a docstring does not
    count, and imports under `if TYPE_CHECKING` are not followed.

    Args:
        modules: dotted names of modules, such as `digits.training.fit`.
        libraries: distributions whose versions are part of the hash.

    Raises:
        StoreError: if there is no source for one of the modules.
    """
    versions = {name: version for name, version in library_versions().items() if name in libraries}
    sources = {name: hashlib.sha256(source).hexdigest() for name, source in find_sources(modules).items()}
    return digest_of({"sources": sources, "versions": versions})


def find_sources(modules: Iterable[str]) -> dict[str, bytes]:
    """Return the sources of modules and of all modules they import, without sources that are only a docstring."""
    found: dict[str, bytes] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = _source_of(name)
            waiting += [*_imports_from_package(found[name]), *_packages_around(name)]
    return {name: source for name, source in found.items() if not _is_docstring(source)}


def _source_of(module: str) -> bytes:
    file = _file_of(module)
    if file is None:
        raise StoreError(f"{module}: no source found, so its code version cannot be computed; reinstall the package")
    return file.read_bytes()


def _file_of(module: str) -> Path | None:
    """Return the source file of a module or a subpackage, None if the name is neither."""
    place = PACKAGE.joinpath(*module.split(".")[1:])
    return next((file for file in (place.with_suffix(".py"), place / "__init__.py") if file.is_file()), None)


def _packages_around(module: str) -> list[str]:
    """Return the packages that contain a module, except the top-level one, which loads its names lazily."""
    parents = module.split(".")[:-1]
    return [".".join(parents[:depth]) for depth in range(2, len(parents) + 1)]


def _imports_from_package(source: bytes) -> list[str]:
    """Return the modules of this package that a source imports anywhere, except under `if TYPE_CHECKING`."""
    imported: list[str] = []
    waiting: list[ast.AST] = [ast.parse(source)]
    while waiting:
        node = waiting.pop()
        imported += _modules_named_by(node)
        waiting += node.orelse if _is_for_type_checking(node) else ast.iter_child_nodes(node)
    return [module for module in imported if module.partition(".")[0] == PACKAGE.name]


def _modules_named_by(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom) and node.module:
        modules = [f"{node.module}.{alias.name}" for alias in node.names]
        return [module if _file_of(module) else node.module for module in modules]
    return []


def _is_for_type_checking(node: ast.AST) -> TypeGuard[ast.If]:
    return isinstance(node, ast.If) and ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def _is_docstring(source: bytes) -> bool:
    return all(isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) for node in ast.parse(source).body)
