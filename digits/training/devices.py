"""Devices: the device that TensorFlow trains on, and the check that one build of TensorFlow is installed."""

from collections.abc import Collection, Iterable
from typing import Any

BUILDS = ("tensorflow", "tensorflow-cpu")
"""Distributions that contain the package `tensorflow`. They overwrite each other's files."""


def use_gpus(tf: Any) -> None:
    """Configure TensorFlow for the GPUs it sees; do nothing if there are none. Call this before any operation.

    Memory is allocated as it is needed, so that other processes can use the same GPU. Operations are deterministic:
    one that has no deterministic implementation on a GPU raises an error.
    """
    gpus = tf.config.list_physical_devices("GPU")
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, enable=True)
    if gpus:
        tf.config.experimental.enable_op_determinism()


def training_device() -> str:
    """Return the device on which TensorFlow trains, for a log."""
    import tensorflow as tf

    gpus = tf.config.list_physical_devices("GPU")
    names = [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
    return describe_device(names, built_for_gpus=tf.test.is_built_with_cuda())


def describe_device(gpus: Collection[str], *, built_for_gpus: bool) -> str:
    """Return the device on which TensorFlow trains: the first of these GPUs, else the CPU.

    Args:
        gpus: names of the GPUs that TensorFlow sees.
        built_for_gpus: whether this build of TensorFlow can use GPUs.
    """
    if gpus:
        others = f"; {len(gpus) - 1} more not used" if len(gpus) > 1 else ""
        return f"GPU 0 ({next(iter(gpus))}{others})"
    return "CPU (TensorFlow can use GPUs, but found none)" if built_for_gpus else "CPU"


def find_conflict(installed: Iterable[str]) -> str | None:
    """Return a sentence about two builds of TensorFlow among installed distributions; None if there is at most one."""
    if not set(BUILDS) <= set(installed):
        return None
    found = " and ".join(BUILDS)
    return (
        f"{found} are both installed, expected one: they overwrite each other's files; run "
        f"`pip uninstall --yes {' '.join(BUILDS)}`, then `pip install 'digits[train]'`, or 'digits[gpu]' to "
        "train on a GPU"
    )
