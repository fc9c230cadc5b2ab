"""Code version: a hash over the sources that a stage uses and the versions of numeric libraries."""

import dis
import hashlib
import importlib.metadata
import os
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from importlib.machinery import SourceFileLoader
from itertools import takewhile
from pathlib import Path
from types import CodeType
from typing import cast

from digits.errors import StoreError
from digits.store.records import digest_of

PACKAGE = Path(__file__).parents[__name__.count(".") - 1]
"""Directory of the top-level package. Only imports of its modules are followed."""

NUMERIC_LIBRARIES = ("keras", "numpy", "onnxruntime", "pillow", "scikit-learn", "tensorflow", "tensorflow-cpu")
"""Distributions whose versions affect computed numbers."""
_IMPORT = dis.opmap["IMPORT_NAME"]


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
    found: dict[str, tuple[bytes, CodeType]] = {}
    waiting = list(modules)
    while waiting:
        name = waiting.pop()
        if name not in found:
            file = _require_file(name)
            found[name] = file.read_bytes(), _bytecode_of(name, file)
            waiting += [*_imports_from_package(found[name][1]), *_packages_around(name)]
    return {name: source for name, (source, code) in found.items() if not _is_docstring(code)}


def _require_file(module: str) -> Path:
    file = _file_of(module)
    if file is None:
        raise StoreError(f"{module}: no source found, so its code version cannot be computed; reinstall the package")
    return file


def _file_of(module: str) -> Path | None:
    """Return the source file of a module or a subpackage, None if the name is neither."""
    place = os.path.join(PACKAGE, *module.split(".")[1:])  # noqa: PTH118 - called for hundreds of names
    return next((Path(file) for file in (f"{place}.py", f"{place}/__init__.py") if os.path.isfile(file)), None)  # noqa: PTH113


def _packages_around(module: str) -> list[str]:
    """Return the packages that contain a module, except the top-level one, which loads its names lazily."""
    parents = module.split(".")[:-1]
    return [".".join(parents[:depth]) for depth in range(2, len(parents) + 1)]


def _imports_from_package(code: CodeType) -> list[str]:
    """Return the modules of this package that a source imports anywhere, except under `if TYPE_CHECKING`."""
    imported = [module for one in _all_code(code) for module in _imports_of(one)]
    return [module for module in imported if module.partition(".")[0] == PACKAGE.name]


def _bytecode_of(module: str, file: Path) -> CodeType:
    """Return the bytecode of a source, from the cache of the interpreter (`__pycache__`) if it is there.

    The imports are found in bytecode, because `ast.parse` can fail while another thread uses it: Python before 3.11.8
    counts the depth of recursion once for all threads (python/cpython gh-106905).
    """
    code = SourceFileLoader(module, str(file)).get_code(module)
    return cast("CodeType", code)  # None for modules of another kind only


def _all_code(code: CodeType) -> Iterator[CodeType]:
    """Yield the bytecode of a module, and of all functions and classes in it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _all_code(constant)


def _imports_of(code: CodeType) -> Iterator[str]:
    """Yield the modules that bytecode imports, without functions and classes in it."""
    last = 2 * code.co_code[::2].rfind(_IMPORT)
    instructions = list(takewhile(lambda one: one.offset <= last, dis.get_instructions(code) if last >= 0 else ()))
    resume = 0
    for number, one in enumerate(instructions):
        if one.argval == "TYPE_CHECKING" and (end := _end_of_condition(instructions[number + 1 : number + 3])):
            resume = end
        if one.opcode == _IMPORT and one.offset >= resume:
            yield from _modules_named_by(one.argval, instructions[number - 1].argval)


def _end_of_condition(following: Sequence[dis.Instruction]) -> int:
    """Return the offset at which code resumes if a condition does not hold; 0 if no condition is evaluated."""
    jumps = (one.argval for one in following if one.opname.startswith("POP_JUMP") and one.opname.endswith("IF_FALSE"))
    return int(next(jumps, 0))


def _modules_named_by(module: str, names: Sequence[str] | None) -> list[str]:
    """Return the modules that `import module`, or `from module import names`, imports."""
    modules = [f"{module}.{name}" for name in names or ()]
    return [one if _file_of(one) else module for one in modules] or [module]


def _is_docstring(code: CodeType) -> bool:
    return set(code.co_names) <= {"__doc__"} and not any(isinstance(one, CodeType) for one in code.co_consts)
