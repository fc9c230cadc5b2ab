"""Public API: the names of `digits`, loaded on first use."""

import subprocess
import sys
from importlib.metadata import version

import pytest

import digits


def test_each_public_name_can_be_loaded() -> None:
    """From the module in which it is documented."""
    for name in digits.__all__:
        assert name == "__version__" or getattr(digits, name).__doc__
    assert digits.__version__ == version("digits")
    assert set(digits.__all__) <= set(dir(digits))


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'digits' has no attribute 'predictions'"):
        _ = digits.predictions


def test_importing_the_package_loads_no_module_of_it() -> None:
    """Nor NumPy or pandas. A worker process would otherwise load pydantic."""
    heavy = ("digits.", "numpy", "pandas", "pydantic")
    code = f"import sys, digits; dir(digits); print([name for name in sys.modules if name.startswith({heavy})])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
