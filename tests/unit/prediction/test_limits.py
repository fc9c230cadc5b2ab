"""Limits of a worker process: the timer of an image."""

import signal
import time
from collections.abc import Iterator

import pytest

from digits.prediction.limits import ImageLimits, Position, open_position_file, read_position

SECONDS = 1000.0


@pytest.fixture
def limits() -> Iterator[ImageLimits]:
    """Yield limits of this process; its handler of SIGALRM is restored."""
    before = signal.getsignal(signal.SIGALRM)
    with open_position_file() as file:
        limits = ImageLimits(file.fileno())
        yield limits
        limits.end_images()
        assert read_position(file) is None
    signal.signal(signal.SIGALRM, before)


def remaining() -> float:
    """Return the seconds until the timer ends the process; 0 if it is stopped."""
    return signal.getitimer(signal.ITIMER_REAL)[0]


def test_an_image_has_at_least_its_time_and_little_more(limits: ImageLimits) -> None:
    for number in range(3):
        limits.begin_image(number, SECONDS)
        assert SECONDS < remaining() <= 1.05 * SECONDS


def test_another_time_limit_starts_the_timer_anew(limits: ImageLimits) -> None:
    limits.begin_image(0, SECONDS)
    limits.begin_image(1, SECONDS / 2)
    assert remaining() <= 0.6 * SECONDS
    limits.begin_image(2, SECONDS)
    assert remaining() > SECONDS


def test_the_timer_starts_anew_when_less_than_the_time_is_left(limits: ImageLimits) -> None:
    limits.begin_image(0, 20)
    time.sleep(1.05)
    assert remaining() < 20
    limits.begin_image(1, 20)
    assert remaining() > 20


def test_the_timer_is_stopped_between_batches_and_starts_anew(limits: ImageLimits) -> None:
    limits.begin_image(0, SECONDS)
    limits.end_images()
    assert remaining() == 0
    limits.begin_image(1, SECONDS)
    assert remaining() > SECONDS


def test_the_position_of_each_image_is_noted() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with open_position_file() as file:
        limits = ImageLimits(file.fileno())
        limits.begin_image(7, SECONDS)
        limits.begin_decoding(7)
        assert read_position(file) == Position(7)
        limits.begin_image(8, SECONDS, 3)
        assert read_position(file) == Position(8, 3)
        limits.end_images()
    signal.signal(signal.SIGALRM, before)
