"""Tests of the description of the device that TensorFlow trains on, and of the check of its builds."""

from types import SimpleNamespace

import pytest

from digits.training.devices import describe_device, find_conflict, use_gpus


@pytest.mark.parametrize(
    ("gpus", "built_for_gpus", "expected"),
    [
        ([], False, "CPU"),
        ([], True, "CPU (TensorFlow can use GPUs, but found none)"),
        (["NVIDIA A10"], True, "GPU 0 (NVIDIA A10)"),
        (["NVIDIA A10", "NVIDIA T4", "NVIDIA T4"], True, "GPU 0 (NVIDIA A10; 2 more not used)"),
    ],
)
def test_the_first_gpu_is_used_if_there_is_one(gpus: list[str], built_for_gpus: bool, expected: str) -> None:
    assert describe_device(gpus, built_for_gpus=built_for_gpus) == expected


@pytest.mark.parametrize("gpus", [[], ["first", "second"]])
def test_each_gpu_allocates_memory_as_needed_and_computes_repeatably(gpus: list[str]) -> None:
    """A stand-in for TensorFlow records the calls, because GPUs cannot be had everywhere. A CPU is left as it is."""
    growing: list[str] = []
    deterministic: list[bool] = []
    experimental = SimpleNamespace(
        set_memory_growth=lambda gpu, enable: growing.append(gpu) if enable else None,
        enable_op_determinism=lambda: deterministic.append(True),
    )
    config = SimpleNamespace(list_physical_devices={"GPU": gpus}.get, experimental=experimental)
    use_gpus(SimpleNamespace(config=config))
    assert growing == gpus
    assert deterministic == ([True] if gpus else [])


@pytest.mark.parametrize("installed", [[], ["keras"], ["keras", "tensorflow"], ["numpy", "tensorflow-cpu"]])
def test_one_build_of_tensorflow_is_no_conflict(installed: list[str]) -> None:
    assert find_conflict(installed) is None


def test_two_builds_of_tensorflow_are_a_conflict_with_a_remedy() -> None:
    assert find_conflict({"keras": "3", "tensorflow": "2", "tensorflow-cpu": "2"}) == (
        "tensorflow and tensorflow-cpu are both installed, expected one: they overwrite each other's files; run "
        "`pip uninstall --yes tensorflow tensorflow-cpu`, then `pip install 'digits[train]'`, or 'digits[gpu]' to "
        "train on a GPU"
    )
