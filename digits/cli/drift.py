"""Commands `drift show` and `drift accept`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from digits.cli.app import Artifacts, AsJson, Command

if TYPE_CHECKING:
    from digits.prediction.baselines import DriftState

app = typer.Typer(help="Show how the images of a table have drifted, or accept the last ones.", no_args_is_help=True)
Table = Annotated[Path, typer.Argument(help="Table of predictions, as written by `digits predict`.")]


@app.command("show", cls=Command)
def show(table: Table, json: AsJson = False) -> None:
    """Show the baseline of a table, and how the images of the last run differ from it."""
    from digits.prediction.baselines import drift_state

    _print(drift_state(table), json=json)


@app.command("accept", cls=Command)
def accept(table: Table, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Accept the images of the last run as normal: later runs into the table are compared with them."""
    from digits.prediction.baselines import accept_last_run, drift_state
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    store = Store(artifact_root(artifacts))
    accept_last_run(table, store.workspace(store.plans))
    _print(drift_state(table), json=json)


def _print(state: "DriftState", *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs, print_table

    if json:
        print_json({**vars(state), "features": state.rows()})
        return
    print_pairs(str(state.table), state.facts())
    if rows := state.rows():
        print_table(list(rows[0]), [list(row.values()) for row in rows])
