"""An answer of a review, for tests that replace some of its values."""

from digits.data.labels import Answer

ANSWER = Answer(
    id="0" * 32,
    when="2026-11-25T20:00:00+00:00",
    sha256="a" * 64,
    label="7",
    prediction="1",
    confidence=0.52,
    status="uncertain",
    model_version=3,
    selection="uncertain",
    table="b" * 64,
)
