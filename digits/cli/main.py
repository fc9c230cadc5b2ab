"""Entry point of the command `digits`: its commands, exit codes and error messages.

Exit codes: 0 done; 1 unexpected failure; 2 usage; 3 dataset; 4 artifact store; 5 registry; 6 model; 7 no Prefect
server, worker or deployment where one is needed; 130 interrupted. `digits/errors.py` has the errors behind 2 to 7.

Prefect, TensorFlow, NumPy and pydantic are imported by the functions that need them, so that `digits --help` is quick.
"""

import os
import sys
from typing import Any, NoReturn

import typer
from typer.core import TyperGroup

from digits.cli import demo, maintenance, models, predict, review, runtime, system, train

UNEXPECTED = 1
NO_API = 7
INTERRUPTED = 130
RENAMED_OPTIONS = {"--recipe": "--preset"}
ALLOCATIONS = 50_000
"""Allocations before a search for garbage; with Python's 700 it takes a tenth of the time of importing Prefect."""


class CommandGroup(TyperGroup):
    """Group of commands that reports an interruption, and an option that was renamed, in words of its own."""

    def invoke(self, context: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            _fail("interrupted; the same command resumes from what is finished", INTERRUPTED)
        except Exception as error:
            from digits.errors import UsageError

            option = getattr(error, "option_name", "")
            if option in RENAMED_OPTIONS:
                raise UsageError(f"{option} was renamed: use {RENAMED_OPTIONS[option]}") from error
            raise


app = typer.Typer(
    name="digits",
    cls=CommandGroup,
    help="Turn folders of handwritten-digit images into tables you can trust, and keep the model up to date.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected failure, 2 usage, 3 dataset, 4 artifact store, 5 registry, 6 model, "
    "7 no Prefect server, 130 interrupted.",
)
app.add_typer(models.app, name="models")
for _command in (
    train.train,
    train.tune,
    models.promote,
    models.rollback,
    predict.predict,
    predict.inspect,
    review.review,
    system.up,
    system.down,
    system.status,
    system.janitor,
    maintenance.verify,
    maintenance.repair,
    demo.demo,
):
    app.command()(_command)


def main() -> None:
    """Run the command line; an expected error ends it with one message and the error's exit code."""
    import gc
    import threading

    from digits.errors import DigitsError

    gc.set_threshold(ALLOCATIONS)
    threading.excepthook = _report_thread_error
    bypass_proxy_locally()
    try:
        app()
    except DigitsError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if message := server_error_message(error):
            _fail(message, NO_API)
        if is_out_of_memory(error):
            _fail("out of memory; with more of it, the same command resumes from what is finished", UNEXPECTED)
        raise
    finally:
        gc.freeze()  # what Prefect has loaded is not searched for garbage once more before it all goes


def is_out_of_memory(error: BaseException | None) -> bool:
    """Check whether an error means that memory ran out: for values, a library, a lock or a thread."""
    signs = ("failed to map segment", "can't allocate lock", "can't start new thread")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _report_thread_error(about: Any) -> None:
    """Report an error that ended a thread, unless memory ran out, which the main thread reports."""
    import threading

    if not is_out_of_memory(about.exc_value):
        threading.__excepthook__(about)


def server_error_message(error: Exception) -> str | None:
    """Return a message for an error of Prefect's client that concerns the server, None for any other error.

    The client's own message may contain the server's address with a password.
    """
    if "ephemeral Prefect API server" in str(error):
        seconds = os.environ[runtime.STARTUP_VARIABLE]
        remedy = f"start one with `digits up`, or increase {runtime.STARTUP_VARIABLE}"
        return f"the temporary Prefect server did not start within {seconds} s; {remedy}"
    if type(error).__module__.partition(".")[0] == "httpx":
        name = type(error).__name__
        return f"the Prefect server no longer answers ({name}); check that it runs, and repeat the command"
    return None


def bypass_proxy_locally() -> None:
    """Exclude this machine from the use of a proxy, which Prefect's client would use for its own servers too."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    excluded = ",".join(filter(None, (hosts, "127.0.0.1", "localhost")))
    os.environ.update(no_proxy=excluded, NO_PROXY=excluded)


def _fail(message: str, code: int) -> NoReturn:
    sys.stderr.write(f"digits: {message}\n")
    sys.exit(code)
