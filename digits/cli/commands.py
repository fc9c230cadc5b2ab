"""Application: the command `digits` with all its subcommands.

The modules of the commands import Prefect, TensorFlow, NumPy and pydantic inside functions, so that `digits --help` is
fast.
"""

from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from digits.cli import (
    backup,
    demo,
    deploy,
    drift,
    init,
    inspect,
    maintenance,
    models,
    predict,
    review,
    status,
    system,
    train,
)
from digits.errors import UsageError

RENAMED_OPTIONS = {"--recipe": "--preset"}
"""Options of earlier releases, and their present names; see `digits.settings` for settings in files."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """Interruption of a command by the user; Typer would print its own message for a `KeyboardInterrupt`."""


class CommandGroup(TyperGroup):
    """Group of commands that replaces two errors: those of an interruption, and of an option that was renamed."""

    def invoke(self, context: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(context)
        except KeyboardInterrupt as interrupt:
            raise Interrupted from interrupt
        except Exception as error:
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
    "7 no Prefect server, 8 something needs attention, 9 no image was read, 130 interrupted.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"digits {version('digits')}")
        raise typer.Exit


@app.callback()
def digits(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Declare the options of `digits` itself."""


app.add_typer(models.app, name="models")
app.add_typer(drift.app, name="drift")
for _command in (
    train.train,
    train.tune,
    models.promote,
    models.rollback,
    predict.predict,
    inspect.inspect,
    review.review,
    system.up,
    deploy.deploy,
    system.down,
    status.status,
    system.janitor,
    maintenance.verify,
    maintenance.repair,
    backup.backup,
    backup.restore,
    demo.demo,
    init.init,
):
    app.command()(_command)
