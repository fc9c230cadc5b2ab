"""Commands `models`, `promote` and `rollback`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digits.cli import runtime
from digits.cli.app import Artifacts, AsJson, Command

if TYPE_CHECKING:
    from digits.store.registry import Promotion, Registry

app = typer.Typer(help="List the model versions, or show one.", invoke_without_command=True)


@app.callback()
def models(context: typer.Context, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """List the model versions with their metrics, and mark the champion."""
    if context.invoked_subcommand is not None:
        return
    from digits.cli.output import print_json, print_table
    from digits.outputs.version_tables import version_rows
    from digits.terminal import print_notice

    rows = version_rows(_registry(artifacts))
    if json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        print_notice("no model versions yet; train one with `digits train`")


@app.command("show", cls=Command)
def show(
    number: Annotated[str, typer.Argument(help="Number of a model version, or `champion`.")],
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Show one model version: metrics, artifacts, promotions."""
    from digits.cli.output import print_json, print_pairs
    from digits.outputs.version_tables import version_details

    registry = _registry(artifacts)
    version = registry.resolve(number)
    details = version_details(registry, version)
    if json:
        print_json(details)
    else:
        print_pairs(f"Model version {version.number}", details)


def promote(
    number: Annotated[int, typer.Argument(help="Number of the model version that becomes champion.")],
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Make a model version the champion, whatever the promotion policy says."""
    _print_promotion(_registry(artifacts).promote(number, reasons=["promoted by hand"]), json=json)


def rollback(
    version: Annotated[
        int | None, typer.Argument(help="Number of a former champion. Default: the previous champion.")
    ] = None,
    reason: Annotated[str, typer.Option(help="Reason, recorded with the change.")] = "",
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Make a former champion the champion again.

    If a Prefect API is configured and answers, the change is made by a flow run.
    """
    if runtime.is_tracked(required=False):
        promotion = runtime.load_flow("flows/rollback.py:rollback")(version, reason, artifacts)
    else:
        promotion = _registry(artifacts).roll_back(version, reason=reason)
    _print_promotion(promotion, json=json)


def _print_promotion(promotion: "Promotion", *, json: bool) -> None:
    from digits.cli.output import print_json
    from digits.terminal import print_notice

    if json:
        print_json(vars(promotion))
    else:
        print_notice(f"version {promotion.version} is the champion now ({'; '.join(promotion.reasons)})")


def _registry(artifacts: Path | None) -> "Registry":
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.store.registry import Registry

    return Registry(Store(artifact_root(artifacts)))
