"""What loading TensorFlow leaves on standard error."""

import os

import pytest

from digits.training.backend import suppress_startup_messages

CHATTER = b"""WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795513626.636139    8598 port.cc:153] oneDNN custom operations are on.
"""


def test_the_remarks_of_tensorflow_are_kept_from_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    """What it says before its log level counts is dropped; a real complaint between such lines is not."""
    with suppress_startup_messages():
        os.write(2, CHATTER + b"F0000 illegal instruction\n" + CHATTER)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "F0000 illegal instruction\nafter\n"


def test_nothing_is_lost_when_loading_fails(capfd: pytest.CaptureFixture[str]) -> None:
    """What was printed before the error comes out with it."""

    def load() -> None:
        with suppress_startup_messages():
            os.write(2, b"libfoo.so: cannot open\n")
            raise ImportError

    with pytest.raises(ImportError):
        load()
    assert capfd.readouterr().err == "libfoo.so: cannot open\n"
