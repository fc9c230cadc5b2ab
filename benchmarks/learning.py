"""Learning from a review: accuracy on images that nobody has labelled, before and after.

python -m benchmarks learning                                 # digits of MNIST's sample, slanted as by another hand
python -m benchmarks learning --data DIR/sudoku_print         # labelled images: <digit>/*
python -m benchmarks learning --data DIR/sudoku_print --dataset mnist -- --preset default

The first model is trained on `--dataset`. `tests/support/learning_loop.py` describes the steps that follow. Options
after `--` apply to every `digits train`. Needs Debian's chromium and chromium-driver.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.learning_loop import (
    LEVEL,
    LearningLoop,
    draw_slanted_digits,
    find_labelled_pictures,
    run_learning_loop,
    split_by_hash,
)
from tests.support.server import prefect_server


def main(arguments: list[str] | None = None) -> int:
    """Print the results; return 1 if accuracy did not rise, or if a promotion, refusal or rollback failed."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name) / "prefect") as environment:
        place = Path(name)
        images = find_labelled_pictures(options.data) if options.data else draw_slanted_digits(place / "digits")
        halves = split_by_hash(images, place / "halves")
        loop = run_learning_loop(halves, place / "loop", environment, dataset=options.dataset, options=options.train)
    print_results(loop)
    gain, low, _ = loop.gain
    decided = loop.learned["promoted"] and not loop.sabotaged["promoted"] and loop.rolled_back
    return int(not (decided and gain > 0 and low > 0))


def print_results(loop: LearningLoop) -> None:
    """Print accuracies, decisions and the effect of the rollback."""
    gain, low, high = loop.gain
    print(f"{loop.labelled} images labelled, {len(loop.before)} held back")
    print(f"accuracy before: {loop.before.mean():.2%}, after: {loop.after.mean():.2%}")
    print(f"gain: {gain:+.2%} ({low:+.2%} to {high:+.2%} at {LEVEL:.0%} confidence)")
    print(f"trained on reviewed images: {_decision(loop.learned)}")
    print(f"trained on shuffled labels: {_decision(loop.sabotaged)}")
    print(f"table after the rollback: {'the first one' if loop.rolled_back else 'a different one'}")


def _decision(outcome: Mapping[str, Any]) -> str:
    return f"{'promoted' if outcome['promoted'] else 'refused'}: {' '.join(outcome['reasons'])}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what a model learns from reviewed images.")
    parser.add_argument("--data", type=Path, help="folder of labelled images: <digit>/* (default: slanted digits)")
    parser.add_argument("--dataset", default="mnist-sample", help="dataset of the first model (default: mnist-sample)")
    parser.add_argument(
        "train", nargs="*", default=["--architecture", "mlp"], help="options of `digits train`, after --"
    )
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
