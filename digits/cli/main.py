"""The console command `digits`. Prefect, TensorFlow and NumPy are imported only by the commands that need them.

Exit codes: 0 done; 1 an unexpected failure; 2 usage; 3 dataset; 4 artifact store; 5 registry; 6 model; 7 no Prefect
server, worker or deployment where one is needed; 130 interrupted. `digits/errors.py` has the tree behind 2 to 6.
"""

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

if TYPE_CHECKING:
    from collections.abc import Mapping

    from digits.outputs.summary import PredictionSummary
    from digits.pipeline.champion import Outcome
    from digits.pipeline.config import TrainingRun
    from digits.pipeline.study import Tuned
    from digits.prediction.config import PredictionConfig
    from digits.prediction.pool import WorkerPool
    from digits.review.session import Review

UNEXPECTED = 1
NO_API = 7
INTERRUPTED = 130
RENAMED_OPTIONS = {"--recipe": "--preset"}
_MOST_LIKELY = 4
_BEST_SHOWN = 5
_STARTUP = "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS"
_ALLOCATIONS = 50_000
"""Before garbage is looked for: with Python's 700 that is a tenth of the time of importing Prefect."""


class _Commands(TyperGroup):
    """Commands with messages of our own for an interruption, and for an option that has another name now."""

    def invoke(self, context: Any) -> Any:
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            _fail("interrupted; the same command goes on from what is finished", INTERRUPTED)
        except Exception as error:
            from digits.errors import UsageError

            option = getattr(error, "option_name", "")
            if option in RENAMED_OPTIONS:
                raise UsageError(f"{option} was renamed: use {RENAMED_OPTIONS[option]}") from error
            raise


app = typer.Typer(
    name="digits",
    cls=_Commands,
    help="Folders of pictures of handwritten digits into trustworthy CSVs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 unexpected failure, 2 usage, 3 dataset, 4 artifact store, 5 registry, 6 model, "
    "7 no Prefect server, 130 interrupted.",
)
models_app = typer.Typer(help="List the model versions, or show one.", invoke_without_command=True)
app.add_typer(models_app, name="models")

