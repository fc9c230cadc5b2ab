"""Fixtures of the tests of prediction."""

from typing import Any

import pytest

from digits.images import source


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Record the path of every image that is opened."""
    paths: list[bytes] = []
    real = source.read_entry

    def read(reader: Any, entry: Any, **options: Any) -> bytes:
        paths.append(entry.path)
        return real(reader, entry, **options)

    monkeypatch.setattr(source, "read_entry", read)
    return paths
