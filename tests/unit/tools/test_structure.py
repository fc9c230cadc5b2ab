"""Limits on the structure of the code, and the detection of each breach."""

import re
from pathlib import Path

import pytest

from tools import structure

MAX_MODULES, MAX_ARROWS, MAX_LINES = 12, 36, 600
MAX_COMMANDS = 20
"""Limit of modules in `digits.cli`, which has one per group of commands."""
MAX_SERVER = 20
"""Limit of modules in `digits.server`, which has one per concern of operations."""
MAX_MEDIAN, MAX_P90 = 6, 16
PACKAGES = {
    *("images", "data", "store", "model", "training", "outputs", "prediction", "pipeline", "review", "maintenance"),
    *("cli", "server", "images.ink"),
}


def test_the_code_keeps_within_the_limits_of_its_structure() -> None:
    """CONTRIBUTING.md states the same limits."""
    found = structure.measure()
    assert set(found["modules per package"]) == PACKAGES
    assert found["modules per package"].pop("cli") <= MAX_COMMANDS
    assert found["modules per package"].pop("server") <= MAX_SERVER
    assert max(found["modules per package"].values()) <= MAX_MODULES
    assert 0 < found["arrows between packages"] <= MAX_ARROWS
    assert found["circles"] == []
    assert found["longest module"][1] <= MAX_LINES
    middle, p90 = found["function length, median and 90th percentile"]
    assert 0 < middle <= MAX_MEDIAN
    assert middle < p90 <= MAX_P90


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_a_package_lists_its_modules(package: str) -> None:
    place = structure.ROOT / "digits" / package.replace(".", "/")
    listed = re.findall(r"^- `(\w+)`: ", (place / "__init__.py").read_text("utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(path.stem for path in place.glob("*.py") if path.stem != "__init__")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Return a tree in which `images` and `data` import each other, one of them inside a function."""
    sources = {
        "errors.py": '"""Errors."""\n',
        "images/decode.py": "from digits import errors\n\n\ndef late():\n    from digits.data.idx import read\n",
        "data/idx.py": 'from digits.images import decode\ndef read():\n    """Read.\n\n    A file."""\n    return 1\n',
        "cli/main.py": "from digits.data import idx\nfrom digits.images.decode import late\n" + "x = 1\n" * 20,
    }
    for name, source in sources.items():
        path = tmp_path / "digits" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(source)
        (path.parent / "__init__.py").write_text('"""A package."""\n')
    return tmp_path


def test_figures_count_imports_inside_functions_but_not_docstrings(tree: Path) -> None:
    found = structure.measure(tree)
    assert found["modules per package"] == {"cli": 1, "data": 1, "images": 1}
    assert found["arrows between packages"] == 2
    assert found["longest module"] == ("digits.cli.main", 22)
    assert found["function length, median and 90th percentile"][0] == 2
    assert [set(one) for one in found["circles"]] == [{"digits.images.decode", "digits.data.idx"}, {"images", "data"}]


def test_leaf_modules_the_cli_and_the_server_are_no_library_packages() -> None:
    """Their arrows are not counted."""
    names = ("digits.images.decode", "digits.errors", "digits.cli.main", "digits.server.api", "digits.api")
    assert [structure.package_of(name) for name in names] == ["images", None, None, None, None]
