"""The licences of all that is locked, as docs/licences.md: by what the installed distributions say of themselves.

make licences
"""

from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from itertools import groupby
from pathlib import Path

from tools.locked import Locked, locked

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"

_BY_HAND = {
    "async-timeout": ("Apache-2.0", "its classifier; only for Python before 3.11.3"),
    "matplotlib": ("LicenseRef-matplotlib", "its metadata hold the text: like Python's own"),
    "namex": ("Apache-2.0", "its LICENSE file"),
    "python-dateutil": ("Apache-2.0 OR BSD-3-Clause", "its LICENSE file"),
    "pywin32": ("PSF-2.0", "its classifier; only for Windows"),
    "tensorflow": ("Apache-2.0", "as tensorflow-cpu; only where that does not exist"),
    "text-unidecode": ("Artistic-1.0 OR GPL-2.0-or-later", "its LICENSE file"),
    "whenever": ("MIT", "its metadata; only from Python 3.13 on"),
}
"""Of those whose metadata say nothing, or not enough, or that not every platform installs: and where it was found."""

_NAMES = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD 2-Clause License": "BSD-2-Clause",
    "BSD 3-Clause": "BSD-3-Clause",
    "BSD 3-Clause License": "BSD-3-Clause",
    "BSD License": "BSD",
    "ISC License": "ISC",
    "ISC License (ISCL)": "ISC",
    "MIT Licence": "MIT",
    "MIT License": "MIT",
    "MIT license": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSFL": "PSF-2.0",
    "Python Software Foundation License": "PSF-2.0",
    "The MIT License (MIT)": "MIT",
}
_COPYLEFT = ("GPL", "MPL")
_CLASSIFIER = "License :: OSI Approved :: "

_HEAD = """\
# Licences of the dependencies

`make licences` writes this page: every distribution of `requirements.lock`, with the licence that it states for itself.
"BSD" stands where it does not say which.

## Copyleft

None of them binds the code that uses it, so Digits and what is built on it may have any licence.
Who passes the distributions on owes more for these:

{copyleft}

Wheels hold libraries of others too, under the licences that their `*.dist-info` lists.
Of those, copyleft are FFmpeg in opencv-python-headless (LGPL-2.1), libgfortran and libquadmath beside OpenBLAS in
numpy, scipy and opencv-python-headless (GPL-3.0 with the runtime exception; LGPL-2.1), and libgomp in scikit-learn
(GPL-3.0 with the same exception): all are shared libraries that can be replaced.

## All

| distribution | version | licence |
|---|---|---|
"""

_TERMS = {
    "MPL": "whoever changes its files and passes them on has to publish the changes",
    "GPL": "the other licence can be chosen instead",
}


def page() -> str:
    """Give the text of the page."""
    rows = list(_rows())
    copyleft = "\n".join(
        f"- {name}: {licence}; {_terms(licence)}" for name, _, licence in rows if _is_copyleft(licence)
    )
    table = "".join(f"| {name} | {versions} | {licence} |\n" for name, versions, licence in rows)
    return _HEAD.format(copyleft=copyleft) + table


def _rows() -> Iterator[tuple[str, str, str]]:
    for name, versions in groupby(sorted(locked(), key=_place), key=lambda each: each.name):
        yield name, ", ".join(each.version for each in versions), licence_of(name)


def _place(each: Locked) -> tuple[str, str]:
    return each.name, each.version


def licence_of(name: str) -> str:
    """Give a distribution's licence, by its SPDX name where it can be told.

    Raises:
        LookupError: neither its metadata nor this module say.
    """
    if name in _BY_HAND:
        return _BY_HAND[name][0]
    try:
        told = metadata(name)
    except PackageNotFoundError:
        raise LookupError(f"{name} is not installed here: add its licence to _BY_HAND in {__file__}") from None
    expression, text = (_field(told, name) for name in ("License-Expression", "License"))
    if expression:
        return expression
    classifiers = [line.removeprefix(_CLASSIFIER) for line in told.get_all("Classifier") or () if _CLASSIFIER in line]
    if text and "\n" not in text and (text != "BSD" or not classifiers):
        return _NAMES.get(text, text)
    if classifiers:
        return " OR ".join(_NAMES[line] for line in classifiers)
    raise LookupError(f"{name} does not state its licence: add it to _BY_HAND in {__file__}, and where you found it")


def _field(told: PackageMetadata, name: str) -> str:
    return told[name].strip() if name in told else ""


def _is_copyleft(licence: str) -> bool:
    return any(name in licence for name in _COPYLEFT)


def _terms(licence: str) -> str:
    return next(terms for name, terms in _TERMS.items() if name in licence)


def main() -> None:
    """Write the page."""
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
