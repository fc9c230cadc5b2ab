"""Held shards: predictions that cannot end while a test interrupts them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from digits.prediction import service
from digits.prediction.config import PredictionConfig
from digits.store.artifacts import Store


@contextmanager
def held_shard(root: Path, folder: Path, out: Path | None = None) -> Iterator[None]:
    """Hold the last shard of a prediction, as another run does that predicts it.

    A run with the same folder and table predicts the other shards, and waits for this one.

    Args:
        root: artifact root.
        folder: folder of images.
        out: table; None for the default one.
    """
    plan = service.plan_predictions(Store(root), folder, model="champion", out=out, options=PredictionConfig())
    assert len(plan.shards) > 1
    with plan.claim(plan.shards[-1]) as held:
        assert held
        yield
