"""Command `predict`."""

import os
import shutil
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import typer

from digits.cli import runtime
from digits.cli.app import OUTPUT, Artifacts, AsJson, NoProgress, Quiet, State, Verbose, read_settings

if TYPE_CHECKING:
    from digits.outputs.summary import PredictionSummary
    from digits.prediction.config import PredictionConfig

BROKEN_PIPE = 141
"""Exit code if the program that reads the table has ended, as of a process that SIGPIPE ended."""
Model = Annotated[
    str,
    typer.Option(metavar="VERSION", show_default=False, help="Model version: `champion` or a number."),
]
Normalize = Annotated[Literal["auto", "mnist", "none"] | None, typer.Option(metavar="MODE", rich_help_panel="Images")]
VARIABLES = "DIGITS_PREDICT_"
"""Beginning of the names of variables that are settings of a prediction."""
FILES, IMAGES, EXISTING, PREFECT = "Files to take and to write", "Images", "Existing tables", "Prefect"
"""Panels of the page of help, besides that of the usual options."""


def predict(
    path: Annotated[Path, typer.Argument(help="Folder or archive of images, or an image file.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Table to write: `.csv`, `.parquet` or `.jsonl`."),
    ] = None,
    form: Annotated[
        Literal["csv", "jsonl"] | None,
        typer.Option("--format", metavar="NAME", help="Format for `--out -`: `csv` or `jsonl`."),
    ] = None,
    model: Model = "champion",
    max_error: Annotated[float | None, typer.Option(metavar="SHARE")] = None,
    top_k: Annotated[int | None, typer.Option(metavar="N")] = None,
    probabilities: Annotated[bool | None, typer.Option("--probabilities")] = None,
    csv_dialect: Annotated[Literal["standard", "excel"] | None, typer.Option(metavar="NAME")] = None,
    incremental: Annotated[bool | None, typer.Option("--incremental")] = None,
    force: Annotated[bool | None, typer.Option("--force")] = None,
    processes: Annotated[int | None, typer.Option("--processes", "-j", metavar="N")] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", help="TOML file with settings. Options override it.")
    ] = None,
    recursive: Annotated[bool | None, typer.Option(rich_help_panel=FILES)] = None,
    include: Annotated[list[str] | None, typer.Option(metavar="GLOB", rich_help_panel=FILES)] = None,
    exclude: Annotated[list[str] | None, typer.Option(metavar="GLOB", rich_help_panel=FILES)] = None,
    files_from: Annotated[Path | None, typer.Option(metavar="FILE", rich_help_panel=FILES)] = None,
    follow_links: Annotated[
        Literal["no", "inside", "anywhere"] | None, typer.Option(metavar="RULE", rich_help_panel=FILES)
    ] = None,
    all_files: Annotated[bool | None, typer.Option("--all-files", rich_help_panel=FILES)] = None,
    by_content: Annotated[bool | None, typer.Option("--by-content", rich_help_panel=FILES)] = None,
    system_files: Annotated[bool | None, typer.Option("--system-files", rich_help_panel=FILES)] = None,
    other_format: Annotated[list[str] | None, typer.Option(metavar="NAME", rich_help_panel=FILES)] = None,
    report: Annotated[bool | None, typer.Option("--report/--no-report", rich_help_panel=FILES)] = None,
    normalize: Normalize = None,
    pages: Annotated[Literal["all", "first"] | None, typer.Option(metavar="WHICH", rich_help_panel=IMAGES)] = None,
    max_pixels: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=IMAGES)] = None,
    max_bytes: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=IMAGES)] = None,
    max_seconds: Annotated[float | None, typer.Option(metavar="N", rich_help_panel=IMAGES)] = None,
    verify: Annotated[bool | None, typer.Option("--verify", rich_help_panel=EXISTING)] = None,
    replace_version: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=EXISTING)] = None,
    shadow: Annotated[
        str | None,
        typer.Option(metavar="VERSION", rich_help_panel=EXISTING, help="Second model version, to compare with."),
    ] = None,
    track: Annotated[
        bool, typer.Option("--track", rich_help_panel=PREFECT, help="Fail if no Prefect API can record the run.")
    ] = False,
    deploy: Annotated[
        bool, typer.Option("--deploy", rich_help_panel=PREFECT, help="Run the deployment `predict/folder`, and wait.")
    ] = False,
    state: State = None,
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Predict every image of a folder, and write a table with one row per image."""
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    options = read_options(
        config,
        recursive=recursive,
        all_files=all_files,
        by_content=by_content,
        system_files=system_files,
        other_formats=[name.upper() for name in other_format] if other_format else None,
        include=include or None,
        exclude=exclude or None,
        follow_links=follow_links,
        files_from=files_from,
        normalize=normalize,
        probabilities=probabilities,
        top_k=top_k,
        max_error=max_error,
        csv_dialect=csv_dialect,
        pages=pages,
        report=report,
        max_pixels=max_pixels,
        max_bytes=max_bytes,
        max_seconds=max_seconds,
        incremental=incremental,
        verify=verify,
        replace_version=replace_version,
        processes=processes,
        force=force,
    )
    unsupported: dict[str, object] = {
        "--incremental": options.incremental,
        "--replace-version": options.replace_version,
        "--shadow": shadow,
        "--track": track,
        "--deploy": deploy,
        "--csv-dialect with --format jsonl": form == "jsonl" and options.csv_dialect != "standard",
    }
    require_output(out, form, unsupported)
    from digits.cli.output import print_summary

    path = path.absolute()
    if out == OUTPUT:
        print_summary(predict_to_output(path, model, options, artifacts, f".{form or 'csv'}"), json=json)
        return
    out = out and out.absolute()
    if deploy:
        from digits.cli import connection, deployed

        system = connection.open_system(state, artifacts)
        deployed.print_ended(deployed.predict_deployed(system, path, model, out, options, shadow), json=json)
        return
    run = predict_tracked if runtime.is_tracked(required=track) else predict_here
    print_summary(run(path, model, out, options, artifacts, shadow), json=json)


def start_early() -> AbstractContextManager[None]:
    """Start the first worker process of a prediction, which loads its modules while this process imports its own.

    OpenBLAS gets one thread. It starts one per CPU when NumPy is imported, which takes longer than the import, and this
    process multiplies no matrices.
    """
    from digits.prediction.process import early_worker

    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    return early_worker()


def read_options(file: Path | None, **options: Any) -> "PredictionConfig":
    """Return the settings of a prediction: a configuration file, overridden by variables, then by options."""
    from digits.prediction.config import PredictionConfig

    return read_settings(PredictionConfig, options, file=file, prefix=VARIABLES)


def predict_tracked(
    path: Path,
    model: str,
    out: Path | None,
    options: "PredictionConfig",
    artifacts: Path | None,
    shadow: str | None = None,
) -> "PredictionSummary":
    """Run the prediction flow in this process; its workers load the model while Prefect is imported.

    Heartbeats are switched off, because Prefect would wait for the last one at the end of the run. They reveal runs
    that died unnoticed, but here the user sees the end of the command.
    """
    from digits.prediction import service
    from digits.progress import current_progress
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import TerminalProgress

    store = Store(artifact_root(artifacts))
    with service.worker_pool(store, path, model=model, processes=options.processes):
        flow = runtime.load_flow("flows/prediction.py:predict_folder")
        from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

        current_progress.set(TerminalProgress())
        with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
            summary: PredictionSummary = flow(path, model, out, shadow, options, artifacts)
    return summary


def predict_here(
    path: Path,
    model: str,
    out: Path | None,
    options: "PredictionConfig",
    artifacts: Path | None,
    shadow: str | None = None,
) -> "PredictionSummary":
    """Predict with the library alone, without Prefect."""
    from digits.prediction import service
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.terminal import TerminalProgress

    store, progress = Store(artifact_root(artifacts)), TerminalProgress()
    if shadow:
        service.require_shadow(store, path, shadow=shadow, out=out, options=options)
    summary = service.predict_folder(store, path, out=out, model=model, options=options, progress=progress)
    if shadow is None:
        return summary
    return service.predict_shadow(store, path, summary, shadow=shadow, options=options, progress=progress)


def predict_to_output(
    path: Path, model: str, options: "PredictionConfig", artifacts: Path | None, ending: str
) -> "PredictionSummary":
    """Predict with the library alone, and write the complete table to standard output.

    The table is written to a temporary file first, so that a prediction that fails writes nothing.

    Args:
        path: folder, archive or single image.
        model: model version.
        options: settings of the prediction.
        artifacts: artifact root.
        ending: extension of the format.
    """
    from digits.prediction import service
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    with service.temporary_table(Store(artifact_root(artifacts)), path, ending) as table:
        summary = predict_here(path, model, table, options.model_copy(update={"report": False}), artifacts)
        with table.open("rb") as file:
            write_output(file)
    return replace(summary, out=OUTPUT)


def write_output(file: BinaryIO) -> None:
    """Write a file to standard output; exit quietly if the program that reads it has ended."""
    try:
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at the end of the process
        sys.exit(BROKEN_PIPE)


def require_output(out: Path | None, ending: str | None, options: Mapping[str, object]) -> None:
    """Check that the options suit the place of the table: a file, or standard output.

    Args:
        out: path of the table, `OUTPUT` for standard output.
        ending: format that was asked for.
        options: options that standard output does not support, by name, and whether they are given.

    Raises:
        UsageError: if they do not.
    """
    from digits.errors import UsageError

    given = [name for name, value in options.items() if value]
    if out == OUTPUT and given:
        raise UsageError(
            f"--out -: found {', '.join(given)}, which standard output does not support; leave it out, or name a file"
        )
    if out != OUTPUT and ending:
        raise UsageError(
            f"--format: found {ending}, which is for standard output (--out -); a file has the format of its extension"
        )
