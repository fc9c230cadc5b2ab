"""Entry point of the command `digits`: exit codes and error messages.

Exit codes: 0 done; 1 unexpected failure; 2 usage; 3 dataset; 4 artifact store; 5 registry; 6 model; 7 no Prefect
server, worker or deployment where one is needed; 8 something needs attention (`digits status`, `digits doctor`); 9 no
image was read (`digits predict`); 130 interrupted (Ctrl-C, SIGTERM, or a closed terminal); 141 the program that reads
the table of `digits predict --out -` has ended.
`digits/errors.py` has the errors behind 2 to 7.
"""

import os
import sys
from typing import Any, NoReturn

from digits.cli.runtime import INTERRUPTED, STARTUP_VARIABLE, is_interrupted, report_interruption
from digits.errors import DigitsError

UNEXPECTED = 1
NO_API = 7
ALLOCATIONS = 200_000
"""Number of allocations between garbage collections. With Python's default of 700, garbage collection takes a tenth of
the time of importing Prefect."""


def main() -> None:
    """Run the command line; an expected error ends it with one message and the error's exit code."""
    import gc
    import threading

    gc.set_threshold(ALLOCATIONS)
    from digits.cli.commands import Interrupted, create_app

    threading.excepthook = _report_thread_error
    bypass_proxy_locally()
    try:
        create_app(sys.argv[1] if len(sys.argv) > 1 else "")()
    except Interrupted:
        _end_interrupted()
    except DigitsError as error:
        _fail(str(error), error.exit_code)
    except SystemExit:
        raise
    except BaseException as error:
        if is_interrupted():  # such as an error about a server that ended first
            _end_interrupted()
        if message := server_error_message(error):
            _fail(message, NO_API)
        if is_out_of_memory(error):
            _fail("out of memory; free some, then run the same command again to resume", UNEXPECTED)
        raise
    finally:
        gc.freeze()  # saves the garbage collection at the end of the process, which takes long after importing Prefect


def is_out_of_memory(error: BaseException | None) -> bool:
    """Check whether an error means that memory ran out, for a value, a library, a lock or a thread."""
    signs = ("failed to map segment", "can't allocate lock", "can't start new thread")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _report_thread_error(about: Any) -> None:
    """Report an error that ended a thread; if memory ran out, the main thread reports it instead."""
    import threading

    if not is_out_of_memory(about.exc_value):
        threading.__excepthook__(about)


def server_error_message(error: BaseException) -> str | None:
    """Return a message for an error of Prefect's client that concerns the server, None for any other error.

    The client's own message may contain the server's address with a password.
    """
    if "ephemeral Prefect API server" in str(error):
        seconds = os.environ[STARTUP_VARIABLE]
        remedy = f"start one with `digits up`, or increase {STARTUP_VARIABLE}"
        return f"the temporary Prefect server did not start within {seconds} s; {remedy}"
    if not any(kind.__module__.partition(".")[0] == "httpx" for kind in type(error).__mro__):
        return None
    if (code := getattr(getattr(error, "response", None), "status_code", None)) in (401, 403):
        return "the Prefect server requires another password: set PREFECT_API_AUTH_STRING"
    problem = f"answers with the error {code}" if code else f"no longer answers ({type(error).__name__})"
    return f"the Prefect server {problem}; check that it works, see its log, and repeat the command"


def bypass_proxy_locally() -> None:
    """Exclude this machine from the proxy settings; otherwise Prefect's client would use a proxy for a local server."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    excluded = ",".join(filter(None, (hosts, "127.0.0.1", "localhost")))
    os.environ.update(no_proxy=excluded, NO_PROXY=excluded)


def _end_interrupted() -> NoReturn:
    report_interruption()
    sys.exit(INTERRUPTED)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"digits: {message}\n")
    sys.exit(code)
