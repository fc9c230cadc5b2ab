"""Crashes: on-demand runs that crashed and were not repeated since, and the commands that continue them.

A scheduled run that crashed is continued by the next one. An on-demand run is not repeated unless somebody does it.
"""

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from digits.server.attention import CrashedRun, Run

REMEMBERED = timedelta(days=7)
"""Time for which a crashed run is reported."""
FOLDER_DEPLOYMENT = "predict/folder"
_FLAGS = {"other_formats": "--other-format"}
"""Options whose names differ from those of their settings."""
_WITHOUT_OPTION = ("shard_size",)
"""Settings that the command does not have; a run without them continues one with them."""


@dataclass(frozen=True)
class Attempt:
    """On-demand run: its flow, and its parameters as JSON values."""

    run: Run
    flow: str
    parameters: Mapping[str, Any]

    @property
    def work(self) -> str:
        """Text that is the same for runs that continue each other."""
        if self.flow == "predict":
            return json.dumps(["predict", self.parameters.get("folder"), self.parameters.get("out")])
        return json.dumps([self.flow, self.run.deployment, dict(self.parameters)], sort_keys=True, default=str)


def find_crashed(attempts: Sequence[Attempt]) -> list[CrashedRun]:
    """Return the last run of each piece of work if it crashed.

    Args:
        attempts: on-demand runs, newest first.
    """
    newest = {attempt.work: attempt for attempt in reversed(attempts)}
    return [CrashedRun(one.run, continuing_command(one)) for one in newest.values() if one.run.type == "CRASHED"]


def continuing_command(attempt: Attempt) -> str:
    """Return the command that continues a run, as part of a sentence."""
    deployment, given = attempt.run.deployment, {k: v for k, v in attempt.parameters.items() if v is not None}
    if deployment == FOLDER_DEPLOYMENT and "folder" in given and "artifacts" not in given:
        return _quoted("digits", "predict", *_prediction_options(given), "--deploy")
    if deployment:
        return _quoted("prefect", "deployment", "run", deployment, "--params", json.dumps(given))
    if attempt.flow == "predict" and "folder" in given:
        return _quoted("digits", "predict", *_prediction_options(given))
    return f"`digits {attempt.flow}` and the options that it had"


def _quoted(*words: str) -> str:
    return f"`{shlex.join(words)}`"


def _prediction_options(parameters: Mapping[str, Any]) -> Iterator[str]:
    yield parameters["folder"]
    for name in ("out", "shadow", "artifacts"):
        if parameters.get(name):
            yield from (f"--{name}", str(parameters[name]))
    if parameters.get("model", "champion") != "champion":
        yield from ("--model", str(parameters["model"]))
    from digits.prediction.config import PredictionConfig

    defaults = PredictionConfig().model_dump(mode="json")
    for name, value in parameters.get("options", {}).items():
        if name in defaults and name not in _WITHOUT_OPTION and value not in (None, defaults[name]):
            yield from _option(_FLAGS.get(name, f"--{name.replace('_', '-')}"), value)


def _option(flag: str, value: Any) -> Iterator[str]:
    if isinstance(value, bool):
        yield flag if value else flag.replace("--", "--no-", 1)
        return
    for one in value if isinstance(value, list) else [value]:
        yield from (flag, str(one))
