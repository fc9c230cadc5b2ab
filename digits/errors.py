"""Errors that Digits raises; each message states what was found, what was expected, and a remedy.

    DigitsError                 1   base class of all errors below
    +-- UsageError              2   invalid option, configuration file or path
    +-- DataError               3   dataset unavailable, or unsuitable for training
    |   +-- DownloadError       3   every route to a published dataset failed
    +-- StoreError              4   artifact store full, not writable or damaged
    |   +-- MissingArtifactError  4   referenced artifact not in the store
    |   +-- CorruptArtifactError  4   artifact or record without the recorded hash
    |   +-- PlanGoneError         4   prediction plan that another run completed and whose table was replaced since
    +-- RegistryError           5   no such model version, no champion, or nothing to roll back to
    +-- ModelError              6   model that cannot be built, exported or trusted
    +-- OperationsError         7   no Prefect server, worker or deployment where one is needed
    +-- DecodeError             -   file that is not a readable image; in `digits.images.decode`

The number is the exit code of a command that ends with the error. No command ends with a `DecodeError`: the file gets a
row with a status instead.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class DigitsError(Exception):
    """Base class of all expected errors, which users see as a message without a traceback."""

    exit_code = 1


class UsageError(DigitsError):
    """Invalid option, configuration file or path."""

    exit_code = 2


class DataError(DigitsError):
    """Dataset that is unavailable, or unsuitable for training."""

    exit_code = 3


class DownloadError(DataError):
    """Published dataset to which every route failed."""


class StoreError(DigitsError):
    """Failure of the artifact store, which is full, not writable or damaged."""

    exit_code = 4


class MissingArtifactError(StoreError):
    """Referenced artifact that is not in the store."""


class CorruptArtifactError(StoreError):
    """Artifact or record whose content does not match its recorded hash."""


class PlanGoneError(StoreError):
    """Prediction plan that another run completed and whose table was replaced since; a new plan is needed."""


class RegistryError(DigitsError):
    """Missing model version or champion, or nothing to roll back to."""

    exit_code = 5


class ModelError(DigitsError):
    """Model that cannot be built, exported or trusted."""

    exit_code = 6


class OperationsError(DigitsError):
    """Missing Prefect server, worker or deployment."""

    exit_code = 7


def error_class_for(exit_code: int) -> type[DigitsError] | None:
    """Return the class of the error that ended another Digits process; None if no such error did.

    Args:
        exit_code: exit code of the process.
    """
    kinds = (UsageError, DataError, StoreError, RegistryError, ModelError)
    return next((kind for kind in kinds if kind.exit_code == exit_code), None)


@contextmanager
def os_errors_as(kind: type[DigitsError], place: object, problem: str, remedy: str) -> Iterator[None]:
    """Raise a Digits error in place of an `OSError`: `<place>: <problem> (<reason of the system>); <remedy>`.

    Args:
        kind: class of the error to raise.
        place: what could not be read or written, such as a path.
        problem: what failed, such as "could not be written".
        remedy: what you can do about it.
    """
    try:
        yield
    except OSError as error:
        raise kind(f"{place}: {problem} ({_reason(error, str(place))}); {remedy}") from error


def _reason(error: OSError, place: str) -> str:
    """Return the system's reason, followed by the file that caused the error unless the message names it already."""
    reason = error.strerror or str(error)
    file = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes | os.PathLike) else place
    return reason if file == place else f"{reason}: {file}"