Artifacts = Annotated[
    Path | None,
    typer.Option(
        "--artifacts", help="Where artifacts live. [env: DIGITS_ARTIFACTS; default: artifacts/ of the project]"
    ),
]
State = Annotated[
    Path | None,
    typer.Option("--state", help="Where the system is kept. [env: DIGITS_STATE; default: system/ of the artifacts]"),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


def main() -> None:
    """Run the command line; expected errors end it with one message and their exit code."""
    import gc
    import threading

    from digits.errors import DigitsError

    gc.set_threshold(_ALLOCATIONS)
    threading.excepthook = _tell_of_thread
    _reach_this_machine_directly()
    try:
        app()
    except DigitsError as error:
        _fail(str(error), error.exit_code)
    except Exception as error:
        if said := _said_of_server(error):
            _fail(said, NO_API)
        if _is_for_want_of_memory(error):
            _fail("there is not enough memory; with more, the same command goes on from what is finished", UNEXPECTED)
        raise
    finally:
        gc.freeze()  # what Prefect has loaded is not searched for garbage once more before it all goes


def _is_for_want_of_memory(error: BaseException | None) -> bool:
    """Tell whether memory could not be had: for values, a library, a lock or a thread."""
    signs = ("failed to map segment", "can't allocate lock", "can't start new thread")
    return isinstance(error, MemoryError) or any(sign in str(error) for sign in signs)


def _tell_of_thread(about: Any) -> None:
    """Tell of a thread that failed, unless for want of memory, which the main thread tells of."""
    import threading

    if not _is_for_want_of_memory(about.exc_value):
        threading.__excepthook__(about)


def _said_of_server(error: Exception) -> str | None:
    """Say in our words what Prefect's client met, if that is what went wrong."""
    if "ephemeral Prefect API server" in str(error):
        seconds = os.environ[_STARTUP]
        advice = f"start one with `digits up`, or set {_STARTUP} to more"
        return f"the temporary Prefect server did not start within {seconds} s; {advice}"
    if type(error).__module__.partition(".")[0] == "httpx":
        name = type(error).__name__  # its words may have the address, with a password
        return f"the Prefect server does not answer any more ({name}); see that it runs, and give the command again"
    return None


def _reach_this_machine_directly() -> None:
    """Have no proxy between us and the servers of this machine; Prefect's client would ask it for those too."""
    hosts = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
    ours = ",".join(filter(None, (hosts, "127.0.0.1", "localhost")))
    os.environ.update(no_proxy=ours, NO_PROXY=ours)


def _fail(message: str, code: int) -> None:
    sys.stderr.write(f"digits: {message}\n")
    sys.exit(code)


@app.command()
def train(
    dataset: Annotated[
        list[str] | None,
        typer.Option(
            help="mnist, mnist-sample, fashion-mnist, reviewed, an .npz, a folder of IDX files or of <class>/*.png."
        ),
    ] = None,
    preset: Annotated[
        Literal["default", "quick", "best"] | None,
        typer.Option(
            help="What the other options are by themselves: quick takes seconds, best half an hour. [default: default]"
        ),
    ] = None,
    architecture: Annotated[
        Literal["cnn", "compact", "cropped", "mlp", "mlp-2"] | None,
        typer.Option(help="The network, with its own defaults. [default: the preset's]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training images.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step. [default: 128]")] = None,
    hidden: Annotated[list[int] | None, typer.Option(help="Units of a hidden layer; once for each layer.")] = None,
    activation: Annotated[Literal["relu", "sigmoid", "tanh"] | None, typer.Option(help="[default: relu]")] = None,
    dropout: Annotated[float | None, typer.Option(help="Share of units dropped in training.")] = None,
    optimizer: Annotated[Literal["adam", "adamw", "sgd", "rmsprop"] | None, typer.Option()] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Its peak.")] = None,
    weight_decay: Annotated[float | None, typer.Option()] = None,
    loss: Annotated[Literal["categorical-cross-entropy", "mean-squared-error"] | None, typer.Option()] = None,
    augment: Annotated[bool | None, typer.Option(help="Transform the training images at random.")] = None,
    validation_fraction: Annotated[float | None, typer.Option(help="Share of the images held back.")] = None,
    normalize: Annotated[
        Literal["auto", "mnist", "none"] | None,
        typer.Option(help="none for pictures that are no digits. [default: auto]"),
    ] = None,
    start: Annotated[
        Literal["anew", "champion"] | None, typer.Option(help="Go on from the champion's weights. [default: anew]")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same weights. [default: 42]")] = None,
    promote: Annotated[
        bool | None, typer.Option(help="Promote the model if it is good enough. [default: promote]")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file with these settings; options go before it.")] = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Train a model, evaluate it, register it, and promote it if it is better; if anything has changed."""
    options = {
        "datasets": dataset or None,
        "preset": preset,
        "model": {"architecture": architecture, "hidden": hidden or None, "activation": activation, "dropout": dropout},
        "training": {
            "epochs": epochs,
            "batch_size": batch_size,
            "optimizer": optimizer,
            "learning_rate": learning_rate,
            "weight_decay": weight_decay,
            "loss": loss,
            "augment": augment,
            "start": start,
            "seed": seed,
        },
        "arrays": {"validation_fraction": validation_fraction, "normalize": normalize},
        "promotion": {"promote": promote},
    }
    outcome = _train(_training_run(options, config), artifacts)
    _print_outcome(outcome, json=json)


@app.command()
def tune(
    dataset: Annotated[
        list[str] | None,
        typer.Option(help="mnist, mnist-sample, fashion-mnist, an .npz, a folder of IDX files or of <class>/*.png."),
    ] = None,
    preset: Annotated[
        Literal["default", "quick", "best"] | None,
        typer.Option(help="What is tuned, if no architecture is chosen. [default: default]"),
    ] = None,
    architecture: Annotated[
        Literal["cnn", "compact", "cropped", "mlp", "mlp-2"] | None,
        typer.Option(help="The network, with its own defaults. [default: the preset's]"),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Of each trial. [default: the preset's]")] = None,
    config: Annotated[Path | None, typer.Option(help="A TOML file as for train: the settings to begin with.")] = None,
    space: Annotated[
        Path | None, typer.Option(help="A TOML file of ranges and choices. [default: what suits the network]")
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=1000, help="That the study is to have in all.")] = 20,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="After which no epoch is begun. [default: no limit]")
    ] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**31 - 1, help="Of the search; another one begins another study.")
    ] = 0,
    out: Annotated[
        Path | None, typer.Option(help="The file for train --config. [default: best.toml of the study]")
    ] = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Search settings with a lower loss on the validation images, within a budget, and write the best as a file."""
    from digits.pipeline.search import read_space
    from digits.settings import load_toml

    options = {
        "datasets": dataset or None,
        "preset": preset,
        "model": {"architecture": architecture},
        "training": {"epochs": epochs},
    }
    run = _training_run(options, config)
    searched = read_space(load_toml(space), run.resolved(), source=str(space)) if space else None
    _begin_flow()
    from flows import tuning

    tuned = tuning.tune(run, searched, trials, minutes, seed, out and out.absolute(), artifacts)
    _print_tuned(tuned, trials, json=json)


def _print_tuned(tuned: "Tuned", trials: int, *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs, print_table
    from digits.pipeline.study_report import best_rows

    if json:
        print_json(tuned.as_record())
        return
    rows = best_rows(tuned.trials, _BEST_SHOWN)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    counts = _counts(tuned.counts())
    lines = {
        "best": f"trial {tuned.best.number}: validation loss {tuned.best.loss:.4f}",
        "trials": counts
        if len(tuned.trials) >= trials
        else f"{counts}; {trials} were asked for, the same command goes on",
        "report": tuned.report,
        "settings": tuned.config,
        "next": f"digits train --config {shlex.quote(str(tuned.config))}",
    }
    print_pairs(f"Study {tuned.study}", lines)


def _training_run(options: dict[str, Any], path: Path | None) -> "TrainingRun":
    from digits.pipeline.config import TrainingRun
    from digits.settings import load_toml, merge_settings, parse

    written = load_toml(path) if path else {}
    return parse(TrainingRun, merge_settings(written, options), source=str(path or "options"))


def _train(run: "TrainingRun", artifacts: Path | None) -> "Outcome":
    """Run the training flow in this process."""
    _begin_flow()
    from flows import training

    outcome: Outcome = training.train(
        **{name: getattr(run, name) for name in type(run).model_fields}, artifacts=artifacts
    )
    return outcome


def _begin_flow() -> None:
    """Prepare for a flow in this process, with bars instead of Prefect's log on the terminal."""
    from digits.cli.output import DrawnProgress, say

    _prepare_prefect()
    api, found = _look_for_api()
    if api and found:
        _fail(f"{found}; see that it does, or unset PREFECT_API_URL to have a temporary server keep the run", NO_API)
    if not api:
        say("no Prefect API is configured: the run is kept by a temporary server (10 to 25 s to start)")
    from tasks.edge import progress

    progress.set(DrawnProgress())


def _prepare_prefect() -> None:
    """Keep Prefect's log off the terminal and its server's usage statistics at home; what the user set goes first.

    The password of a server of one's own is its client's too.
    """
    from digits.server.api import password

    if word := password():
        os.environ["PREFECT_API_AUTH_STRING"] = word
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")
    os.environ.setdefault(_STARTUP, "120")
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")


def _print_outcome(outcome: "Outcome", *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs

    if json:
        print_json(outcome.as_record())
        return
    print_pairs(f"Model version {outcome.version}", _outcome_lines(outcome))


def _outcome_lines(outcome: "Outcome") -> dict[str, object]:
    facts = outcome.facts
    return {
        "dataset": f"{' + '.join(facts.datasets)} ({facts.train_images:,} images to train, "
        f"{facts.test_images:,} to test)",
        "model": f"version {outcome.version}, {facts.architecture}, {facts.epochs} epochs",
        "test accuracy": f"{facts.accuracy:.2%} (loss {facts.loss:.4f}, calibration error {facts.ece:.2%})",
        "promotion": f"{'promoted' if outcome.promoted else 'not promoted'}: {' '.join(outcome.reasons)}",
        "champion": f"version {outcome.champion}" if outcome.champion else "none",
        "report": outcome.report,
    }


@models_app.callback()
def models(context: typer.Context, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """List the model versions, their metrics, and which one is champion."""
    if context.invoked_subcommand is not None:
        return
    from digits.cli.output import print_json, print_table, say
    from digits.outputs.version_tables import version_rows

    rows = version_rows(_registry(artifacts))
    if json:
        print_json(rows)
    elif rows:
        print_table(list(rows[0]), [list(row.values()) for row in rows])
    else:
        say("no model versions yet; `digits train` makes one")


@models_app.command("show")
def show_model(
    number: Annotated[str, typer.Argument(help="A version's number, or champion.")],
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Show a model version: metrics, artifacts, promotions."""
    from digits.cli.output import print_json, print_pairs
    from digits.outputs.version_tables import version_details

    registry = _registry(artifacts)
    version = registry.resolve(number)
    details = version_details(registry, version)
    if json:
        print_json(details)
        return
    print_pairs(f"Model version {version.number}", details)


@app.command()
def promote(
    number: Annotated[int, typer.Argument(help="The version to make champion.")],
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Make a model version the champion, whatever the policy says."""
    _print_promotion(_registry(artifacts).promote(number, reasons=["promoted by hand"]), json=json)


@app.command()
def rollback(
    version: Annotated[
        int | None, typer.Argument(help="One of the former champions. [default: the one before the present one]")
    ] = None,
    reason: Annotated[str, typer.Option(help="Why; it is kept with the change.")] = "",
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Make the champion before the present one the champion again.

    With a Prefect API that answers it is a flow run, of which Prefect knows.
    """
    from digits.server.api import Access, access, configured_api

    api = configured_api()
    if api and access(api) is Access.OPEN:
        _prepare_prefect()
        from flows.rollback import rollback as tracked

        promotion: Any = tracked(version, reason, artifacts)
    else:
        promotion = _registry(artifacts).rollback(version, reason=reason)
    _print_promotion(promotion, json=json)


def _print_promotion(promotion: Any, *, json: bool) -> None:
    from digits.cli.output import print_json, say

    if json:
        print_json(vars(promotion))
    else:
        say(f"version {promotion.version} is the champion now ({'; '.join(promotion.reasons)})")


def _registry(artifacts: Path | None) -> Any:
    from digits.settings import artifact_root
    from digits.store.artifacts import Store
    from digits.store.registry import Registry

    return Registry(Store(artifact_root(artifacts)))


@app.command()
def predict(
    path: Annotated[Path, typer.Argument(help="A folder of images, a zip or tar archive of them, or one image file.")],
    out: Annotated[
        Path | None, typer.Option(help="The table: .csv, .parquet or .jsonl. [default: under artifacts]")
    ] = None,
    model: Annotated[str, typer.Option(help="champion, or a version's number.")] = "champion",
    recursive: Annotated[bool | None, typer.Option(help="Descend into sub-folders. [default: recursive]")] = None,
    all_files: Annotated[bool | None, typer.Option("--all-files", help="Take files of any extension.")] = None,
    other_format: Annotated[
        list[str] | None,
        typer.Option(help="Read AVIF, ICO, JPEG2000, PCX, PPM, QOI, SGI or TGA too; repeatable."),
    ] = None,
    by_content: Annotated[
        bool | None, typer.Option("--by-content", help="Take the files that begin as a picture does.")
    ] = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Take the files that match, whatever their extensions. May be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave out files and folders. May be repeated.")
    ] = None,
    files_from: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Take the files listed there, one a line or NUL; - is standard input."),
    ] = None,
    normalize: Annotated[Literal["auto", "mnist", "none"] | None, typer.Option(help="[default: auto]")] = None,
    probabilities: Annotated[bool | None, typer.Option("--probabilities", help="Add a column for each class.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Add the 2nd to the k-th most likely class.")] = None,
    max_error: Annotated[
        float | None, typer.Option(help="Flag as uncertain, so that at most this share of the others is wrong.")
    ] = None,
    max_pixels: Annotated[int | None, typer.Option(help="Images with more are not decoded.")] = None,
    max_bytes: Annotated[int | None, typer.Option(help="Files with more are not read.")] = None,
    max_seconds: Annotated[float | None, typer.Option(help="Images that take longer to read are given up.")] = None,
    incremental: Annotated[
        bool | None, typer.Option("--incremental", help="Predict only what is new or changed since the last such run.")
    ] = None,
    verify: Annotated[
        bool | None, typer.Option("--verify", help="With --incremental: find changes by content, not by time and size.")
    ] = None,
    replace_version: Annotated[
        int | None,
        typer.Option(metavar="N", help="Predict only the rows that version N wrote into the table that is there."),
    ] = None,
    shadow: Annotated[
        str | None, typer.Option(help="Predict with this version too, or challenger; write where the two differ.")
    ] = None,
    processes: Annotated[int | None, typer.Option(help="Worker processes. [default: one a usable CPU]")] = None,
    track: Annotated[bool, typer.Option("--track", help="Fail unless Prefect keeps the run.")] = False,
    deploy: Annotated[
        bool, typer.Option("--deploy", help="Have the deployment predict/folder do it, on its worker, and wait.")
    ] = False,
    state: State = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Predict every image of a folder, and write a table with one row an image."""
    options = _prediction_options(
        recursive=recursive,
        all_files=all_files,
        by_content=by_content,
        other_formats=[name.upper() for name in other_format] if other_format else None,
        include=include or None,
        exclude=exclude or None,
        files_from=files_from,
        normalize=normalize,
        probabilities=probabilities,
        top_k=top_k,
        max_error=max_error,
        max_pixels=max_pixels,
        max_bytes=max_bytes,
        max_seconds=max_seconds,
        incremental=incremental,
        verify=verify,
        replace_version=replace_version,
        processes=processes,
    )
    if deploy:
        _predict_deployed(path.absolute(), model, out and out.absolute(), options, shadow, state, artifacts, json=json)
        return
    run = _predict_tracked if _is_tracked(required=track) else _predict_here
    _print_summary(run(path.absolute(), model, out and out.absolute(), options, artifacts, shadow), json=json)


def _prediction_options(**options: Any) -> "PredictionConfig":
    from digits.prediction.config import PredictionConfig
    from digits.settings import merge_settings, parse

    return parse(PredictionConfig, merge_settings({}, options), source="options")


def _look_for_api() -> tuple[str | None, str | None]:
    """Give the address of the configured Prefect API, and what is wrong with it, if something is."""
    from digits.server.api import Access, access, configured_api, shown

    api = configured_api()
    if api is None:
        return None, "no Prefect API is configured"
    wrong = {
        Access.OPEN: None,
        Access.DENIED: "wants another password (PREFECT_API_AUTH_STRING)",
        Access.ABSENT: "does not answer",
    }[access(api)]
    return api, wrong and f"the Prefect API at {shown(api)} {wrong}"


def _is_tracked(*, required: bool) -> bool:
    """Decide whether Prefect keeps a prediction run, and say so where the user may have expected otherwise."""
    from digits.cli.output import say

    api, found = _look_for_api()
    if not found:
        return True
    if required:
        _fail(f"{found}, and --track asks for one; set PREFECT_API_URL to a running server", NO_API)
    if api:
        say(f"warning: {found}; predicting without it, so this run will not be in the Prefect UI")
    else:
        say("predicting without Prefect; to have runs tracked, start a server and set PREFECT_API_URL")
    return False


def _predict_tracked(
    path: Path,
    model: str,
    out: Path | None,
    options: "PredictionConfig",
    artifacts: Path | None,
    shadow: str | None = None,
) -> "PredictionSummary":
    from digits.prediction import service
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    store = Store(artifact_root(artifacts))
    with service.start_worker_pool(store, path, model=model, processes=options.processes) as crew:
        return _predict_as_flow(crew, path, model, out, options, artifacts, shadow)


def _predict_as_flow(crew: "WorkerPool", *arguments: Any) -> "PredictionSummary":
    """Import Prefect, which takes a second or two, while the workers load the model; then run the flow.

    Without heartbeats, for the last of which Prefect would wait: it is we that are watched by whoever called us.
    """
    from digits.cli.output import DrawnProgress

    _prepare_prefect()
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    from flows import prediction
    from tasks.edge import progress
    from tasks.prediction import lend_crew

    progress.set(DrawnProgress())
    lend_crew(crew)
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        return prediction.predict_folder(*arguments)


def _predict_here(
    path: Path,
    model: str,
    out: Path | None,
    options: "PredictionConfig",
    artifacts: Path | None,
    shadow: str | None = None,
) -> "PredictionSummary":
    from digits import api as api_module
    from digits.cli.output import DrawnProgress
    from digits.prediction import service
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    store = Store(artifact_root(artifacts))
    if shadow:
        service.open_model(store, shadow)  # which says what is wrong with it before anything is predicted
    progress = DrawnProgress()
    summary = api_module.predict(store, path, model=model, out=out, options=options, progress=progress)
    if shadow is None:
        return summary
    return api_module.predict_shadow(store, path, summary, shadow=shadow, options=options, progress=progress)


def _print_summary(summary: "PredictionSummary", *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs

    if json:
        print_json(summary.as_record())
        return
    title = f"{summary.images:,} images predicted with model version {summary.model_version}"
    print_pairs(title, _summary_lines(summary))


def _summary_lines(summary: "PredictionSummary") -> dict[str, object]:
    from digits.outputs.summary import picture_path

    only = summary.least_certain[0] if summary.images == 1 and summary.least_certain else None
    done = summary.images - summary.reused - summary.unchanged
    counts = {
        "prediction": only and f"{only.prediction} ({only.confidence:.1%} sure)",
        "unchanged": summary.unchanged and f"{summary.unchanged:,} images, as in the table before",
        "predicted": f"{done:,} images, {summary.images_per_second:,.0f} a second",
        "taken over": summary.reused and f"{summary.reused:,} images from the run that was interrupted",
        "classes": _counts(summary.predictions),
        "statuses": _counts(summary.statuses),
        "skipped": _counts(summary.skipped),
        "drift": summary.drift and summary.drift.sentence,
    }
    shadow = summary.shadow
    places = {
        "shadow": shadow and f"version {shadow['version']} differs on {shadow['differing']:,}: {shadow['table']}",
        "table": summary.out,
        "least certain": picture_path(summary.out) if summary.least_certain else "",
    }
    return {name: value for name, value in (counts | places).items() if value}


def _counts(numbers: "Mapping[str, int]") -> str:
    return ", ".join(f"{name}: {number:,}" for name, number in numbers.items())


@app.command()
def inspect(
    path: Annotated[Path, typer.Argument(help="An image file.")],
    out: Annotated[Path | None, typer.Option(help="The picture, a .png. [default: under artifacts]")] = None,
    model: Annotated[str, typer.Option(help="champion, or a version's number.")] = "champion",
    normalize: Annotated[Literal["auto", "mnist", "none"] | None, typer.Option(help="[default: auto]")] = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Show how one image becomes what the network sees, as one picture, and what the network says of it."""
    from digits.cli.output import print_json, print_pairs
    from digits.review import inspection as inspection_module
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    store = Store(artifact_root(artifacts))
    inspection, picture = inspection_module.inspect(
        store, path.absolute(), model=model, out=out, mode=normalize or "auto"
    )
    if json:
        chances = {chance.name: chance.share for chance in inspection.chances}
        answer = {"prediction": inspection.best.name, "status": inspection.status, "novelty": inspection.novelty}
        print_json({**answer, "probabilities": chances, "picture": picture})
        return
    likely = sorted(inspection.chances, key=lambda chance: -chance.share)[:_MOST_LIKELY]
    print_pairs(
        path.name,
        {
            "prediction": f"{inspection.best.name} ({inspection.best.share:.1%} sure)",
            "status": inspection.status,
            "then": ", ".join(f"{chance.name}: {chance.share:.1%}" for chance in likely[1:]),
            "seen": " ".join(inspection.findings),
            "picture": picture,
        },
    )


@app.command()
def review(
    table: Annotated[Path, typer.Argument(help="A table that `digits predict` wrote.")],
    images: Annotated[
        Path | None, typer.Option(help="Its folder or archive. [default: as the summary beside the table says]")
    ] = None,
    sample: Annotated[int, typer.Option(help="Confident images to look at, at random.", min=0, max=100_000)] = 200,
    export: Annotated[Path | None, typer.Option(metavar="FILE.csv", help="Write a sheet to fill in instead.")] = None,
    import_: Annotated[
        Path | None, typer.Option("--import", metavar="FILE.csv", help="Take the labels of a sheet that was filled in.")
    ] = None,
    port: Annotated[int, typer.Option(help="Of the page. [default: a free one]", min=0, max=65535)] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page.")] = True,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Look at what a table is unsure of and at a random sample, in the browser or a spreadsheet; keep the labels."""
    from digits.cli.output import say
    from digits.errors import UsageError
    from digits.review.session import Review
    from digits.settings import artifact_root
    from digits.store.artifacts import Store

    if export and import_:
        raise UsageError("give --export or --import, not both")
    with Review(Store(artifact_root(artifacts)), table, source=images, size=sample) as opened:
        title = f"{table.name} reviewed"
        if export:
            title = f"{opened.export(export):,} images written to {export}; fill in the column label, then --import it"
        elif import_:
            done = opened.import_sheet(import_)
            title = f"{done.new:,} labels taken from {import_}, {done.known:,} were known"
        else:
            from digits.review import web

            say("Ctrl-C ends the review; the same command goes on")
            web.serve(opened, port=port, tell=lambda address: say(f"review at {address}"), browse=browser)
        _print_review(title, opened, json=json)


def _print_review(title: str, review: "Review", *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs

    progress = review.progress()
    if json:
        print_json({**progress.as_record(), "labels": review.log.path})
        return
    done: dict[str, Any] = {name: f"{progress.done[name]:,} of {total:,}" for name, total in progress.total.items()}
    accuracies = {"accuracy of ok rows": progress.confident, "accuracy of all rows": progress.table}
    estimates = {
        name: f"{found.share:.2%}, {found.low:.2%} to {found.high:.2%} at 95 % confidence ({found.judged:,} of "
        f"{found.population:,} images judged)"
        for name, found in accuracies.items()
        if found
    }
    known = {"labelled before": f"{review.selection.known:,}"} if review.selection.known else {}
    print_pairs(title, {**done, **known, **estimates, "labels": review.log.path})


def _predict_deployed(
    path: Path,
    model: str,
    out: Path | None,
    options: "PredictionConfig",
    shadow: str | None,
    state: Path | None,
    artifacts: Path | None,
    *,
    json: bool,
) -> None:
    from digits.cli import system as system_module
    from digits.cli.output import print_json, print_pairs

    system = system_module.system_of(state, artifacts)
    place, ended = system_module.submit(system, path, model, out, options, shadow)
    if json:
        print_json({**ended, "run": place})
    else:
        print_pairs(ended["name"], {"state": ended["state"], "result": ended["message"], "run": place})
    if ended["state"] != "Completed":
        sys.exit(1)


@app.command()
def up(
    port: Annotated[int, typer.Option(help="Of the server, if one is started.", min=1, max=65535)] = 4200,
    state: State = None,
    artifacts: Artifacts = None,
    json: AsJson = False,
) -> None:
    """Start or find a Prefect server, deploy prefect.yaml, start a worker, and say where the UI is."""
    from digits.cli import system as system_module

    _print_facts("Running", system_module.up(system_module.system_of(state, artifacts), port), json=json)


@app.command()
def down(state: State = None, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Stop the worker and the server that `digits up` started, and nothing else."""
    from digits.cli import system as system_module

    _print_facts("Stopped", system_module.down(system_module.system_of(state, artifacts)), json=json)


def _print_facts(title: str, facts: dict[str, object], *, json: bool) -> None:
    from digits.cli.output import print_json, print_pairs

    if json:
        print_json(facts)
    else:
        print_pairs(title, facts)


@app.command()
def status(state: State = None, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Show server, worker, deployments, last runs, champion, and what needs attention."""
    from digits.cli import system as system_module
    from digits.cli.output import print_json, print_status

    found = system_module.status(system_module.system_of(state, artifacts))
    if json:
        print_json(found)
    else:
        print_status(found)


@app.command()
def janitor(state: State = None, artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Do the janitor's work now: end runs whose process is gone, remove what nothing refers to any more."""
    from digits.cli import system as system_module

    system = system_module.system_of(state, artifacts)
    _print_facts("Cleaned", system_module.clean(system), json=json)


@app.command()
def verify(artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Hash everything under the artifact root again, and say what is damaged and what to do; exit code 4 if any is."""
    from digits.cli import maintenance

    sys.exit(maintenance.verify(artifacts, json=json))


@app.command()
def repair(artifacts: Artifacts = None, json: AsJson = False) -> None:
    """Make again what is damaged and has a recipe, and say what is left; exit code 4 if anything is."""
    from digits.cli import maintenance

    sys.exit(maintenance.repair(artifacts, json=json))


@app.command()
def demo(artifacts: Artifacts = None) -> None:
    """Train on MNIST, promote the model, predict its test images as PNG files, and say where everything is."""
    from digits.cli.output import say
    from digits.errors import DownloadError
    from digits.pipeline.config import TrainingRun
    from digits.settings import artifact_root

    root = artifact_root(artifacts)
    try:
        outcome = _train(TrainingRun(), root)
    except DownloadError as error:
        say(f"{error}\n\nMNIST can't be had now: going on with the 7,000 images that come with Digits, mnist-sample")
        outcome = _train(TrainingRun(datasets=("mnist-sample",)), root)
    _demonstrate(root, outcome)


def _demonstrate(root: Path, outcome: "Outcome") -> None:
    from digits import api as api_module
    from digits.cli.output import print_pairs
    from digits.prediction.config import PredictionConfig
    from digits.store.artifacts import Store

    store = Store(root)
    folder = store.demo / outcome.facts.test_set[:12]
    api_module.write_test_images(store, outcome.version, folder)
    out = store.demo / "predictions.csv"
    summary = _predict_here(folder, str(outcome.version), out, PredictionConfig(), root)
    following = f"digits predict FOLDER --out FILE.csv   or   digits models show {outcome.version}"
    print_pairs("Digits", _outcome_lines(outcome) | _summary_lines(summary) | {"next": following})
