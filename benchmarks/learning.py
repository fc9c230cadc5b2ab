"""What is learned from a review: accuracy on pictures that nobody has labelled, before and after.

python -m benchmarks learning                                 # MNIST's sample, drawn as another pen would
python -m benchmarks learning --data DIR/sudoku_print         # <digit>/* below it: labelled pictures
python -m benchmarks learning --data DIR/sudoku_print --dataset mnist -- --preset default

A model is trained on `--dataset`, and `tests/support/learning_loop.py` says what is done with it. Options after `--`
are those of every `digits train`.
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
    """Print what became of it; 1 when it did not end as it must."""
    options = _options(arguments)
    with tempfile.TemporaryDirectory() as name, prefect_server(Path(name) / "prefect") as environment:
        place = Path(name)
        pictures = find_labelled_pictures(options.data) if options.data else draw_slanted_digits(place / "made")
        writing = split_by_hash(pictures, place / "writing")
        circle = run_learning_loop(
            writing, place / "circle", environment, dataset=options.dataset, options=options.train
        )
    for line in told(circle):
        print(line)
    gain, low, _ = circle.gain
    ended = circle.learned["promoted"] and not circle.sabotaged["promoted"] and circle.rolled_back
    return int(not (ended and gain > 0 and low > 0))


def told(circle: LearningLoop) -> list[str]:
    """Say what became of it."""
    gain, low, high = circle.gain
    return [
        f"{circle.labelled} pictures labelled, {len(circle.before)} held back",
        f"right before: {circle.before.mean():.2%}, after: {circle.after.mean():.2%}",
        f"gain: {gain:+.2%} ({low:+.2%} to {high:+.2%} at {LEVEL:.0%})",
        f"learned: {_verdict(circle.learned)}",
        f"sabotage: {_verdict(circle.sabotaged)}",
        f"rolled back: {'the first table came back' if circle.rolled_back else 'another table'}",
    ]


def _verdict(outcome: Mapping[str, Any]) -> str:
    return f"{'promoted' if outcome['promoted'] else 'refused'}: {' '.join(outcome['reasons'])}"


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Learn from a folder.")
    parser.add_argument("--data", type=Path, help="labelled pictures, <digit>/*")
    parser.add_argument("--dataset", default="mnist-sample", help="what the first model is trained on")
    parser.add_argument("train", nargs="*", default=["--architecture", "mlp"], help="options of digits train, after --")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
