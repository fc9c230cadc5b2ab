"""Licences of the locked distributions, written to docs/licences.md from the metadata of the installed distributions.

python -m tools.licences        # or `make licences`
"""

import argparse
from collections.abc import Iterator
from importlib.metadata import PackageMetadata, PackageNotFoundError, metadata
from itertools import groupby
from pathlib import Path

from tools.locked import LockedDistribution, read_lock

PAGE = Path(__file__).resolve().parents[1] / "docs" / "licences.md"

BY_HAND = {
    "async-timeout": ("Apache-2.0", "its classifier; only for Python before 3.11.3"),
    "matplotlib": ("LicenseRef-matplotlib", "the text in its metadata; like Python's own licence"),
    "namex": ("Apache-2.0", "its LICENSE file"),
    "python-dateutil": ("Apache-2.0 OR BSD-3-Clause", "its LICENSE file"),
    "pywin32": ("PSF-2.0", "its classifier; only for Windows"),
    "tensorflow": ("Apache-2.0", "the licence of tensorflow-cpu; only for platforms without tensorflow-cpu"),
    "text-unidecode": ("Artistic-1.0 OR GPL-2.0-or-later", "its LICENSE file"),
    "whenever": ("MIT", "its metadata; only from Python 3.13 on"),
}
"""Licences that the metadata do not state, or of distributions that are not installed on every platform, each with its
source."""

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

`make licences` writes this page. It lists each distribution in `requirements.lock` with the licence that it states.
"BSD" means that it does not state which BSD licence.

## Copyleft

None of these licences binds code that only uses the distribution. Digits, and what you build on it, may have any
licence. If you redistribute the distributions themselves, these have further conditions:

{copyleft}

Wheels also contain other libraries, under the licences that their `*.dist-info` lists.
The ones with a copyleft licence are FFmpeg in opencv-python-headless (LGPL-2.1), libgfortran and libquadmath with
OpenBLAS in numpy, scipy and opencv-python-headless (GPL-3.0 with the runtime exception; LGPL-2.1), and libgomp in
scikit-learn (GPL-3.0 with the same exception). All of them are shared libraries that can be replaced.

## All

| distribution | version | licence |
|---|---|---|
"""

_TERMS = {
    "MPL": "if you change its files and redistribute them, you must publish the changes",
    "GPL": "you can choose the other licence",
}


def render_page() -> str:
    """Return the text of the page."""
    rows = list(_rows())
    copyleft = "\n".join(
        f"- {name}: {licence}; {_terms(licence)}" for name, _, licence in rows if _is_copyleft(licence)
    )
    table = "".join(f"| {name} | {versions} | {licence} |\n" for name, versions, licence in rows)
    return _HEAD.format(copyleft=copyleft) + table


def _rows() -> Iterator[tuple[str, str, str]]:
    for name, versions in groupby(sorted(read_lock(), key=_sort_key), key=lambda each: each.name):
        yield name, ", ".join(each.version for each in versions), find_licence(name)


def _sort_key(each: LockedDistribution) -> tuple[str, str]:
    return each.name, each.version


def find_licence(name: str) -> str:
    """Return the licence of a distribution, by its SPDX name if that is known.

    Raises:
        LookupError: if neither its metadata nor `BY_HAND` states a licence.
    """
    if name in BY_HAND:
        return BY_HAND[name][0]
    try:
        fields = metadata(name)
    except PackageNotFoundError:
        raise LookupError(f"{name} is not installed here: add its licence to BY_HAND in {__file__}") from None
    expression, text = (_field(fields, name) for name in ("License-Expression", "License"))
    if expression:
        return expression
    classifiers = [line.removeprefix(_CLASSIFIER) for line in fields.get_all("Classifier") or () if _CLASSIFIER in line]
    if text and "\n" not in text and (text != "BSD" or not classifiers):
        return _NAMES.get(text, text)
    if classifiers:
        return " OR ".join(_NAMES[line] for line in classifiers)
    raise LookupError(f"{name} does not state its licence: add it to BY_HAND in {__file__}, with its source")


def _field(fields: PackageMetadata, name: str) -> str:
    return fields[name].strip() if name in fields else ""


def _is_copyleft(licence: str) -> bool:
    return any(name in licence for name in _COPYLEFT)


def _terms(licence: str) -> str:
    return next(terms for name, terms in _TERMS.items() if name in licence)


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description="Write docs/licences.md.").parse_args()
    PAGE.write_text(render_page(), encoding="utf-8")


if __name__ == "__main__":
    main()
