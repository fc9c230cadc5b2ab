"""Figures of the code's structure: `python -m tools.structure` prints them, and a test compares them with limits."""

import argparse
import ast
import json
from collections import Counter
from collections.abc import Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from statistics import median, quantiles
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
ON_TOP = ("cli", "server")  # may import the whole library, so their arrows are not counted
Graph = Mapping[str, set[str]]


def parse_modules(root: Path) -> dict[str, ast.Module]:
    """Return the syntax tree of each module of `digits` by its dotted name."""
    paths = {".".join(path.relative_to(root).with_suffix("").parts): path for path in root.glob("digits/**/*.py")}
    return {name: ast.parse(path.read_text("utf-8")) for name, path in sorted(paths.items())}


def file_graph(modules: Mapping[str, ast.Module]) -> dict[str, set[str]]:
    """Return the modules of `digits` that each module imports, at its top or inside a function."""
    graph: dict[str, set[str]] = {}
    for name, tree in modules.items():
        froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module]
        named = {f"{node.module}.{alias.name}" for node in froms for alias in node.names}
        graph[name] = ({*named, *(str(node.module) for node in froms)} & modules.keys()) - {name}
    return graph


def package_of(module: str) -> str | None:
    """Return the library package of a module, such as `images`; None for leaf modules, `cli`, `server` and `api`."""
    _, package, *rest = module.split(".")
    return package if rest and package not in ON_TOP else None


def package_graph(graph: Graph) -> dict[str, set[str]]:
    """Return the library packages that each library package imports."""
    arrows = {(package_of(one), package_of(other)) for one, others in graph.items() for other in others}
    packages = {package for name in graph if (package := package_of(name))}
    return {one: {other for source, other in arrows if source == one and other not in (one, None)} for one in packages}


def find_circle(graph: Graph) -> list[str]:
    """Return a circle of imports as its members in order; an empty list if there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def count_lines(node: ast.stmt) -> int:
    """Return the number of lines of a statement."""
    return (node.end_lineno or 0) - node.lineno + 1


def measure(root: Path = ROOT) -> dict[str, Any]:
    """Return all figures of the package `digits` in a directory."""
    modules = parse_modules(root)
    packages = package_graph(files := file_graph(modules))
    lines = {name: len((root / f"{name.replace('.', '/')}.py").read_text("utf-8").splitlines()) for name in modules}
    functions = [node for tree in modules.values() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    lengths = [count_lines(one) - (count_lines(one.body[0]) if ast.get_docstring(one) else 0) for one in functions]
    inside = [".".join(name.split(".")[1:-1]) for name in modules if name.count(".") > 1 and not name.endswith("__")]
    return {
        "modules per package": dict(Counter(inside)),
        "arrows between packages": sum(map(len, packages.values())),
        "circles": list(filter(None, (find_circle(files), find_circle(packages)))),
        "longest module": max(lines.items(), key=lambda item: item[1]),
        "function length, median and 90th percentile": (median(lengths), quantiles(lengths, n=10)[-1]),
    }


if __name__ == "__main__":
    argparse.ArgumentParser(description="Print figures of the code's structure.").parse_args()
    print(json.dumps(measure(), indent=1))
