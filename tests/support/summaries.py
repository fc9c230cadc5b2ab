"""A summary of a prediction without images, for tests that replace some of its values."""

from pathlib import Path

from digits.outputs.summary import PredictionSummary

EMPTY = PredictionSummary(
    source=Path("/scans"),
    out=Path("/table.csv"),
    model_version=7,
    model_digest="0" * 64,
    images=0,
    reused=0,
    seconds=0,
    images_per_second=0,
    predictions={},
    statuses={},
    skipped={},
    more_frames=0,
    failures=(),
    least_certain=(),
)
