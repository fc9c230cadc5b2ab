"""Command `review`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from digits.cli.app import Artifacts, AsJson

if TYPE_CHECKING:
    from digits.review.session import Review


def review(
    table: Annotated[Path, typer.Argument(help="Table that `digits predict` wrote.")],
    images: Annotated[
        Path | None,
        typer.Option(help="Folder or archive of the images. Default: the one named in the summary beside the table."),
    ] = None,
    sample: Annotated[
        int, typer.Option(help="Number of confident images in the random sample.", min=0, max=100_000)
    ] = 200,
    export: Annotated[
        Path | None, typer.Option(metavar="FILE.csv", help="Spreadsheet to write, instead of opening the page.")
    ] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Completed spreadsheet whose labels are saved.")
    ] = None,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="With `--export`: overwrite the file even if Digits did not write it, or if it was changed since.",
        ),
    ] = False,
    port: Annotated[int, typer.Option(help="Port of the page; 0: a free one.", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in the browser.")] = True,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Label the uncertain images of a table and a random sample, in the browser or a spreadsheet."""
    from digits.errors import UsageError
    from digits.review.session import Review
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import print_notice
    from digits.wording import count

    if export and import_:
        raise UsageError("--export and --import cannot be combined; choose one")
    with Review(Store(artifact_root(artifacts)), table, source=images, size=sample) as opened:
        title = f"{table.name} reviewed"
        if export:
            rows = opened.export_sheet(export, force=force)
            title = f"{count(rows, 'image')} written to {export}; fill in the column label, then --import it"
        elif import_:
            done = opened.import_sheet(import_)
            known = count(done.known, "was", "were")
            title = f"{count(done.new, 'label')} imported from {import_}; {known} imported or given before"
        else:
            from digits.review import web

            print_notice("Ctrl-C ends the review; the same command resumes it")
            web.serve(opened, port=port, on_ready=lambda address: print_notice(f"review at {address}"), browse=browser)
        _print_review(title, opened, json=json)


def _print_review(title: str, review: "Review", *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs
    from digits.wording import count

    progress = review.progress()
    if json:
        print_json({**progress.as_record(), "labels": review.log.path})
        return
    done: dict[str, Any] = {name: f"{progress.done[name]:,} of {total:,}" for name, total in progress.total.items()}
    accuracies = {"accuracy of ok rows": progress.confident, "accuracy of all rows": progress.table}
    estimates = {
        name: f"{found.share:.2%}, {found.low:.2%} to {found.high:.2%} at 95 % confidence ({found.judged:,} of "
        f"{count(found.population, 'image')} judged)"
        for name, found in accuracies.items()
        if found
    }
    left_out = {"left out, labelled before": f"{review.left_out:,}"} if review.left_out else {}
    print_pairs(title, {**done, **left_out, **estimates, "labels": review.log.path})
