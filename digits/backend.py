"""The one place where TensorFlow is imported, quietly and with a memory allocator that suits it."""

import ctypes
import os
import sys
import warnings
from functools import cache
from types import ModuleType

from digits.errors import ModelError

M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3
"""Numbers of the options of glibc's `mallopt`, from its `malloc.h`."""


@cache
def load_keras() -> ModuleType:
    """Import Keras on TensorFlow (5 to 18 s, 700 MB) without its start-up chatter.

    Raises:
        ModelError: the `train` extra is not installed.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ["KERAS_BACKEND"] = "tensorflow"
    keep_freed_memory()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import keras
            import tensorflow as tf
    except ModuleNotFoundError as error:
        raise ModelError(
            f"{error.name} is not installed, and training needs it; install Digits with its 'train' extra"
        ) from error
    tf.get_logger().setLevel("ERROR")
    module: ModuleType = keras
    return module


def keep_freed_memory() -> None:
    """Have glibc keep what is freed instead of returning it to the kernel; other C libraries are left alone.

    TensorFlow allocates and frees each activation in every step. With glibc's defaults each of them is mapped, zeroed
    page by page and unmapped again, which takes half of a training step's time (`benchmarks/allocator.py`).
    """
    if sys.platform == "linux" and hasattr(library := ctypes.CDLL(None), "gnu_get_libc_version"):
        library.mallopt(M_MMAP_THRESHOLD, 1 << 30)
        library.mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)
        library.mallopt(M_TOP_PAD, 1 << 28)
