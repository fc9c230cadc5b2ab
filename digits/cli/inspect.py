"""Command `inspect`."""

from pathlib import Path
from typing import Annotated

import typer

from digits.cli.app import Artifacts, AsJson, Force
from digits.cli.predict import Model, Normalize

CLASSES_SHOWN = 4


def inspect(
    path: Annotated[Path, typer.Argument(help="Image file.")],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="FILE", help="Picture to write, a `.png` file. Default: under the artifact root."
        ),
    ] = None,
    page: Annotated[int, typer.Option(help="Page of a file with several, as in the table.")] = 1,
    force: Force = False,
    model: Model = "champion",
    normalize: Normalize = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Draw the steps from one image to the network's input, and show its prediction."""
    from digits.cli.output import print_json, print_pairs
    from digits.review import inspection as inspection_module
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    store = Store(artifact_root(artifacts))
    inspection = inspection_module.inspect(store, path.absolute(), model=model, mode=normalize or "auto", page=page)
    place = out or store.inspections / f"{path.name}.png"
    picture = inspection_module.save_drawing(store, inspection, place, force=force)
    if json:
        chances = {chance.name: chance.share for chance in inspection.probabilities}
        answer = {"prediction": inspection.best.name, "status": inspection.status, "novelty": inspection.novelty}
        print_json({**answer, "probabilities": chances, "picture": picture})
        return
    likely = sorted(inspection.probabilities, key=lambda chance: -chance.share)[:CLASSES_SHOWN]
    print_pairs(
        path.name,
        {
            "prediction": f"{inspection.best.name} ({inspection.best.share:.1%} confidence)",
            "status": inspection.status,
            "next": ", ".join(f"{chance.name}: {chance.share:.1%}" for chance in likely[1:]),
            "findings": " ".join(inspection.findings),
            "picture": picture,
        },
    )
