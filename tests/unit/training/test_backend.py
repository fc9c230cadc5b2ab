"""Tests of the suppression of TensorFlow's start-up messages on standard error."""

import os

import pytest

from digits.training.backend import suppress_startup_messages

MESSAGES = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795513626.636139    8598 port.cc:153] oneDNN custom operations are on.
"""


def test_only_start_up_messages_are_removed_from_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """An error message between them is shown."""
    with suppress_startup_messages():
        os.write(2, MESSAGES + b"F0000 illegal instruction\n" + MESSAGES)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "F0000 illegal instruction\nafter\n"


def test_output_before_an_import_error_is_shown(capfd: pytest.CaptureFixture[str]) -> None:

    def load() -> None:
        with suppress_startup_messages():
            os.write(2, b"libfoo.so: cannot open\n")
            raise ImportError

    with pytest.raises(ImportError):
        load()
    assert capfd.readouterr().err == "libfoo.so: cannot open\n"
