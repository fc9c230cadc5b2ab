"""Application: the command `digits` with all its subcommands.

The modules of the commands import Prefect, TensorFlow, NumPy and pydantic inside functions, so that `digits --help` is
fast.
"""

import sys
from collections.abc import Callable
from contextlib import suppress
from types import ModuleType
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
from digits.cli.app import Command, hide_types_of_flags
from digits.errors import UsageError

RENAMED_OPTIONS = {"--recipe": "--preset"}
"""Options of earlier releases, and their present names; see `digits.settings` for settings in files."""


HELP_OPTIONS = ("-h", "--help")
_UNUSED_FOR_HELP = {"rich.markdown": "Markdown", "rich.traceback": "Traceback"}
"""Modules that Typer imports for a page of help, with the class it takes from each, and that this command never uses:
its texts are not Markdown, and Typer formats no exceptions."""


class Interrupted(Exception):  # noqa: N818 - not an error
    """Interruption of a command by the user; Typer would print its own message for a `KeyboardInterrupt`."""


def import_help() -> None:
    """Import Typer's pages of help without `_UNUSED_FOR_HELP`, which takes longer than the rest.

    A version of Typer that needs more of these modules imports all of them itself, when it prints the page.
    """
    added = [name for name in _UNUSED_FOR_HELP if name not in sys.modules]
    for name in added:
        sys.modules[name] = ModuleType(name)
        setattr(sys.modules[name], _UNUSED_FOR_HELP[name], type(_UNUSED_FOR_HELP[name], (), {}))
    try:
        with suppress(ImportError):
            import typer.rich_utils

            typer.rich_utils.STYLE_OPTIONS_TABLE_PADDING = (0, 1, 0, 0)  # type: ignore[assignment]
    finally:
        for name in added:
            del sys.modules[name]


class CommandGroup(TyperGroup):
    """Group of commands that replaces two errors: those of an interruption, and of an option that was renamed."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments, after the import of the pages of help or the start of a worker process if they need it.

        Typer needs 0.1 s for parsing.
        """
        if not args or {*HELP_OPTIONS} & {*args}:
            import_help()
        elif args[0] == "predict" and "--deploy" not in args:
            ctx.with_resource(predict.start_early())
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page of help."""
        hide_types_of_flags(self.get_params(ctx))
        super().format_help(ctx, formatter)

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


PREDICT, MODELS, REVIEW, SYSTEM, UPKEEP = "Predict", "Models", "Review", "System", "Upkeep"
COMMANDS: dict[Callable[..., None], str] = {
    predict.predict: PREDICT,
    inspect.inspect: PREDICT,
    demo.demo: PREDICT,
    train.train: MODELS,
    train.tune: MODELS,
    models.promote: MODELS,
    models.rollback: MODELS,
    review.review: REVIEW,
    init.init: SYSTEM,
    system.up: SYSTEM,
    system.down: SYSTEM,
    status.status: SYSTEM,
    deploy.deploy: SYSTEM,
    system.janitor: UPKEEP,
    maintenance.doctor: UPKEEP,
    maintenance.verify: UPKEEP,
    maintenance.repair: UPKEEP,
    backup.backup: UPKEEP,
    backup.restore: UPKEEP,
}
"""Panel of each command on the page of help of `digits`."""


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"digits {version('digits')}")
        raise typer.Exit


def digits(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version, and exit.")
    ] = False,
) -> None:
    """Declare the options of `digits` itself."""


def create_app(command: str = "") -> typer.Typer:
    """Return the application.

    Args:
        command: name of the only command that is needed, because Typer prepares the options of each command that it
            has; all commands and groups are included if no command has this name.
    """
    created = typer.Typer(
        name="digits",
        cls=CommandGroup,
        callback=digits,
        help="Turn folders of handwritten-digit images into tables you can trust, and keep the model up to date.",
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": [*HELP_OPTIONS]},
        epilog="Exit codes: 0 done, 1 unexpected failure, 2 usage, 3 dataset, 4 artifact store, 5 registry, 6 model, "
        "7 no Prefect server, 8 something needs attention, 9 no image was read, 130 interrupted.",
    )
    named = [one for one in COMMANDS if one.__name__ == command]
    for function in named or COMMANDS:
        created.command(cls=Command, rich_help_panel=COMMANDS[function])(function)
    if not named:
        created.add_typer(models.app, name="models", rich_help_panel=MODELS)
        created.add_typer(drift.app, name="drift", rich_help_panel=REVIEW)
    return created


app = create_app()
