"""Commands `train` and `tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from digits.cli import runtime
from digits.cli.app import Artifacts, AsJson, Force, NoProgress, Quiet, Verbose, read_settings

if TYPE_CHECKING:
    from digits.pipeline.champion import Outcome
    from digits.pipeline.config import TrainingRun
    from digits.pipeline.study import TuningResult

BEST_SHOWN = 5

VARIABLES = "DIGITS_TRAIN_"
"""Beginning of the names of variables that are settings of a training run."""
NETWORK, FIT = "Network", "Training"
"""Panels of the page of help, besides that of the usual options."""
Dataset = Annotated[list[str] | None, typer.Option(metavar="NAME|PATH")]
PresetName = Annotated[Literal["default", "quick", "best"] | None, typer.Option()]
Architecture = Annotated[
    Literal["cnn", "compact", "cropped", "mlp", "mlp-2"] | None, typer.Option(rich_help_panel=NETWORK)
]
Epochs = Annotated[int | None, typer.Option(metavar="N", rich_help_panel=FIT)]
Configuration = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="TOML file with settings. Variables (DIGITS_TRAIN_*) and options override it.",
    ),
]


def train(
    dataset: Dataset = None,
    preset: PresetName = None,
    promote: bool | None = None,
    architecture: Architecture = None,
    hidden: Annotated[list[int] | None, typer.Option(metavar="N", rich_help_panel=NETWORK)] = None,
    activation: Annotated[Literal["relu", "sigmoid", "tanh"] | None, typer.Option(rich_help_panel=NETWORK)] = None,
    dropout: Annotated[float | None, typer.Option(metavar="SHARE", rich_help_panel=NETWORK)] = None,
    epochs: Epochs = None,
    batch_size: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=FIT)] = None,
    optimizer: Annotated[Literal["adam", "adamw", "sgd", "rmsprop"] | None, typer.Option(rich_help_panel=FIT)] = None,
    learning_rate: Annotated[float | None, typer.Option(metavar="RATE", rich_help_panel=FIT)] = None,
    weight_decay: Annotated[float | None, typer.Option(metavar="RATE", rich_help_panel=FIT)] = None,
    loss: Annotated[
        Literal["categorical-cross-entropy", "mean-squared-error"] | None,
        typer.Option(metavar="NAME", rich_help_panel=FIT),
    ] = None,
    augment: Annotated[bool | None, typer.Option(rich_help_panel=FIT)] = None,
    validation_fraction: Annotated[float | None, typer.Option(metavar="SHARE", rich_help_panel=FIT)] = None,
    normalize: Annotated[Literal["auto", "mnist", "none"] | None, typer.Option(rich_help_panel=FIT)] = None,
    start: Annotated[Literal["random", "champion"] | None, typer.Option(rich_help_panel=FIT)] = None,
    seed: Annotated[int | None, typer.Option(metavar="N", rich_help_panel=FIT)] = None,
    config: Configuration = None,
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Train a model, and promote it if it beats the champion.

    Nothing is done when data, configuration and code are unchanged.
    """
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
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
    print_outcome(train_model(read_run(options, config), artifacts), json=json)


def tune(
    dataset: Dataset = None,
    preset: PresetName = None,
    architecture: Architecture = None,
    epochs: Epochs = None,
    config: Configuration = None,
    space: Annotated[
        Path | None,
        typer.Option(help="TOML file with the search space. Default: the settings worth tuning for the network."),
    ] = None,
    trials: Annotated[int, typer.Option(min=1, max=1000, help="Total number of trials, including earlier runs.")] = 20,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.01, help="Time budget in minutes; no new epoch starts after it. Default: no limit."),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**31 - 1, help="Random seed of the search. Another seed begins another study."),
    ] = 0,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Configuration file to write. Default: `studies/<study>/best.toml` under the artifact root.",
        ),
    ] = None,
    force: Force = False,
    artifacts: Artifacts = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    no_progress: NoProgress = False,
    json: AsJson = False,
) -> None:
    """Search for settings with a lower loss on the validation images, and write the best ones to a file."""
    runtime.set_verbosity(quiet=quiet, verbose=verbose, progress=not no_progress)
    from digits.pipeline.search import read_space
    from digits.settings import load_toml

    options = {
        "datasets": dataset or None,
        "preset": preset,
        "model": {"architecture": architecture},
        "training": {"epochs": epochs},
    }
    run = read_run(options, config)
    searched = read_space(load_toml(space), run.resolved(), source=str(space)) if space else None
    runtime.begin_flow()
    flow = runtime.load_flow("flows/tuning.py:tune")
    tuned = flow(
        run=run,
        space=searched,
        trials=trials,
        minutes=minutes,
        seed=seed,
        out=out and out.absolute(),
        artifacts=artifacts,
        force=force,
    )
    print_study(tuned, trials, json=json)


def read_run(options: dict[str, Any], path: Path | None) -> "TrainingRun":
    """Return the settings of a training run: a configuration file, overridden by variables, then by options."""
    from digits.pipeline.config import TrainingRun

    return read_settings(TrainingRun, options, file=path, prefix=VARIABLES)


def train_model(run: "TrainingRun", artifacts: Path | None) -> "Outcome":
    """Run the training flow in this process."""
    runtime.begin_flow()
    flow = runtime.load_flow("flows/training.py:train")
    outcome: Outcome = flow(**{name: getattr(run, name) for name in type(run).model_fields}, artifacts=artifacts)
    return outcome


def print_outcome(outcome: "Outcome", *, json: bool) -> None:
    """Print the test accuracy of a trained model, and whether it was promoted."""
    from digits.cli.output import print_json, print_pairs

    if json:
        print_json(outcome.as_record())
    else:
        print_pairs(f"Model version {outcome.version}", describe_outcome(outcome))


def describe_outcome(outcome: "Outcome") -> dict[str, object]:
    """Return the facts about a trained model by name."""
    from digits.wording import count

    facts = outcome.facts
    return {
        "dataset": f"{' + '.join(facts.datasets)} ({count(facts.train_images, 'training image')}, "
        f"{count(facts.test_images, 'test image')})",
        "model": f"version {outcome.version}, {facts.architecture}, {count(facts.epochs, 'epoch')}",
        "test accuracy": f"{facts.accuracy:.2%} (loss {facts.loss:.4f}, calibration error {facts.ece:.2%})",
        "promotion": f"{'promoted' if outcome.promoted else 'not promoted'}: {' '.join(outcome.reasons)}",
        "champion": f"version {outcome.champion}" if outcome.champion else "none",
        **({"warning": "; ".join(outcome.warnings)} if outcome.warnings else {}),
        "report": outcome.report,
    }


def print_study(tuned: "TuningResult", trials: int, *, json: bool) -> None:
    """Print the best trials of a study, and how to train with the best settings."""
    import shlex

    from digits.cli.output import print_json, print_pairs, print_table
    from digits.outputs.summary import join_counts
    from digits.pipeline.study_report import best_rows

    if json:
        print_json(tuned.as_record())
        return
    rows = best_rows(tuned.trials, BEST_SHOWN)
    print_table(list(rows[0]), [list(row.values()) for row in rows])
    counts = join_counts(tuned.counts())
    unfinished = f"{counts}; {trials} were requested: the same command resumes the study"
    facts = {
        "best": f"trial {tuned.best.number}: validation loss {tuned.best.loss:.4f}",
        "trials": counts if len(tuned.trials) >= trials else unfinished,
        "report": tuned.report,
        "settings": tuned.config,
        "next": f"digits train --config {shlex.quote(str(tuned.config))}",
    }
    print_pairs(f"Study {tuned.study}", facts)
