"""Cost of each step of a prediction, measured in one worker without a pool, on the engine's own code.

python -m benchmarks.ceiling FOLDER ARTIFACTS [--detail]    # prints the microseconds per image of each step as JSON

`python -m benchmarks prediction` and `photos` run this module. The figures are CPU time, which other work on the
machine changes little. The functions of the engine are replaced by ones that also keep the time, so that no step is
left out. The time of a step is without that of the steps inside it; `rest` is what remains of the worker's time, and
includes the clock's own (some six microseconds per image, twice that with `--detail`). Loading the model and listing
the folder are left out, as they are from the rate that the command reports.

No prediction can be faster than `highest_rate`.
"""

import argparse
import hashlib
import importlib
import io
import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from digits.prediction import worker
from digits.prediction.config import PredictionConfig
from digits.prediction.limits import open_position_file
from digits.prediction.publish import merge_parts
from digits.prediction.service import plan_predictions
from digits.store.artifacts import Store

PUBLISH, REST = "publish", "rest"
WORKER = "digits.prediction.worker"
STEPS = {
    "read": ["digits.images.source.read_entry"],
    "hash": [f"{WORKER}.hashlib.sha256"],
    "find pages": [f"{WORKER}.list_pages"],
    "decode": [f"{WORKER}._Worker._decode_content", "digits.images.decode.SmallPngs.decode"],
    "normalize and screen": [f"{WORKER}.have_mnist_form", f"{WORKER}.screen"],
    "network": ["digits.model.onnx_model.Predictor.predict_with_novelty"],
    "drift": [f"{WORKER}._drift_counts"],
    "rows": [f"{WORKER}._Worker._rows"],
    "encode the table": ["digits.outputs.table.Csv.encode"],
    "commit": [f"{WORKER}._commit"],
    "limits": [f"digits.prediction.limits.ImageLimits.{name}" for name in ("begin_image", "begin_decoding")],
}
"""Functions of the engine by step."""
_NORMALIZE = (
    "border_of choose denoise estimate_paper find_polarity find_reflection find_sheet has_plain_border is_even "
    "measure_strength otsu shrink _clean _fine_levels"
)
DETAILS = {
    "decode: libjpeg-turbo": ["digits.images.decode._read_reduced"],
    "decode: contrast": ["digits.images.decode.has_clear_contrast"],
    "screen: unevenness": ["digits.images.screening.measure_unevenness"],
    "normalize: place_ink": ["digits.images.screening.place_ink"],
    **{f"normalize: {name.lstrip('_')}": [f"digits.images.normalize.{name}"] for name in _NORMALIZE.split()},
}
"""Functions inside decoding and normalizing a photo."""


def highest_rate(steps: Mapping[str, float], processes: int) -> float:
    """Return the images per second at which the processes would do the steps, and then one of them would publish."""
    return 1e6 / (sum(steps.values()) / processes + steps[PUBLISH] * (1 - 1 / processes))


class _Clock:
    """Clock of nested steps: it runs for the innermost one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running = [REST]
        self._since = time.thread_time()

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same, as a step."""

        def step(*arguments: Any, **options: Any) -> Any:
            self._stop()
            self._running.append(name)
            try:
                return function(*arguments, **options)
            finally:
                self._stop()
                self._running.pop()

        return step

    def _stop(self) -> None:
        now = time.thread_time()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now

    @contextmanager
    def measure(self) -> Iterator[None]:
        """Count only what happens in the context."""
        self.seconds.clear()
        self._since = time.thread_time()
        yield
        self._stop()


def measure_steps(folder: Path, root: Path, *, detail: bool) -> dict[str, float]:
    """Return the microseconds per image of each step.

    Args:
        folder: folder of images.
        root: artifact root with a champion.
        detail: whether to measure the steps inside decoding and normalizing, too.
    """
    clock = _Clock()
    vars(worker)["hashlib"] = SimpleNamespace(sha256=hashlib.sha256)
    for name, paths in {**STEPS, **(DETAILS if detail else {})}.items():
        for path in paths:
            place, function = find_function(path)
            setattr(place, function, clock.timed(name, getattr(place, function)))
    with tempfile.TemporaryDirectory() as place, open_position_file() as position:
        plan = plan_predictions(
            Store(root), folder, model="champion", out=Path(place) / "table.csv", options=PredictionConfig()
        )
        model = plan.model
        _run_worker(position.fileno(), {"model": [str(model.directory), model.version, model.digest], "photos": True})
        requests = [{"plan": str(plan.path), "shard": shard} for shard in plan.shards]
        with clock.measure():
            _run_worker(position.fileno(), *requests)
        steps = dict(clock.seconds)
        started = time.thread_time()
        merge_parts(plan)
        steps[PUBLISH] = time.thread_time() - started
    order = [*STEPS, *DETAILS, REST, PUBLISH]
    return {name: steps[name] / plan.images * 1e6 for name in sorted(steps, key=order.index)}


def find_function(path: str) -> tuple[Any, str]:
    """Return the module or class that has a function, and the function's name."""
    owner, _, name = path.rpartition(".")
    module, _, inner = owner.rpartition(".")
    try:
        return importlib.import_module(owner), name
    except ModuleNotFoundError:  # a class, or a module in the module
        return getattr(importlib.import_module(module), inner), name


def _run_worker(position: int, *requests: dict[str, Any]) -> None:
    """Run a worker in this process, as the pool does in another one, until it has answered all requests."""
    sys.stdin = io.TextIOWrapper(io.BytesIO(b"".join(json.dumps(request).encode() + b"\n" for request in requests)))
    kept, nowhere = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    try:
        if worker.main([str(position)]):
            sys.exit("the worker failed")
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nowhere)


def main() -> None:
    """Print the microseconds per image of each step as JSON."""
    parser = argparse.ArgumentParser(description="Measure the cost of each step of a prediction.")
    parser.add_argument("folder", type=Path, help="folder of images")
    parser.add_argument("artifacts", type=Path, help="artifact root with a champion")
    parser.add_argument("--detail", action="store_true", help="measure the steps inside decoding and normalizing, too")
    options = parser.parse_args()
    print(json.dumps(measure_steps(options.folder, options.artifacts, detail=options.detail)))


if __name__ == "__main__":
    main()
