"""Runtime of the commands: the project, its flows, the Prefect API that records their runs, and their interruption.

A command that runs a flow is interrupted by Ctrl-C, by SIGTERM, and when its terminal is closed (SIGHUP). Prefect's own
handler of SIGTERM ends the process at once, so the temporary server that it started would stay. All three signals
interrupt the command instead: the run is recorded as crashed, and Prefect stops its server. If this takes too long, for
example because the server has ended first, all processes are killed. What was finished is not lost.
"""

import importlib
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import Any, ParamSpec, TypeVar

from digits.errors import OperationsError, UsageError
from digits.extras import require_extra

P = ParamSpec("P")
R = TypeVar("R")

STARTUP_VARIABLE = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
INTERRUPTED = 130
MESSAGE = "interrupted; the same command resumes from what is finished"
GRACE_SECONDS = 6.0
"""Seconds after a signal until the processes of the command are killed."""
KILL_SECONDS = 2.0
"""Seconds to wait for the end of killed processes."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def set_verbosity(*, quiet: bool, verbose: bool, progress: bool) -> None:
    """Set what a command prints besides errors and JSON.

    Args:
        quiet: whether to print neither results as text, nor notices, nor progress.
        verbose: whether to print the log of Digits on standard error.
        progress: whether to show progress bars.

    Raises:
        UsageError: if `quiet` and `verbose` are combined.
    """
    if quiet and verbose:
        raise UsageError("found both --quiet and --verbose, expected at most one; leave one of them out")
    if quiet or not progress:
        from digits import terminal
        from digits.cli import output

        terminal.TerminalProgress.is_shown = False
        output.out.quiet = terminal.err.quiet = quiet
    if verbose:
        import logging

        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        logger = logging.getLogger("digits")
        logger.addHandler(handler)
        logger.setLevel(logging.DEBUG)


def require_project() -> Path:
    """Return the directory of the project.

    Raises:
        UsageError: if neither the current directory nor one above it is a project, or its files belong to another
            major version of the library.
    """
    from digits.project import check_version
    from digits.settings import find_project

    project = find_project()
    if project is None:
        raise UsageError(
            f"{Path.cwd()} is not in a Digits project, where the flows are; change to a project or a clone of Digits "
            "(its prefect.yaml has the line `name: digits`), or create a project with `digits init DIRECTORY`"
        )
    check_version(project)
    return project


def require_flows() -> Path:
    """Check that flows can run in this process; return the directory of the project that has them.

    Raises:
        UsageError: if there is no project.
        OperationsError: if Prefect is not installed.
    """
    project = require_project()
    require_extra("prefect", "a flow", error=OperationsError)
    return project


def load_flow(entrypoint: str) -> Callable[..., Any]:
    """Load a flow of the project, and prepare Prefect for running it in this process.

    The directory of the project is put first on the import path, as in a Prefect worker, so that the flow can import
    its modules. Prefect's own loader would also put the current directory there. That may be a folder of downloaded
    files, which must not be imported.

    Args:
        entrypoint: entry point as in prefect.yaml, such as `flows/training.py:train`.

    Raises:
        UsageError: if there is no project, or it has no such flow.
        OperationsError: if Prefect is not installed.
    """
    project = require_flows()
    path, _, name = entrypoint.partition(":")
    if not (project / path).is_file():
        raise UsageError(
            f"{project / path}: there is no such file, expected the file of the flow; restore the project's files"
        )
    prepare_prefect()
    if str(project) not in sys.path:
        sys.path.insert(0, str(project))
    flow = getattr(importlib.import_module(path.removesuffix(".py").replace("/", ".")), name)
    if hasattr(flow, "fn"):
        flow.fn = interruptible(flow.fn)
    loaded: Callable[..., Any] = flow
    return loaded


def prepare_prefect() -> None:
    """Set Prefect's environment, before Prefect is imported; variables that the user has set are kept.

    Prefect does not log to the terminal. A password that is configured for the server is used for requests.
    A temporary server may take two minutes to start, sends no usage statistics, and answers no web page. It requires a
    password: the configured one (`PREFECT_SERVER_API_AUTH_STRING`), else a random one.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    from digits.server.password import VARIABLES, random_password
    from digits.server.prefect_settings import check_sources, configured_api, configured_password, prefect_setting

    check_sources()
    if password := configured_password():
        os.environ["PREFECT_API_AUTH_STRING"] = password
    if configured_api() is None:
        password = prefect_setting("server", "api", "auth_string") or random_password()
        os.environ.update(dict.fromkeys(VARIABLES, password), PREFECT_SERVER_CORS_ALLOWED_ORIGINS="http://127.0.0.1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault(STARTUP_VARIABLE, "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


def find_api() -> tuple[str | None, str | None]:
    """Return the address of the configured Prefect API, or None, and the reason why it cannot be used, or None.

    Raises:
        UsageError: if Prefect cannot read one of its sources of settings.
    """
    from digits.server.prefect_settings import configured_api

    api = configured_api()
    if api is None:
        return None, "no Prefect API is configured"
    from digits.server.api import Access, check_access, hide_secrets  # loads the libraries for requests

    problem = {
        Access.OPEN: None,
        Access.DENIED: "requires another password (PREFECT_API_AUTH_STRING)",
        Access.ABSENT: "does not answer",
    }[check_access(api)]
    return api, problem and f"the Prefect API at {hide_secrets(api)} {problem}"


def is_tracked(*, required: bool) -> bool:
    """Return whether a run that can do without Prefect is recorded by a Prefect API; print a notice if it is not.

    Args:
        required: whether to raise an error if it cannot be recorded.

    Raises:
        OperationsError: if recording is required, and no Prefect API can be used.
        UsageError: if recording is required, and there is no project, or Prefect cannot read its settings.
    """
    from digits.terminal import print_notice

    try:
        api, problem = find_api()
    except UsageError as error:
        if required:
            raise
        api, problem = "unknown", str(error)
    if problem and required:
        raise OperationsError(f"{problem}, and --track requires one; set PREFECT_API_URL to a running server")
    if not api:
        print_notice("running without Prefect; to track runs, start a server and set PREFECT_API_URL")
        return False
    try:
        require_flows()
    except (UsageError, OperationsError) as error:
        if required:
            raise
        problem = problem or str(error)
    if problem:
        print_notice(f"warning: {problem}; running without Prefect, so this run will not be in the Prefect UI")
    return not problem


def begin_flow() -> None:
    """Prepare a run that trains: signals interrupt it, a Prefect API can record it, the terminal shows its progress.

    Raises:
        UsageError: if there is no project.
        OperationsError: if Prefect is not installed, or a configured API cannot be used.
        ModelError: if the extra `train` is not installed.
    """
    from digits.progress import current_progress
    from digits.terminal import TerminalProgress, print_notice
    from digits.training.backend import require_training

    require_flows()
    require_training()
    interrupt_on_signals()
    api, problem = find_api()
    if api and problem:
        raise OperationsError(
            f"{problem}; start the server, or unset PREFECT_API_URL to record the run on a temporary server"
        )
    if not api:
        print_notice("no Prefect API is configured: a temporary server records the run (it takes 10 to 25 s to start)")
    current_progress.set(TerminalProgress())


class _Interruption:
    """State of the only interruption of the process: whether a signal came, and whether this was reported."""

    def __init__(self) -> None:
        self.has_begun = self.is_reported = False


_interruption = _Interruption()


def interrupt_on_signals() -> None:
    """Let signals interrupt the process from now on, except those that are ignored, as after `nohup`."""
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def interruptible(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate the function of a flow: signals interrupt the process while it runs, although Prefect handles them."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with _handlers_kept():
            interrupt_on_signals()
            return function(*args, **kwargs)

    return run


@contextmanager
def _handlers_kept() -> Iterator[None]:
    """Restore the handlers of the signals at the end."""
    before = {number: signal.getsignal(number) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - Python passes them
    """Raise `KeyboardInterrupt`, and kill the process if it has not ended after `GRACE_SECONDS`. Do nothing twice."""
    if _interruption.has_begun:
        return
    _interruption.has_begun = True
    killer = threading.Timer(GRACE_SECONDS, _kill)
    killer.daemon = True
    killer.start()
    raise KeyboardInterrupt


def is_interrupted() -> bool:
    """Return whether a signal has interrupted the process."""
    return _interruption.has_begun


def report_interruption() -> None:
    """Print that the command was interrupted, once per process."""
    if not _interruption.is_reported:
        _interruption.is_reported = True
        sys.stderr.write(f"digits: {MESSAGE}\n")
        sys.stderr.flush()


def _kill() -> None:
    """Kill the processes that this one has started, and this one."""
    import psutil

    report_interruption()
    children = psutil.Process().children(recursive=True)
    for process in children:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(children, timeout=KILL_SECONDS)
    os._exit(INTERRUPTED)
