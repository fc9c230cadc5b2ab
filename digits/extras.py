"""Extras: parts of Digits that need libraries which `pip install digits` leaves out."""

import importlib.util

from digits.errors import DigitsError, UsageError

EXTRAS = {
    "keras": "train",
    "pandas": "pandas",
    "prefect": "flows",
    "pyarrow": "parquet",
    "sklearn": "train",
    "tensorflow": "train",
}
"""Extra of the package (`pip install 'digits[NAME]'`) with each library, by the name of its module."""


def require_extra(library: str, purpose: str, *, error: type[DigitsError] = UsageError) -> None:
    """Check that a library is installed, without importing it.

    Args:
        library: module of the library, one of `EXTRAS`.
        purpose: what needs the library, such as "Parquet".
        error: class of the error to raise.

    Raises:
        DigitsError: if the library is not installed. The message names the command that installs it.
    """
    if importlib.util.find_spec(library) is None:
        raise error(f"{purpose} needs {library}, which is not installed: pip install 'digits[{EXTRAS[library]}]'")
