"""The errors that Digits raises on purpose; each message says what was found, what was expected, what to do.

    DigitsError                 1   anything below, for `except DigitsError`
    +-- UsageError              2   an option, a configuration file or a path that can't be meant
    +-- DataError               3   a dataset that can't be had, or that must not be trained on
    |   +-- DownloadError       3   every route to a dataset failed
    +-- StoreError              4   the artifact store: missing, damaged, full
    |   +-- MissingArtifactError  4   an artifact that something refers to is not in the store
    |   +-- CorruptArtifactError  4   an artifact or a record does not have the recorded hash
    |   +-- PlanGoneError         4   another run carried out the plan of a prediction, and its table was replaced
    +-- RegistryError           5   no such model version, no champion, nothing to roll back to
    +-- ModelError              6   a model that can't be built, exported or trusted
    +-- OperationsError         7   no Prefect server, worker or deployment where one is needed
    +-- DecodeError             -   a file that is no readable image: in `digits.images`, with its status in the table

The number is the exit code of the command that ends with the error; no command ends with a `DecodeError`.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class DigitsError(Exception):
    """Base of every expected error: shown to users as one message, without a traceback."""

    exit_code = 1


class UsageError(DigitsError):
    """An option, a configuration file or a path that can't be meant."""

    exit_code = 2


class DataError(DigitsError):
    """A dataset that can't be had, or that must not be trained on."""

    exit_code = 3


class DownloadError(DataError):
    """Every route to a dataset failed."""


class StoreError(DigitsError):
    """The artifact store could not do what was asked."""

    exit_code = 4


class MissingArtifactError(StoreError):
    """An artifact that something refers to is not in the store."""


class CorruptArtifactError(StoreError):
    """An artifact or a record does not have the hash that was recorded for it."""


class PlanGoneError(StoreError):
    """Another run carried out the plan of a prediction, and its table was replaced since: plan again."""


class RegistryError(DigitsError):
    """No such model version, no champion, or nothing to roll back to."""

    exit_code = 5


class ModelError(DigitsError):
    """A model that can't be built, exported or trusted."""

    exit_code = 6


class OperationsError(DigitsError):
    """No Prefect server, worker or deployment where one is needed."""

    exit_code = 7


def error_class_for(exit_code: int) -> type[DigitsError] | None:
    """Give the kind of error with which another process of ours ended, None when it did not end with one."""
    kinds = (UsageError, DataError, StoreError, RegistryError, ModelError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), None)


@contextmanager
def os_errors_as(kind: type[DigitsError], place: object, problem: str, remedy: str) -> Iterator[None]:
    """Raise an error of ours instead of an `OSError`: `<place>: <problem> (<what the system says>); <remedy>`.

    Args:
        kind: class of the error.
        place: what could not be read or written, such as a path.
        problem: what failed, such as "could not be written".
        remedy: what the user can do.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{place}: {problem} ({_reason(error, str(place))}); {remedy}") from error


def _reason(error: OSError, place: str) -> str:
    """Return what the system says, with the file where it is another one than the message names."""
    reason = error.strerror or str(error)
    file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else place
    return reason if file == place else f"{reason}: {file}"
