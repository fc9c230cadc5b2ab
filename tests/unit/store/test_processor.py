"""Tests of the instructions of the processor, as they are recorded and as they decide about oneDNN."""

import pytest

from digits.store.processor import INSTRUCTIONS, ONEDNN_VARIABLE, describe_processor, parse_cpuinfo
from digits.training.backend import prefers_onednn

ZEN_3 = "processor\t: 0\nflags\t\t: fpu sse2 fma avx f16c avx2 sha_ni\n\nprocessor\t: 1\nflags\t\t: fpu avx512f\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd avx2\n"


def test_instructions_are_those_of_the_first_processor_in_a_fixed_order() -> None:
    assert parse_cpuinfo(ZEN_3) == ("avx", "avx2", "fma")
    assert parse_cpuinfo(f"flags: {' '.join(reversed(INSTRUCTIONS))}") == INSTRUCTIONS


@pytest.mark.parametrize("text", ["", ARM])
def test_other_systems_have_no_such_instructions(text: str) -> None:
    assert parse_cpuinfo(text) == ()


@pytest.mark.parametrize(
    ("instructions", "expected"),
    [(("avx", "avx2", "fma"), True), (INSTRUCTIONS, True), (("avx", "fma"), False), (("avx2",), False), ((), False)],
)
def test_onednn_is_used_with_avx2_and_fma(instructions: tuple[str, ...], expected: bool) -> None:
    assert prefers_onednn(instructions) is expected


@pytest.mark.parametrize("value", ["0", "1", None])
def test_the_use_of_onednn_is_described(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv(ONEDNN_VARIABLE, raising=False)
    if value:
        monkeypatch.setenv(ONEDNN_VARIABLE, value)
    assert describe_processor()["onednn"] == value
