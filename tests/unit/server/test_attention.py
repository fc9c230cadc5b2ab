"""Sentences about what needs attention in a system."""

import pytest

from digits.errors import RegistryError
from digits.server.api import Access
from digits.server.attention import Findings, Run, list_attention
from digits.store.registry import ModelFacts, ModelVersion

CHAMPION = ModelVersion(3, {}, "", ModelFacts(datasets=("mnist",), accuracy=0.99))
WELL = Findings(Access.OPEN, "http://x/api", workers=1, champion=CHAMPION)


def test_nothing_needs_attention_when_all_is_well() -> None:
    assert list_attention(WELL) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"workers": 0}, "no worker is online"),
        ({"missing": ["train/nightly"]}, "not deployed: train/nightly"),
        ({"failed": [Run("r", "train/nightly", "Failed", "", "the disk is full")]}, "Failed: the disk is full"),
        ({"late": 2}, "2 runs are more than 10 minutes late"),
        ({"unscheduled": ["train/nightly"]}, "train/nightly has a schedule, but no scheduled run"),
        ({"dead": ["train x"]}, "train x is Running, but its process is gone"),
        ({"champion": None}, "there is no champion"),
        ({"champion": RegistryError("damaged")}, "damaged"),
        ({"free": 10**9}, "only 1.0 GB are free"),
        ({"access": None, "api": None}, "start one with `digits up`"),
        ({"access": Access.ABSENT}, "does not answer"),
        ({"access": Access.DENIED}, "PREFECT_API_AUTH_STRING"),
    ],
)
def test_each_problem_is_one_sentence(change: dict[str, object], words: str) -> None:
    (sentence,) = list_attention(Findings(**{**vars(WELL), **change}))  # type: ignore[arg-type]
    assert words in sentence
